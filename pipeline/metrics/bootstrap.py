"""The uncertainty of a mAP: over seeds, and over the pictures that happened to be in the split.

Pictures are resampled with replacement (bootstrap), the same pictures for every recipe. So differences of two recipes
are paired: pictures that are hard for both cancel out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipeline.metrics.average_precision import mean_average_precision, rank_samples

# Resamples are processed in chunks: an array of one count per picture and resample has about this size.
CHUNK = 4_000_000


def resample_counts(n_pictures: int, n_resamples: int, seed: int) -> np.ndarray:
    """Count how often each picture is in each resample; equal arguments give equal counts.

    Returns
    -------
    int32 ndarray of shape (n_pictures, n_resamples), every column with sum n_pictures
    """
    rng = np.random.default_rng([seed, n_pictures])
    counts = np.empty((n_pictures, n_resamples), np.int32)
    for column in range(n_resamples):
        counts[:, column] = np.bincount(rng.integers(0, n_pictures, n_pictures), minlength=n_pictures)
    return counts


def resampled_average_precision(
    scores: np.ndarray, labels: np.ndarray, counts: np.ndarray, metric: Literal["voc07", "voc12"]
) -> np.ndarray:
    """Compute the AP of one class on each resample, as `average_precision` on the pictures repeated.

    Copies of a picture have one score, and so have tied pictures: all of them are one threshold. Between thresholds
    with a positive picture precision falls. Hence cumulated counts at these thresholds are enough, and no copy is
    written out.

    Parameters
    ----------
    scores : float ndarray of shape (n_pictures,), NaN ranks last
    labels : int ndarray of shape (n_pictures,), 1, -1, or 0 (left out)
    counts : int ndarray of shape (n_pictures, n_resamples)

    Returns
    -------
    float64 ndarray of shape (n_resamples,), NaN where a resample has no positive picture
    """
    counted = np.flatnonzero(labels != 0)
    order, ends = rank_samples(np.asarray(scores, float)[counted])
    order = counted[order]
    positive = np.flatnonzero(labels[order] == 1)
    if not len(positive):
        return np.full(counts.shape[1], np.nan)
    ranked = counts[order]
    # The thresholds of the positives, and the last positive of each.
    threshold = np.searchsorted(ends, positive)
    last = np.append(np.flatnonzero(np.diff(threshold)), len(positive) - 1)
    n_right = np.cumsum(ranked[positive], 0)[last]
    n_ranked = np.cumsum(ranked, 0)[ends[threshold[last]]]
    precision = n_right / np.maximum(n_ranked, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    total = n_right[-1]
    if metric == "voc12":
        sums = (np.diff(n_right, axis=0, prepend=0) * envelope).sum(0)
    else:
        sums = np.zeros(counts.shape[1])
        for tenth in range(11):
            # The first threshold at which recall is tenth / 10, in whole numbers; pictures not drawn are not reached.
            first = np.argmax(n_right * 10 >= np.maximum(tenth * total, 1), axis=0)
            sums += np.take_along_axis(envelope, first[None], 0)[0]
        total = np.where(total > 0, 11, 0)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, sums / total, np.nan)


def bootstrap_mean_ap(
    scores: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray,
    metric: Literal["voc07", "voc12"],
    n_resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Compute the mAP on resamples of the pictures; the mean over seeds where there are several.

    Parameters
    ----------
    scores : float ndarray of shape (n_pictures, n_classes), or (n_seeds, n_pictures, n_classes)
    labels : int ndarray of shape (n_pictures, n_classes), 1, -1, or 0 (left out)
    seed : decides which pictures are drawn: the same for equal `seed` and number of pictures

    Returns
    -------
    float64 ndarray of shape (n_resamples,); the mean over the classes with a positive picture in the
    resample, NaN if there is none

    Raises
    ------
    ValueError
        Scores and labels are of other shapes.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    if scores.ndim == 2:
        scores = scores[None]
    if scores.ndim != 3 or scores.shape[1:] != labels.shape:
        raise ValueError(
            f"scores (n_seeds, n, n_classes) and labels (n, n_classes), got {scores.shape}, {labels.shape}"
        )
    counts = resample_counts(len(labels), n_resamples, seed)
    out = np.empty(n_resamples)
    step = max(1, CHUNK // max(1, len(labels)))
    for start in range(0, n_resamples, step):
        chunk = counts[:, start : start + step]
        total, defined = np.zeros(chunk.shape[1]), np.zeros(chunk.shape[1])
        for of_seed in scores:
            for of_class, truth in zip(of_seed.T, labels.T, strict=True):
                each = resampled_average_precision(of_class, truth, chunk, metric)
                total += np.nan_to_num(each)
                defined += ~np.isnan(each)
        with np.errstate(invalid="ignore"):
            out[start : start + step] = total / np.where(defined, defined, np.nan)
    return out


def bootstrap_class_ap(
    scores: np.ndarray,
    labels: np.ndarray,
    metric: Literal["voc07", "voc12"],
    n_resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Compute the AP of each class on resamples of the pictures, which are those of `bootstrap_mean_ap`.

    Parameters
    ----------
    scores : float ndarray of shape (n_pictures, n_classes), NaN ranks last
    labels : int ndarray of shape (n_pictures, n_classes), 1, -1, or 0 (left out)

    Returns
    -------
    float64 ndarray of shape (n_resamples, n_classes), NaN where a resample has no positive picture of a class
    """
    counts = resample_counts(len(labels), n_resamples, seed)
    out = np.empty((n_resamples, labels.shape[1]))
    step = max(1, CHUNK // max(1, len(labels)))
    for start in range(0, n_resamples, step):
        chunk = slice(start, start + step)
        for column in range(labels.shape[1]):
            out[chunk, column] = resampled_average_precision(
                scores[:, column], labels[:, column], counts[:, chunk], metric
            )
    return out


def interval(values: np.ndarray, level: float = 0.95, measured: float | None = None) -> tuple[float, float]:
    """Compute the percentile interval: the values between which the middle `level` of the resamples lies.

    The AP of a resample is a little higher than the AP of the pictures themselves, as copies of a positive picture
    enter together; the fewer pictures, the higher. With `measured` the resamples are shifted to have it as their
    mean.

    Parameters
    ----------
    values : float ndarray of shape (n_resamples,); NaN, a resample without a positive picture, is left out
    level : share of the resamples inside, 0..1
    measured : the value on the pictures themselves

    Returns
    -------
    low, high : NaN where no resample has a value

    Examples
    --------
    >>> interval(np.arange(101.0), level=0.9)
    (5.0, 95.0)
    >>> interval(np.arange(101.0), level=0.9, measured=40.0)
    (-5.0, 85.0)
    """
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    shift = 0.0 if measured is None else measured - values.mean()
    return _rounded(low + shift), _rounded(high + shift)


def bootstrap_interval(
    scores: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray,
    metric: Literal["voc07", "voc12"] = "voc12",
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the bootstrap interval of a mAP over the pictures of a split (percentiles; Efron, 1979).

    It is the interval of comparisons and of ``pipeline evaluate --scores``: the resamples' mean is shifted to the mAP
    of the pictures themselves. Classes without a negative picture are to be left out before (`leave_out_certain`).

    Parameters
    ----------
    scores : float ndarray of shape (n_pictures, n_classes), NaN ranks last; or (n_seeds, n_pictures, n_classes), whose
        mean over seeds is measured
    labels : int ndarray of shape (n_pictures, n_classes), 1, -1, or 0 (left out)
    level : share of the resamples inside, 0..1
    seed : decides which pictures are drawn

    Returns
    -------
    low, high : 0..1 up to the shift; NaN where no class has a positive picture

    Raises
    ------
    ValueError
        Other shapes, labels that are not -1, 0 or 1, an unknown metric.

    Examples
    --------
    >>> scores = np.linspace(0, 1, 40)[:, None]
    >>> bootstrap_interval(scores, np.where(scores > 0.5, 1, -1))
    (1.0, 1.0)
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    each_seed = scores if scores.ndim == 3 else scores[None]
    measured = float(np.mean([mean_average_precision(of_seed, labels, metric)[0] for of_seed in each_seed]))
    return interval(bootstrap_mean_ap(scores, labels, metric, n_resamples, seed), level, measured)


def paired_difference(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, measured: float | None = None
) -> dict[str, float | None]:
    """Compute the difference a - b of two recipes on the same resamples.

    Parameters
    ----------
    a, b : resampled mAPs (n_resamples,) of `bootstrap_mean_ap`, from equal pictures, `n_resamples` and `seed`
    measured : the difference on the pictures themselves; None for the mean over the resamples

    Returns
    -------
    JSON object ``difference``, ``low``, ``high`` and ``p_two_sided``: twice the smaller share of
    resamples on one side of zero, the pictures themselves counted in; all None where nothing is defined

    Raises
    ------
    ValueError
        The two are not equally long, so they are not paired.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"resamples of two recipes must be the same, got {a.shape} and {b.shape}")
    differences = a - b
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return dict.fromkeys(("difference", "low", "high", "p_two_sided"))
    if measured is not None:
        differences = differences + (measured - differences.mean())
    low, high = interval(differences, level)
    fewer = min((differences <= 0).sum(), (differences >= 0).sum())
    return {
        "difference": _rounded(differences.mean()),
        "low": low,
        "high": high,
        "p_two_sided": _rounded(min(1.0, 2 * (fewer + 1) / (len(differences) + 1))),
    }


def spread(values: Sequence[float]) -> float | None:
    """Compute the sample standard deviation over seeds (divided by n - 1); None for one seed, which has no spread.

    >>> spread([0.5, 0.6, 0.7]), spread([0.5])
    (0.1, None)
    """
    return _rounded(np.std(values, ddof=1)) if len(values) > 1 else None


def _rounded(value: float | np.floating) -> float:
    """Round a float for JSON, to remove digits of rounding."""
    return round(float(value), 6)
