"""Strong supervision: a head fitted on patches that have labels.

Source: Oquab et al. (CVPR 2014) section 3.3: all positive patches and a sample of the background; and section 4,
"Failure modes", for patches that show several objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.nn import functional

from pipeline.head.fitting import Loss, alike, fit_networks, logistic_loss
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import HeadSettings
from pipeline.head.task import FitTask, Fitted
from pipeline.io.errors import HeadError
from pipeline.patches.labels import BACKGROUND, UNUSED, ClassTargets
from pipeline.patches.sampling import choose_rows
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a store that a strong head is fitted on.

    Attributes
    ----------
    rows : int64 ndarray of shape (n,), rising
    targets : what `loss` compares the logits of these rows with
        ``single``: int64 (n,), a class, or the number of classes for background; ``several``: int8
        (n, n_classes), 1, -1, and 0 for a class of which a row says nothing.
    loss : of logits and targets
    facts : JSON object, counts
    """

    rows: np.ndarray
    targets: np.ndarray
    loss: Loss
    facts: dict[str, Any]


def make_network(width: int, n_classes: int, settings: HeadSettings) -> HeadNetwork:
    """The network of a strong head, without weights."""
    return HeadNetwork(width, n_classes, settings, "softmax" if settings.targets == "single" else "logistic")


def choose_labelled(task: FitTask, settings: HeadSettings) -> LabelledRows:
    """All positive patches and a share of the background patches, with their targets.

    Raises
    ------
    DatasetError, HeadError
        The dataset has no boxes; or no positive patch at all.
    """
    table = task.table
    table.need_boxes(f"head {task.name!r}")
    labels, by_class = _labels_to_learn(table, settings, task.labels)
    usable = np.where(task.held_out[table.picture], UNUSED, labels)
    rows = choose_rows(usable, settings.background_share, task.seed)
    chosen = usable[rows].astype(np.int64)
    n_positive = int((chosen >= 0).sum())
    if not n_positive:
        raise HeadError(
            f"{table.dataset} {table.split}: no positive patch among {table.n_rows:,} under the reading "
            f"single_object={task.labels.single_object}; check the boxes with: pipeline data check {table.dataset}"
        )
    if by_class:
        targets = by_class.matrix(rows, task.n_classes)
        counts = (targets == 1).sum(0)
    else:
        targets = np.where(chosen == BACKGROUND, task.n_classes, chosen)
        counts = np.bincount(chosen[chosen >= 0], minlength=task.n_classes)
    facts = {
        "positive": n_positive,
        "background": len(rows) - n_positive,
        "background_of": int((usable == BACKGROUND).sum()),
        "per_class": {c: int(n) for c, n in zip(table.classes, counts, strict=True)},
    }
    if by_class:
        facts["of_several_classes"] = int(((targets == 1).sum(1) > 1).sum())
    return LabelledRows(rows, targets, logistic_loss if by_class else functional.cross_entropy, facts)


def _labels_to_learn(
    table: PatchTable, settings: HeadSettings, labels: LabelSettings
) -> tuple[np.ndarray, ClassTargets | None]:
    """int ndarray (n_rows,), a class (of several: any), BACKGROUND or UNUSED; of several, also what each row says."""
    if settings.targets == "single":
        return table.labels(labels), None
    by_class = table.class_targets(labels)
    background = np.where(by_class.background, BACKGROUND, UNUSED)
    return np.where(by_class.used & ~by_class.background, 0, background), by_class


def rows_to_learn(table: PatchTable, settings: HeadSettings, labels: LabelSettings, seeds: Iterable[int]) -> np.ndarray:
    """All rows that a head is fitted on with any of some seeds, on all pictures: int64 ndarray, rising.

    Raises
    ------
    DatasetError
        The dataset has no boxes.
    """
    table.need_boxes("rows: labelled")
    to_learn, _ = _labels_to_learn(table, settings, labels)
    return np.unique(np.concatenate([choose_rows(to_learn, settings.background_share, seed) for seed in seeds]))


def fit(task: FitTask, settings: HeadSettings) -> Fitted:
    """Fit on the positive patches and on a share of the background patches.

    Raises
    ------
    HeadError
        No positive patch at all.
    """
    return fit_together([task], [settings])[0]


def side_by_side(settings: HeadSettings) -> tuple[Any, ...]:
    """Heads of one split whose settings agree in this go through `fit_together`."""
    return settings.background_share, settings.targets, *alike(settings)


def fit_together(tasks: Sequence[FitTask], settings: Sequence[HeadSettings]) -> list[Fitted]:
    """Several `fit` in one pass over the rows: each gives what it gives alone.

    Parameters
    ----------
    tasks : that differ in the name alone
    settings : one a task, of one `side_by_side`
    """
    task = tasks[0]
    chosen = choose_labelled(task, settings[0])
    networks = [make_network(task.store.width, task.n_classes, its) for its in settings]
    values, names = task.read.rows(chosen.rows), [each.name for each in tasks]
    logs = fit_networks(networks, values, chosen.targets, settings, task.seed, names, chosen.loss)
    return [
        Fitted(network, log, {"patches": chosen.facts, "precision": network.precision})
        for network, log in zip(networks, logs, strict=True)
    ]
