"""Off the shelf: one linear SVM per class on one pooled vector per picture.

Source: Razavian et al. (CVPR Workshops 2014) sections 2 and 3: activations of the last layers, scaled to length 1,
and one linear SVM per class whose C is chosen on held-out data.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.activations.pooling import PooledPictures, PooledRows, join_pooled
from pipeline.head.fit_memory import SLACK, reading_bytes
from pipeline.head.settings import ScoreKind, SvmSettings
from pipeline.head.task import Columns, FitTask, Fitted, HeadKind
from pipeline.io.errors import HeadError
from pipeline.io.memory import release_memory
from pipeline.io.progress import Progress
from pipeline.metrics.average_precision import mean_average_precision

FOLDS = 3
TOLERANCE = 1e-3
"""Tolerance of liblinear: ten times its default, in half the time; no score moved that ranks pictures."""
MAX_ITERATIONS = 10_000


class Svm(nn.Module):
    """One linear function per class of a picture's pooled vector, ``weight @ ((vector - mean) * inv_std) + bias``.

    It is a `PooledScorer`: it has no patch scores.

    Parameters
    ----------
    width : columns of a row
    n_classes : int
    settings : SvmSettings

    Attributes
    ----------
    mean, inv_std : float32 Tensors of shape (n_columns,)
        Of the fit pictures; the inverse deviation is divided by the root of the number of columns.
    """

    score_kind: ScoreKind = "pooled"

    weight: Tensor
    bias: Tensor
    mean: Tensor
    inv_std: Tensor

    def __init__(self, width: int, n_classes: int, settings: SvmSettings) -> None:
        super().__init__()
        self.width, self.settings = width, settings
        n_columns = width * len(settings.pooling)
        self.register_buffer("weight", torch.zeros(n_classes, n_columns))
        self.register_buffer("bias", torch.zeros(n_classes))
        self.register_buffer("mean", torch.zeros(n_columns))
        self.register_buffer("inv_std", torch.ones(n_columns))

    def accumulator(self, pictures: range) -> PooledPictures:
        """Return an accumulator of pooled vectors of a range of pictures."""
        return PooledPictures(pictures, self.width, self.settings.pooling)

    def picture_scores(self, columns: Columns) -> np.ndarray:
        """Compute decision values, float64 ndarray (n_pictures, n_classes), from the column of `PooledPictures`.

        Of all pictures at once: the last bits of a product of matrices depend on how many rows it has.
        """
        pooled = np.ascontiguousarray(np.moveaxis(columns[PooledPictures.COLUMN], 1, 0))
        return self.decide(join_pooled(pooled, self.settings.normalise))

    def decide(self, vectors: np.ndarray) -> np.ndarray:
        """Compute decision values, float64 ndarray of shape (n, n_classes), of joined vectors (n, n_columns)."""
        names = ("weight", "bias", "mean", "inv_std")
        weight, bias, mean, inv_std = (getattr(self, name).double().numpy() for name in names)
        return (vectors - mean) * inv_std @ weight.T + bias


def make_network(width: int, n_classes: int, settings: SvmSettings) -> Svm:
    """Make the SVMs of a head, without weights."""
    return Svm(width, n_classes, settings)


def fit(task: FitTask, settings: SvmSettings) -> Fitted:
    """Pool the rows of the fit pictures, choose C by cross-validation among them, and fit one SVM per class.

    All classes have one C, the one with the highest mean AP over `FOLDS` folds of the fit pictures. A picture's fold
    is fixed by a hash of the digest of its file. The two sides of a class are not reweighted: the measure is a
    ranking, and equal weights of the sides gave a lower AP.

    Raises
    ------
    HeadError
        Pictures without labels, or no class with a positive and a negative picture.
    """
    table = task.table
    if not table.labelled:
        raise HeadError(f"{table.dataset} {table.split}: the pictures have no labels, so nothing to fit on")
    used = np.flatnonzero(~task.is_held_out)
    _import_svm()  # before memory is counted
    columns = task.store.width * len(settings.pooling)
    text = f"fit {task.name}: {len(used):,} pictures of {columns:,} columns"
    task.reader.budget.choose(text, {"pooled": _bytes_of_fit(task, settings, used)})
    vectors = join_pooled(pool_store(task, settings)[:, used], settings.normalise).astype(np.float64)
    release_memory()
    labels = table.picture_labels[used]
    both = (labels == 1).any(0) & (labels == -1).any(0)
    if not both.any():
        raise HeadError(
            f"{table.dataset} {table.split}: no class has both a positive and a negative picture among {len(used):,}"
        )
    n_fits = (FOLDS * len(settings.costs) if len(settings.costs) > 1 else 0) + 1
    with Progress(f"fit {task.name}", n_fits * task.n_classes, "SVMs") as progress:
        tried = _cross_validate(vectors, labels, [table.picture_sha256[i] for i in used], task, settings, progress)
        cost = max(settings.costs, key=lambda c: (tried.get(c, 0.0), -c))
        network = make_network(task.store.width, task.n_classes, settings)
        unsettled = _fit_classes(network, vectors, labels, cost, task.seed, progress)
    facts = {
        "cost": cost,
        "cross_validated_mAP": {f"{c:g}": round(value, 6) for c, value in tried.items()},
        "folds": FOLDS if tried else 0,
        "positive_pictures": {c: int(n) for c, n in zip(table.classes, (labels == 1).sum(0), strict=True)},
        "never_both": [c for c, usable in zip(table.classes, both, strict=True) if not usable],
        "unsettled": [table.classes[column] for column in unsettled],
    }
    return Fitted(network.eval(), [], {"svm": facts})


KIND: HeadKind[SvmSettings] = HeadKind.of_single(make_network, fit)


def pool_store(task: FitTask, settings: SvmSettings) -> np.ndarray:
    """Pool the rows (n_poolings, n_pictures, width) of all pictures, in one pass; NaN for held-out pictures."""
    task.reader.require_all_rows()
    table, store = task.table, task.store
    pooled = PooledRows(len(table.ids), store.width, settings.pooling)
    with Progress(f"pool {table.dataset} {table.split}", table.n_rows, "patches") as progress:
        for part, rows in store.iter_parts():
            picture = table.picture_of(slice(part.start, part.stop))
            kept = ~task.is_held_out[picture]
            pooled.add(rows if kept.all() else rows[kept], picture[kept])
            progress.advance(part.n_rows)
    return pooled.result()


def _bytes_of_fit(task: FitTask, settings: SvmSettings, used: np.ndarray) -> int:
    """Return the most bytes that a fit takes: while it pools rows, or while liblinear has its copy of the vectors."""
    table, width, n_poolings = task.table, task.store.width, len(settings.pooling)
    n_rows = int(np.diff(table.first_row).max(initial=0))
    # Per picture and column float64 sums, float16 maxima, the float64 mean, both in float32, and both stacked.
    pooling = len(table.ids) * width * (18 + 4 * n_poolings) + 16 * n_rows * width
    # The float64 vectors, those without difficult pictures, and 16 bytes per value in liblinear's form.
    copies = 8 + 8 * int((table.picture_labels[used] == 0).any()) + 16
    return max(pooling, len(used) * width * n_poolings * copies) + reading_bytes(task.store) + SLACK


def fold_of(file_sha256: Sequence[str]) -> np.ndarray:
    """Return the fold of each picture, 0 to ``FOLDS - 1``, by a hash of the digest of its file alone.

    >>> fold_of(["a", "b", "c", "d"]).tolist()
    [2, 1, 1, 1]
    """
    digests = [hashlib.sha256(f"fold {i}".encode()).digest() for i in file_sha256]
    return np.array([int.from_bytes(digest[:8], "big") % FOLDS for digest in digests], np.int64)


def _cross_validate(
    vectors: np.ndarray,
    labels: np.ndarray,
    files: Sequence[str],
    task: FitTask,
    settings: SvmSettings,
    progress: Progress,
) -> dict[float, float]:
    """Compute the mean AP of each C over scored classes and folds; empty where there is nothing to choose."""
    if len(settings.costs) == 1:
        return {}
    fold = fold_of(files)
    scored = [column for column, name in enumerate(task.table.classes) if name not in task.table.unscored]
    by_fold: dict[float, list[float]] = {c: [] for c in settings.costs}
    for k in range(FOLDS):
        inside, outside = fold != k, fold == k
        for cost in settings.costs:
            network = make_network(task.store.width, labels.shape[1], settings)
            _fit_classes(network, vectors[inside], labels[inside], cost, task.seed, progress)
            scores = network.decide(vectors[outside])[:, scored]
            mean, _ = mean_average_precision(scores, labels[outside][:, scored], "voc12")
            by_fold[cost].append(mean)
    # A fold without a positive picture has no AP, for any C.
    return {c: float(np.nanmean(values)) for c, values in by_fold.items() if not np.isnan(values).all()}


def _import_svm() -> Any:
    """Import scikit-learn where it is needed: that takes a second, and most commands do without."""
    from sklearn.svm import LinearSVC

    return LinearSVC


def _fit_classes(
    network: Svm, vectors: np.ndarray, labels: np.ndarray, cost: float, seed: int, progress: Progress
) -> list[int]:
    """Set a network's weights; return the columns of classes that did not converge within `MAX_ITERATIONS`.

    Pictures labelled 0 (difficult) are left out. A class that no picture shows, or every picture, gets zero weights
    and a bias of -1 or 1. The vectors are standardised in place.
    """
    from sklearn.exceptions import ConvergenceWarning

    if network.settings.standardise and len(vectors):
        mean, inv_std = _standardisation(vectors)
        network.mean.copy_(torch.from_numpy(mean))
        network.inv_std.copy_(torch.from_numpy(inv_std))
    vectors -= network.mean.double().numpy()
    vectors *= network.inv_std.double().numpy()
    unsettled = []
    for column in range(labels.shape[1]):
        progress.advance(1, note=f"C {cost:g}")
        counted = labels[:, column] != 0
        positive = labels[counted, column] == 1
        if positive.all() or not positive.any():
            network.bias[column] = 1.0 if positive.any() else -1.0
            continue
        svm = _import_svm()(C=cost, dual="auto", tol=TOLERANCE, random_state=seed, max_iter=MAX_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # recorded once per head, with the class, in its facts
            svm.fit(vectors if counted.all() else vectors[counted], positive)
        if svm.n_iter_ >= MAX_ITERATIONS:
            unsettled.append(column)
        network.weight[column] = torch.from_numpy(svm.coef_[0])
        network.bias[column] = float(svm.intercept_[0])
    return unsettled


def _standardisation(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and inverse deviation of each column; a column without deviation becomes 0.

    The inverse deviation is divided by the root of the number of columns. So vectors keep a length near 1, and one
    range of C serves with and without standardisation.
    """
    mean, deviation = vectors.mean(0), vectors.std(0)
    varies = deviation > 1e-6 * (1e-3 + np.abs(mean))
    inv_std = np.where(varies, 1 / np.where(varies, deviation, 1), 0) / np.sqrt(vectors.shape[1])
    return mean, inv_std
