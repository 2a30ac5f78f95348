"""Off the shelf: one linear SVM per class on one pooled vector per picture.

Source: Razavian et al. (CVPR Workshops 2014) sections 2 and 3: activations of the last layers, scaled to length 1,
and one linear SVM per class whose C is chosen on held-out data.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.activations.pooling import join_pooled
from pipeline.head import svm_on_device
from pipeline.head.device import BLOCK_BYTES, BLOCKS, Place, explain_full_memory, fact_of_device
from pipeline.head.fit_rows import halvings
from pipeline.head.pooled import bytes_of_fit, count_pictures, fit_pictures, labelled_both_ways, pool_store, settle
from pipeline.head.svm_network import Svm, make_network, set_standardisation
from pipeline.head.svm_rows import bytes_of_rows, pictures_of_rows, read_examples
from pipeline.head.svm_settings import SvmSettings
from pipeline.head.task import FitTask, Fitted, HeadKind
from pipeline.io.memory import release_memory
from pipeline.io.progress import Progress
from pipeline.metrics.average_precision import mean_average_precision

FOLDS = 3
TOLERANCE = 1e-3
"""Tolerance of liblinear: ten times its default, in half the time; no score moved that ranks pictures."""
MAX_ITERATIONS = 10_000


def fit(task: FitTask, settings: SvmSettings) -> Fitted:
    """Pool the rows of the fit pictures, choose C by cross-validation among them, and fit one SVM per class.

    Where each row is an example, no row is pooled, and C is given.

    All classes have one C, the one with the highest mean AP over `FOLDS` folds of the fit pictures. A picture's fold
    is fixed by a hash of the digest of its file. The two sides of a class are not reweighted: the measure is a
    ranking, and equal weights of the sides gave a lower AP.

    On a CPU classes are fitted by liblinear, side by side in threads where that changes no bit; on a GPU all classes,
    folds and costs at once by `svm_newton`.

    Raises
    ------
    HeadError
        Pictures without labels, or no class with a positive and a negative picture.
    """
    of_rows = settings.examples == "rows"
    used = pictures_of_rows(task) if of_rows else fit_pictures(task)
    columns = task.store.width * len(settings.pooling)

    def bytes_of(n: int) -> int:
        copies = _copies(task, used, n) if n else _copies_beside_gpu(task, settings, used)
        moving = 0 if n else bytes_of_moving(len(used), task.n_classes, settings.costs)
        of_fit = bytes_of_rows(task, len(used), copies) if of_rows else bytes_of_fit(task, settings, len(used), copies)
        return of_fit + moving

    settle(task, settings, len(used), _copies(task, used, 1))
    fitting = choose_way(task, settings.costs, used, columns, bytes_of, settings.examples)
    vectors = read_examples(task, settings, len(used)) if of_rows else _pool_examples(task, settings, used)
    release_memory()
    network, facts = fitting.run(vectors, settings, partial(make_network, task.store.width, task.n_classes, settings))
    return Fitted(network.eval(), [], facts)


def _pool_examples(task: FitTask, settings: SvmSettings, used: np.ndarray) -> np.ndarray:
    pooled = pool_store(task, settings.pooling, used)
    return join_pooled(pooled, settings.normalise, settings.root).astype(np.float64)


@dataclass(frozen=True)
class SvmFit:
    """How the SVMs of a task are fitted on vectors of pictures.

    Attributes
    ----------
    used : int64 ndarray (n,), the picture of each vector
    text, threads : what is fitted, for messages; classes that are fitted side by side on a CPU
    """

    task: FitTask
    used: np.ndarray
    text: str
    place: Place
    threads: int

    def run(self, vectors: np.ndarray, settings: SvmSettings, make: Callable[[], Svm]) -> tuple[Svm, dict[str, Any]]:
        """Choose C by cross-validation, and fit one SVM per class; return them and the facts of their fit.

        Parameters
        ----------
        vectors : float64 ndarray (n, n_columns), changed in place
        settings : of the standardisation, and the values of C
        make : makes a network of so many columns

        Raises
        ------
        HeadError
            No class with a positive and a negative picture.
        """
        task, table = self.task, self.task.table
        labels = table.picture_labels[self.used]
        of_pictures = table.picture_labels[np.unique(self.used)]
        both = labelled_both_ways(table, of_pictures)
        n_svms = _n_fits(settings.costs) * task.n_classes
        with Progress(f"fit {task.name}", n_svms, "SVMs") as progress, explain_full_memory(self.place, self.text):
            fits = _Fits(vectors, labels, settings, task, self.place, self.threads, progress, make)
            tried = _cross_validate(fits, [table.picture_sha256[i] for i in self.used])
            cost = max(settings.costs, key=lambda c: (tried.get(c, 0.0), -c))
            ((network, unsettled),) = fits.run([(None, cost)])
        facts = {
            "cost": cost,
            "cross_validated_mAP": {f"{c:g}": round(value, 6) for c, value in tried.items()},
            "folds": FOLDS if tried else 0,
            **count_pictures(table.classes, of_pictures, both),
            "unsettled": [table.classes[column] for column in unsettled],
        }
        return network, {"svm": facts, **fact_of_device(self.place.device)}


def choose_way(
    task: FitTask,
    costs: Sequence[float],
    used: np.ndarray,
    columns: int,
    bytes_of: Callable[[int], int],
    what: str = "pictures",
) -> SvmFit:
    """Choose where the SVMs are fitted, and how many side by side, before anything is read; say it.

    Parameters
    ----------
    used : int64 ndarray (n,), the picture of each vector
    columns : of a vector
    what : the vectors are of, for messages
    bytes_of : most bytes that a fit takes with so many classes side by side; with 0, on a GPU

    Raises
    ------
    HeadError
        The fit does not fit into the memory budget.
    """
    _import_svm()  # before memory is counted
    n_svms, n_forms = _n_fits(costs) * task.n_classes, FOLDS + 1
    text = f"fit {task.name}: {len(used):,} {what} of {columns:,} columns"
    operations = svm_on_device.operations(len(used), columns, n_svms)
    place = task.device.choose(text, operations, svm_on_device.working_bytes(len(used), columns, n_svms, n_forms))
    threads = 1 if place.on_gpu else _threads(task, used, columns)
    ways = {_pooled(n): bytes_of(0 if place.on_gpu else n) for n in halvings(threads)}
    way = task.reader.budget.choose(text, ways)
    return SvmFit(task, used, text, place, next(n for n in halvings(threads) if _pooled(n) == way))


def _n_fits(costs: Sequence[float]) -> int:
    """Count the fits of all classes: of every fold and C, where there is a C to choose, and of all pictures."""
    return (FOLDS * len(costs) if len(costs) > 1 else 0) + 1


KIND: HeadKind[SvmSettings] = HeadKind.of_single(make_network, fit)


def _pooled(threads: int) -> str:
    """Say where the vectors are, for messages."""
    return "pooled" if threads == 1 else f"pooled, {threads} classes at a time"


def _threads(task: FitTask, used: np.ndarray, columns: int) -> int:
    """Return the number of classes that are fitted side by side: with fewer pictures than columns one.

    There liblinear solves the dual problem, in a random order from one generator that the whole process has in common:
    side by side, each class would change the order of the others.
    """
    counted = (task.table.picture_labels[used] != 0).sum(0)
    inside = np.bincount(fold_of([task.table.picture_sha256[i] for i in used]), minlength=FOLDS)
    fewest = int(counted.min(initial=len(used))) - (int(inside.max()) if len(task.table.classes) else 0)
    return min(torch.get_num_threads(), task.n_classes) if fewest >= columns else 1


def _copies(task: FitTask, used: np.ndarray, threads: int) -> int:
    """Return the most bytes of each value of the vectors, while liblinear has its copies of them."""
    # The float64 vectors and, of each class at work, those without difficult pictures, and 16 bytes per value in
    # liblinear's form.
    return 8 + threads * (8 * int((task.table.picture_labels[used] == 0).any()) + 16)


def _copies_beside_gpu(task: FitTask, settings: SvmSettings, used: np.ndarray) -> int:
    """Return the most bytes of each value of the vectors in the CPU's memory, while a GPU fits."""
    inside = np.bincount(fold_of([task.table.picture_sha256[i] for i in used]), minlength=FOLDS)
    largest_fold = int(inside.max()) / max(1, len(used))
    # Beside the float64 vectors: those of a fit and their distances from the mean, then those of a fold, their
    # distances, and these standardised.
    standardising = 16 if settings.standardise else 0
    scoring = math.ceil(24 * largest_fold) if len(settings.costs) > 1 else 0
    return 8 + max(standardising, scoring)


def bytes_of_moving(n_vectors: int, n_classes: int, costs: Sequence[float]) -> int:
    """Return the most bytes of the CPU's memory that it takes to move vectors and labels to a GPU."""
    # Signs by network, those of usable classes, all of them twice, and page-locked.
    return 5 * n_vectors * n_classes * _n_fits(costs) + BLOCKS * BLOCK_BYTES


def fold_of(file_sha256: Sequence[str], n_folds: int = FOLDS) -> np.ndarray:
    """Return the fold of each picture, 0 to ``n_folds - 1``, by a hash of the digest of its file alone.

    >>> fold_of(["a", "b", "c", "d"]).tolist()
    [2, 1, 1, 1]
    """
    digests = [hashlib.sha256(f"fold {i}".encode()).digest() for i in file_sha256]
    return np.array([int.from_bytes(digest[:8], "big") % n_folds for digest in digests], np.int64)


@dataclass(frozen=True)
class _Fits:
    """Fits on some of the vectors, for some costs.

    Attributes
    ----------
    vectors : float64 ndarray (n, n_columns)
    labels : int8 ndarray (n, n_classes), 1, 0, -1
    threads : classes that are fitted side by side on a CPU
    make : makes a network without weights
    """

    vectors: np.ndarray
    labels: np.ndarray
    settings: SvmSettings
    task: FitTask
    place: Place
    threads: int
    progress: Progress
    make: Callable[[], Svm]

    def run(self, wanted: Sequence[tuple[np.ndarray | None, float]]) -> Iterator[tuple[Svm, list[int]]]:
        """Fit SVMs of all classes for each of some pairs.

        Parameters
        ----------
        wanted : bool ndarray (n,) and C: the vectors to fit on; None for all of them, which are then changed in place

        Yields
        ------
        network, and the columns of classes that did not converge
        """
        networks = (self.make() for _ in wanted)
        if self.place.on_gpu:
            yield from self._run_on_device(list(networks), wanted)
            return
        for network, (inside, cost) in zip(networks, wanted, strict=True):
            chosen, labels = (
                (self.vectors, self.labels) if inside is None else (self.vectors[inside], self.labels[inside])
            )
            yield network, _fit_classes(network, chosen, labels, cost, self.task.seed, self.progress, self.threads)

    def _run_on_device(
        self, networks: list[Svm], wanted: Sequence[tuple[np.ndarray | None, float]]
    ) -> Iterator[tuple[Svm, list[int]]]:
        everything = np.ones(len(self.vectors), bool)
        insides = [everything if inside is None else inside for inside, _ in wanted]
        for network, inside in zip(networks, insides, strict=True):
            if self.settings.standardise and inside.any():
                set_standardisation(network, self.vectors[inside])
        costs = [cost for _, cost in wanted]
        unsettled = svm_on_device.fit(networks, self.vectors, self.labels, insides, costs, self.place.device)
        self.progress.advance(len(wanted) * self.labels.shape[1])
        yield from zip(networks, unsettled, strict=True)


def _cross_validate(fits: _Fits, files: Sequence[str]) -> dict[float, float]:
    """Compute the mean AP of each C over scored classes and folds; empty where there is nothing to choose."""
    costs, table = fits.settings.costs, fits.task.table
    if len(costs) == 1:
        return {}
    fold = fold_of(files)
    scored = [column for column, name in enumerate(table.classes) if name not in table.unscored]
    by_fold: dict[float, list[float]] = {c: [] for c in costs}
    folds = [(k, cost) for k in range(FOLDS) for cost in costs]
    fitted = fits.run([(fold != k, cost) for k, cost in folds])
    for (k, cost), (network, _) in zip(folds, fitted, strict=True):
        outside = fold == k
        scores = network.decide(fits.vectors[outside])[:, scored]
        mean, _ = mean_average_precision(scores, fits.labels[outside][:, scored], "voc12")
        by_fold[cost].append(mean)
    # A fold without a positive picture has no AP, for any C.
    return {c: float(np.nanmean(values)) for c, values in by_fold.items() if not np.isnan(values).all()}


def _import_svm() -> Any:
    """Import scikit-learn where it is needed: that takes a second, and most commands do without."""
    from sklearn.svm import LinearSVC

    return LinearSVC


def _fit_classes(
    network: Svm,
    vectors: np.ndarray,
    labels: np.ndarray,
    cost: float,
    seed: int,
    progress: Progress,
    threads: int = 1,
) -> list[int]:
    """Set a network's weights; return the columns of classes that did not converge within `MAX_ITERATIONS`.

    Pictures labelled 0 (difficult) are left out. A class that no picture shows, or every picture, gets zero weights
    and a bias of -1 or 1. The vectors are standardised in place.
    """
    from sklearn.exceptions import ConvergenceWarning

    if network.settings.standardise and len(vectors):
        set_standardisation(network, vectors)
    vectors -= network.mean.double().numpy()
    vectors *= network.inv_std.double().numpy()

    def fit_class(column: int) -> Any:
        counted = labels[:, column] != 0
        positive = labels[counted, column] == 1
        if positive.all() or not positive.any():
            return 1.0 if positive.any() else -1.0
        svm = _import_svm()(C=cost, dual="auto", tol=TOLERANCE, random_state=seed, max_iter=MAX_ITERATIONS)
        return svm.fit(vectors if counted.all() else vectors[counted], positive)

    unsettled = []
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)  # recorded once per head, with the class, in its facts
        columns = range(labels.shape[1])
        for column, fitted in enumerate(map(fit_class, columns) if threads == 1 else pool.map(fit_class, columns)):
            progress.advance(1, note=f"C {cost:g}")
            if isinstance(fitted, float):
                network.bias[column] = fitted
                continue
            if fitted.n_iter_ >= MAX_ITERATIONS:
                unsettled.append(column)
            network.weight[column] = torch.from_numpy(fitted.coef_[0])
            network.bias[column] = float(fitted.intercept_[0])
    return unsettled
