"""Files that are there whole or not at all, and digests of files that are remembered."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import sqlite3
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def sha256_bytes(data: bytes) -> str:
    """SHA-256 as hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON bytes that depend on the value alone: sorted keys, no spaces, finite numbers.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, as hex."""
    return sha256_bytes(canonical_json(value))


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
    write_whole(path, _rendered(value))


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _rendered(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def signed_json(value: dict[str, Any]) -> bytes:
    """JSON bytes that carry their own digest as the last key, ``sha256``: of the canonical JSON of the rest."""
    return _rendered({**value, "sha256": digest_of(value)})


def read_signed_json(data: bytes) -> dict[str, Any]:
    """What `signed_json` was given.

    Raises
    ------
    ValueError
        Any byte differs from what was written, spaces included.
    """
    value = json.loads(data)
    if not isinstance(value, dict) or "sha256" not in value:
        raise ValueError("carries no digest of its own")
    value.pop("sha256")
    if signed_json(value) != data:
        raise ValueError("disagrees with its own digest")
    return value


USER_BLOCK = 512
"""Bytes in front of an HDF5 file that HDF5 leaves to others; here they hold a digest of all that follows."""


def _user_block(rest: bytes) -> bytes:
    return f"sha256 of all bytes from {USER_BLOCK} on: {sha256_bytes(rest)}\n".encode().ljust(USER_BLOCK, b"\0")


def sign_hdf5(data: bytes) -> bytes:
    """An HDF5 file, made with ``userblock_size=USER_BLOCK``, with the digest of its bytes in that block."""
    return _user_block(data[USER_BLOCK:]) + data[USER_BLOCK:]


def check_hdf5(data: bytes) -> bytes:
    """The same bytes, if they agree with their digest. HDF5 itself checks only what has fletcher32.

    Raises
    ------
    ValueError
    """
    if data[:USER_BLOCK] != _user_block(data[USER_BLOCK:]):
        raise ValueError("changed since it was written: the bytes disagree with their digest")
    return data


class DigestMemory:
    """SHA-256 of files, remembered by (path, size, mtime, inode), so that asking again costs a stat.

    A file whose bytes changed while size, time and inode stayed equal is not noticed here; the
    extraction hashes what it decodes, and `forget` makes this memory hash everything again. Where the
    memory's own file cannot be used (full or read-only disk, damage), it remembers for this process only.
    """

    TABLE = "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INT, mtime_ns INT, inode INT, sha256 TEXT)"

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60)
            self._db.execute(self.TABLE)
            self._db.execute("SELECT COUNT(*) FROM digests")
        except (sqlite3.Error, OSError):
            self._db = sqlite3.connect(":memory:")
            self._db.execute(self.TABLE)

    def digests(self, paths: Iterable[Path]) -> list[str]:
        """Digest of each file; those not known are hashed now, one that cannot be read has the digest ""."""
        found, new = [], []
        for path in paths:
            try:
                state = path.stat()
            except OSError:
                state = None
            # Reading a pipe would wait for ever.
            if state is None or not stat.S_ISREG(state.st_mode):
                found.append("")
                continue
            key = (str(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ino)
            row = self._db.execute(
                "SELECT sha256 FROM digests WHERE path=? AND size=? AND mtime_ns=? AND inode=?", key
            ).fetchone()
            if row is None:
                try:
                    row = (sha256_file(path),)
                except OSError:
                    found.append("")
                    continue
                new.append((*key, row[0]))
            found.append(row[0])
        with contextlib.suppress(sqlite3.OperationalError), self._db:
            self._db.executemany("INSERT OR REPLACE INTO digests VALUES (?,?,?,?,?)", new)
        return found

    def forget(self) -> None:
        try:
            with self._db:
                self._db.execute("DELETE FROM digests")
        except sqlite3.OperationalError:
            self._db = sqlite3.connect(":memory:")
            self._db.execute(self.TABLE)
