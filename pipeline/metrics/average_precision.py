"""Average precision by the two rules of the PASCAL VOC devkit, with tied scores as one threshold.

No name decides a number. Samples of one score enter the ranking together, as in scikit-learn's
``precision_recall_curve``, so the order of samples changes nothing. The devkit keeps the order of its list among ties.
Where all scores differ there are no ties, and each AP is the devkit's to the last digit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

METRICS = ("voc07", "voc12")


def rank_samples(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort samples by falling score, and find where each run of equal scores ends.

    Parameters
    ----------
    scores : float ndarray of shape (n,)
        NaN, a sample without a score, counts as the lowest score: such samples rank last, as one threshold.

    Returns
    -------
    order : int64 ndarray of shape (n,), indices of samples, the highest first
    ends : int64 ndarray of shape (n_thresholds,), the place in `order` of the last sample of each distinct score
    """
    keys = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-keys, kind="stable")
    ranked = keys[order]
    return order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)[: len(ranked)]


def precision_recall(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute precision and recall at each threshold, that is at each distinct score, the highest first.

    Samples of one score enter together. Samples without a score (NaN) rank last, all at one threshold. Samples
    labelled 0 (difficult) are left out.

    Parameters
    ----------
    scores : float ndarray of shape (n,)
    labels : int ndarray of shape (n,), 1, 0 or -1

    Returns
    -------
    precision, recall : float64 ndarrays of shape (number of distinct scores of samples labelled 1 or -1,)

    Raises
    ------
    ValueError
        Other shapes, or labels that are not -1, 0 or 1.

    Examples
    --------
    >>> precision, recall = precision_recall([0.9, 0.5, 0.5], [1, 1, -1])
    >>> precision.round(2).tolist(), recall.tolist()
    ([1.0, 0.67], [0.5, 1.0])
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores and labels must be 1-d and equally long, got {scores.shape} and {labels.shape}")
    unknown = sorted(set(np.unique(labels).tolist()) - {-1, 0, 1})
    if unknown:
        raise ValueError(f"labels must be -1, 0 or 1, got {unknown}")
    counted = labels != 0
    order, ends = rank_samples(scores[counted])
    n_right = np.cumsum(labels[counted][order] == 1)[ends]
    precision = n_right / (ends + 1)
    recall = n_right / max(1, n_right[-1] if len(n_right) else 0)
    return precision, recall


def average_precision(scores: np.ndarray, labels: np.ndarray, metric: Literal["voc07", "voc12"] = "voc12") -> float:
    """Compute the average precision of one class, 0..1.

    ``voc07`` is the mean over the eleven recalls 0, 0.1, ..., 1 of the highest precision at that recall or
    beyond (VOC devkit 2007, ``VOCevalcls``); ``voc12`` the area under the curve of precision made
    monotone, over all recalls (devkit 2010 and later).

    Tied scores are one threshold: all samples of one score enter together, whatever their order. So a constant score
    has the share of positives as its AP. The precision-recall curve is scikit-learn's; its AP is not, as the sum there
    does not make the curve monotone. Where all scores differ, the value is the devkit's to the last digit.

    Parameters
    ----------
    scores : float array of shape (n,); NaN ranks last, several of them as one threshold
    labels : int array of shape (n,), 1 positive, -1 negative, 0 difficult (left out)

    Returns
    -------
    float
        NaN where no sample is positive; 1 whatever the scores where none is negative (`leave_out_certain`).

    Raises
    ------
    ValueError
        Other shapes, labels that are not -1, 0 or 1, an unknown metric.

    Examples
    --------
    >>> round(average_precision([0.9, 0.8, 0.7], [1, -1, 1], metric="voc12"), 4)
    0.8333
    >>> round(average_precision([0.9, 0.8, 0.7], [1, -1, 1], metric="voc07"), 4)
    0.8485
    >>> average_precision([0.5, 0.5, 0.5, 0.5], [1, -1, -1, -1])
    0.25
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
    return area_of_curve(precision, recall, metric)


def area_of_curve(precision: np.ndarray, recall: np.ndarray, metric: Literal["voc07", "voc12"]) -> float:
    """Compute the average precision of a curve, 0..1, by one of the two rules of `average_precision`.

    Parameters
    ----------
    precision, recall : float ndarrays of shape (n,), of rising recall; recall may end below 1, 0 counts beyond it

    >>> area_of_curve(np.array([1.0, 0.5]), np.array([0.25, 0.5]), "voc12")
    0.375
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "voc07":
        # The devkit's thresholds are 0:0.1:1; recalls such as 3/10 must meet theirs exactly.
        thresholds = np.arange(11) / 10
        first = np.searchsorted(recall, thresholds - 1e-12)
        return float(np.mean([envelope[i] if i < len(envelope) else 0.0 for i in first]))
    steps = np.diff(recall, prepend=0.0)
    return float(np.sum(steps * envelope))


def leave_out_certain(labels: np.ndarray) -> np.ndarray:
    """Return labels that leave out the classes without a negative sample: their AP is 1 whatever the scores.

    Parameters
    ----------
    labels : int ndarray of shape (n_pictures, n_classes), 1, -1, or 0

    Examples
    --------
    >>> leave_out_certain(np.array([[1, 1], [1, -1]])).tolist()
    [[0, 1], [0, -1]]
    """
    return np.where((labels == -1).any(0), labels, np.zeros_like(labels))


def mean_average_precision(
    scores: np.ndarray, labels: np.ndarray, metric: Literal["voc07", "voc12"] = "voc12"
) -> tuple[float, np.ndarray]:
    """Compute the AP of each class, and the mean over the classes that have one.

    Parameters
    ----------
    scores : float ndarray of shape (n_pictures, n_classes)
    labels : int ndarray of the same shape; a column of zeros leaves its class out

    Returns
    -------
    mean : float, NaN if no class has a positive sample
    each : float64 ndarray of shape (n_classes,), NaN where undefined

    Raises
    ------
    ValueError
        Other shapes, labels that are not -1, 0 or 1, an unknown metric.

    Examples
    --------
    >>> mean, each = mean_average_precision([[0.9, 0.1], [0.8, 0.7], [0.7, 0.9]], [[1, -1], [-1, 1], [1, -1]])
    >>> round(mean, 4), each.round(4).tolist()
    (0.6667, [0.8333, 0.5])
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores and labels must have one shape (n, n_classes), got {scores.shape}, {labels.shape}")
    pairs = zip(scores.T, labels.T, strict=True)
    each = np.array([average_precision(s, y, metric) for s, y in pairs])
    defined = each[~np.isnan(each)]
    return (float(defined.mean()) if len(defined) else float("nan")), each
