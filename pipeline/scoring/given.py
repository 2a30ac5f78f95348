"""The measurement of scores that were made elsewhere: by the metrics of this package, and as a result of its own kind.

Such a result names no head, trunk, layer or store, of which nothing is known, so that it is never taken for one that
was made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from pipeline.metrics.accuracy import measure_confusion, shows_one_class
from pipeline.metrics.average_precision import leave_out_certain, mean_average_precision
from pipeline.metrics.bootstrap import bootstrap_interval
from pipeline.scoring.results import number

KIND = "scores made elsewhere"
"""Entry ``kind`` of the JSON object; results that were made here have no such entry."""


def measure_given(
    values: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    unscored: Sequence[str],
    metric: Literal["voc07", "voc12"],
) -> dict[str, Any]:
    """Measure scores of pictures.

    Parameters
    ----------
    values : float64 ndarray (n_pictures, n_classes); NaN, no score, ranks last
    labels : int8 ndarray of the same shape, 1, -1, or 0 (difficult, left out)
    unscored : classes that are not counted

    Returns
    -------
    JSON object: ``mAP`` and its ``interval``, ``AP``, ``undefined``, ``why_undefined``, and where every picture shows
    one class ``accuracy``, ``balanced_accuracy`` and ``confusion``
    """
    counted = [column for column, name in enumerate(classes) if name not in unscored]
    names = [classes[column] for column in counted]
    values, labels = values[:, counted], labels[:, counted]
    positive, negative = (labels == 1).any(0), (labels == -1).any(0)
    why = {name: "no positive picture" for name, has in zip(names, positive, strict=True) if not has}
    certain = zip(names, positive & ~negative, strict=True)
    why |= {
        name: "no negative picture, AP would be 100 % whatever the scores" for name, is_certain in certain if is_certain
    }
    ranked = leave_out_certain(labels)
    mean, each = mean_average_precision(values, ranked, metric)
    low, high = bootstrap_interval(values, ranked, metric)
    measured = {
        "mAP": number(mean),
        "interval": {"low": number(low), "high": number(high)},
        "AP": {name: number(ap) for name, ap in zip(names, each, strict=True)},
        "undefined": list(why),
        "why_undefined": why,
    }
    if not shows_one_class(labels):
        return measured
    found = measure_confusion(values, labels)
    return {
        **measured,
        "accuracy": number(found.accuracy),
        "balanced_accuracy": number(found.balanced_accuracy),
        "confusion": {
            "classes": names,
            "counts": found.counts.tolist(),
            "undecided": {name: int(n) for name, n in zip(names, found.undecided, strict=True) if n},
        },
    }
