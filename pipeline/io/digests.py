"""Digest bytes, files and values with SHA-256, and cache the digests of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.io.picture_file import PictureFile


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, as hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: PictureFile) -> str:
    """Return the SHA-256 of a file's bytes, as hex."""
    if not isinstance(path, Path):
        return sha256_bytes(path.read_bytes())
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Render JSON that depends on the value alone: sorted keys, no spaces, finite numbers.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, as hex."""
    return sha256_bytes(canonical_json(value))


class FileState(NamedTuple):
    """What tells without reading whether a plain file is the same as before."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: PictureFile) -> FileState | None:
        """Return the state of a file; None if it is not there or no plain file, such as a pipe, which would block."""
        try:
            state = path.stat()
        except OSError:
            return None
        if not stat.S_ISREG(state.st_mode):
            return None
        # Names that are not UTF-8 hold halves of characters, which a database refuses.
        name = os.fsencode(str(path.absolute())).decode("utf-8", "backslashreplace")
        # The change time is the kernel's, which tools that give a file back its modification time cannot set.
        changed = getattr(state, "st_ctime_ns", None) or 0  # pictures elsewhere have none
        return cls(name, state.st_size, _signed(state.st_mtime_ns), _signed(changed), _signed(state.st_ino))


def _signed(n: int) -> int:
    """Return a number as the signed one of 64 bits that a database holds: of inodes all bits, and times after 2262.

    >>> _signed(7), _signed(-7), _signed(2**64 - 1)
    (7, -7, -1)
    """
    return (n + 2**63) % 2**64 - 2**63


class DigestMemory:
    """Cache the SHA-256 of files by (path, size, mtime, ctime, inode), so that a cached one costs a stat.

    A change of bytes with equal size, times and inode is not detected here. The extraction hashes the bytes that it
    decodes, and `forget` empties the cache. If the cache's own file cannot be used (full or read-only disk, damage),
    digests are cached for this process only.
    """

    # Its table before, ``digests``, knew no change times, and is not read.
    TABLE = (
        "CREATE TABLE IF NOT EXISTS files "
        "(path TEXT PRIMARY KEY, size INT, mtime_ns INT, ctime_ns INT, inode INT, sha256 TEXT)"
    )
    FIND = "SELECT sha256 FROM files WHERE path=? AND size=? AND mtime_ns=? AND ctime_ns=? AND inode=?"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._of_this_process: dict[FileState, str] = {}
        self._unusable = False

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """Open the file of the memory, and close it after use; None where it cannot be used."""
        if self._unusable:
            yield None
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, timeout=60)
        except (sqlite3.Error, OSError):
            yield None
            return
        with contextlib.closing(database):
            try:
                database.execute(self.TABLE)
                database.execute("SELECT 1 FROM files LIMIT 1")
            except sqlite3.Error:
                yield None
            else:
                yield database

    def digests(self, paths: Iterable[PictureFile]) -> list[str]:
        """Return the digest of each file; unknown ones are hashed now, one that cannot be read has the digest ""."""
        digests, new = [], []
        with self._open() as database:
            for path in paths:
                state = FileState.of(path)
                if state is None:
                    digests.append("")
                    continue
                digest = self._of_this_process.get(state) or self._find(database, state)
                if digest is None:
                    try:
                        digest = sha256_file(path)
                    except OSError:
                        digests.append("")
                        continue
                    new.append((state, digest))
                self._of_this_process[state] = digest
                digests.append(digest)
            self._write(database, new)
        return digests

    def recall(self, states: Iterable[FileState | None]) -> list[str | None]:
        """Return the digests that are known of files in these states; None for the others. Nothing is hashed."""
        with self._open() as database:
            return [
                None if state is None else self._of_this_process.get(state) or self._find(database, state)
                for state in states
            ]

    def remember(self, digests: Mapping[FileState, str]) -> None:
        """Take digests that were computed elsewhere, of files that were in these states before they were read."""
        self._of_this_process.update(digests)
        with self._open() as database:
            self._write(database, digests.items())

    def _write(self, database: sqlite3.Connection | None, new: Iterable[tuple[FileState, str]]) -> None:
        entries = [(*state, digest) for state, digest in new]
        if database is not None and entries:
            with contextlib.suppress(sqlite3.Error), database:
                database.executemany("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?)", entries)

    def _find(self, database: sqlite3.Connection | None, state: FileState) -> str | None:
        if database is None:
            return None
        with contextlib.suppress(sqlite3.Error):
            row = database.execute(self.FIND, state).fetchone()
            return None if row is None else row[0]
        return None

    def forget(self) -> None:
        """Forget all digests, so that every file is hashed again."""
        self._of_this_process.clear()
        with self._open() as database:
            if database is not None:
                try:
                    with database:
                        database.execute("DELETE FROM files")
                except sqlite3.Error:
                    self._unusable = True  # it still holds what is to be forgotten
