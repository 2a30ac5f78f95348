"""k nearest neighbours on frozen features: the fit rows vote for their classes, weighted by cosine similarity.

Source: Wu et al. (CVPR 2018) section 3.4 and Caron et al. (DINO, ICCV 2021) section 4.1: the k nearest neighbours by
cosine vote with the weight ``exp(cosine / temperature)``, temperature 0.07. Nothing is fitted: the head keeps the fit
rows. Where pictures show several classes, each neighbour votes for or against each class by itself.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.head.fit_memory import rows_bytes
from pipeline.head.pooled import PooledNetwork, count_pictures, labelled_both_ways, pool_fit_pictures
from pipeline.head.settings import HeadSettings, KnnSettings, PatchScoreKind
from pipeline.head.strong import choose_training_patches
from pipeline.head.task import FitTask, Fitted, HeadKind

SIMILARITIES = 16_000_000
"""Similarities that are held at a time: 64 MB, and as much again for their weights."""


class Neighbours(nn.Module):
    """The fit rows and their labels, which vote.

    Parameters
    ----------
    shape : numbers of fit rows and of columns
    n_labels : classes; on patches background is one more, the last
    settings : KnnSettings
    dtype : of the rows as they are kept

    Attributes
    ----------
    vectors : Tensor of shape (n, n_columns)
    labels : int8 Tensor of shape (n, n_labels), 1, -1, or 0, which is no vote
    """

    vectors: Tensor
    labels: Tensor

    def __init__(self, shape: tuple[int, int], n_labels: int, settings: KnnSettings, dtype: torch.dtype) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("vectors", torch.zeros(shape, dtype=dtype))
        self.register_buffer("labels", torch.zeros(shape[0], n_labels, dtype=torch.int8))

    @cached_property
    def _votes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fit rows of length 1; who votes for a class, and who votes at all; the share of positives of each class."""
        positive, known = (self.labels == 1).float(), (self.labels != 0).float()
        return _unit(self.vectors), positive, known, positive.sum(0) / known.sum(0).clamp(min=1)

    @torch.no_grad()
    def vote(self, vectors: Tensor) -> Tensor:
        """Compute the share of the votes for each label, 0..1: float64 Tensor (n, n_labels), of vectors (n, n_columns).

        All fit rows as near as the k-th nearest vote, so that the order of rows decides nothing. Where no neighbour is
        labelled for a class, the share is that of the fit rows.
        """
        fit_rows, positive, known, prior = self._votes
        shares = []
        for chunk in vectors.split(max(1, SIMILARITIES // len(fit_rows))):
            near = _unit(chunk) @ fit_rows.T
            nearest = near.topk(min(self.settings.k, len(fit_rows)), dim=1).values
            weight = ((near - nearest[:, :1]) / self.settings.temperature).exp_()
            weight.masked_fill_(near < nearest[:, -1:], 0)
            votes, voters = weight @ positive, weight @ known
            shares.append(torch.where(voters > 0, votes / voters.clamp(min=1e-30), prior).clamp(max=1).double())
        return torch.cat(shares) if shares else torch.zeros(0, positive.shape[1], dtype=torch.float64)


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors.float(), dim=1, eps=1e-30)


class PictureNeighbours(PooledNetwork, Neighbours):
    """Neighbours among the pooled vectors of pictures; a `PooledScorer`."""

    def __init__(self, width: int, n_classes: int, settings: KnnSettings, n_rows: int) -> None:
        super().__init__((n_rows, width * len(settings.pooling)), n_classes, settings, torch.float32)
        self.width = width

    def decide(self, vectors: np.ndarray) -> np.ndarray:
        """Compute shares of votes, float64 ndarray (n, n_classes), of joined vectors; NaN of NaN."""
        there = np.isfinite(vectors).all(1)
        scores = np.full((len(vectors), self.labels.shape[1]), np.nan)
        scores[there] = self.vote(torch.from_numpy(vectors[there])).numpy()
        return scores


class PatchNeighbours(Neighbours):
    """Neighbours among patches; a `PatchScorer`."""

    score_kind: PatchScoreKind = "softmax"

    def __init__(self, width: int, n_classes: int, settings: KnnSettings, n_rows: int) -> None:
        super().__init__((n_rows, width), n_classes + 1, settings, torch.float16)

    def patch_scores(self, rows: Tensor) -> Tensor:
        """Compute shares of votes, float32 (n, n_classes), of rows (n, width), those for background left out."""
        return self.vote(rows)[:, :-1].float()


def make_network(width: int, n_classes: int, settings: KnnSettings, n_rows: int) -> PictureNeighbours | PatchNeighbours:
    """Make a network for so many fit rows, without them."""
    kind = PatchNeighbours if settings.takes == "patches" else PictureNeighbours
    return kind(width, n_classes, settings, n_rows)


def fit(task: FitTask, settings: KnnSettings) -> Fitted:
    """Keep the fit pictures' vectors, or the positive patches and a share of the background, with their labels.

    Raises
    ------
    HeadError, DatasetError
        No labels, or a dataset without boxes; the rows do not fit into the budget.
    """
    if settings.takes == "patches":
        vectors, labels, facts = _patches(task, settings)
    else:
        vectors, labels, facts = _pictures(task, settings)
    n = len(vectors)
    if n < settings.k:
        # Said, and in the facts: a comparison of all recipes also runs on a handful of pictures.
        task.reader.budget.say(f"{task.name}: {n:,} {settings.takes} to fit on, fewer than k={settings.k}: all vote")
    network = make_network(task.store.width, task.n_classes, settings, n)
    network.vectors.copy_(torch.from_numpy(vectors))
    network.labels.copy_(torch.from_numpy(labels))
    return Fitted(network.eval(), [], {**facts, "neighbours": min(n, settings.k), "network": {"n_rows": n}})


def _pictures(task: FitTask, settings: KnnSettings) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    # The vectors, those of the head, and those of length 1.
    pooled = pool_fit_pictures(task, settings, bytes_per_value=4 + 4 + 4)
    both = labelled_both_ways(task.table, pooled.labels)
    facts = {"pooled": count_pictures(task.table.classes, pooled.labels, both)}
    return pooled.vectors, pooled.labels, facts


def _patches(task: FitTask, settings: KnnSettings) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    patches = choose_training_patches(task, HeadSettings(background_share=settings.background_share))
    n, width = len(patches.row_index), task.store.width
    # The head's own copy, those of length 1 in float32, and the similarities.
    working = 3 * rows_bytes(n, width) + 3 * 4 * SIMILARITIES
    rows = task.reader.activations_at(patches.row_index, f"fit {task.name}", working)
    vectors = np.concatenate([chunk.numpy() for chunk in rows.chunks(8192)])
    labels = np.where(patches.targets[:, None] == np.arange(task.n_classes + 1), 1, -1).astype(np.int8)
    return vectors, labels, {"patches": patches.facts}


KIND: HeadKind[KnnSettings] = HeadKind.of_single(make_network, fit)
