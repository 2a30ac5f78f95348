"""What is known of pictures that were decoded before, by the digest of their bytes."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import PIL

from pipeline.dataset.picture import DECODER, PictureFacts, examine_picture

TABLE = (
    "CREATE TABLE IF NOT EXISTS decoded (sha256 TEXT, decoder TEXT, width INT, height INT, orientation INT, "
    "from_numbers INT, is_nearly_constant INT, PRIMARY KEY (sha256, decoder)) WITHOUT ROWID"
)
FIND = "SELECT width, height, orientation, from_numbers, is_nearly_constant FROM decoded WHERE sha256=? AND decoder=?"
DECODED_BY = f"{DECODER} pillow-{PIL.__version__}"
"""Another version of the decoder may read the same bytes in another way, or refuse them."""


class DecodeMemory:
    """Facts of decoded pictures in a file, so that a picture is decoded once for all patch tables.

    To be used in a ``with`` statement, which writes what is new. If the file cannot be used (full or read-only disk,
    damage), every picture is decoded.

    Parameters
    ----------
    path : of the file; None for none
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
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
        database, self._database = self._database, None
        if database is not None:
            with contextlib.closing(database), contextlib.suppress(sqlite3.Error), database:
                database.executemany("INSERT OR IGNORE INTO decoded VALUES (?,?,?,?,?,?,?)", self._new)
        self._new.clear()

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
        known = self._find(sha256)
        if known is not None:
            return known
        facts = examine_picture(data, name)
        row = (*facts.stored_wh, facts.orientation, facts.from_numbers, facts.is_nearly_constant)
        with self._lock:
            self._new.append((sha256, DECODED_BY, *row))
        return facts

    def _find(self, sha256: str) -> PictureFacts | None:
        if self._database is None:
            return None
        with self._lock, contextlib.suppress(sqlite3.Error):
            row = self._database.execute(FIND, (sha256, DECODED_BY)).fetchone()
            if row is not None:
                width, height, orientation, from_numbers, is_nearly_constant = row
                return PictureFacts((width, height), orientation, bool(from_numbers), bool(is_nearly_constant))
        return None
