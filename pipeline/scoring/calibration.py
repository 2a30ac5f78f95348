"""From scores to probabilities: how often pictures that were scored like this one show the class.

Source: Platt, *Probabilistic outputs for support vector machines* (1999), with the targets that keep a class of few
pictures from certainty, and Newton's method as in Lin, Lin and Weng (2007).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.head.settings import ScoreKind

FEWEST = 10
"""Pictures that show a class, and that do not, from which a probability is learnt."""
LOWEST = 1e-12
N_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """A rising curve per class from scores to probabilities.

    Attributes
    ----------
    slope, offset : float64 ndarrays of shape (n_classes,); NaN for a class without a curve
    takes_logarithm : whether the curve is over the logarithm of scores, which lie in 0..1
    n_pictures : from which it was learnt, those that count for any class
    """

    slope: np.ndarray
    offset: np.ndarray
    takes_logarithm: bool
    n_pictures: int

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each class (..., n_classes); NaN for a class without a curve."""
        return _sigmoid(self.slope * _inner(scores, self.takes_logarithm) + self.offset)


def calibrate(scores: np.ndarray, labels: np.ndarray, kind: ScoreKind) -> Calibration:
    """Learn the curves from scored pictures that the head was not fitted on.

    A class whose pictures are too few, or are scored lower the more they show it, has no curve.

    Parameters
    ----------
    scores : float ndarray of shape (n_pictures, n_classes); a picture with NaN does not count
    labels : int ndarray of shape (n_pictures, n_classes), 1, -1, or 0 (left out)
    kind : what the scores are
    """
    takes_logarithm = kind in ("softmax", "logistic")
    values = _inner(scores, takes_logarithm)
    curves = np.full((scores.shape[1], 2), np.nan)
    for column in range(scores.shape[1]):
        counted = (labels[:, column] != 0) & np.isfinite(values[:, column])
        x, y = values[counted, column], labels[counted, column] == 1
        if min(y.sum(), (~y).sum()) >= FEWEST and np.ptp(x) > 0:
            slope, offset = _fit_curve(x, y)
            if slope > 0:
                curves[column] = slope, offset
    n_pictures = int(((labels != 0) & np.isfinite(values)).any(1).sum())
    return Calibration(curves[:, 0], curves[:, 1], takes_logarithm, n_pictures)


def _inner(scores: np.ndarray, takes_logarithm: bool) -> np.ndarray:
    scores = np.asarray(scores, float)
    return np.log(np.maximum(scores, LOWEST)) if takes_logarithm else scores


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _fit_curve(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Fit slope and offset of a sigmoid by maximum likelihood: float ndarray (n,) to bool ndarray (n,)."""
    n_right, n_wrong = int(y.sum()), int((~y).sum())
    target = np.where(y, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    # Centred and of one size, so that Newton's steps need no care of units.
    middle, size = x.mean(), x.std()
    design = np.stack([(x - middle) / size, np.ones_like(x)], 1)
    curve = np.array([0.0, np.log((n_right + 1) / (n_wrong + 1))])

    def loss(curve: np.ndarray) -> float:
        z = design @ curve
        return float((np.logaddexp(0, z) - target * z).sum())

    for _ in range(N_STEPS):
        p = _sigmoid(design @ curve)
        gradient = design.T @ (p - target)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        share = 1.0
        while share > 1e-6 and loss(curve - share * step) > loss(curve) - 1e-4 * share * float(gradient @ step):
            share /= 2
        if share <= 1e-6:
            break
        curve = curve - share * step
        if np.abs(share * step).max() < 1e-10:
            break
    slope, offset = curve
    return float(slope / size), float(offset - slope * middle / size)
