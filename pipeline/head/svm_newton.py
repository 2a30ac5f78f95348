r"""Linear SVMs by Newton's method, many at once, for a GPU: all classes, folds and costs are columns of one product.

What is minimised is what liblinear minimises, with the bias as the weight of one more column that is 1::

    1/2 (\|w\|^2 + b^2) + C \sum_i max(0, 1 - y_i (w \cdot x_i + b))^2

It is strictly convex and has one minimum, so both agree up to their tolerances.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pipeline.head.newton import Curve, Vectors, minimise


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


class SquaredHinge(NamedTuple):
    """The loss of SVMs; `sign`, `seen` (1 where `sign` is not 0) and `cost` as of `newton.Loss`."""

    sign: Tensor
    seen: Tensor
    cost: Tensor

    def _slack(self, values: Tensor) -> Tensor:
        """Compute how far each vector is on the wrong side."""
        return (1 - self.sign * values).clamp(min=0) * self.seen

    def of(self, values: Tensor) -> Tensor:
        return self.cost * self._slack(values).square().sum((0, 2))

    def slope(self, values: Tensor) -> Tensor:
        return -2 * self.cost[:, None] * self.sign * self._slack(values)

    def curve(self, values: Tensor) -> Curve:
        curvature = 2 * self.cost[:, None] * (self._slack(values) > 0).to(values.dtype)
        return lambda along: curvature * along


def solve(problems: Problems) -> Solved:
    """Fit all SVMs; those that are done wait for the others."""
    sign = problems.sign[:, :, None]
    loss = SquaredHinge(sign, (sign != 0).to(sign.dtype), problems.cost)
    found = minimise(Vectors(problems.vectors, problems.mean, problems.inv_std, problems.form), loss)
    return Solved(found.weight[:, 0], found.bias[:, 0], found.settled)
