r"""Linear classifiers by Newton's method, many at once: columns of one product with the vectors they have in common.

What is minimised for each of them, over the weights of each column of a vector and a bias, is strictly convex but for
the bias, and has one minimum::

    1/2 \|w\|^2 [+ 1/2 \|b\|^2] + loss of (w . x_i + b)

Source: Lin, Weng and Keerthi, "Trust region Newton method for large-scale logistic regression" (JMLR 2008), and Keerthi
and DeCoste, "A modified finite Newton method for fast solution of large scale linear SVMs" (JMLR 2005).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""Length of the gradient at which a classifier is done, as a share of that at weights of 0."""
MAX_STEPS = 100
MAX_CG_STEPS = 500
ASKED_EVERY = 8
"""Steps of conjugate gradients after which the CPU asks whether all are done."""
HALVINGS = 40
SUFFICIENT = 1e-4
"""Share of the decrease that the slope promises, which a step has to bring (Armijo)."""


class Vectors(NamedTuple):
    """Vectors, and ways to standardise them, all float64 on one device.

    Attributes
    ----------
    vectors : Tensor (n, n_columns)
    mean, inv_std : Tensors (n_forms, n_columns)
    form : int64 Tensor (n_problems,), the way of each problem
    """

    vectors: Tensor
    mean: Tensor
    inv_std: Tensor
    form: Tensor


class Curve(Protocol):
    """The second derivative of a loss at some values."""

    def __call__(self, along: Tensor) -> Tensor:
        """Multiply with a direction (n, n_problems, n_outputs)."""


class Loss(Protocol):
    """A convex loss of each problem, a function of its values (n, n_problems, n_outputs)."""

    def of(self, values: Tensor) -> Tensor:
        """Compute the loss, summed over vectors and outputs: Tensor (n_problems,)."""

    def slope(self, values: Tensor) -> Tensor:
        """Compute the derivative by each value."""

    def curve(self, values: Tensor) -> Curve:
        """Return the second derivative."""


class Solved(NamedTuple):
    """Weights of classifiers.

    Attributes
    ----------
    weight : float64 Tensor (n_problems, n_outputs, n_columns), of standardised vectors
    bias : float64 Tensor (n_problems, n_outputs)
    settled : bool Tensor (n_problems,), whether the tolerance was reached
    """

    weight: Tensor
    bias: Tensor
    settled: Tensor


def solver_bytes(n_vectors: int, n_columns: int, n_problems: int, n_forms: int) -> int:
    """Return the most bytes that `minimise` takes, the vectors among them; of outputs each counts as a problem."""
    per_vector, per_column = n_columns + 8 * n_problems, 10 * n_problems + 4 * n_forms
    return 8 * (n_vectors * per_vector + (n_columns + 1) * per_column)


class _Products:
    """Products with the vectors as each problem standardises them, and a column of 1, without a copy for each way."""

    def __init__(self, given: Vectors) -> None:
        self._vectors = given.vectors
        self._gain = given.inv_std[given.form].T[:, :, None]
        self._shift = (given.mean * given.inv_std)[given.form].T[:, :, None]

    def forward(self, weights: Tensor) -> Tensor:
        """Compute values (n, n_problems, n_outputs) from weights and bias (n_columns + 1, n_problems, n_outputs)."""
        weight, bias = weights[:-1], weights[-1]
        return self._times(self._vectors, self._gain * weight) + (bias - (self._shift * weight).sum(0))

    def backward(self, values: Tensor) -> Tensor:
        """Compute the transposed product, (n_columns + 1, n_problems, n_outputs)."""
        total = values.sum(0)
        return torch.cat([self._gain * self._times(self._vectors.T, values) - self._shift * total, total[None]])

    @staticmethod
    def _times(matrix: Tensor, values: Tensor) -> Tensor:
        return (matrix @ values.flatten(1)).unflatten(1, values.shape[1:])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Multiply (any, n_problems, n_outputs) twice to one number per problem."""
    return (a * b).sum((0, 2))


def _each(of_problem: Tensor) -> Tensor:
    """Make numbers (n_problems,) factors of weights or values."""
    return of_problem[:, None]


@torch.no_grad()
def minimise(given: Vectors, loss: Loss, n_outputs: int = 1, bias_penalty: float = 1.0) -> Solved:
    """Fit all classifiers; those that are done wait for the others.

    Parameters
    ----------
    n_outputs : outputs of each problem
    bias_penalty : 1 where a bias counts as a weight, 0 where it costs nothing
    """
    products, n_problems = _Products(given), len(given.form)
    weights = given.vectors.new_zeros(given.vectors.shape[1] + 1, n_problems, n_outputs)
    penalty = torch.ones_like(weights)
    penalty[-1] = bias_penalty
    values = given.vectors.new_zeros(len(given.vectors), n_problems, n_outputs)
    objective = loss.of(values)
    gradient = products.backward(loss.slope(values))
    length = _dot(gradient, gradient).sqrt()
    tolerance = TOLERANCE * length
    for _ in range(MAX_STEPS):
        runs = length > tolerance
        if not runs.any():
            break
        # Exactly enough for quadratic convergence near the minimum, and little work far from it.
        exactness = (length / (tolerance / TOLERANCE)).sqrt().clamp(max=0.1) * length
        target = -gradient * _each(runs)
        step = _conjugate_gradients(products, loss.curve(values), penalty, target, exactness)
        along, slope = products.forward(step), _dot(gradient, step)
        weights, values, objective = _search(loss, penalty, weights, values, step, along, objective, slope)
        gradient = penalty * weights + products.backward(loss.slope(values))
        length = _dot(gradient, gradient).sqrt()
    weight = weights[:-1].permute(1, 2, 0).contiguous()
    return Solved(weight, weights[-1].contiguous(), length <= tolerance)


def _conjugate_gradients(
    products: _Products, curve: Curve, penalty: Tensor, target: Tensor, exactness: Tensor
) -> Tensor:
    """Solve ``(penalty + X' D X) step = target`` for each problem, to a residual of length `exactness`."""
    step, residual = torch.zeros_like(target), target.clone()
    direction, squares = target.clone(), _dot(target, target)
    for number in range(1, MAX_CG_STEPS + 1):
        runs = squares.sqrt() > exactness
        if number % ASKED_EVERY == 1 and not runs.any():
            break
        curved = penalty * direction + products.backward(curve(products.forward(direction)))
        # Problems that are done stay as they are: their directions may be 0.
        length = _each(torch.where(runs, squares / _dot(direction, curved).clamp(min=1e-300), 0.0))
        step = step + length * direction
        residual = residual - length * curved
        before, squares = squares, _dot(residual, residual)
        direction = residual + _each(squares / before.clamp(min=1e-300)) * direction
    return step


def _search(
    loss: Loss,
    penalty: Tensor,
    weights: Tensor,
    values: Tensor,
    step: Tensor,
    along: Tensor,
    objective: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve the steps that do not lower the objective enough; return weights, values and objectives there."""
    length = torch.ones_like(objective)
    for _ in range(HALVINGS):
        new_weights, new_values = weights + _each(length) * step, values + _each(length) * along
        lowered = 0.5 * _dot(penalty * new_weights, new_weights) + loss.of(new_values)
        # Near the minimum the objective changes by less than its last bits.
        worse = lowered > objective + SUFFICIENT * length * slope + 1e-14 * objective.abs()
        if not worse.any():
            break
        length = torch.where(worse, length / 2, length)
    return new_weights, new_values, lowered
