"""The linear functions of an SVM head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.activations.pooling import PooledPictures, join_pooled
from pipeline.head.logistic_settings import LogisticSettings
from pipeline.head.pooled import PooledNetwork
from pipeline.head.svm_settings import LinearSvmSettings, SvmSettings
from pipeline.head.task import Columns


class Svm(PooledNetwork, nn.Module):
    """One linear function per class of a picture's pooled vector, ``weight @ ((vector - mean) * inv_std) + bias``.

    It is a `PooledScorer`: it has no patch scores.

    Parameters
    ----------
    width : columns of a row
    n_classes : int
    settings : of the head
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
        self, width: int, n_classes: int, settings: LinearSvmSettings | LogisticSettings, n_columns: int | None = None
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


def prepare_rows(rows: np.ndarray, settings: SvmSettings) -> np.ndarray:
    """Bring rows, float16 (n, width), into the form of examples: float16, so that sums of them are exact."""
    return join_pooled(rows.astype(np.float32)[None], settings.normalise, settings.root).astype(np.float16)


class _PreparedPictures(PooledPictures):
    """`PooledPictures` of rows that are prepared first."""

    def __init__(self, pictures: range, width: int, settings: SvmSettings) -> None:
        super().__init__(pictures, width, settings.pooling)
        self._settings = settings

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        super().add(prepare_rows(rows, self._settings), picture)


class SvmOfRows(Svm):
    """`Svm` of single rows: a picture's score is the mean over its rows, which is the score of their mean."""

    def accumulator(self, pictures: range) -> PooledPictures:
        """Return an accumulator of means of prepared rows."""
        return _PreparedPictures(pictures, self.width, self.settings)

    def picture_scores(self, columns: Columns) -> np.ndarray:
        """Compute decision values, float64 ndarray (n_pictures, n_classes), of all pictures; NaN without rows."""
        return self.decide(columns[PooledPictures.COLUMN][:, 0])


def make_network(width: int, n_classes: int, settings: SvmSettings) -> Svm:
    """Make the SVMs of a head, without weights."""
    return (SvmOfRows if settings.examples == "rows" else Svm)(width, n_classes, settings)


def set_standardisation(network: Svm, vectors: np.ndarray) -> None:
    mean, inv_std = standardisation(vectors)
    network.mean.copy_(torch.from_numpy(mean))
    network.inv_std.copy_(torch.from_numpy(inv_std))


def standardisation(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and inverse deviation of each column; a column without deviation becomes 0.

    The inverse deviation is divided by the root of the number of columns. So vectors keep a length near 1, and one
    range of C serves with and without standardisation.
    """
    mean, deviation = vectors.mean(0), vectors.std(0)
    varies = deviation > 1e-6 * (1e-3 + np.abs(mean))
    inv_std = np.where(varies, 1 / np.where(varies, deviation, 1), 0) / np.sqrt(vectors.shape[1])
    return mean, inv_std
