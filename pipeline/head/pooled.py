"""Heads on one pooled vector per picture: what their networks and their fits have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.activations.match import check_joined
from pipeline.activations.pooling import PooledPictures, PooledRows, join_pooled
from pipeline.activations.store import Store
from pipeline.head.fit_memory import SLACK, reading_bytes
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.settings import AnyHead, ScoreKind
from pipeline.head.task import Columns, FitTask
from pipeline.io.errors import HeadError
from pipeline.io.progress import Progress
from pipeline.patches.table import PatchTable


class Pooling(Protocol):
    """Settings that say how a picture's rows become one vector."""

    @property
    def pooling(self) -> tuple[Any, ...]: ...

    @property
    def normalise(self) -> bool: ...


class PooledNetwork:
    """The part of a `PooledScorer` that pools rows; a subclass decides on the joined vectors.

    Attributes
    ----------
    width : columns of a row
    settings : how a picture's rows become one vector
    """

    score_kind: ScoreKind = "pooled"
    width: int
    settings: Any

    def accumulator(self, pictures: range) -> PooledPictures:
        """Return an accumulator of pooled vectors of a range of pictures."""
        return PooledPictures(pictures, self.width, self.settings.pooling)

    def picture_scores(self, columns: Columns) -> np.ndarray:
        """Compute scores, float64 ndarray (n_pictures, n_classes), from the column of `PooledPictures`.

        Of all pictures at once: the last bits of a product of matrices depend on how many rows it has.
        """
        pooled = np.ascontiguousarray(np.moveaxis(columns[PooledPictures.COLUMN], 1, 0))
        # Only an SVM has the choice of the root.
        return self.decide(join_pooled(pooled, self.settings.normalise, getattr(self.settings, "root", False)))

    def decide(self, vectors: np.ndarray) -> np.ndarray:
        """Compute scores, float64 ndarray (n, n_classes), of joined vectors, float32 (n, n_columns); NaN of NaN."""
        raise NotImplementedError


@dataclass(frozen=True)
class PooledFit:
    """The fit pictures, as a head on pooled vectors learns from them.

    Attributes
    ----------
    pictures : int64 ndarray (n,), indices into the table
    vectors : float32 ndarray (n, n_columns)
    labels : int8 ndarray (n, n_classes), 1, -1, or 0 (difficult)
    """

    pictures: np.ndarray
    vectors: np.ndarray
    labels: np.ndarray


def pool_fit_pictures(task: FitTask, settings: Pooling, bytes_per_value: int) -> PooledFit:
    """Pool the rows of the fit pictures, in one pass over the store.

    Parameters
    ----------
    bytes_per_value : most bytes that the fit takes afterwards for each value of the vectors

    Raises
    ------
    HeadError
        Pictures without labels; the fit does not fit into the memory budget.
    """
    table, used = task.table, fit_pictures(task)
    columns = task.store.width * len(settings.pooling)
    text = f"fit {task.name}: {len(used):,} pictures of {columns:,} columns"
    settle(task, settings, len(used), bytes_per_value)
    task.reader.budget.choose(text, {"pooled": bytes_of_fit(task, settings, len(used), bytes_per_value)})
    vectors = join_pooled(pool_store(task, settings.pooling, used), settings.normalise)
    return PooledFit(used, vectors, table.picture_labels[used])


def fit_pictures(task: FitTask) -> np.ndarray:
    """Return the fit pictures: int64 ndarray (n,).

    Raises
    ------
    HeadError
        Pictures without labels.
    """
    table = task.table
    if not table.labelled:
        raise HeadError(f"{table.dataset} {table.split}: the pictures have no labels, so nothing to fit on")
    return np.flatnonzero(~task.is_held_out)


def pool_store(task: FitTask, pooling: Sequence[str], used: np.ndarray) -> np.ndarray:
    """Pool the rows of fit pictures, in one pass; of what was pooled for several heads, take theirs.

    Parameters
    ----------
    used : int64 ndarray (n,), pictures that are not held out

    Returns
    -------
    float32 ndarray (n_poolings, n, width)
    """
    task.reader.require_all_rows()
    if has_pooled(task, pooling):
        return np.stack([task.reader.pooled[name][used] for name in pooling])
    return _pool_rows(task.store, task.table, pooling, ~task.is_held_out)[:, used]


def has_pooled(task: FitTask, pooling: Sequence[str]) -> bool:
    """Whether the rows were pooled in this way for several heads."""
    return task.reader.pooled.keys() >= set(pooling)


def pool_for_all(
    store: Store, table: PatchTable, heads: Iterable[AnyHead], budget: MemoryBudget
) -> dict[str, np.ndarray]:
    """Pool the rows of all pictures in one pass, for several fits.

    A picture's vector does not depend on the others: each fit has the bits of a pass of its own.

    Parameters
    ----------
    heads : of each fit

    Returns
    -------
    `RowReader.pooled`; empty where fewer than two fits need it, or memory has no room for it
    """
    wanted = [head.pooled_by for head in heads if head.pooled_by]
    names = tuple(dict.fromkeys(name for names in wanted for name in names))
    if len(wanted) < 2 or not budget.has_room(_bytes_of_pooling(store, table, len(names))):
        return {}
    check_joined(store, table)
    return dict(zip(names, _pool_rows(store, table, names, np.ones(len(table.ids), bool)), strict=True))


def _pool_rows(store: Store, table: PatchTable, pooling: Sequence[str], wanted: np.ndarray) -> np.ndarray:
    """Pool the rows (n_poolings, n_pictures, width) of wanted pictures, in one pass; NaN for the others."""
    pooled = PooledRows(len(table.ids), store.width, pooling)
    with Progress(f"pool {table.dataset} {table.split}", table.n_rows, "patches") as progress:
        for part, rows in store.iter_parts():
            picture = table.picture_of(slice(part.start, part.stop))
            kept = wanted[picture]
            pooled.add(rows if kept.all() else rows[kept], picture[kept])
            progress.advance(part.n_rows)
    return pooled.result()


def settle(task: FitTask, settings: Pooling, n_used: int, bytes_per_value: int) -> None:
    """Drop what was pooled for several heads where a fit has no room beside it: then each head pools its own."""
    if has_pooled(task, settings.pooling) and not task.reader.budget.has_room(
        bytes_of_fit(task, settings, n_used, bytes_per_value)
    ):
        task.reader.pooled = {}


def bytes_of_fit(task: FitTask, settings: Pooling, n_used: int, bytes_per_value: int) -> int:
    """Return the most bytes that a fit takes: while it pools rows, or with all vectors."""
    values = n_used * task.store.width * len(settings.pooling)
    if has_pooled(task, settings.pooling):
        # Those of the fit, and while they are joined their squares or quotients in float64, and the joined ones.
        return values * max(bytes_per_value, 4 + 8 + 4) + SLACK
    pooling = _bytes_of_pooling(task.store, task.table, len(settings.pooling))
    return max(pooling, values * bytes_per_value + reading_bytes(task.store) + SLACK)


def _bytes_of_pooling(store: Store, table: PatchTable, n_poolings: int) -> int:
    """Return the most bytes of a pass that pools all rows."""
    n_rows = int(np.diff(table.first_row).max(initial=0))
    # Per picture and column float64 sums, float16 maxima, the float64 mean, both in float32, and both stacked.
    of_pictures = len(table.ids) * store.width * (18 + 4 * n_poolings)
    return of_pictures + 16 * n_rows * store.width + reading_bytes(store) + SLACK


def labelled_both_ways(table: PatchTable, labels: np.ndarray) -> np.ndarray:
    """Return which classes have both a positive and a negative picture: bool ndarray (n_classes,).

    Raises
    ------
    HeadError
        None has.
    """
    both = (labels == 1).any(0) & (labels == -1).any(0)
    if not both.any():
        raise HeadError(
            f"{table.dataset} {table.split}: no class has both a positive and a negative picture among {len(labels):,}"
        )
    return both


def count_pictures(classes: Sequence[str], labels: np.ndarray, both: np.ndarray) -> dict[str, Any]:
    """Return the facts of a fit from which `HeadFacts.never_learnt` follows: a JSON object."""
    return {
        "positive_pictures": {c: int(n) for c, n in zip(classes, (labels == 1).sum(0), strict=True)},
        "never_both": [c for c, usable in zip(classes, both, strict=True) if not usable],
    }
