"""Files on other file systems, by fsspec: connections, retries, and errors that a user can act on.

Credentials come from the environment and the file system's own configuration. None are taken from settings, and no
message, name or digest holds the query of a URL, where presigned ones carry them.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.io.errors import PipelineError, SettingsError

REQUESTS = 16
"""Files that are asked for at the same time: each waits for the network, and hardly for a processor."""
TRIES = 4
FIRST_WAIT_S = 0.5
"""Each wait is twice the one before."""
HINT = (
    "check the network, and the environment (for S3: credentials, AWS_ENDPOINT_URL); what is recorded stays: start the "
    "same command again to resume"
)
_PASSING = (408, 425, 429)
"""Status codes below 500 that another try may change."""

T = TypeVar("T")


def redact(text: str) -> str:
    """Return a text without the queries, users and passwords of the URLs in it.

    A query ends at a space alone: it may have colons, commas and quotation marks. Of a whole URL see `redact_url`.

    >>> redact("GET https://me:p@ss@host/a.jpg?se=03:07:43Z&sig=1 failed")
    'GET https://host/a.jpg?... failed'
    """
    text = re.sub(r"(\w+://)[^/\s]*@", r"\1", text)
    return re.sub(r"(\w+://[^\s?]*)\?\S*", r"\1?...", text)


def redact_url(url: str) -> str:
    """Return a URL without its query, user and password, whatever signs they have; a path is returned as it is.

    >>> redact_url("https://me:p@ s'@host/a.jpg?name='a b'&sig=1")
    'https://host/a.jpg?...'
    """
    if "://" not in url:
        return url
    shown, query, _ = re.sub(r"^(\w[\w+.-]*://)[^/]*@", r"\1", url).partition("?")
    return f"{shown}?..." if query else shown


def connect(url: str, what: str, **options: Any) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it. No listings are cached: another process may have written.

    Parameters
    ----------
    what : the setting or option that the URL was given as, for messages
    options : of the file system

    Raises
    ------
    SettingsError
        The scheme is unknown, or needs a package that is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
    except (ImportError, ValueError) as error:
        raise SettingsError(f"{what} {redact_url(url)!r}: {redact(str(error))}") from error


def lacks_bucket(error: BaseException | None) -> bool:
    """Return whether the bucket is missing, and not only the file."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict) and answer.get("Error", {}).get("Code") == "NoSuchBucket":
            return True
        error = error.__cause__ or error.__context__
    return False


def with_retries(do: Callable[[], T], where: str) -> T:
    """Call a function that asks a file system elsewhere; try again after errors that may pass.

    Parameters
    ----------
    where : URL that is asked for

    Raises
    ------
    FileNotFoundError, PermissionError
        The one file is missing, or must not be read.
    PipelineError
        There is no such bucket, or the file system did not answer, however often it was asked.
    """
    where = redact_url(where)
    for attempt in range(1, TRIES + 1):
        try:
            return do()
        except Exception as error:
            _raise_final(error, where)
            if attempt == TRIES:
                reason = redact(str(_behind(error))) or type(_behind(error)).__name__
                # The cause is left out: its text may hold a presigned URL.
                raise PipelineError(f"{where}: cannot be read, {TRIES} tries: {reason}; {HINT}") from None
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
    raise AssertionError


def _behind(error: Exception) -> Exception:
    """Return what was wrong: fsspec says of any error of a web server, when asked for size and version, "not found"."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        of_web = type(cause).__module__.partition(".")[0] == "aiohttp"
        if of_web or isinstance(cause, TimeoutError | ConnectionError):
            return cause
    return error


def _raise_final(error: Exception, where: str) -> None:
    """Raise what no other try would change; return for errors that may pass."""
    error = _behind(error)
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) and lacks_bucket(error):
        raise PipelineError(f"{where}: there is no such bucket") from None
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, "no such file or object", where) from None
    if isinstance(error, PermissionError) or status in (401, 403):
        reason = "no rights to read it; credentials are taken from the environment, such as AWS_ACCESS_KEY_ID"
        raise PermissionError(errno.EACCES, reason, where) from None
    if isinstance(error, PipelineError | NotImplementedError | ImportError):
        raise error
    if isinstance(status, int) and 400 <= status < 500 and status not in _PASSING:
        raise PipelineError(f"{where}: refused with status {status}") from None
