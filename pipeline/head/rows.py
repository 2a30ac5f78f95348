"""Rows of a store for several heads in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pipeline.activations.store import Store
from pipeline.head.bags import PictureBags
from pipeline.head.fit_memory import SLACK, reading_bytes
from pipeline.head.fit_rows import FitRows, MemoryBudget
from pipeline.io.errors import HeadError


class _Selection(NamedTuple):
    row_index: np.ndarray
    activations: FitRows


class RowReader:
    """Read rows for several heads in turn, caching the last selection.

    Parameters
    ----------
    stored_rows : int64 ndarray, rising: the rows of the table that the store holds; None for all
    budget : of the memory that a fit may take
    pooled : vectors of all pictures of the table, float32 ndarrays (n_pictures, width), by the name of their pooling;
        for several heads they are made once (`pool_for_all`), each takes those of its pictures
    """

    def __init__(
        self,
        store: Store,
        stored_rows: np.ndarray | None = None,
        budget: MemoryBudget | None = None,
        pooled: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._store, self.stored_rows, self.budget = store, stored_rows, budget or MemoryBudget()
        self.pooled = dict(pooled or {})
        self._cached: _Selection | None = None
        self._cached_bags: PictureBags | None = None

    def activations_at(self, row_index: np.ndarray, what: str, working: int, peak: int = 0) -> FitRows:
        """Read chosen rows, into memory or a scratch file.

        Parameters
        ----------
        row_index : int64 ndarray, rising: rows of the table
        what : is fitted, for messages
        working : bytes that the fit takes beside the rows
        peak : most bytes of memory that the process held while the rows were chosen

        Raises
        ------
        HeadError
            The store was made without some of them, or the fit does not fit into the memory budget.
        """
        if self._cached is not None and np.array_equal(self._cached.row_index, row_index):
            self.budget.choose(what, {"as they lie already": working + SLACK}, peak)
            return self._cached.activations
        self._cached = None  # frees memory before the next rows are read
        blocks = self._store.iter_rows(self._positions(row_index))
        working += reading_bytes(self._store) + SLACK
        rows = self.budget.hold(len(row_index), self._store.width, blocks, what, working, peak)
        self._cached = _Selection(row_index, rows)
        return rows

    def _positions(self, row_index: np.ndarray) -> np.ndarray:
        """Positions in the store of rows of the table."""
        if self.stored_rows is None:
            return row_index
        positions = np.searchsorted(self.stored_rows, row_index)
        nearest = self.stored_rows[np.minimum(positions, len(self.stored_rows) - 1)]
        n_missing = int((nearest != row_index).sum())
        if n_missing:
            raise self._needs_more_rows(f"{n_missing:,} of its {len(row_index):,} rows are missing")
        return positions

    def require_all_rows(self) -> None:
        """Refuse a store that was made for strong heads alone.

        Raises
        ------
        HeadError
        """
        if self.stored_rows is not None:
            raise self._needs_more_rows("this kind of head needs all patches of a picture")

    def _needs_more_rows(self, problem: str) -> HeadError:
        n_stored = 0 if self.stored_rows is None else len(self.stored_rows)
        return HeadError(
            f"{self._store.folder}: {problem}, and the store holds {n_stored:,} rows, those that the main head "
            "learns from with the seeds of its settings\n"
            "extract all rows with: pipeline extract --rows all, and fit with --rows all"
        )

    def bags(self, first_row: np.ndarray, wanted: np.ndarray) -> PictureBags:
        """Return whole pictures; parameters as for `PictureBags`.

        Raises
        ------
        HeadError
            The store does not hold all rows.
        """
        self.require_all_rows()
        bags = PictureBags(self._store, first_row, wanted)
        if self._cached_bags is None or not np.array_equal(self._cached_bags.wanted, bags.wanted):
            self._cached_bags = bags
        return self._cached_bags
