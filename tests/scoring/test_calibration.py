"""From scores to probabilities, against a second fit by scipy, and by the laws of a calibrated curve."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from pipeline.scoring.calibration import FEWEST, calibrate


def drawn(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores 0..1 of three classes, of which the second is ranked the wrong way round."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((n, 3)) < [0.3, 0.3, 0.1], 1, -1)
    logits = rng.normal(size=(n, 3)) + labels * np.array([1.2, -1.2, 0.8]) - 2
    return 1 / (1 + np.exp(-logits)), labels


def by_scipy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Platt's curve: slope and offset of least loss."""
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))

    def loss(curve: np.ndarray) -> float:
        p = np.clip(1 / (1 + np.exp(-(curve[0] * x + curve[1]))), 1e-300, 1 - 1e-16)
        return float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).sum())

    return minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-9, "maxiter": 4000}).x


def test_curves_are_those_of_another_solver():
    scores, labels = drawn()
    found = calibrate(scores, labels, "logistic")
    for column in (0, 2):
        expected = by_scipy(np.log(scores[:, column]), labels[:, column] == 1)
        np.testing.assert_allclose([found.slope[column], found.offset[column]], expected, rtol=1e-3)


def test_of_the_pictures_with_a_probability_about_so_many_show_the_class():
    scores, labels = drawn(4000)
    found = calibrate(scores, labels, "softmax")
    fresh, truth = drawn(4000, seed=1)
    chances = found.probabilities(fresh)[:, 0]
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 1)):
        among = (chances >= low) & (chances < high)
        assert (truth[among, 0] == 1).mean() == pytest.approx(chances[among].mean(), abs=0.06)
    order = np.argsort(fresh[:, 0])
    assert (np.diff(chances[order]) >= 0).all()


def test_a_class_without_a_rising_curve_or_with_few_pictures_has_none():
    scores, labels = drawn()
    assert np.isnan(calibrate(scores, labels, "logistic").slope).tolist() == [False, True, False]
    few = labels.copy()
    few[np.flatnonzero(few[:, 0] == 1)[FEWEST - 1 :], 0] = -1
    assert np.isnan(calibrate(scores, few, "logistic").probabilities(scores)[:, 0]).all()
    assert np.isnan(calibrate(np.full_like(scores, 0.3), labels, "logistic").slope).all()


def test_pictures_that_do_not_count_decide_nothing():
    scores, labels = drawn()
    more = np.concatenate([scores, [[0.999] * 3, [np.nan] * 3]])
    with_zero = np.concatenate([labels, [[0] * 3, [1] * 3]])
    a, b = calibrate(scores, labels, "logistic"), calibrate(more, with_zero, "logistic")
    np.testing.assert_allclose(a.slope, b.slope)
    assert a.n_pictures == b.n_pictures == len(labels)


def test_scores_of_any_size_and_pictures_that_are_told_apart_wholly():
    labels = np.where(np.arange(40)[:, None] < 20, 1, -1)
    scores = np.where(labels == 1, 500.0, -300.0)
    chances = calibrate(scores, labels, "log-odds").probabilities(scores)[:, 0]
    np.testing.assert_allclose(chances[[0, -1]], [21 / 22, 1 / 22], rtol=1e-4)  # no certainty from twenty pictures
