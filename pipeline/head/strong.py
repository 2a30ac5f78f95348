"""Strong supervision: a head fitted on patches that have labels.

Source: Oquab et al. (CVPR 2014) section 3.3: all positive patches and a sample of the background.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import HeadError
from pipeline.head.fitting import fit_network
from pipeline.head.networks import HeadNetwork
from pipeline.head.task import FitTask, Fitted
from pipeline.patches.labels import BACKGROUND
from pipeline.patches.sampling import choose_rows
from pipeline.settings import HeadSettings


def make_network(width: int, n_classes: int, settings: HeadSettings) -> HeadNetwork:
    """The network of a strong head, without weights."""
    return HeadNetwork(width, n_classes, settings, "softmax")


def fit(task: FitTask, settings: HeadSettings) -> Fitted:
    """Fit on the positive patches and on a share of the background patches.

    Raises
    ------
    HeadError
        No positive patch at all.
    """
    table = task.table
    usable = np.where(task.held_out[table.picture], np.int16(-2), table.labels(task.labels))
    rows = choose_rows(usable, settings.background_share, task.seed)
    chosen = usable[rows].astype(np.int64)
    n_positive = int((chosen >= 0).sum())
    if not n_positive:
        raise HeadError(
            f"{table.dataset} {table.split}: no positive patch among {table.n_rows:,} under the reading "
            f"single_object={task.labels.single_object}; check the boxes with: pipeline data check {table.dataset}"
        )
    targets = np.where(chosen == BACKGROUND, task.n_classes, chosen)
    network = make_network(task.store.width, task.n_classes, settings)
    log = fit_network(network, task.store.read_rows(rows), targets, settings, task.seed, task.name)
    counts = np.bincount(chosen[chosen >= 0], minlength=task.n_classes)
    facts = {
        "positive": n_positive,
        "background": len(rows) - n_positive,
        "background_of": int((usable == BACKGROUND).sum()),
        "per_class": {c: int(n) for c, n in zip(table.classes, counts, strict=True)},
    }
    return Fitted(network, log, {"patches": facts})
