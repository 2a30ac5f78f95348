"""Digest bytes, files and values with SHA-256, and cache the digests of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, as hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex."""
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


class DigestMemory:
    """Cache the SHA-256 of files by (path, size, mtime, inode), so that a cached one costs a stat.

    A change of bytes with equal size, time and inode is not detected here. The extraction hashes the bytes that it
    decodes, and `forget` empties the cache. If the cache's own file cannot be used (full or read-only disk, damage),
    digests are cached for this process only.
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
        """Return each file's digest; files that are not cached are hashed now, an unreadable file has the digest ""."""
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
        """Empty the cache."""
        try:
            with self._db:
                self._db.execute("DELETE FROM digests")
        except sqlite3.OperationalError:
            self._db = sqlite3.connect(":memory:")
            self._db.execute(self.TABLE)
