"""Rows that another store holds already: found by picture and window, and taken over instead of computed.

A row is decided by the bytes of its picture's file, its EXIF choice, its window, and `row_fields`: batches of one size
give it the same bits wherever it stands. So a store may take over rows from any other store of equal `row_fields`, and
holds the bytes that a fresh extraction would have written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Run:
    """Consecutive rows of a store that stand as consecutive rows in another one.

    Attributes
    ----------
    place : path or URL of the other store
    start, source : first row here, and there
    n_rows : number of rows
    """

    place: str
    start: int
    source: int
    n_rows: int

    @property
    def stop(self) -> int:
        return self.start + self.n_rows

    def within(self, start: int, stop: int) -> Run:
        """Return the piece inside of a range of rows, which the run meets."""
        first, last = max(start, self.start), min(stop, self.stop)
        return Run(self.place, first, self.source + first - self.start, last - first)


@dataclass(frozen=True)
class Adoption:
    """The rows of one store that other stores hold.

    Attributes
    ----------
    runs : in the order of their rows here, without overlap
    """

    runs: tuple[Run, ...] = ()

    def within(self, start: int, stop: int) -> Adoption:
        """Return the runs inside of a range of rows."""
        return Adoption(tuple(run.within(start, stop) for run in self.runs if run.start < stop and start < run.stop))

    @property
    def n_rows(self) -> int:
        return sum(run.n_rows for run in self.runs)

    @property
    def rows_by_place(self) -> dict[str, int]:
        """Number of rows from each store."""
        counts: dict[str, int] = {}
        for run in self.runs:
            counts[run.place] = counts.get(run.place, 0) + run.n_rows
        return counts

    def missing(self, start: int, stop: int) -> np.ndarray:
        """Return which rows of a range no other store holds: bool ndarray (stop - start,)."""
        missing = np.ones(stop - start, bool)
        for run in self.within(start, stop).runs:
            missing[run.start - start : run.stop - start] = False
        return missing


def name_of_place(place: str) -> str:
    """Return the name of the store at a path or URL.

    >>> name_of_place("/data/cache/demo-train.zarr")
    'demo-train.zarr'
    """
    return Path(place.rstrip("/")).name
