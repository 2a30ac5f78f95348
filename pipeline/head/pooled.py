"""Heads on one pooled vector per picture: what their networks and their fits have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.activations.pooling import PooledPictures, PooledRows, join_pooled
from pipeline.head.fit_memory import SLACK, reading_bytes
from pipeline.head.settings import ScoreKind
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
    task.reader.budget.choose(text, {"pooled": bytes_of_fit(task, settings, len(used), bytes_per_value)})
    vectors = join_pooled(pool_store(task, settings.pooling)[:, used], settings.normalise)
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


def pool_store(task: FitTask, pooling: Sequence[str]) -> np.ndarray:
    """Pool the rows (n_poolings, n_pictures, width) of all pictures, in one pass; NaN for held-out pictures."""
    task.reader.require_all_rows()
    return task.reader.pooled(pooling, task.is_held_out, lambda names: _pool_store(task, names))


def _pool_store(task: FitTask, pooling: Sequence[str]) -> np.ndarray:
    table, store = task.table, task.store
    pooled = PooledRows(len(table.ids), store.width, pooling)
    with Progress(f"pool {table.dataset} {table.split}", table.n_rows, "patches") as progress:
        for part, rows in store.iter_parts():
            picture = table.picture_of(slice(part.start, part.stop))
            kept = ~task.is_held_out[picture]
            pooled.add(rows if kept.all() else rows[kept], picture[kept])
            progress.advance(part.n_rows)
    return pooled.result()


def bytes_of_fit(task: FitTask, settings: Pooling, n_used: int, bytes_per_value: int) -> int:
    """Return the most bytes that a fit takes: while it pools rows, or with all vectors."""
    table, width, n_poolings = task.table, task.store.width, len(settings.pooling)
    n_kept = len(task.reader.pooling)  # for further heads, beside the vectors of this one
    n_rows = int(np.diff(table.first_row).max(initial=0))
    # Per picture and column float64 sums, float16 maxima, the float64 mean, both in float32, and both stacked.
    pooling = len(table.ids) * width * (18 + 4 * max(n_poolings, n_kept)) + 16 * n_rows * width
    fitting = n_used * width * n_poolings * bytes_per_value + 4 * len(table.ids) * width * n_kept
    return max(pooling, fitting) + reading_bytes(task.store) + SLACK


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
