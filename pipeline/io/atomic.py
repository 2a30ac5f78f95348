"""Write files atomically: a reader, also after a crash, sees the old file or all of the new one."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import platform
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def fsync_path(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its parents; on return their names survive a crash."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    fsync_path(path.parent)


def nearest_there(path: Path) -> Path:
    """Return a path, or the nearest of its parents that exists."""
    path = path.absolute()
    while not (path.exists() or path.is_symlink()) and path != path.parent:
        path = path.parent
    return path


def check_writable(*files: Path) -> None:
    """Refuse files that cannot be written, before the work that they are for is done; nothing is made.

    Raises
    ------
    OSError
        As writing would.
    """
    for file in files:
        folder = nearest_there(file.parent)
        reason = None
        if not folder.is_dir():
            reason = errno.ENOTDIR
        elif file.is_dir():
            folder, reason = file, errno.EISDIR
        elif not os.access(folder, os.W_OK | os.X_OK):
            reason = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        if reason is not None:
            raise OSError(reason, os.strerror(reason), str(folder))


def _partial_name(path: Path, folder: Path) -> Path:
    """Make a name that no other writer has, with the writer's host and process id."""
    return folder / f".{path.name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial"


def _host() -> str:
    # Without dots, which separate the parts of the name: host a.b must not pass for host b.
    return platform.node().replace(".", "-")


@contextlib.contextmanager
def _written_apart(path: Path, data: bytes, folder: Path | None) -> Iterator[Path]:
    """Write the data to a temporary file, forced to the disk; remove it on leaving, if it is still there."""
    make_folder(path.parent)
    if folder is None:
        folder = path.parent
        remove_stale_partials(folder, path.name)
    folder.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path, folder)
    try:
        with open(partial, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield partial
    except OSError as error:
        _name(error, path)
        raise
    finally:
        partial.unlink(missing_ok=True)
    fsync_path(path.parent)


def _name(error: OSError, path: Path) -> None:
    """Name the file in an error that names none, as of a write to a full disk."""
    if error.filename is None:
        error.filename = str(path)


def write_atomic(path: Path, data: bytes, partial_folder: Path | None = None) -> None:
    """Write a file atomically: a reader, also after a crash, sees the old one or all of the new one.

    Parameters
    ----------
    partial_folder : folder of the temporary file, on the same disk; None for the folder of `path`
    """
    with _written_apart(path, data, partial_folder) as partial:
        os.replace(partial, path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file next to `path`, to be written; on leaving it takes the place of `path`.

    After an error, `path` is as it was. For files that are too large to be held in memory.
    """
    make_folder(path.parent)
    remove_stale_partials(path.parent, path.name)
    partial = _partial_name(path, path.parent)
    try:
        yield partial
        fsync_path(partial)
        os.replace(partial, path)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        partial.unlink(missing_ok=True)
    fsync_path(path.parent)


def create_atomic(path: Path, data: bytes, partial_folder: Path | None = None) -> None:
    """As `write_atomic`, but with several writers the file of the first one stays."""
    with _written_apart(path, data, partial_folder) as partial, contextlib.suppress(FileExistsError):
        try:
            os.link(partial, path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            # Some file systems have no links; there, of two simultaneous writers, the last one's file stays.
            if not path.exists():
                os.replace(partial, path)


def remove_stale_partials(folder: Path, name: str | None = None) -> list[Path]:
    """Remove temporary files that killed writers of this machine left in a folder.

    Parameters
    ----------
    name : file whose temporary files are removed; None for those of all files

    Returns
    -------
    list of Path, the removed files
    """
    removed = []
    for partial in folder.glob(f".{'' if name is None else glob.escape(name) + '.'}*.partial"):
        # Host, process id, a random part, "partial".
        owner = partial.name.split(".")[-4:-2]
        if owner[:1] == [_host()] and owner[1].isdigit() and not _is_running(int(owner[1])):
            partial.unlink(missing_ok=True)
            removed.append(partial)
    return removed


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN is refused (use None)."""
    write_atomic(path, render_json(value))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    OSError, ValueError
        It cannot be read, or holds NaN or infinity, which are no JSON: nothing here writes them.
    """
    return json.loads(path.read_bytes(), parse_constant=_refuse_constant)


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def render_json(value: Any) -> bytes:
    """Render a value as indented JSON; NaN is refused (use None)."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
