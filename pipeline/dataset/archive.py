"""Download archives with resume, unpack them without trust, merge them into a dataset's folder."""

from __future__ import annotations

import filecmp
import hashlib
import http.client
import lzma
import os
import re
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.dataset.manifest_entries import Archive
from pipeline.io.atomic import fsync_path, read_json, write_json
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Progress, track

ATTEMPTS = 5
PAUSE_S = 1.0
"""Pause before the second attempt; doubled for each further one."""
TIMEOUT_S = 60.0
BLOCK_BYTES = 1 << 20
SPARE_BYTES = 200_000_000
"""Bytes left free on the disk for other programs."""


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise an error before a disk runs full.

    Raises
    ------
    MissingDataError
        Less than `needed_bytes` and a reserve are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise MissingDataError(
            f"{folder}: {what} needs {(needed_bytes + SPARE_BYTES) / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free\n"
            "make room, or give a folder on another disk with --data-root DIR"
        )


def download(archive: Archive, folder: Path) -> Path:
    """Download `archive` into `folder` and check its MD5; an interrupted download is resumed.

    The part that is there is asked for no second time if the server still has the same file
    (``If-Range`` with its ETag or date, and the same length); otherwise all of it is.

    Raises
    ------
    MissingDataError
        The server cannot be reached, refuses, or cuts the connection again and again; no space.
    DatasetError
        Not an http(s) URL, or the file is complete and its digest wrong. The file is set aside, so
        that the next call starts anew.
    """
    if not archive.url.startswith(("http://", "https://")):
        raise DatasetError(f"{archive.url}: expected an address that starts with https:// or http://")
    try:
        host = urllib.parse.urlsplit(archive.url).hostname or ""
        host.encode("idna")
    except ValueError as error:
        raise DatasetError(f"{archive.url}: not a valid address: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / archive.filename, folder / f"{archive.filename}.partial"
    if not target.is_file():
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            reason = _download_some(archive, partial)
            if reason is None:
                break
        else:
            have = partial.stat().st_size if partial.is_file() else 0
            kept = f"{have:,} bytes are kept in {partial}; " if have else ""
            raise MissingDataError(
                f"{archive.url}: {reason} ({ATTEMPTS} attempts)\n"
                f"{kept}the same command resumes it, from there if the server can"
            )
    _check_md5(archive, target if target.is_file() else partial)
    if not target.is_file():
        fsync_path(partial)
        os.replace(partial, target)
        _facts_path(partial).unlink(missing_ok=True)
    return target


def _check_md5(archive: Archive, path: Path) -> None:
    with open(path, "rb") as stream:
        got = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != archive.md5:
        aside = path.with_name(f"{archive.filename}.wrong")
        os.replace(path, aside)
        _facts_path(path).unlink(missing_ok=True)
        raise DatasetError(
            f"{archive.url}: wrong MD5 digest, got {got}, expected {archive.md5}\n"
            f"the file was set aside as {aside}; the same command downloads it anew"
        )


def _facts_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _remembered(archive: Archive, partial: Path) -> dict[str, Any]:
    """Read the headers of the file from when the download began; empty if they cannot be used."""
    try:
        facts = read_json(_facts_path(partial))
    except (FileNotFoundError, ValueError):
        return {}
    # Only an ETag or a date shows that the server still has the same file.
    same = isinstance(facts, dict) and facts.get("url") == archive.url and facts.get("validator")
    return facts if same and partial.is_file() else {}


def _download_some(archive: Archive, partial: Path) -> str | None:
    """Make one request; return None if all bytes have arrived, else the reason why not."""
    facts = _remembered(archive, partial)
    have = partial.stat().st_size if facts else 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "pipeline", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", facts["validator"])
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            if response.status == 206:
                span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
                if span is None or (int(span[1]), int(span[2])) != (have, facts["total"]):
                    partial.unlink()
                    return "the file on the server has changed"
                total: int | None = int(span[2])
            else:  # 200: no resume here, or another file than at the beginning
                have, total = 0, _content_length(response)
                partial.unlink(missing_ok=True)  # old bytes must never be stored with the new file's ETag
                etag = response.headers.get("ETag", "")
                # A weak ETag promises equal meaning, not equal bytes.
                strong = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
                write_json(_facts_path(partial), {"url": archive.url, "validator": strong, "total": total})
            # The archive is a tar: unpacked it takes its own size once more.
            require_space(partial.parent, 2 * (total or 0) - have, f"{archive.filename}, packed and unpacked,")
            have = _receive(response, partial, have, total, archive.filename)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # no bytes after the stored ones: all have arrived, or too many
            if have == facts.get("total"):
                return None
            partial.unlink(missing_ok=True)
            return "the file on the server has changed"
        if error.code < 500 and error.code != 429:
            raise MissingDataError(
                f"{archive.url}: the server answers {error.code} {error.reason}\n"
                "if the file has moved, give its new address as url in the manifest"
            ) from error
        return f"the server answers {error.code} {error.reason}"
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
        ssl.SSLError,
    ) as error:
        return f"connection failed: {getattr(error, 'reason', error) or type(error).__name__}"
    if total is not None and have < total:
        return f"the connection was cut after {have:,} of {total:,} bytes"
    return None


def _content_length(response: http.client.HTTPResponse) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _receive(response: http.client.HTTPResponse, partial: Path, have: int, total: int | None, name: str) -> int:
    """Append the response's bytes to `partial`; return its size."""
    megabyte = 1_000_000
    with (
        open(partial, "ab" if have else "wb") as stream,
        Progress(f"download {name}", (total or 0) // megabyte, "MB", done=have // megabyte) as progress,
    ):
        while block := response.read(BLOCK_BYTES):
            stream.write(block)
            have += len(block)
            progress.advance(have // megabyte - progress.done)
    return have


def unpack(path: Path, into: Path) -> None:
    """Unpack a tar archive into the empty folder `into`.

    Only plain files, folders and hard links to files of the same archive are unpacked.

    Raises
    ------
    DatasetError
        No tar archive, or members that could write or read outside of `into`; all are listed, and
        nothing is written.
    MissingDataError
        Not enough space.
    """
    try:
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            if problems := _refused_members(members, into):
                raise DatasetError(f"{path}: refused, nothing unpacked\n{enumerate_problems(problems)}")
            require_space(into, sum(m.size for m in members), f"unpacking {path.name}")
            counted = track(members, f"unpack {path.name}", len(members), "files")
            tar.extractall(into, members=counted, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be unpacked: {error}") from error
    except (NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise DatasetError(f"{path}: cannot be unpacked: one of its files is a folder of others, too") from error


def _refused_members(members: list[tarfile.TarInfo], into: Path) -> list[str]:
    """List the reasons why members must not be unpacked.

    The ``data`` filter alone is not enough: it strips the slash of an absolute path without a word,
    and before Python 3.11.13 a chain of symbolic links leads it outside. No dataset needs those.
    """
    problems = []
    files = {member.name for member in members if member.isfile()}
    for member in members:
        pure = PurePosixPath(member.name.replace("\\", "/"))
        if pure.is_absolute() or re.match(r"[A-Za-z]:", member.name):
            problems.append(f"{member.name}: absolute path")
        elif ".." in pure.parts:
            problems.append(f"{member.name}: path with '..'")
        elif member.issym() or (member.islnk() and member.linkname not in files):
            problems.append(f"{member.name}: link to {member.linkname}")
        elif not (member.isfile() or member.isdir() or member.islnk()):
            problems.append(f"{member.name}: a device or pipe, no plain file")
        else:
            try:
                tarfile.data_filter(member, str(into))
            except tarfile.FilterError as error:
                problems.append(f"{member.name}: {error}")
    return problems


def merge_folder(source: Path, target: Path) -> None:
    """Move all files of `source` into `target`; a file that already exists stays.

    Id lists come last, so that a list never names pictures that have not arrived.

    Raises
    ------
    DatasetError
        Files are there already with other bytes; all are listed, and nothing is moved.
    """
    os.sync()  # after a crash, a file under its final name must have its bytes
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        fsync_path(target.parent)
        return
    names = [p.relative_to(source) for p in source.rglob("*") if p.is_file()]
    differing = [n for n in names if (target / n).exists() and not filecmp.cmp(source / n, target / n, shallow=False)]
    if differing:
        raise DatasetError(
            f"{target}: {len(differing)} file(s) differ from those of the archive; nothing was moved\n"
            f"{enumerate_problems([str(n) for n in sorted(differing)])}\n"
            "move the folder away, or give another --data-root DIR, and fetch again"
        )
    for name in sorted(names, key=lambda n: (n.name.startswith("."), n.parts[0] == "ImageSets", n)):
        if not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(source / name, target / name)
