"""Bags of rows, one per picture, in a new order every epoch.

In multiple-instance learning a bag is a set of instances with one label; here a picture with its patches. The order
depends on the pictures' sizes and on a constant, never on the memory of a machine: a head has the same bytes wherever
its rows lie, in memory, in a scratch file, or in the store, from which they are read part by part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch

from pipeline.activations.partition import Part
from pipeline.activations.store import Store
from pipeline.head.fit_memory import SLACK, reading_bytes, rows_bytes
from pipeline.head.fit_rows import IN_MEMORY, FitRows, MemoryBudget
from pipeline.io.numbers import format_bytes

CACHE_BYTES = 2 * 2**30
"""Rows of at most this size come in any order; larger ones from a pool of this size. It decides a head's bytes."""
STRETCHES = 64
"""Runs of parts that are read in a random order; the number of pictures that wait for further rows is at most this."""
IN_PARTS = "read part by part"
"""Where rows lie, for messages."""

Bag = tuple[int, np.ndarray]
"""Index into the id list, and all rows of the picture: float16 ndarray of shape (n, width)."""
T = TypeVar("T")


class PictureBags:
    """Chosen pictures of a store, each with all of its rows, also where they lie in several parts.

    Parameters
    ----------
    store : Store
    first_row : int64 ndarray of shape (n_pictures + 1,), rows of picture i are ``first_row[i]:first_row[i + 1]``
    wanted : bool ndarray of shape (n_pictures,); a picture without rows is left out
    cache_bytes : pictures with at most this size in total are read once and cached, unless `hold` says otherwise
    """

    def __init__(self, store: Store, first_row: np.ndarray, wanted: np.ndarray, cache_bytes: int = CACHE_BYTES) -> None:
        n_rows = np.diff(first_row)
        self.store = store
        self.wanted = wanted & (n_rows > 0)
        self.n_rows = int(n_rows[self.wanted].sum())
        self.cache_bytes = cache_bytes
        self._first_row = first_row
        self._held: FitRows | None = None

    def __len__(self) -> int:
        return int(self.wanted.sum())

    @property
    def _fits(self) -> bool:
        return rows_bytes(self.n_rows, self.store.width) <= self.cache_bytes

    def rows_of_batch(self, size: int) -> int:
        """Return the most rows that `size` pictures have."""
        return int(np.sort(np.diff(self._first_row)[self.wanted])[-size:].sum())

    def hold(self, budget: MemoryBudget, what: str, working: int, size: int) -> None:
        """Decide where the rows lie, before anything is read, and say it.

        Parameters
        ----------
        what : is fitted, for messages
        working : bytes that a step takes beside the rows of its pictures
        size : pictures of a step

        Raises
        ------
        HeadError, PipelineError
            The fit does not fit into the budget; the disk does not hold a scratch file.
        """
        width = self.store.width
        batch, reading = rows_bytes(self.rows_of_batch(size), width), reading_bytes(self.store)
        text = self._describe(what)
        if self._held is not None:
            budget.choose(text, {"as they lie already": working + 3 * batch + SLACK})
            return
        # The rows of a step are joined, and those of the next one are read meanwhile.
        on_disk = reading + working + 3 * batch + SLACK
        if self._fits:
            way, peak = IN_MEMORY, rows_bytes(self.n_rows, width) + reading + working + batch + SLACK
        else:
            waiting = rows_bytes(self.rows_of_batch(STRETCHES), width)
            way, peak = IN_PARTS, self.cache_bytes + waiting + reading + working + 2 * batch + SLACK
        chosen = budget.choose(text, {way: peak, budget.in_scratch: on_disk})
        if chosen != IN_PARTS:
            self._read_all(budget, chosen)

    def pass_once(self, budget: MemoryBudget, what: str) -> None:
        """Ask for the memory of one pass in which no row is kept, before anything is read, and say it.

        Parameters
        ----------
        what : is fitted, for messages

        Raises
        ------
        HeadError
            The pass does not fit into the budget.
        """
        picture = rows_bytes(self.rows_of_batch(1), self.store.width)
        reading = reading_bytes(self.store) if self._held is None else 0
        # Pictures that are read, wait in page-locked memory, and are on their way.
        budget.choose(self._describe(what), {"on a GPU": reading + 4 * picture + SLACK})

    def _describe(self, what: str) -> str:
        width = self.store.width
        return f"{what}: {self.n_rows:,} rows of {width:,} columns, {format_bytes(rows_bytes(self.n_rows, width))}"

    def _read_all(self, budget: MemoryBudget, way: str) -> None:
        """Read all rows into memory or a scratch file, in the order of the store."""
        blocks = (rows for _, rows in self._read(self.store.parts))
        self._held = budget.read(way, self.n_rows, self.store.width, blocks)
        first = np.concatenate([[0], np.cumsum(np.where(self.wanted, np.diff(self._first_row), 0))]).tolist()
        self._held_rows = [slice(start, stop) for start, stop in itertools.pairwise(first)]

    @property
    def pictures(self) -> np.ndarray:
        """The pictures that have rows: int64 ndarray, rising."""
        return np.flatnonzero(self.wanted)

    def rows_of(self, picture: int) -> int:
        """Return the number of rows of a picture."""
        return int(self._first_row[picture + 1] - self._first_row[picture])

    def in_order(self, once: bool = False) -> Iterator[Bag]:
        """Yield all pictures in the order of the store; `once`, without keeping them for the next time."""
        pictures = self.pictures.tolist()
        if self._held is None and self._fits and not once:
            self._read_all(MemoryBudget(), IN_MEMORY)
        if self._held is None:
            yield from self._read(self.store.parts)
        else:
            in_turn = self._held.ranges([self._held_rows[picture]] for picture in pictures)
            yield from ((picture, rows) for picture, (rows,) in zip(pictures, in_turn, strict=True))

    def in_batches(self, size: int, generator: torch.Generator) -> Iterator[list[Bag]]:
        """Yield all pictures once, `size` at a time, in an order drawn from `generator`.

        Up to `cache_bytes` they come in any order. Others are drawn from a pool of `cache_bytes`. The pool is filled
        from runs of parts in any order, so that lists sorted by class are mixed too.
        """
        if self._held is None and self._fits:
            self._read_all(MemoryBudget(), IN_MEMORY)
        if self._held is None:
            bags = self._read(self._mixed_parts(generator))
            yield from _draw_batches(bags, lambda bag: bag[1].nbytes, self.cache_bytes, size, generator)
            return
        order = list(self.order(size, generator))
        in_turn = self._held.ranges([self._held_rows[picture] for picture in pictures] for pictures in order)
        for pictures, rows in zip(order, in_turn, strict=True):
            yield list(zip(pictures, rows, strict=True))

    def order(self, size: int, generator: torch.Generator) -> Iterator[list[int]]:
        """Yield the pictures of each batch in the order of `in_batches`, without their rows."""
        if self._fits:
            pictures = np.flatnonzero(self.wanted)
            for chosen in torch.randperm(len(pictures), generator=generator).split(size):
                yield pictures[chosen.numpy()].tolist()
            return
        bytes_of = [rows_bytes(n, self.store.width) for n in np.diff(self._first_row).tolist()]
        arrival = self._in_arrival(self._mixed_parts(generator))
        arriving = (picture for _, pieces in arrival for picture, _, is_whole in pieces if is_whole)
        yield from _draw_batches(arriving, bytes_of.__getitem__, self.cache_bytes, size, generator)

    def _mixed_parts(self, generator: torch.Generator) -> list[Part]:
        stretches = np.array_split(np.arange(len(self.store.parts)), STRETCHES)
        order = [i for s in torch.randperm(len(stretches), generator=generator).tolist() for i in stretches[s]]
        return [self.store.parts[i] for i in order]

    def _wanted_in(self, part: Part) -> np.ndarray:
        """Return the wanted pictures that have rows in a part."""
        first = np.searchsorted(self._first_row, part.start, "right") - 1
        last = np.searchsorted(self._first_row, part.stop)
        return first + np.flatnonzero(self.wanted[first:last])

    def _in_arrival(self, parts: Iterable[Part]) -> Iterator[tuple[Part, list[tuple[int, slice, bool]]]]:
        """Yield the parts that hold wanted pictures, each with its pictures.

        Of a picture: its index, its rows in the part, as rows of the table, and whether all of its rows have come.
        """
        missing: dict[int, int] = {}
        for part in parts:
            pieces = []
            for picture in self._wanted_in(part).tolist():
                start, stop = self._first_row[picture : picture + 2].tolist()
                rows = slice(max(start, part.start), min(stop, part.stop))
                left = missing.pop(picture, stop - start) - (rows.stop - rows.start)
                if left:
                    missing[picture] = left
                pieces.append((picture, rows, not left))
            if pieces:
                yield part, pieces

    def _read(self, parts: Iterable[Part]) -> Iterator[Bag]:
        """Yield each picture as soon as all of its rows are read; skip parts without a wanted picture."""
        begun: dict[int, np.ndarray] = {}
        arrival = list(self._in_arrival(parts))
        read = self.store.iter_parts(part for part, _ in arrival)
        for (part, values), (_, pieces) in zip(read, arrival, strict=True):
            for picture, rows, is_whole in pieces:
                start, stop = self._first_row[picture : picture + 2].tolist()
                # A copy: a view would keep the whole part in memory.
                piece = values[rows.start - part.start : rows.stop - part.start].copy()
                if len(piece) == stop - start:
                    yield picture, piece
                    continue
                whole = begun.pop(picture, None)
                whole = np.empty((stop - start, values.shape[1]), values.dtype) if whole is None else whole
                whole[rows.start - start : rows.stop - start] = piece
                if is_whole:
                    yield picture, whole
                else:
                    begun[picture] = whole


def _draw_batches(
    arriving: Iterable[T], n_bytes_of: Callable[[T], int], pool_bytes: int, size: int, generator: torch.Generator
) -> Iterator[list[T]]:
    """Yield arriving pictures once, `size` at a time, drawn from a pool of so many bytes."""
    pool: list[T] = []
    n_bytes = 0
    for picture in arriving:
        pool.append(picture)
        n_bytes += n_bytes_of(picture)
        while n_bytes > pool_bytes and len(pool) > size:
            batch = _draw(pool, size, generator)
            n_bytes -= sum(map(n_bytes_of, batch))
            yield batch
    while pool:
        yield _draw(pool, min(size, len(pool)), generator)


def _draw(pool: list[T], size: int, generator: torch.Generator) -> list[T]:
    """Take `size` pictures out of the pool; this changes its order."""
    batch = []
    for _ in range(size):
        index = int(torch.randint(len(pool), (), generator=generator))
        pool[index], pool[-1] = pool[-1], pool[index]
        batch.append(pool.pop())
    return batch
