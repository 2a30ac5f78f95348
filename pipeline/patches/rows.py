"""Rows of pictures, planned when they are needed, and what they are planned from: the objects of the pictures."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.patches.settings import SourceSettings
from pipeline.patches.sources import Windows, plan_windows

SIZES_REMEMBERED = 32
"""Sizes of pictures whose windows stay in memory: most pictures of a dataset have one of a few sizes."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a table, in rising order.

    Attributes
    ----------
    picture : int32 ndarray (n,), rising, index into the ids of the table
    box_xyxy : float32 ndarray (n, 4), continuous, pixels of the picture; those of ``boxes`` may leave it
    scale : uint8 ndarray (n,), index into the grid's scales, or the number of the crop
    flip : bool ndarray (n,), patches that are mirrored left to right; None if no patch of the table is
    turn : float32 ndarray (n,), degrees, as of `Windows`; None if no patch of the table is turned
    """

    picture: np.ndarray
    box_xyxy: np.ndarray
    scale: np.ndarray
    flip: np.ndarray | None
    turn: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.picture)

    def at(self, rows: slice | np.ndarray) -> Rows:
        """Return some of the rows."""
        flip, turn = (None if column is None else column[rows] for column in (self.flip, self.turn))
        return Rows(self.picture[rows], self.box_xyxy[rows], self.scale[rows], flip, turn)

    def followed_by(self, others: Rows) -> Rows:
        """Return these rows, and after them others of the same table."""
        both = (self, others)
        flips = [rows.flip for rows in both if rows.flip is not None]
        turns = [rows.turn for rows in both if rows.turn is not None]
        return Rows(
            np.concatenate([rows.picture for rows in both]),
            np.concatenate([rows.box_xyxy for rows in both]),
            np.concatenate([rows.scale for rows in both]),
            np.concatenate(flips) if flips else None,
            np.concatenate(turns) if turns else None,
        )


@dataclass(frozen=True)
class Objects:
    """Objects of the pictures of a table.

    Attributes
    ----------
    first : int64 ndarray (n_pictures + 1,): objects of picture i are ``first[i]:first[i + 1]``
    box_xyxy : float64 ndarray (n, 4), continuous, pixels of the picture
    class_index : int16 ndarray (n,), index into the classes
    difficult : bool ndarray (n,)
    """

    first: np.ndarray
    box_xyxy: np.ndarray
    class_index: np.ndarray
    difficult: np.ndarray

    @classmethod
    def join(
        cls, boxes: Sequence[np.ndarray], classes: Sequence[np.ndarray], difficult: Sequence[np.ndarray]
    ) -> Objects:
        """Join the objects of several pictures, each given by arrays (n, 4), (n,) and (n,).

        >>> Objects.join([np.zeros((2, 4)), np.zeros((0, 4))], [np.array([1, 0]), []], [np.zeros(2), []]).first.tolist()
        [0, 2, 2]
        """
        return cls(
            np.cumsum([0, *map(len, boxes)], dtype=np.int64),
            np.concatenate([np.zeros((0, 4)), *boxes]),
            np.concatenate([np.zeros(0, np.int16), *classes]).astype(np.int16),
            np.concatenate([np.zeros(0, bool), *difficult]).astype(bool),
        )

    def of_picture(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return boxes, classes and difficult of the objects of one picture."""
        own = slice(self.first[index], self.first[index + 1])
        return self.box_xyxy[own], self.class_index[own], self.difficult[own]


def plan_picture(width: int, height: int, sources: SourceSettings, sample_xyxy: np.ndarray | None) -> Windows:
    """Plan the windows of a picture as `plan_windows` does, and round them to float32, as stores hold them.

    Raises
    ------
    BadPictureError
    """
    if sources.source == "boxes":
        return _rounded(plan_windows(width, height, sources, sample_xyxy))
    return _plan_size(width, height, sources)


@lru_cache(SIZES_REMEMBERED)
def _plan_size(width: int, height: int, sources: SourceSettings) -> Windows:
    windows = _rounded(plan_windows(width, height, sources))
    for column in windows:
        if column is not None:
            column.flags.writeable = False
    return windows


def _rounded(windows: Windows) -> Windows:
    return windows._replace(box_xyxy=windows.box_xyxy.astype(np.float32))


class ColumnDigests:
    """Digest columns range by range: the values are those of the whole columns.

    >>> digests = ColumnDigests()
    >>> digests.update(a=np.zeros(2, np.uint8))
    >>> digests.update(a=np.ones(1, np.uint8))
    >>> digests["a"] == hashlib.sha256(bytes([0, 0, 1])).hexdigest()
    True
    """

    def __init__(self) -> None:
        self._hashers: defaultdict[str, Any] = defaultdict(hashlib.sha256)

    def update(self, **columns: np.ndarray) -> None:
        """Add the next elements of some columns, in the bytes that they have."""
        for name, values in columns.items():
            self._hashers[name].update(np.ascontiguousarray(values).tobytes())

    def __getitem__(self, name: str) -> str:
        """Return the SHA-256 of a column, as hex; of a column without elements, that of no bytes."""
        return self._hashers[name].hexdigest()


def split_range(n: int, size: int) -> Iterable[range]:
    """Divide ``range(n)`` into ranges of at most `size`.

    >>> list(split_range(5, 2))
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return (range(start, min(start + size, n)) for start in range(0, n, size))
