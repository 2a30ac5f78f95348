"""Gated attention over patches: a head fitted on picture labels alone, which learns how much each patch counts.

Source: Ilse, Tomczak and Welling, "Attention-based deep multiple instance learning" (ICML 2018), equations 7 to 9:
the weight of patch k is the softmax over the picture's patches of ``w . (tanh(V h_k) * sigmoid(U h_k))``. Here ``w``
is one per class, and V and U are common to all.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.head.bags import Bag, PictureBags
from pipeline.head.fit_memory import STEP_BYTES, step_bytes, training_bytes
from pipeline.head.fitting import Sgd, logistic_loss
from pipeline.head.networks import SCORED_ROWS, HeadNetwork
from pipeline.head.settings import AttentionSettings
from pipeline.head.task import Columns, FitTask, Fitted, HeadKind
from pipeline.head.weak import count_bags, labelled_bags, run_epochs, start_at_shares


class AttentionNetwork(HeadNetwork):
    """Layers as of `HeadNetwork`, one logit per patch and class, and the attention by which a picture's are averaged.

    FCb is linear, so that the mean of the patches' logits is the logit of their mean row. A `PooledScorer`, whose
    `patch_scores` are for heat maps.

    Parameters
    ----------
    width : columns of a row
    n_classes : int
    settings : AttentionSettings
    """

    def __init__(self, width: int, n_classes: int, settings: AttentionSettings) -> None:
        super().__init__(width, n_classes, settings, "log-odds")
        self.score_kind = "pooled"
        self._maps = settings.maps
        self._share = settings.attention_rate
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        n_inputs = last.in_features
        with torch.random.fork_rng(devices=[]):
            self.value = nn.Linear(n_inputs, settings.attention)
            self.gate = nn.Linear(n_inputs, settings.attention)
            self.attention = nn.Linear(settings.attention, n_classes, bias=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights: layers as of `HeadNetwork`, V and U of deviation 1 / sqrt(inputs), and w zero.

        So every patch counts equally at first.
        """
        super().initialise(generator)
        with torch.no_grad():
            for layer in (self.value, self.gate):
                draw = torch.randn(layer.weight.shape, generator=generator)
                layer.weight.copy_(draw * layer.in_features**-0.5)
                layer.bias.zero_()
            self.attention.weight.zero_()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters, for an optimizer; ``share`` is the share of the learning rate."""
        attending = [p for layer in (self.value, self.gate, self.attention) for p in layer.parameters()]
        return [*super().parameter_groups(), {"params": attending, "share": self._share}]

    @property
    def attention_values(self) -> int:
        """Values per row of the gated layer and of all that is computed from it."""
        return 3 * self.value.out_features + 2 * self.attention.out_features

    def attend(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Compute attention, before its softmax, and logits: each (n, n_classes), of rows (n, width)."""
        with self.arithmetic():
            hidden = self.layers[:-2](self.prepare(rows))
        hidden = self.layers[-2](hidden.float())  # dropout, once for both
        gated = torch.tanh(self.value(hidden)) * torch.sigmoid(self.gate(hidden))
        return self.attention(gated), self.layers[-1](hidden)

    def picture_logits(self, rows: Tensor) -> Tensor:
        """Compute the logits (n_classes,) of a picture of all its rows (n, width), n at least 1."""
        attention, logits = self.attend(rows)
        return (attention.softmax(0) * logits).sum(0)

    def patch_scores(self, rows: Tensor) -> Tensor:
        """Compute what heat maps show (n, n_classes) of rows (n, width): logits, or attention before its softmax."""
        attention, logits = self.attend(rows)
        return attention if self._maps == "attention" else logits

    def accumulator(self, pictures: range) -> AttendedPictures:
        """Return an accumulator of a range of pictures."""
        return AttendedPictures(self, pictures)

    def picture_scores(self, columns: Columns) -> np.ndarray:
        """Compute logits, float64 ndarray (n_pictures, n_classes), from the columns of `AttendedPictures`."""
        _, weight, total = np.moveaxis(columns[AttendedPictures.COLUMN], 1, 0)
        return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)


class AttendedPictures:
    """The accumulator of `AttentionNetwork`: a softmax over patches that arrive piece by piece.

    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018). In float64, as other sums over
    the rows of a picture.
    """

    COLUMN = "attended"

    def __init__(self, network: AttentionNetwork, pictures: range) -> None:
        self._network, self._pictures = network, pictures
        n_classes = network.attention.out_features
        self._highest = np.full((len(pictures), n_classes), -np.inf)
        self._weight = np.zeros((len(pictures), n_classes))
        self._total = np.zeros((len(pictures), n_classes))

    @torch.inference_mode()
    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        """Add float16 rows (n, width) of pictures (n,), rising; those outside of the range are left out."""
        # All rows, also those of other pictures: a product of fewer rows may have other last bits.
        pairs = [self._network.attend(chunk) for chunk in torch.from_numpy(rows).split(SCORED_ROWS)]
        inside = slice(*np.searchsorted(picture, [self._pictures.start, self._pictures.stop]))
        picture = picture[inside] - self._pictures.start
        if not len(picture):
            return
        attention, logits = (torch.cat(of_chunks)[inside].double().numpy() for of_chunks in zip(*pairs, strict=True))
        found, starts, place = np.unique(picture, return_index=True, return_inverse=True)
        before = self._highest[found]
        highest = np.maximum(before, np.maximum.reduceat(attention, starts))
        kept = np.exp(before - highest)  # 0 for a picture that begins here
        share = np.exp(attention - highest[place])
        self._highest[found] = highest
        self._weight[found] = self._weight[found] * kept + np.add.reduceat(share, starts)
        self._total[found] = self._total[found] * kept + np.add.reduceat(share * logits, starts)

    def columns(self) -> Columns:
        """Return highest attention, sum of weights and weighted sum of logits: (n_pictures, 3, n_classes)."""
        return {self.COLUMN: np.stack([self._highest, self._weight, self._total], axis=1)}


def make_network(width: int, n_classes: int, settings: AttentionSettings) -> AttentionNetwork:
    """Make the network of a head, without weights."""
    return AttentionNetwork(width, n_classes, settings)


def take_step(network: AttentionNetwork, optimizer: Sgd, batch: list[Bag], labels: Tensor) -> float:
    """Take one step on a batch of pictures, and return the mean loss before it.

    The gradient is summed up picture by picture: memory depends on the rows of one.

    Parameters
    ----------
    labels : int8 Tensor of shape (n_pictures of the batch, n_classes), 1, 0, -1
    """
    optimizer.zero_grad()
    total = 0.0
    for (_, rows), of_picture in zip(batch, labels, strict=True):
        loss = logistic_loss(network.picture_logits(torch.from_numpy(rows))[None], of_picture[None]) / len(batch)
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def fit(task: FitTask, settings: AttentionSettings) -> Fitted:
    """Fit on the labels of pictures; boxes and the labels of patches are not used.

    A picture's score for a class is the mean of its patches' logits, weighted by attention. Classes of label 0
    (difficult) are left out of a picture's loss.

    Raises
    ------
    HeadError
        No picture has a label.
    """
    bags = labelled_bags(task)
    network = make_network(task.store.width, task.n_classes, settings)
    generator = torch.Generator().manual_seed(task.seed)
    network.initialise(generator)
    start_at_shares(network, task.table.picture_labels[bags.wanted])
    bags.hold(task.reader.budget, f"fit {task.name}", _working_bytes(network, bags), settings.batch)
    if settings.standardise:
        network.standardise_over(torch.from_numpy(rows) for _, rows in bags.in_order())
    epochs = run_epochs(network, bags, task, settings, generator, partial(take_step, network))
    return Fitted(network, epochs, {"patches": count_bags(task, bags), "precision": network.precision})


def _working_bytes(network: AttentionNetwork, bags: PictureBags) -> int:
    """Return the most bytes of a step: all patches of one picture are learnt from at a time."""
    n_rows = bags.rows_of_batch(1)
    learning = step_bytes(network, n_rows) + n_rows * STEP_BYTES * network.attention_values
    standardising = 12 * network.widths[0] * n_rows
    return training_bytes(network) + max(learning, standardising)


KIND: HeadKind[AttentionSettings] = HeadKind.of_single(make_network, fit)
