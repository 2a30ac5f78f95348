"""Pooling: all rows of a picture become one vector, in one pass over the store.

Source: Razavian et al. (CVPR Workshops 2014) section 3: one vector per picture, from the whole picture or combined
from many windows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.activations.partition import Part
from pipeline.activations.store import Store

POOLS: dict[str, tuple[str, ...]] = {"mean": ("mean",), "max": ("max",), "mean+max": ("mean", "max")}
"""Poolings by the name of what is joined."""


class PooledRows:
    """Accumulate rows picture by picture; a picture may continue in the next call.

    Memory is ``n_pictures * width`` times 8 bytes for the mean and 2 for the maximum. Sums are float64, which holds
    the sum of thousands of float16 numbers exactly. So the result does not depend on where a part ends.

    Parameters
    ----------
    n_pictures, width : int
    pooling : any of ``mean`` and ``max``, in the order in which they are joined

    Examples
    --------
    >>> pooled = PooledRows(2, 2, ("mean", "max"))
    >>> pooled.add(np.array([[1, 4], [3, 0]], np.float16), np.array([0, 0]))
    >>> pooled.result()[:, 0].tolist()
    [[2.0, 2.0], [3.0, 4.0]]
    """

    def __init__(self, n_pictures: int, width: int, pooling: Sequence[str] = ("mean", "max")) -> None:
        self.pooling = tuple(pooling)
        self._counts = np.zeros(n_pictures, np.int64)
        self._sums = np.zeros((n_pictures, width)) if "mean" in self.pooling else None
        self._highest = np.full((n_pictures, width), -np.inf, np.float16) if "max" in self.pooling else None

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        """Add rows.

        Parameters
        ----------
        rows : float16 ndarray of shape (n, width), finite
        picture : int ndarray of shape (n,), rising
        """
        if not len(picture):
            return
        starts = np.flatnonzero(np.diff(picture, prepend=picture[0] - 1))
        sizes = np.diff(np.append(starts, len(picture)))
        # numpy converts and compares float16 one by one; torch is thirty times as fast.
        by_picture = torch.from_numpy(rows).split(sizes.tolist())
        for index, of_picture in zip(picture[starts].tolist(), by_picture, strict=True):
            values = of_picture.float()
            if self._sums is not None:
                self._sums[index] += values.sum(0, dtype=torch.float64).numpy()
            if self._highest is not None:
                np.maximum(self._highest[index], values.amax(0).half().numpy(), out=self._highest[index])
        self._counts[picture[starts]] += sizes

    def carry_on(self, before: PooledRows) -> None:
        """Begin the first picture with the rows that the last picture of `before` has so far."""
        self._counts[0] = before._counts[-1]
        if self._sums is not None and before._sums is not None:
            self._sums[0] = before._sums[-1]
        if self._highest is not None and before._highest is not None:
            self._highest[0] = before._highest[-1]

    def result(self) -> np.ndarray:
        """Return a float32 ndarray of shape (len(pooling), n_pictures, width); NaN for a picture without a row."""
        pooled = {}
        if self._sums is not None:
            pooled["mean"] = (self._sums / np.maximum(self._counts, 1)[:, None]).astype(np.float32)
        if self._highest is not None:
            pooled["max"] = self._highest.astype(np.float32)
        out = np.stack([pooled[name] for name in self.pooling])
        out[:, self._counts == 0] = np.nan
        return out


class PooledPictures:
    """The accumulator of heads that score pooled vectors: `PooledRows` of a range of pictures.

    Parameters
    ----------
    pictures : the range
    width, pooling : as for `PooledRows`
    """

    COLUMN = "pooled"

    def __init__(self, pictures: range, width: int, pooling: Sequence[str]) -> None:
        self._pictures = pictures
        self._pooled = PooledRows(len(pictures), width, pooling)

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        """Add float16 rows (n, width) of pictures (n,), rising; those outside of the range are left out."""
        inside = slice(*np.searchsorted(picture, [self._pictures.start, self._pictures.stop]))
        self._pooled.add(rows[inside], picture[inside] - self._pictures.start)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the vectors: float32 ndarray of shape (n_pictures, len(pooling), width)."""
        return {self.COLUMN: np.moveaxis(self._pooled.result(), 1, 0)}


def join_pooled(pooled: np.ndarray, normalise: bool, root: bool = False) -> np.ndarray:
    """Join the pooled vectors of each picture into one.

    Parameters
    ----------
    pooled : float32 ndarray of shape (n_poolings, n_pictures, width)
    normalise : scale each to Euclidean length 1 before they are joined; zero stays zero
    root : replace each value by the root of its size, with its sign, before that

    Returns
    -------
    float32 ndarray of shape (n_pictures, n_poolings * width)
    """
    if root:
        pooled = np.sign(pooled) * np.sqrt(np.abs(pooled))
    if normalise:
        length = np.sqrt(np.square(pooled, dtype=np.float64).sum(-1, keepdims=True))
        pooled = (pooled / np.where(length == 0, 1, length)).astype(np.float32)
    return np.concatenate(list(pooled), axis=1)


def iter_pooled(store: Store, pooling: Sequence[str], first_part: int = 0) -> Iterator[tuple[Part, int, np.ndarray]]:
    """Pool a store part by part; memory depends on the pictures of one part, not on those of the store.

    Parameters
    ----------
    store : of which every picture has rows
    pooling : as of `PooledRows`
    first_part : the parts before it are read only for the picture that continues in it

    Yields
    ------
    part : after which these pictures are complete
    first : index of the first of these pictures
    pooled : float32 ndarray of shape (len(pooling), n, width), n >= 0; the same bits as from `PooledRows` over all rows
    """
    last_of_part = [int(store.read_object("picture", part)[-1]) for part in store.parts[:first_part]]
    first = last_of_part[-1] if last_of_part else 0
    # The picture may have begun several parts before.
    begin = next((i for i, last in enumerate(last_of_part) if last >= first), 0)
    before: PooledRows | None = None
    for part, rows in store.iter_parts(store.parts[begin:]):
        picture = store.read_object("picture", part)
        if part.index < first_part:
            kept = picture == first
            rows, picture = rows[kept], picture[kept]
        stop = int(picture[-1]) if len(picture) else first
        pooled = PooledRows(stop + 1 - first, store.width, pooling)
        if before is not None:
            pooled.carry_on(before)
        pooled.add(rows, picture - first)
        if part.index >= first_part:
            done = stop + 1 if part is store.parts[-1] else stop
            yield part, first, pooled.result()[:, : done - first]
        first, before = stop, pooled
        # Otherwise its rows would stay in memory while the next ones are read.
        del rows
