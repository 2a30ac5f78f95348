"""Whole pictures of a store, in a new order every epoch: held in memory where they fit, else read part by part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from pipeline.activations.partition import Part
from pipeline.activations.store import Store

HELD_BYTES = 2 * 2**30
"""Rows that are held in memory, but for one part and for pictures that straddle two."""
STRETCHES = 64
"""Runs of parts that are read in a random order; at most so many pictures wait for the rest of their rows."""

Picture = tuple[int, np.ndarray]
"""Index into the id list, and all of its rows: float16 ndarray of shape (n, width)."""


class Pictures:
    """Some pictures of a store, each with all of its rows, also where they lie in several parts.

    Parameters
    ----------
    store : Store
    first_row : int64 ndarray of shape (n_pictures + 1,), rows of picture i are ``first_row[i]:first_row[i + 1]``
    wanted : bool ndarray of shape (n_pictures,); a picture without rows is left out
    held_bytes : pictures that are not more than this in all are read once and held
    """

    def __init__(self, store: Store, first_row: np.ndarray, wanted: np.ndarray, held_bytes: int = HELD_BYTES) -> None:
        n_rows = np.diff(first_row)
        self.store = store
        self.wanted = wanted & (n_rows > 0)
        self.n_rows = int(n_rows[self.wanted].sum())
        self.held_bytes = held_bytes
        self._first_row = first_row
        self._held: list[Picture] | None = None

    def __len__(self) -> int:
        return int(self.wanted.sum())

    @property
    def _fits(self) -> bool:
        return self.n_rows * self.store.width * np.dtype(np.float16).itemsize <= self.held_bytes

    def in_order(self) -> Iterator[Picture]:
        """All pictures in the order of the store."""
        if self._held is not None:
            yield from self._held
            return
        read = []
        for picture in self._read(self.store.parts):
            if self._fits:
                read.append(picture)
            yield picture
        self._held = read if self._fits else None

    def in_batches(self, size: int, generator: torch.Generator) -> Iterator[list[Picture]]:
        """All pictures once, `size` at a time, in an order drawn from `generator`.

        Pictures that are held come in any order. Others are drawn from a pool of `held_bytes`, which is filled
        from the parts, runs of which are read in any order: so lists that are sorted by class are mixed too.
        """
        if self._fits:
            held = self._held or list(self.in_order())
            for chosen in torch.randperm(len(held), generator=generator).split(size):
                yield [held[index] for index in chosen.tolist()]
            return
        stretches = np.array_split(np.arange(len(self.store.parts)), STRETCHES)
        order = [i for s in torch.randperm(len(stretches), generator=generator).tolist() for i in stretches[s]]
        pool: list[Picture] = []
        n_bytes = 0
        for picture in self._read(self.store.parts[i] for i in order):
            pool.append(picture)
            n_bytes += picture[1].nbytes
            while n_bytes > self.held_bytes and len(pool) > size:
                batch = _draw(pool, size, generator)
                n_bytes -= sum(rows.nbytes for _, rows in batch)
                yield batch
        while pool:
            yield _draw(pool, min(size, len(pool)), generator)

    def _wanted_in(self, part: Part) -> np.ndarray:
        """Wanted pictures that have rows in a part."""
        first = np.searchsorted(self._first_row, part.start, "right") - 1
        last = np.searchsorted(self._first_row, part.stop)
        return first + np.flatnonzero(self.wanted[first:last])

    def _read(self, parts: Iterable[Part]) -> Iterator[Picture]:
        """Pictures of some parts, each as soon as all of its rows are read; parts without any are not read."""
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


def _draw(pool: list[Picture], size: int, generator: torch.Generator) -> list[Picture]:
    """Take `size` pictures out of the pool, which is left in another order."""
    batch = []
    for _ in range(size):
        index = int(torch.randint(len(pool), (), generator=generator))
        pool[index], pool[-1] = pool[-1], pool[index]
        batch.append(pool.pop())
    return batch
