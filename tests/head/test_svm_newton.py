"""Newton's SVMs: the minimum of liblinear's objective, for many SVMs at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from pipeline.head.svm_newton import Problems, solve

COSTS = (0.1, 1.0, 10.0)


def draw(n, n_columns, seed):
    """Vectors of length about 1, and classes that they tell apart with exceptions; some labels are 0."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(0.3, 1, (n, n_columns)) / np.sqrt(n_columns)
    labels = np.sign(vectors @ rng.normal(0, 1, (n_columns, 3)) + rng.normal(-0.1, 0.5, (n, 3))).astype(int)
    labels[rng.random((n, 3)) < 0.05] = 0
    return vectors, labels


def objective(weight, bias, vectors, labels, cost):
    """What liblinear minimises, slowly and obviously."""
    slack = [max(0.0, 1 - y * (weight @ x + bias)) for x, y in zip(vectors, labels, strict=True) if y]
    return 0.5 * (weight @ weight + bias * bias) + cost * sum(value * value for value in slack)


@pytest.mark.parametrize(("n", "n_columns"), [(120, 10), (40, 90)])
def test_it_ends_where_liblinear_ends(n, n_columns):
    vectors, labels = draw(n, n_columns, n)
    inside = np.arange(n) % 3 != 0
    mean = np.stack([vectors.mean(0), vectors[inside].mean(0)])
    inv_std = np.stack([1 / vectors.std(0), 1 / vectors[inside].std(0)]) / np.sqrt(n_columns)
    # All and two thirds of the vectors, each cost, each class, and one that sees nothing.
    cases = [(form, cost, c) for form in (0, 1) for cost in COSTS for c in range(3)]
    sign = np.stack([labels[:, c] * (inside if form else 1) for form, _, c in cases] + [np.zeros(n, int)], axis=1)
    arrays = vectors, mean, inv_std, [form for form, *_ in cases] + [0], sign, [cost for _, cost, _ in cases] + [1.0]
    tensors = [torch.as_tensor(np.asarray(array)) for array in arrays]
    solved = solve(Problems(*(t if i == 3 else t.double() for i, t in enumerate(tensors))))
    assert solved.settled.all() and not solved.weight[-1].any() and not solved.bias[-1]
    for index, (form, cost, c) in enumerate(cases):
        standardised, seen = (vectors - mean[form]) * inv_std[form], sign[:, index] != 0
        for tolerance, of_objective, of_scores in ((1e-3, 1e-4, 5e-3), (1e-8, 1e-6, 1e-4)):
            theirs = LinearSVC(C=cost, tol=tolerance, dual="auto", max_iter=200_000, random_state=0)
            theirs.fit(standardised[seen], labels[seen, c])
            weight, bias = solved.weight[index].numpy(), float(solved.bias[index])
            ours = objective(weight, bias, standardised, sign[:, index], cost)
            of_liblinear = objective(theirs.coef_[0], theirs.intercept_[0], standardised, sign[:, index], cost)
            assert ours <= of_liblinear * (1 + 1e-9)
            assert ours == pytest.approx(of_liblinear, rel=of_objective)
            np.testing.assert_allclose(
                standardised @ weight + bias, theirs.decision_function(standardised), atol=of_scores
            )
