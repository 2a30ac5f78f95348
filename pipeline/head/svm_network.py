"""The linear functions of an SVM head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.head.logistic_settings import LogisticSettings
from pipeline.head.pooled import PooledNetwork
from pipeline.head.settings import SvmSettings


class Svm(PooledNetwork, nn.Module):
    """One linear function per class of a picture's pooled vector, ``weight @ ((vector - mean) * inv_std) + bias``.

    It is a `PooledScorer`: it has no patch scores.

    Parameters
    ----------
    width : columns of a row
    n_classes : int
    settings : SvmSettings
    n_columns : of a vector; None for those of the pooled rows

    Attributes
    ----------
    mean, inv_std : float32 Tensors of shape (n_columns,)
        Of the fit pictures; the inverse deviation is divided by the root of the number of columns.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    inv_std: Tensor

    def __init__(
        self, width: int, n_classes: int, settings: SvmSettings | LogisticSettings, n_columns: int | None = None
    ) -> None:
        super().__init__()
        self.width, self.settings = width, settings
        n_columns = width * len(settings.pooling) if n_columns is None else n_columns
        self.register_buffer("weight", torch.zeros(n_classes, n_columns))
        self.register_buffer("bias", torch.zeros(n_classes))
        self.register_buffer("mean", torch.zeros(n_columns))
        self.register_buffer("inv_std", torch.ones(n_columns))

    def decide(self, vectors: np.ndarray) -> np.ndarray:
        """Compute decision values, float64 ndarray of shape (n, n_classes), of joined vectors (n, n_columns)."""
        names = ("weight", "bias", "mean", "inv_std")
        weight, bias, mean, inv_std = (getattr(self, name).double().numpy() for name in names)
        return (vectors - mean) * inv_std @ weight.T + bias


def make_network(width: int, n_classes: int, settings: SvmSettings) -> Svm:
    """Make the SVMs of a head, without weights."""
    return Svm(width, n_classes, settings)
