r"""A linear probe: logistic regression on one pooled vector per picture, to the minimum of its loss.

Where every picture shows one class it is one regression with a softmax over the classes, elsewhere one per class. What
is minimised is, with the bias free::

    1/n \sum_i loss_i + weight_decay / 2 \|W\|^2

Source: Alain and Bengio, "Understanding intermediate layers using linear classifier probes" (2016); by a minimum that
does not depend on a schedule, as in Radford et al. (CLIP, 2021), appendix A.3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.head.logistic_settings import LogisticSettings
from pipeline.head.newton import Curve, Loss, Solved, Vectors, minimise, solver_bytes
from pipeline.head.pooled import count_pictures, labelled_both_ways, pool_fit_pictures
from pipeline.head.svm_network import Svm, set_standardisation
from pipeline.head.task import FitTask, Fitted, HeadKind
from pipeline.io.errors import HeadError
from pipeline.io.progress import Progress
from pipeline.metrics.accuracy import shows_one_class

NEVER = -1e4
"""Log-odds of a class without a positive picture: its probability is 0 to the last bit of the others."""


class Probe(Svm):
    """Linear functions of a picture's pooled vector, as of SVMs: log-odds, or log-probabilities of a softmax.

    Parameters
    ----------
    softmax : whether its classes share one softmax
    """

    def __init__(self, width: int, n_classes: int, settings: LogisticSettings, softmax: bool) -> None:
        super().__init__(width, n_classes, settings)
        self.softmax = softmax

    def decide(self, vectors: np.ndarray) -> np.ndarray:
        """Compute scores, float64 ndarray of shape (n, n_classes), of joined vectors (n, n_columns)."""
        values = super().decide(vectors)
        if not self.softmax:
            return values
        highest = values.max(1, keepdims=True)
        logs = values - highest - np.log(np.exp(values - highest).sum(1, keepdims=True))
        # One score for all pictures: nothing was learnt of the class.
        return np.where(np.isnan(values) | (self.bias.numpy() > NEVER), logs, NEVER)


def make_network(width: int, n_classes: int, settings: LogisticSettings, softmax: bool = False) -> Probe:
    """Make a probe, without weights."""
    return Probe(width, n_classes, settings, softmax)


class Logistic(NamedTuple):
    """The logistic loss of each class.

    Attributes
    ----------
    sign : float64 Tensor (n, n_classes, 1): 1, -1, and 0 for a picture that says nothing of the class
    cost : float64 Tensor (n_classes,), factor of the loss
    """

    sign: Tensor
    cost: Tensor

    def of(self, values: Tensor) -> Tensor:
        return self.cost * (functional.softplus(-self.sign * values, threshold=1e6) * self.sign.abs()).sum((0, 2))

    def slope(self, values: Tensor) -> Tensor:
        return -self.cost[:, None] * self.sign * torch.sigmoid(-self.sign * values)

    def curve(self, values: Tensor) -> Curve:
        curvature = self.cost[:, None] * self.sign.abs() * torch.sigmoid(values) * torch.sigmoid(-values)
        return lambda along: curvature * along


class Softmax(NamedTuple):
    """The cross-entropy of one softmax over all classes.

    Attributes
    ----------
    shown : float64 Tensor (n, 1, n_classes), 1 for the class that a picture shows, 0 for the others
    cost : float64 Tensor (1,), factor of the loss
    """

    shown: Tensor
    cost: Tensor

    def of(self, values: Tensor) -> Tensor:
        return self.cost * (values.logsumexp(2) - (values * self.shown).sum(2)).sum(0)

    def slope(self, values: Tensor) -> Tensor:
        return self.cost * (values.softmax(2) - self.shown)

    def curve(self, values: Tensor) -> Curve:
        shares = values.softmax(2)
        return lambda along: self.cost * shares * (along - (shares * along).sum(2, keepdim=True))


def fit(task: FitTask, settings: LogisticSettings) -> Fitted:
    """Pool the rows of the fit pictures and fit the regression of all classes, as columns of one product.

    Pictures labelled 0 (difficult) are left out of the regression of that class. A class that no picture shows, or
    every picture, gets zero weights, and a bias of -1 or 1; beside a softmax it is no answer.

    Raises
    ------
    HeadError
        Pictures without labels; no class with a positive and a negative picture; a softmax, where a picture shows
        several classes or none.
    """
    softmax = _takes_softmax(task, settings)
    n, columns = int((~task.is_held_out).sum()), task.store.width * len(settings.pooling)
    # The float32 vectors, and what the solver holds; before it, float64 ones and their distances from the mean.
    solving = math.ceil(solver_bytes(n, columns, task.n_classes, 1) / max(1, n * columns))
    standardising = 16 if settings.standardise else 0
    pooled = pool_fit_pictures(task, settings, bytes_per_value=4 + max(solving, standardising))
    labels, vectors = pooled.labels, torch.from_numpy(pooled.vectors).double()
    both = labelled_both_ways(task.table, labels)
    network = make_network(task.store.width, task.n_classes, settings, softmax)
    if settings.standardise:
        set_standardisation(network, vectors.numpy())
    given = Vectors(
        vectors,
        network.mean.double()[None],
        network.inv_std.double()[None],
        torch.zeros(1 if softmax else int(both.sum()), dtype=torch.int64),
    )
    learnt = torch.from_numpy((labels == 1).any(0) if softmax else both)
    with Progress(f"fit {task.name}", 1, "regressions") as progress:
        loss, n_outputs = _loss(labels[:, learnt.numpy()], settings.weight_decay, softmax)
        solved = minimise(given, loss, n_outputs, bias_penalty=0.0)
        progress.advance(1)
    _set_weights(network, solved, learnt, labels)
    names = [name for name, usable in zip(task.table.classes, learnt.tolist(), strict=True) if usable]
    settled = solved.settled.expand(len(names)).tolist()
    facts = {
        **count_pictures(task.table.classes, labels, both),
        "loss": "softmax" if softmax else "logistic",
        "unsettled": [name for name, done in zip(names, settled, strict=True) if not done],
    }
    return Fitted(network.eval(), [], {"pooled": facts, "network": {"softmax": softmax}})


KIND: HeadKind[LogisticSettings] = HeadKind.of_single(make_network, fit)


def _takes_softmax(task: FitTask, settings: LogisticSettings) -> bool:
    """Return whether the classes share one softmax: by all pictures of the split, so that no part decides otherwise."""
    one_class = task.table.labelled and shows_one_class(task.table.picture_labels)
    if settings.loss == "softmax" and not one_class:
        raise HeadError(
            f"{task.table.dataset} {task.table.split}: head {task.name!r} has loss: softmax, and not every picture "
            "shows exactly one class; set loss: logistic"
        )
    return one_class and settings.loss != "logistic"


def _loss(labels: np.ndarray, weight_decay: float, softmax: bool) -> tuple[Loss, int]:
    """Return the loss over int8 labels (n, n_classes) of the learnt classes, and its outputs per problem."""
    sign = torch.from_numpy(labels).double()
    if softmax:
        cost = torch.full((1,), 1 / (weight_decay * len(labels)), dtype=torch.float64)
        return Softmax((sign == 1).double()[:, None], cost), labels.shape[1]
    # The mean is over the pictures that say something of the class.
    return Logistic(sign[:, :, None], 1 / (weight_decay * sign.abs().sum(0))), 1


def _set_weights(network: Probe, solved: Solved, learnt: Tensor, labels: np.ndarray) -> None:
    columns = solved.weight.shape[-1]
    one_side = torch.from_numpy(np.where((labels == 1).any(0), 1.0, -1.0))
    network.bias.copy_(torch.full_like(one_side, NEVER) if network.softmax else one_side)
    network.weight[learnt] = solved.weight.reshape(-1, columns).float()
    network.bias[learnt] = solved.bias.reshape(-1).float()
