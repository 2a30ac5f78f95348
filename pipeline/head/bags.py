"""Bags of rows, one per picture, in a new order every epoch: cached in memory where they fit, else read part by part.

In multiple-instance learning a bag is a set of instances with one label; here a picture with its patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from pipeline.activations.partition import Part
from pipeline.activations.store import Store

CACHE_BYTES = 2 * 2**30
"""Limit of the rows in memory, not counting one part and the pictures that straddle two."""
STRETCHES = 64
"""Runs of parts that are read in a random order; the number of pictures that wait for further rows is at most this."""

Bag = tuple[int, np.ndarray]
"""Index into the id list, and all rows of the picture: float16 ndarray of shape (n, width)."""


class PictureBags:
    """Chosen pictures of a store, each with all of its rows, also where they lie in several parts.

    Parameters
    ----------
    store : Store
    first_row : int64 ndarray of shape (n_pictures + 1,), rows of picture i are ``first_row[i]:first_row[i + 1]``
    wanted : bool ndarray of shape (n_pictures,); a picture without rows is left out
    cache_bytes : pictures with at most this size in total are read once and cached
    """

    def __init__(self, store: Store, first_row: np.ndarray, wanted: np.ndarray, cache_bytes: int = CACHE_BYTES) -> None:
        n_rows = np.diff(first_row)
        self.store = store
        self.wanted = wanted & (n_rows > 0)
        self.n_rows = int(n_rows[self.wanted].sum())
        self.cache_bytes = cache_bytes
        self._first_row = first_row
        self._cached: list[Bag] | None = None

    def __len__(self) -> int:
        return int(self.wanted.sum())

    @property
    def _fits(self) -> bool:
        return self.n_rows * self.store.width * np.dtype(np.float16).itemsize <= self.cache_bytes

    def in_order(self) -> Iterator[Bag]:
        """Yield all pictures in the order of the store."""
        if self._cached is not None:
            yield from self._cached
            return
        read = []
        for picture in self._read(self.store.parts):
            if self._fits:
                read.append(picture)
            yield picture
        self._cached = read if self._fits else None

    def in_batches(self, size: int, generator: torch.Generator) -> Iterator[list[Bag]]:
        """Yield all pictures once, `size` at a time, in an order drawn from `generator`.

        Cached pictures come in any order. Others are drawn from a pool of `cache_bytes`. The pool is filled from runs
        of parts in any order, so that lists sorted by class are mixed too.
        """
        if self._fits:
            cached = self._cached or list(self.in_order())
            for chosen in torch.randperm(len(cached), generator=generator).split(size):
                yield [cached[index] for index in chosen.tolist()]
            return
        stretches = np.array_split(np.arange(len(self.store.parts)), STRETCHES)
        order = [i for s in torch.randperm(len(stretches), generator=generator).tolist() for i in stretches[s]]
        pool: list[Bag] = []
        n_bytes = 0
        for picture in self._read(self.store.parts[i] for i in order):
            pool.append(picture)
            n_bytes += picture[1].nbytes
            while n_bytes > self.cache_bytes and len(pool) > size:
                batch = _draw(pool, size, generator)
                n_bytes -= sum(rows.nbytes for _, rows in batch)
                yield batch
        while pool:
            yield _draw(pool, min(size, len(pool)), generator)

    def _wanted_in(self, part: Part) -> np.ndarray:
        """Return the wanted pictures that have rows in a part."""
        first = np.searchsorted(self._first_row, part.start, "right") - 1
        last = np.searchsorted(self._first_row, part.stop)
        return first + np.flatnonzero(self.wanted[first:last])

    def _read(self, parts: Iterable[Part]) -> Iterator[Bag]:
        """Yield each picture as soon as all of its rows are read; skip parts without a wanted picture."""
        begun: dict[int, tuple[np.ndarray, int]] = {}
        for part, values in self.store.iter_parts(part for part in parts if len(self._wanted_in(part))):
            for picture in self._wanted_in(part).tolist():
                start, stop = self._first_row[picture : picture + 2].tolist()
                from_, to = max(start, part.start), min(stop, part.stop)
                # A copy: a view would keep the whole part in memory.
                piece = values[from_ - part.start : to - part.start].copy()
                if len(piece) == stop - start:
                    yield picture, piece
                    continue
                whole, missing = begun.pop(picture, (None, stop - start))
                whole = np.empty((stop - start, values.shape[1]), values.dtype) if whole is None else whole
                whole[from_ - start : to - start] = piece
                missing -= len(piece)
                if missing:
                    begun[picture] = whole, missing
                else:
                    yield picture, whole


def _draw(pool: list[Bag], size: int, generator: torch.Generator) -> list[Bag]:
    """Take `size` pictures out of the pool; this changes its order."""
    batch = []
    for _ in range(size):
        index = int(torch.randint(len(pool), (), generator=generator))
        pool[index], pool[-1] = pool[-1], pool[index]
        batch.append(pool.pop())
    return batch
