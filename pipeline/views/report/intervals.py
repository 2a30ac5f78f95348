"""How sure the figures of a result are: intervals over the pictures that happened to be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.metrics.bootstrap import bootstrap_class_ap, interval
from pipeline.views.ranking import Ranking

FEW_PICTURES = 20
"""Of a class that fewer pictures show, a picture more or less moves the AP by points: it is marked."""


@dataclass(frozen=True)
class Intervals:
    """95 % intervals over pictures (bootstrap): low and high, 0..1.

    Attributes
    ----------
    mean : of the mAP; None where it is not defined
    of_class : by class; without those that have none
    """

    mean: tuple[float, float] | None = None
    of_class: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def measure_intervals(ranking: Ranking, measured: Mapping[str, float | None]) -> Intervals:
    """Measure the intervals of the classes that have an AP, and of their mean.

    Parameters
    ----------
    measured : AP by class; None where it is not defined
    """
    known = {name: ap for name, ap in measured.items() if ap is not None}
    if not known:
        return Intervals()
    columns = [ranking.scores.classes.index(name) for name in known]
    values = bootstrap_class_ap(ranking.scores.by(ranking.k)[:, columns], ranking.labels[:, columns], ranking.metric)
    defined = ~np.isnan(values).all(1)  # else a warning
    means = np.nanmean(values[defined], axis=1)
    mean = _within(*interval(means, measured=float(np.mean(list(known.values())))))
    of_class = {
        name: _within(low, high)
        for (name, ap), column in zip(known.items(), values.T, strict=True)
        for low, high in [interval(column, measured=ap)]
        if not np.isnan(low)
    }
    return Intervals(mean, of_class)


def _within(low: float, high: float) -> tuple[float, float]:
    """Cut an interval at 0 and 1, over which the shift to the measured value may take it."""
    return max(0.0, low), min(1.0, high)
