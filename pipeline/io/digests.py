"""SHA-256 of bytes, files and values, and a memory of the digests of files."""

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
