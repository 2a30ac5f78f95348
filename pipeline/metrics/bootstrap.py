"""How far a mAP may move: by the seed, and by the pictures that happened to be in the split.

Pictures are resampled with replacement (bootstrap), the same ones for every recipe, so that the
difference of two recipes is one between equals: pictures that are hard for both cancel out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

# Resamples at once are so many that an array of one count a picture and resample has about this size.
CHUNK = 4_000_000


def resample_counts(n_pictures: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each picture is in each resample; the same for the same arguments.

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
    """AP of one class on each resample, as `average_precision` on the pictures repeated in id order.

    Copies of a picture have the same score and stand beside each other; of tied pictures all copies of
    the first in id order come first. Precision rises from copy to copy of a positive and falls from copy
    to copy of a negative, so the curve made monotone is one number over all copies of a positive: that
    at the last of them. Hence counts in the order of the scores are enough.

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
    keys = np.where(np.isnan(scores), -np.inf, scores)[counted]
    order = counted[np.argsort(-keys, kind="stable")]
    positive = np.flatnonzero(labels[order] == 1)
    if not len(positive):
        return np.full(counts.shape[1], np.nan)
    ranked = counts[order]
    copies = ranked[positive]
    found, seen = np.cumsum(copies, 0), np.cumsum(ranked, 0)[positive]
    precision = found / np.maximum(seen, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    total = found[-1]
    if metric == "voc12":
        sums = (copies * envelope).sum(0)
    else:
        sums = np.zeros(counts.shape[1])
        for tenth in range(11):
            # The first positive at which recall is tenth / 10, in whole numbers; what is not drawn is not reached.
            first = np.argmax(found * 10 >= np.maximum(tenth * total, 1), axis=0)
            sums += np.take_along_axis(envelope, first[None], 0)[0]
        total = np.where(total > 0, 11, 0)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, sums / total, np.nan)


def bootstrap_map(
    scores: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray,
    metric: Literal["voc07", "voc12"],
    n_resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """mAP on resamples of the pictures; the mean over seeds where there are several.

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
        some = counts[:, start : start + step]
        total, defined = np.zeros(some.shape[1]), np.zeros(some.shape[1])
        for of_seed in scores:
            for of_class, truth in zip(of_seed.T, labels.T, strict=True):
                each = resampled_average_precision(of_class, truth, some, metric)
                total += np.nan_to_num(each)
                defined += ~np.isnan(each)
        with np.errstate(invalid="ignore"):
            out[start : start + step] = total / np.where(defined, defined, np.nan)
    return out


def interval(values: np.ndarray, level: float = 0.95, measured: float | None = None) -> tuple[float, float]:
    """Between which values the middle `level` of the resamples lies (percentile interval).

    AP of a resample is a little higher than AP of the pictures that it was drawn from (copies of a
    positive picture follow each other), the more so the fewer pictures there are. With `measured` the
    resamples are moved to have it as their mean.

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


def paired_difference(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, measured: float | None = None
) -> dict[str, float | None]:
    """The difference a - b of two recipes on the same resamples.

    Parameters
    ----------
    a, b : resampled mAPs (n_resamples,) of `bootstrap_map`, from equal pictures, `n_resamples` and `seed`
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
    """Sample standard deviation over seeds (divided by n - 1); None for one seed, which has no spread.

    >>> spread([0.5, 0.6, 0.7]), spread([0.5])
    (0.1, None)
    """
    return _rounded(np.std(values, ddof=1)) if len(values) > 1 else None


def _rounded(value: float | np.floating) -> float:
    """A float for JSON, without digits that only rounding made."""
    return round(float(value), 6)
