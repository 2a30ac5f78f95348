"""Files that are there whole or not at all, and digests of files that are remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable
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


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, also after a crash, sees the old one or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers of one file from sharing a temporary name.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all; NaN is refused (use None)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


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
                stat = path.stat()
            except OSError:
                found.append("")
                continue
            key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
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
