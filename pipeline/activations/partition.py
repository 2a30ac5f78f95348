"""How the rows of a store are divided into parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.activations.arrays import ARRAYS, ARRAYS_OF_CODES, DIMENSIONS
from pipeline.activations.identity import Identity


def arrays_of(identity: Identity) -> tuple[str, ...]:
    """Return the arrays of a store, in the order in which the objects of a part are written."""
    return ARRAYS_OF_CODES if identity.dtype == "8bit" else ARRAYS


@dataclass(frozen=True)
class Part:
    """A part: the range of rows of one shard, written by one task."""

    index: int
    start: int
    stop: int
    arrays: tuple[str, ...] = field(default=ARRAYS, repr=False)

    @property
    def n_rows(self) -> int:
        return self.stop - self.start

    @property
    def record_name(self) -> str:
        return f"integrity/part-{self.index:05d}.json"

    @property
    def object_names(self) -> tuple[str, ...]:
        """Objects of this part, relative to the store, in the order of `arrays`."""
        return tuple(f"{name}/c/{self.index}{'/0' * (DIMENSIONS[name] - 1)}" for name in self.arrays)

    def object_name(self, array: str) -> str:
        """Return the name of this part's object of one array."""
        return self.object_names[self.arrays.index(array)]


def parts_of(identity: Identity) -> list[Part]:
    """Return all parts of a store, in order."""
    n_rows, rows, arrays = identity.n_rows, identity.part_rows, arrays_of(identity)
    return [Part(i, start, min(start + rows, n_rows), arrays) for i, start in enumerate(range(0, n_rows, rows))]


def parts_within(parts: Iterable[Part], rows: Part) -> list[Part]:
    """Return the parts whose rows all lie in a range.

    >>> [part.index for part in parts_within([Part(0, 0, 4), Part(1, 4, 8), Part(2, 8, 9)], Part(0, 4, 9))]
    [1, 2]
    """
    return [part for part in parts if rows.start <= part.start and part.stop <= rows.stop]


def range_of(stores: Iterable[Sequence[Part]], rows: Part) -> Part | None:
    """Return the smallest row range inside `rows` that covers all given parts of all stores, or None.

    >>> range_of([[Part(1, 8, 16)], [Part(5, 10, 12)]], Part(1, 8, 16))
    Part(index=1, start=8, stop=16)
    >>> range_of([[], [Part(5, 10, 12), Part(6, 12, 14), Part(9, 18, 20)]], Part(1, 8, 16))
    Part(index=1, start=10, stop=14)
    """
    inside = [part for parts in stores for part in parts_within(parts, rows)]
    if not inside:
        return None
    return Part(rows.index, min(part.start for part in inside), max(part.stop for part in inside))


def share_of(parts: Sequence[Part], index: int, count: int) -> list[Part]:
    """Return the `index`-th (from 1) of `count` contiguous ranges of parts, equal up to one part.

    >>> parts = [Part(i, i, i + 1) for i in range(10)]
    >>> [len(share_of(parts, i, 4)) for i in (1, 2, 3, 4)]
    [2, 3, 2, 3]
    """
    return [parts[i] for i in share_bounds(len(parts), index, count)]


def share_bounds(n_parts: int, index: int, count: int) -> range:
    """Return the indices of the parts of `share_of`; those of all shares follow one another, empty ones too.

    >>> [share_bounds(2, i, 3) for i in (1, 2, 3)]
    [range(0, 0), range(0, 1), range(1, 2)]
    """
    return range(n_parts * (index - 1) // count, n_parts * index // count)
