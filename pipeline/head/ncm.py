"""Nearest class mean on frozen features: the nearer a row is to the mean of a class, the higher is its score.

Source: Mensink et al. (PAMI 2013) section 3: the class of the nearest mean by squared Euclidean distance. Rows are
centred and scaled to length 1 before (CL2N of SimpleShot, Wang et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.head.pooled import PooledNetwork, count_pictures, labelled_both_ways, pool_fit_pictures
from pipeline.head.settings import HeadSettings, NcmSettings, PatchScoreKind
from pipeline.head.strong import choose_training_patches
from pipeline.head.task import FitTask, Fitted, HeadKind

CHUNK = 8192
"""Rows at a time: the last bits of means depend on it."""


class ClassMeans(nn.Module):
    """The means of classes, and the mean of all fit rows.

    Parameters
    ----------
    n_columns : int
    n_labels : classes; on patches background is one more, the last
    settings : NcmSettings

    Attributes
    ----------
    centre : float64 Tensor of shape (n_columns,), taken off rows first; zeros where rows are not centred
    means : float64 Tensor of shape (n_labels, n_columns); zeros for a class without a positive row
    """

    centre: Tensor
    means: Tensor

    def __init__(self, n_columns: int, n_labels: int, settings: NcmSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("centre", torch.zeros(n_columns, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(n_labels, n_columns, dtype=torch.float64))

    def prepare(self, rows: Tensor) -> Tensor:
        """Return rows (n, n_columns) centred, and of length 1 if the settings say so, in float64."""
        rows = rows.double() - self.centre
        return nn.functional.normalize(rows, dim=1, eps=1e-30) if self.settings.unit_length else rows

    @torch.no_grad()
    def fit(self, chunks: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Set centre and means, in two passes.

        Parameters
        ----------
        chunks : begins a pass over the fit rows: rows (any, n_columns), and int8 labels (any, n_labels), 1 for a
            positive
        """
        if self.settings.centre:
            n = 0
            for rows, _ in chunks():
                self.centre += rows.double().sum(0)
                n += len(rows)
            self.centre /= n
        counts = torch.zeros(len(self.means), dtype=torch.float64)
        for rows, labels in chunks():
            positive = (labels == 1).double()
            self.means += positive.T @ self.prepare(rows)
            counts += positive.sum(0)
        self.means /= counts.clamp(min=1)[:, None]

    @torch.no_grad()
    def distances(self, rows: Tensor) -> Tensor:
        """Compute squared distances to the means: float64 Tensor (n, n_labels), of rows (n, n_columns)."""
        rows = self.prepare(rows)
        return rows.square().sum(1, keepdim=True) - 2 * rows @ self.means.T + self.means.square().sum(1)


class PictureMeans(PooledNetwork, ClassMeans):
    """Means of the pooled vectors of pictures; a `PooledScorer`. A score is minus the squared distance."""

    def __init__(self, width: int, n_classes: int, settings: NcmSettings) -> None:
        super().__init__(width * len(settings.pooling), n_classes, settings)
        self.width = width

    def decide(self, vectors: np.ndarray) -> np.ndarray:
        """Compute scores, float64 ndarray (n, n_classes), of joined vectors (n, n_columns); NaN of NaN."""
        return -self.distances(torch.from_numpy(vectors)).numpy()


class PatchMeans(ClassMeans):
    """Means of patches; a `PatchScorer`. A score is by how much a class is nearer than background, squared."""

    score_kind: PatchScoreKind = "log-odds"

    def __init__(self, width: int, n_classes: int, settings: NcmSettings) -> None:
        super().__init__(width, n_classes + 1, settings)

    def patch_scores(self, rows: Tensor) -> Tensor:
        """Compute scores, float32 (n, n_classes), of rows (n, width)."""
        distances = self.distances(rows)
        return (distances[:, -1:] - distances[:, :-1]).float()


def make_network(width: int, n_classes: int, settings: NcmSettings) -> PictureMeans | PatchMeans:
    """Make a network without means."""
    return (PatchMeans if settings.takes == "patches" else PictureMeans)(width, n_classes, settings)


def fit(task: FitTask, settings: NcmSettings) -> Fitted:
    """Compute the means of the classes over pooled vectors, or over the positive patches and a share of background.

    Raises
    ------
    HeadError, DatasetError
        No labels, or a dataset without boxes; the fit does not fit into the budget.
    """
    network = make_network(task.store.width, task.n_classes, settings)
    facts: dict[str, Any]
    if settings.takes == "patches":
        patches = choose_training_patches(task, HeadSettings(background_share=settings.background_share))
        facts = {"patches": patches.facts}
        # A chunk in float64, prepared, and the products with it.
        working = 8 * 4 * CHUNK * task.store.width
        rows = task.reader.activations_at(patches.row_index, f"fit {task.name}", working)
        targets = np.where(patches.targets[:, None] == np.arange(task.n_classes + 1), 1, -1).astype(np.int8)
        labels = torch.from_numpy(targets).split(CHUNK)
        network.fit(lambda: zip(rows.chunks(CHUNK), labels, strict=True))
    else:
        # The vectors; chunks of them are made float64.
        pooled = pool_fit_pictures(task, settings, bytes_per_value=4 + 4)
        both = labelled_both_ways(task.table, pooled.labels)
        facts = {"pooled": count_pictures(task.table.classes, pooled.labels, both)}
        vectors, known = torch.from_numpy(pooled.vectors), torch.from_numpy(pooled.labels)
        network.fit(lambda: zip(vectors.split(CHUNK), known.split(CHUNK), strict=True))
    return Fitted(network.eval(), [], facts)


KIND: HeadKind[NcmSettings] = HeadKind.of_single(make_network, fit)
