r"""Linear SVMs by Newton's method, many at once, for a GPU: all classes, folds and costs are columns of one product.

What is minimised is what liblinear minimises, with the bias as the weight of one more column that is 1::

    1/2 (\|w\|^2 + b^2) + C \sum_i max(0, 1 - y_i (w \cdot x_i + b))^2

It is strictly convex and has one minimum, so both agree up to their tolerances.

Source: Lin, Weng and Keerthi, "Trust region Newton method for large-scale logistic regression" (JMLR 2008), and Keerthi
and DeCoste, "A modified finite Newton method for fast solution of large scale linear SVMs" (JMLR 2005).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""Length of the gradient at which an SVM is done, as a share of that at weights of 0."""
MAX_STEPS = 100
MAX_CG_STEPS = 500
ASKED_EVERY = 8
"""Steps of conjugate gradients after which the CPU asks whether all are done."""
HALVINGS = 40
SUFFICIENT = 1e-4
"""Share of the decrease that the slope promises, which a step has to bring (Armijo)."""


class Problems(NamedTuple):
    """Linear SVMs on the same vectors, all float64 on one device.

    Attributes
    ----------
    vectors : Tensor (n, n_columns)
    mean, inv_std : Tensors (n_forms, n_columns), ways to standardise the vectors
    form : int64 Tensor (n_svms,), the way of each SVM
    sign : Tensor (n, n_svms): 1, -1, and 0 for a vector that the SVM does not see
    cost : Tensor (n_svms,), C
    """

    vectors: Tensor
    mean: Tensor
    inv_std: Tensor
    form: Tensor
    sign: Tensor
    cost: Tensor


class Solved(NamedTuple):
    """Weights of SVMs.

    Attributes
    ----------
    weight : float64 Tensor (n_svms, n_columns), of standardised vectors
    bias : float64 Tensor (n_svms,)
    settled : bool Tensor (n_svms,), whether the tolerance was reached
    """

    weight: Tensor
    bias: Tensor
    settled: Tensor


def solver_bytes(n_vectors: int, n_columns: int, n_svms: int, n_forms: int) -> int:
    """Return the most bytes that `solve` takes, the vectors among them."""
    per_vector, per_column = n_columns + 8 * n_svms, 10 * n_svms + 4 * n_forms
    return 8 * (n_vectors * per_vector + (n_columns + 1) * per_column)


class _Products:
    """Products with the vectors as each SVM standardises them, and a column of 1, without a copy for each way."""

    def __init__(self, problems: Problems) -> None:
        self._vectors = problems.vectors
        self._gain = problems.inv_std[problems.form].T
        self._shift = (problems.mean * problems.inv_std)[problems.form].T

    def forward(self, weights: Tensor) -> Tensor:
        """Compute values (n, n_svms) from weights and bias (n_columns + 1, n_svms)."""
        weight, bias = weights[:-1], weights[-1]
        return self._vectors @ (self._gain * weight) + (bias - (self._shift * weight).sum(0))

    def backward(self, values: Tensor) -> Tensor:
        """Compute the transposed product, (n_columns + 1, n_svms), of values (n, n_svms)."""
        total = values.sum(0)
        return torch.cat([self._gain * (self._vectors.T @ values) - self._shift * total, total[None]])


@torch.no_grad()
def solve(problems: Problems) -> Solved:
    """Fit all SVMs; those that are done wait for the others."""
    sign, cost = problems.sign, problems.cost
    products, loss = _Products(problems), _Loss(sign, (sign != 0).to(sign.dtype), cost)
    weights = sign.new_zeros(problems.vectors.shape[1] + 1, sign.shape[1])
    values = torch.zeros_like(sign)
    objective, slack = loss.of(weights, values)
    gradient = weights - 2 * cost * products.backward(sign * slack)
    tolerance = TOLERANCE * gradient.norm(dim=0)
    length = gradient.norm(dim=0)
    for _ in range(MAX_STEPS):
        runs = length > tolerance
        if not runs.any():
            break
        active = (slack > 0).to(sign.dtype)
        # Exactly enough for quadratic convergence near the minimum, and little work far from it.
        exactness = (length / (tolerance / TOLERANCE)).sqrt().clamp(max=0.1) * length
        step = _conjugate_gradients(products, active, cost, -gradient * runs, exactness)
        along = products.forward(step)
        slope = (gradient * step).sum(0)
        weights, values, objective, slack = _search(loss, weights, values, step, along, objective, slope)
        gradient = weights - 2 * cost * products.backward(sign * slack)
        length = gradient.norm(dim=0)
    return Solved(weights[:-1].T.contiguous(), weights[-1].contiguous(), length <= tolerance)


class _Loss(NamedTuple):
    """What is minimised: `seen` is 1 where `sign` is not 0."""

    sign: Tensor
    seen: Tensor
    cost: Tensor

    def of(self, weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the objective of each SVM (n_svms,), and how far each vector is on the wrong side (n, n_svms)."""
        slack = (1 - self.sign * values).clamp(min=0) * self.seen
        return 0.5 * weights.square().sum(0) + self.cost * slack.square().sum(0), slack


def _conjugate_gradients(
    products: _Products, active: Tensor, cost: Tensor, target: Tensor, exactness: Tensor
) -> Tensor:
    """Solve ``(1 + 2 C X' D X) step = target`` for each SVM, to a residual of length `exactness` (n_svms,)."""
    step, residual = torch.zeros_like(target), target.clone()
    direction, squares = target.clone(), target.square().sum(0)
    for number in range(1, MAX_CG_STEPS + 1):
        runs = squares.sqrt() > exactness
        if number % ASKED_EVERY == 1 and not runs.any():
            break
        curved = direction + 2 * cost * products.backward(active * products.forward(direction))
        # SVMs that are done stay as they are: their directions may be 0.
        length = torch.where(runs, squares / (direction * curved).sum(0).clamp(min=1e-300), 0.0)
        step = step + length * direction
        residual = residual - length * curved
        before, squares = squares, residual.square().sum(0)
        direction = residual + squares / before.clamp(min=1e-300) * direction
    return step


def _search(
    loss: _Loss,
    weights: Tensor,
    values: Tensor,
    step: Tensor,
    along: Tensor,
    objective: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve the steps that do not lower the objective enough; return weights, values, objectives and slacks there."""
    length = torch.ones_like(objective)
    for _ in range(HALVINGS):
        new_weights, new_values = weights + length * step, values + length * along
        lowered, slack = loss.of(new_weights, new_values)
        # Near the minimum the objective changes by less than its last bits.
        worse = lowered > objective + SUFFICIENT * length * slope + 1e-14 * objective.abs()
        if not worse.any():
            break
        length = torch.where(worse, length / 2, length)
    return new_weights, new_values, lowered, slack
