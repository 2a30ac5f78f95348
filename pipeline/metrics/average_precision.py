"""Average precision by the two rules of the PASCAL VOC devkit."""

from __future__ import annotations

from typing import Literal

import numpy as np

METRICS = ("voc07", "voc12")


def precision_recall(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute precision and recall after each ranked sample.

    Samples are sorted by falling score; ties stay in their order (a stable sort, as in the devkit). Samples without a
    score (NaN) rank last. Samples labelled 0 (difficult) are left out.

    Parameters
    ----------
    scores : float ndarray of shape (n,)
    labels : int ndarray of shape (n,), 1, 0 or -1

    Returns
    -------
    precision, recall : float64 ndarrays of shape (number of samples labelled 1 or -1,)
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores and labels must be 1-d and equally long, got {scores.shape} and {labels.shape}")
    unknown = sorted(set(np.unique(labels).tolist()) - {-1, 0, 1})
    if unknown:
        raise ValueError(f"labels must be -1, 0 or 1, got {unknown}")
    counted = labels != 0
    keys = np.where(np.isnan(scores), -np.inf, scores)[counted]
    order = np.argsort(-keys, kind="stable")
    right = labels[counted][order] == 1
    n_right = np.cumsum(right)
    precision = n_right / np.arange(1, len(n_right) + 1)
    recall = n_right / max(1, n_right[-1] if len(n_right) else 0)
    return precision, recall


def average_precision(scores: np.ndarray, labels: np.ndarray, metric: Literal["voc07", "voc12"] = "voc12") -> float:
    """Compute the average precision of one class, 0..1.

    ``voc07`` is the mean over recalls 0, 0.1, ..., 1 of the highest precision at that recall or
    beyond (VOC devkit 2007, ``VOCevalcls``); ``voc12`` the area under the curve of precision made
    monotone, over all recalls (devkit 2010 and later). Neither is scikit-learn's: its sum does not
    make the curve monotone, and it puts tied scores at one threshold.

    Parameters
    ----------
    scores : float array of shape (n,); NaN ranks last
    labels : int array of shape (n,), 1 positive, -1 negative, 0 difficult (left out)

    Returns
    -------
    float
        NaN where no sample is positive.

    Examples
    --------
    >>> round(average_precision([0.9, 0.8, 0.7], [1, -1, 1], metric="voc12"), 4)
    0.8333
    >>> round(average_precision([0.9, 0.8, 0.7], [1, -1, 1], metric="voc07"), 4)
    0.8485
    >>> average_precision([0.5], [2])
    Traceback (most recent call last):
    ...
    ValueError: labels must be -1, 0 or 1, got [2]
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    precision, recall = precision_recall(scores, labels)
    if not (np.asarray(labels) == 1).any():
        return float("nan")
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "voc07":
        # The devkit's thresholds are 0:0.1:1; recalls such as 3/10 must meet theirs exactly.
        thresholds = np.arange(11) / 10
        first = np.searchsorted(recall, thresholds - 1e-12)
        return float(np.mean([envelope[i] if i < len(envelope) else 0.0 for i in first]))
    steps = np.diff(recall, prepend=0.0)
    return float(np.sum(steps * envelope))


def mean_average_precision(
    scores: np.ndarray, labels: np.ndarray, metric: Literal["voc07", "voc12"]
) -> tuple[float, np.ndarray]:
    """Compute the AP of each class, and the mean over the classes that have one.

    Parameters
    ----------
    scores : float ndarray of shape (n_pictures, n_classes)
    labels : int ndarray of the same shape

    Returns
    -------
    mean : float, NaN if no class has a positive sample
    each : float64 ndarray of shape (n_classes,), NaN where undefined
    """
    pairs = zip(np.asarray(scores).T, np.asarray(labels).T, strict=True)
    each = np.array([average_precision(s, y, metric) for s, y in pairs])
    defined = each[~np.isnan(each)]
    return (float(defined.mean()) if len(defined) else float("nan")), each
