"""Labels that held-out scores contradict: confident learning's thresholds, class by class.

Source: Northcutt, Jiang and Chuang, *Confident learning: estimating uncertainty in dataset labels* (JAIR 2021) section
3.1, applied to each class against its absence, as several classes may be shown. It is the rule of
``cleanlab.filter.find_label_issues(..., filter_by="confident_learning")`` on two classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST = 5
"""Pictures with a label, and without it, below which a class's scores are not turned into probabilities."""
LEAST_SLOPE = 0.01
"""Log-odds per standard deviation of the scores below which the scores say nothing of the label."""
_STEPS = 100
_SETTLED = 1e-10


@dataclass(frozen=True)
class ClassFaults:
    """Pictures whose label of one class its held-out scores contradict.

    Attributes
    ----------
    picture : int64 ndarray (n,), by falling margin
    margin : float64 ndarray (n,), probability of the other label minus that of the given one, above 0
    threshold_with, threshold_without : mean probability of the label of pictures that have it, and of its absence of
        those that do not
    """

    picture: np.ndarray
    margin: np.ndarray
    threshold_with: float
    threshold_without: float


def find_faults(probability: np.ndarray, labels: np.ndarray) -> ClassFaults:
    """Find the pictures whose label of one class is contradicted.

    A picture without the label is, where its probability is at least the mean probability of the pictures with it, and
    above one half; a picture with it is, where the probability of its absence is at least the mean of that of the
    pictures without, and above one half.

    Parameters
    ----------
    probability : float ndarray (n_pictures,), of the class, held out; NaN for a picture that is left out
    labels : int8 ndarray (n_pictures,), 1, -1, or 0 (difficult or unknown, left out)

    Raises
    ------
    ValueError
        No picture with the label, or none without.

    Examples
    --------
    >>> found = find_faults(np.array([0.9, 0.8, 0.1, 0.1, 0.9, 0.2]), np.array([1, 1, 1, -1, -1, -1]))
    >>> found.picture.tolist(), found.margin.round(2).tolist()
    ([2, 4], [0.8, 0.8])
    """
    counted = (labels != 0) & ~np.isnan(probability)
    shown, absent = counted & (labels == 1), counted & (labels == -1)
    if not (shown.any() and absent.any()):
        raise ValueError("expected pictures with the label, and without it")
    absence = 1 - probability
    with_it, without = float(probability[shown].mean()), float(absence[absent].mean())
    missing = absent & (probability >= with_it) & (probability > absence)
    wrong = shown & (absence >= without) & (absence > probability)
    margin = np.where(labels == 1, absence - probability, probability - absence)
    picture = np.flatnonzero(missing | wrong)
    picture = picture[np.argsort(-margin[picture], kind="stable")]
    return ClassFaults(picture, margin[picture], with_it, without)


def to_probabilities(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Turn the held-out scores of one class into probabilities by a sigmoid with two parameters.

    Source: Platt, *Probabilistic outputs for support vector machines* (1999), with his targets, which keep the sigmoid
    finite where scores separate the labels; fitted by Newton's method with halved steps (Lin, Lin and Weng, *A note on
    Platt's probabilistic outputs*, Machine Learning 2007).

    Parameters
    ----------
    scores : float ndarray (n,), held out; NaN for a picture without one
    labels : int8 ndarray (n,), 1, -1, or 0, which the fit leaves out

    Returns
    -------
    float64 ndarray (n,), rising with the scores; NaN where they are NaN

    Raises
    ------
    ValueError
        Fewer than `FEWEST` pictures with the label or without, or scores that do not rise with it.
    """
    counted = (labels != 0) & ~np.isnan(scores)
    positive = labels[counted] == 1
    n_with, n_without = int(positive.sum()), int((~positive).sum())
    if min(n_with, n_without) < FEWEST:
        raise ValueError(f"{n_with} pictures with the label and {n_without} without, expected {FEWEST} of each")
    target = np.where(positive, (n_with + 1) / (n_with + 2), 1 / (n_without + 2))
    mean, deviation = scores[counted].mean(), scores[counted].std()
    unit = deviation if deviation > 0 else 1.0
    inputs = np.stack([(scores[counted] - mean) / unit, np.ones(len(target))])
    weights = np.array([0.0, np.log((n_with + 1) / (n_without + 1))])

    def loss(some: np.ndarray) -> float:
        odds = some @ inputs
        return float((np.logaddexp(0, odds) - target * odds).sum())

    value = loss(weights)
    for _ in range(_STEPS):
        probability = _sigmoid(weights @ inputs)
        gradient = inputs @ (probability - target)
        curvature = (inputs * probability * (1 - probability)) @ inputs.T + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-10 and loss(weights - size * step) > value - 1e-4 * size * float(gradient @ step):
            size /= 2
        weights = weights - size * step
        before, value = value, loss(weights)
        if before - value <= _SETTLED * (1 + abs(value)):
            break
    if weights[0] < LEAST_SLOPE:
        raise ValueError("held-out scores do not rise with the label, so they say nothing of it")
    return _sigmoid(weights[0] * (scores - mean) / unit + weights[1])


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    return np.where(odds >= 0, 1 / (1 + np.exp(-np.abs(odds))), 1 - 1 / (1 + np.exp(-np.abs(odds))))
