"""Strong supervision: a head fitted on patches that have labels.

Source: Oquab et al. (CVPR 2014) section 3.3: all positive patches and a sample of the background; and section 4,
"Failure modes", for patches that show several objects.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.nn import functional

from pipeline.head.fit_memory import choosing_bytes
from pipeline.head.fitting import Loss, logistic_loss
from pipeline.head.joint_fit import JointFit
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import HeadSettings
from pipeline.head.task import FitTask, Fitted, HeadKind
from pipeline.io.errors import HeadError
from pipeline.io.memory import resident_memory
from pipeline.patches.labels import BACKGROUND, UNUSED
from pipeline.patches.sampling import choose_rows, count_rows
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable

POSITIVE = 0
"""Kind of a training row; the others are `BACKGROUND` and `UNUSED`."""


def make_network(width: int, n_classes: int, settings: HeadSettings) -> HeadNetwork:
    """Make the network of a strong head, without weights."""
    return HeadNetwork(width, n_classes, settings, "softmax" if settings.targets == "single" else "logistic")


def fit(tasks: Sequence[FitTask], settings: Sequence[HeadSettings]) -> list[Fitted]:
    """Fit heads of one `joint_key` on the positive patches and on a share of the background patches.

    Raises
    ------
    DatasetError, HeadError
        The dataset has no boxes; no positive patch at all.
    """
    task = tasks[0]
    patches = choose_training_patches(task, settings[0])
    networks = [make_network(task.store.width, task.n_classes, of_head) for of_head in settings]
    joint = JointFit(task.seed, patches.loss, task.device)
    for network, of_head, named in zip(networks, settings, tasks, strict=True):
        joint.add(network, of_head, named.name)
    curves = joint.run(joint.read_rows(task.reader, patches.row_index, patches.peak), patches.targets)
    return [
        Fitted(network, curve, {"patches": patches.facts, **joint.facts})
        for network, curve in zip(networks, curves, strict=True)
    ]


def joint_key(settings: HeadSettings) -> Hashable:
    """Return what must be equal for heads of one split to be fitted side by side."""
    return settings.background_share, settings.targets, JointFit.key(settings)


KIND: HeadKind[HeadSettings] = HeadKind(make_network, fit, joint_key)


# ---- the patches that a head is fitted on


@dataclass(frozen=True)
class TrainingRows:
    """How each row of a table takes part in a fit, before a share of the background is drawn.

    The draw needs to know it of all rows, in two bytes per row (of several classes per row: one). Targets are
    of chosen rows, and are computed for those.

    Attributes
    ----------
    kind : int ndarray of shape (n_rows,): at least 0 (`POSITIVE`, or a class), BACKGROUND or UNUSED
    targets_at : from an int64 ndarray (n,) of rows, rising, to their targets
        Of one class per row: int64 (n,), a class, or the number of classes for background. Of several: int8
        (n, n_classes), 1, -1, and 0 for a class of which a row is no example.
    """

    kind: np.ndarray
    targets_at: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TrainingPatches:
    """The rows of a store that a strong head is fitted on.

    Attributes
    ----------
    row_index : int64 ndarray of shape (n,), rising
    targets : of these rows, as in `TrainingRows`
    loss : compares logits with targets
    facts : JSON object, counts
    peak : most bytes of memory that the process held while they were chosen
    """

    row_index: np.ndarray
    targets: np.ndarray
    loss: Loss
    facts: dict[str, Any]
    peak: int


def choose_training_patches(task: FitTask, settings: HeadSettings) -> TrainingPatches:
    """Choose all positive patches and a share of the background patches, with their targets.

    Raises
    ------
    DatasetError, HeadError
        The dataset has no boxes; no positive patch at all; choosing does not fit into the memory budget.
    """
    table, held = task.table, resident_memory()
    table.need_boxes(f"head {task.name!r}")
    training = _training_rows(table, settings, task.label_rule)
    kind, several = training.kind, settings.targets == "several"
    for picture in np.flatnonzero(task.is_held_out).tolist():
        kind[table.first_row[picture] : table.first_row[picture + 1]] = UNUSED
    n_background = count_rows(kind, lambda some: some == BACKGROUND)
    n_chosen = count_rows(kind, lambda some: some >= POSITIVE) + round(settings.background_share * n_background)
    choosing = choosing_bytes(table.n_rows, n_background, n_chosen, task.n_classes if several else 1)
    task.reader.budget.refuse_beyond(f"fit {task.name}: choosing {n_chosen:,} of {table.n_rows:,} rows", held, choosing)
    row_index = choose_rows(kind, settings.background_share, task.seed)
    n_positive = int((kind[row_index] >= POSITIVE).sum())
    if not n_positive:
        raise HeadError(
            f"{table.dataset} {table.split}: no positive patch among {table.n_rows:,} under the label rule "
            f"single_object={task.label_rule.single_object}; check the boxes with: pipeline data check {table.dataset}"
        )
    targets = training.targets_at(row_index)
    per_class = (targets == 1).sum(0) if several else np.bincount(targets, minlength=task.n_classes)[: task.n_classes]
    n_negative = (targets == -1).sum(0) if several else len(targets) - per_class
    facts: dict[str, Any] = {
        "positive": n_positive,
        "background": len(row_index) - n_positive,
        "background_of": n_background,
        "per_class": {c: int(n) for c, n in zip(table.classes, per_class, strict=True)},
    }
    if not n_negative.all():
        facts["never_negative"] = [table.classes[c] for c in np.flatnonzero(n_negative == 0)]
    if several:
        facts["of_several_classes"] = int(((targets == 1).sum(1) > 1).sum())
    loss = logistic_loss if several else functional.cross_entropy
    return TrainingPatches(row_index, targets, loss, facts, held + choosing)


def _training_rows(table: PatchTable, settings: HeadSettings, label_rule: LabelSettings) -> TrainingRows:
    n_classes = len(table.classes)
    if settings.targets == "single":
        labels = table.labels(label_rule)
        return TrainingRows(
            labels, lambda rows: np.where(labels[rows] == BACKGROUND, n_classes, labels[rows].astype(np.int64))
        )
    kind = np.empty(table.n_rows, np.int8)
    for pictures in table.ranges():
        some = table.class_targets(label_rule, pictures)
        background = np.where(some.background, BACKGROUND, UNUSED)
        kind[table.slice_of(pictures)] = np.where(some.used & ~some.background, POSITIVE, background)

    def targets_at(rows: np.ndarray) -> np.ndarray:
        targets = [np.zeros((0, n_classes), np.int8)]
        for pictures in table.ranges():
            own = table.slice_of(pictures)
            chosen = rows[slice(*np.searchsorted(rows, [own.start, own.stop]))]
            if len(chosen):
                targets.append(table.class_targets(label_rule, pictures).matrix(chosen - own.start, n_classes))
        return np.concatenate(targets)

    return TrainingRows(kind, targets_at)


def rows_to_learn(
    table: PatchTable, settings: HeadSettings, label_rule: LabelSettings, seeds: Iterable[int]
) -> np.ndarray:
    """List all rows that a head is fitted on with any of several seeds, on all pictures: int64 ndarray, rising.

    Raises
    ------
    DatasetError
        The dataset has no boxes.
    """
    table.need_boxes("rows: labelled")
    kind = _training_rows(table, settings, label_rule).kind
    return np.unique(np.concatenate([choose_rows(kind, settings.background_share, seed) for seed in seeds]))
