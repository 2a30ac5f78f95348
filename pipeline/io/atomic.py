"""Atomic file writes: a reader, also after a crash, sees the old file or all of the new one."""

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
    """Make a folder and those above it; on return their names will survive a crash."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    fsync_path(path.parent)


def _partial_name(path: Path, folder: Path) -> Path:
    """A name that no other writer has, and that says whose it is."""
    return folder / f".{path.name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial"


def _host() -> str:
    # Without dots, which separate the parts of the name: host a.b must not pass for host b.
    return platform.node().replace(".", "-")


@contextlib.contextmanager
def _written_apart(path: Path, data: bytes, folder: Path | None) -> Iterator[Path]:
    """The data in a file of its own, forced to the disk; removed on leaving, where it still is."""
    make_folder(path.parent)
    if folder is None:
        folder = path.parent
        sweep_partials(folder, path.name)
    folder.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path, folder)
    try:
        with open(partial, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)
    fsync_path(path.parent)


def write_whole(path: Path, data: bytes, partial_folder: Path | None = None) -> None:
    """Write a file so that a reader, also after a crash, sees the old one or all of the new one.

    Parameters
    ----------
    partial_folder : where the file grows, on the same disk; None for beside `path`
    """
    with _written_apart(path, data, partial_folder) as partial:
        os.replace(partial, path)


def create_whole(path: Path, data: bytes, partial_folder: Path | None = None) -> None:
    """As `write_whole`, but of several writers the first one's file stays."""
    with _written_apart(path, data, partial_folder) as partial, contextlib.suppress(FileExistsError):
        try:
            os.link(partial, path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            # Some file systems know no links; there the last of two writers in one moment stays.
            if not path.exists():
                os.replace(partial, path)


def sweep_partials(folder: Path, name: str | None = None) -> list[Path]:
    """Remove what killed writers of this machine left in a folder, of one file or of all; what was removed."""
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
    """Write indented JSON, whole or not at all; NaN is refused (use None)."""
    write_whole(path, render_json(value))


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def render_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
