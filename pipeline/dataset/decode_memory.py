"""What is known of pictures that were decoded before: the digest of their files, and facts by this digest."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import PIL

from pipeline.dataset.picture import DECODER, PictureFacts, examine_picture
from pipeline.io.digests import DigestMemory, FileState
from pipeline.io.picture_file import PictureFile

TABLE = (
    "CREATE TABLE IF NOT EXISTS decoded (sha256 TEXT, decoder TEXT, width INT, height INT, orientation INT, "
    "from_numbers INT, is_nearly_constant INT, PRIMARY KEY (sha256, decoder)) WITHOUT ROWID"
)
FIND = "SELECT width, height, orientation, from_numbers, is_nearly_constant FROM decoded WHERE sha256=? AND decoder=?"
DECODED_BY = f"{DECODER} pillow-{PIL.__version__}"
"""Another version of the decoder may read the same bytes in another way, or refuse them."""


class KnownFile(NamedTuple):
    """The state of a file, and the SHA-256 of its bytes; None where it is not known."""

    state: FileState | None
    sha256: str | None


class DecodeMemory:
    """Facts of decoded pictures in a file, so that a picture is decoded once for all patch tables.

    To be used in a ``with`` statement, which writes what is new at its end; `write` does so before. If the file cannot
    be used (full or read-only disk, damage), every picture is decoded.

    Parameters
    ----------
    path : of the file; None for none. `DigestMemory` uses the same one.
    hash_again : take no remembered digest of a file, so that every file is read
    """

    def __init__(self, path: Path | None, hash_again: bool = False) -> None:
        self._path, self._hash_again = path, hash_again
        self._digests = None if path is None else DigestMemory(path)
        self._database: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._new: list[tuple[str, str, int, int, int, bool, bool]] = []

    def __enter__(self) -> Self:
        if self._path is not None:
            with contextlib.suppress(sqlite3.Error, OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(self._path, timeout=60, check_same_thread=False)
                try:
                    self._database.execute(TABLE)
                except sqlite3.Error:
                    self._database.close()
                    self._database = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.write()
        if self._database is not None:
            self._database.close()
            self._database = None

    def write(self) -> None:
        """Write what is new, so that it outlives a killed process."""
        with self._lock:
            if self._database is not None:
                with contextlib.suppress(sqlite3.Error), self._database:
                    self._database.executemany("INSERT OR IGNORE INTO decoded VALUES (?,?,?,?,?,?,?)", self._new)
            self._new.clear()

    def find_files(self, paths: Sequence[PictureFile]) -> list[KnownFile]:
        """Return the state of each file, and its digest where it was read in this state before."""
        if self._digests is None:
            return [KnownFile(None, None)] * len(paths)
        states = [FileState.of(path) for path in paths]
        found = [None] * len(paths) if self._hash_again else self._digests.recall(states)
        return [KnownFile(state, sha256) for state, sha256 in zip(states, found, strict=True)]

    def remember_files(self, digests: Mapping[FileState, str]) -> None:
        """Take the digests of files by the state that they had before they were read, and write all that is new."""
        if self._digests is not None:
            self._digests.remember(digests)
        self.write()

    def examine(self, sha256: str, data: bytes, name: str) -> PictureFacts:
        """Return what decoding a picture tells; decode it only if the same bytes were not decoded before.

        Parameters
        ----------
        sha256 : of `data`, the file's bytes
        name : for messages

        Raises
        ------
        BadPictureError
        """
        known = self.recall(sha256)
        if known is not None:
            return known
        facts = examine_picture(data, name)
        row = (*facts.stored_wh, facts.orientation, facts.from_numbers, facts.is_nearly_constant)
        with self._lock:
            self._new.append((sha256, DECODED_BY, *row))
        return facts

    def recall(self, sha256: str) -> PictureFacts | None:
        """Return what is known of a picture; None if it was not decoded before."""
        if self._database is None:
            return None
        with self._lock, contextlib.suppress(sqlite3.Error):
            row = self._database.execute(FIND, (sha256, DECODED_BY)).fetchone()
            if row is not None:
                width, height, orientation, from_numbers, is_nearly_constant = row
                return PictureFacts((width, height), orientation, bool(from_numbers), bool(is_nearly_constant))
        return None
