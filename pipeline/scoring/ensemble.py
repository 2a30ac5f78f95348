"""Several recipes as one: by the mean of their ranks, or by a logistic regression on held-out scores.

Both take picture scores of any kind and give one score per picture and class; higher is likelier. All members have
the same pictures and classes in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.metrics.average_precision import mean_average_precision

FOLDS = 5
COSTS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Candidate values of C, from about the plain mean of the members to one weight per member."""
MEAN_WEIGHT = 10.0
"""Weight of the members' mean relative to their deviations from it: C shrinks the deviations, hardly the mean."""
TINIEST = 1e-300


def mean_rank(members: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the mean of the ranks that each member gives a picture among all pictures, class by class.

    Nothing is fitted, but the score of a picture depends on the other pictures of the ranking.

    Parameters
    ----------
    members : float ndarrays of shape (n_pictures, n_classes), of any size

    Returns
    -------
    float64 ndarray of shape (n_pictures, n_classes), in 0..1, 1 for the highest of all members; tied
    pictures share their mean rank, a picture without a score (NaN) ranks last, and has none where no
    member has one

    Examples
    --------
    >>> mean_rank([np.array([[0.1], [0.2], [0.9]]), np.array([[-5.0], [8.0], [7.0]])]).ravel().tolist()
    [0.0, 0.75, 0.75]
    """
    # Imported here, as the import takes a second and most commands do not need it.
    from scipy.stats import rankdata

    stacked = _stacked(members)
    missing = np.isnan(stacked)
    ranks = rankdata(np.where(missing, -np.inf, stacked), method="average", axis=1) - 1
    mean = ranks.mean(0) / max(1, stacked.shape[1] - 1)
    return np.where(missing.all(0), np.nan, mean)


@dataclass(frozen=True)
class MemberScaler:
    """How one member's scores become the input of a regression; fitted on held-out pictures.

    Attributes
    ----------
    takes_log_odds : scores lie in 0..1, so their log-odds are used: fifth powers differ by factors, not by sums
    mean, deviation, lowest : float64 ndarrays of shape (n_classes,), of the scores or log-odds; NaN becomes the lowest
    """

    takes_log_odds: bool
    mean: np.ndarray
    deviation: np.ndarray
    lowest: np.ndarray

    @classmethod
    def fit(cls, scores: np.ndarray) -> MemberScaler:
        """Fit on scores (n_pictures, n_classes); NaN for a picture without a score."""
        defined = scores[~np.isnan(scores)]
        takes_log_odds = bool(len(defined) and defined.min() >= 0 and defined.max() <= 1)
        values = _log_odds(scores) if takes_log_odds else scores
        values = np.where(np.isnan(values).all(0), 0.0, values)
        deviation = np.nanstd(values, axis=0)
        mean, lowest = np.nanmean(values, axis=0), np.nanmin(values, axis=0)
        return cls(takes_log_odds, mean, np.where(deviation > 0, deviation, 1.0), lowest)

    def standardise(self, scores: np.ndarray) -> np.ndarray:
        """Standardise scores class by class, in their order: float64 ndarray (n_pictures, n_classes), finite."""
        values = _log_odds(scores) if self.takes_log_odds else scores
        return (np.where(np.isnan(values), self.lowest, values) - self.mean) / self.deviation


@dataclass(frozen=True)
class Stack:
    """One logistic regression per class on the members' standardised scores.

    Attributes
    ----------
    members : how each member's scores are standardised
    weights : float64 ndarray of shape (n_classes, n_members + 1), the last column the constant; NaN for
        a class with too few positive or negative held-out pictures, which has the mean rank instead
    facts : JSON object: C, the cross-validated mAP of each C, weights, and the classes by mean rank
    """

    members: tuple[MemberScaler, ...]
    weights: np.ndarray
    facts: dict[str, Any]

    def apply(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Compute the log-odds of each class, or mean ranks.

        Parameters
        ----------
        scores : float ndarrays of shape (n_pictures, n_classes), of the members in the order of the fit

        Returns
        -------
        float64 ndarray of shape (n_pictures, n_classes); NaN where no member has a score
        """
        stacked = _stacked(scores)
        if stacked.shape[::2] != (len(self.members), len(self.weights)):
            expected = f"{len(self.members)} members and {len(self.weights)} classes"
            raise ValueError(f"fitted on {expected}, got {stacked.shape[0]} and {stacked.shape[2]}")
        inputs = np.stack([m.standardise(s) for m, s in zip(self.members, stacked, strict=True)])
        joined = np.einsum("mnc,cm->nc", inputs, self.weights[:, :-1]) + self.weights[:, -1]
        joined = np.where(np.isnan(self.weights).any(1), mean_rank(scores), joined)
        return np.where(np.isnan(stacked).all(0), np.nan, joined)


def fit_stack(
    held_out_scores: Sequence[np.ndarray],
    labels: np.ndarray,
    metric: Literal["voc07", "voc12"] = "voc12",
    costs: Sequence[float] = COSTS,
    seed: int = 0,
) -> Stack:
    """Fit a stack on scores of pictures that no member was fitted on.

    The inputs of a class's regression are the mean of the members' standardised scores and their deviations from it.
    A small C uses the mean alone; a large C gives each member its own weight. All classes have one C, with the
    highest mAP of five-fold cross-validated scores.

    Parameters
    ----------
    held_out_scores : float ndarrays of shape (n_pictures, n_classes), one per member
    labels : int ndarray of shape (n_pictures, n_classes), 1, -1, or 0 (left out)
    seed : decides the folds

    Raises
    ------
    ValueError
        Members or labels of other shapes, or no picture.
    """
    stacked, labels = _stacked(held_out_scores), np.asarray(labels)
    if stacked.shape[1:] != labels.shape or not labels.size:
        raise ValueError(f"labels of shape {stacked.shape[1:]} expected, and one picture at least, got {labels.shape}")
    members = tuple(MemberScaler.fit(scores) for scores in stacked)
    inputs = np.stack([m.standardise(s) for m, s in zip(members, stacked, strict=True)], axis=-1)
    enough = np.minimum((labels == 1).sum(0), (labels == -1).sum(0)) >= FOLDS
    by_rank = mean_rank(held_out_scores)
    tried: dict[float, float] = {}
    for cost in sorted(costs) if enough.any() else ():
        crossed = np.full(labels.shape, np.nan)
        for c in np.flatnonzero(enough):
            crossed[:, c] = _cross_validated(inputs[:, c], labels[:, c], cost, seed)
        tried[cost] = mean_average_precision(crossed[:, enough], labels[:, enough], metric)[0]
    # Of equally good values of C the smallest, which relies least on the members' differences.
    best = max(tried, key=tried.__getitem__) if tried else None
    weights = np.full((labels.shape[1], len(members) + 1), np.nan)
    for c in np.flatnonzero(enough):
        assert best is not None  # a class has enough of both, so every cost was tried
        weights[c] = _fit(inputs[:, c], labels[:, c], best)
    facts = {
        "held_out_pictures": len(labels),
        "C": best,
        "cross_validated_mAP": {f"{cost:g}": round(value, 6) for cost, value in tried.items()},
        "mean_rank_mAP": round(mean_average_precision(by_rank[:, enough], labels[:, enough], metric)[0], 6)
        if enough.any()
        else None,
        "log_odds_taken": [m.takes_log_odds for m in members],
        "weights": [None if np.isnan(w).any() else [round(float(v), 6) for v in w] for w in weights],
        "classes_by_mean_rank": np.flatnonzero(~enough).tolist(),
    }
    return Stack(members, weights, facts)


def _stacked(members: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {np.shape(scores) for scores in members}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"members must have scores (n_pictures, n_classes) of one shape, got {sorted(shapes)}")
    return np.stack([np.asarray(scores, float) for scores in members])


def _log_odds(scores: np.ndarray) -> np.ndarray:
    # Values rounded to exactly 0 or 1 get the outermost log-odds of float64.
    p = np.clip(scores, TINIEST, 1 - np.finfo(float).epsneg)
    return np.log(p) - np.log1p(-p)


def _fit(inputs: np.ndarray, labels: np.ndarray, cost: float) -> np.ndarray:
    """Fit the weights of the members and the constant on inputs (n, n_members) and labels (n,)."""
    from sklearn.linear_model import LogisticRegression  # as above

    counted = labels != 0
    mean = inputs[counted].mean(1, keepdims=True)
    regression = LogisticRegression(C=cost, solver="newton-cholesky")
    regression.fit(np.hstack([MEAN_WEIGHT * mean, inputs[counted] - mean]), labels[counted])
    of_mean, of_deviations = regression.coef_[0, 0], regression.coef_[0, 1:]
    weights = of_deviations + (MEAN_WEIGHT * of_mean - of_deviations.sum()) / inputs.shape[1]
    return np.append(weights, regression.intercept_)


def _cross_validated(inputs: np.ndarray, labels: np.ndarray, cost: float, seed: int) -> np.ndarray:
    """Compute log-odds (n,) of each picture by the regression on the other folds; NaN where the label is 0."""
    from sklearn.model_selection import StratifiedKFold  # as above

    counted = np.flatnonzero(labels != 0)
    out = np.full(len(labels), np.nan)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for fit_on, score in folds.split(counted, labels[counted]):
        weights = _fit(inputs[counted[fit_on]], labels[counted[fit_on]], cost)
        out[counted[score]] = inputs[counted[score]] @ weights[:-1] + weights[-1]
    return out
