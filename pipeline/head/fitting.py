"""What all fits by SGD have in common: the loss, the optimizer and the learning-rate schedule.

Source: Oquab et al. (CVPR 2014) section 3.3 and Krizhevsky et al. (2012): SGD with momentum, dropout, and a rate
that is lowered tenfold when the loss settles.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import SgdSettings
from pipeline.io.errors import HeadError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LossCurve = list[dict[str, float]]
"""One ``{rate, loss}`` per epoch: the learning rate and the mean training loss."""


def logistic_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute one logistic loss per class: the sum over classes, the mean over rows.

    With the sum, a class learns as fast next to many other classes as next to few.

    Parameters
    ----------
    logits : float Tensor of shape (n, n_classes)
    targets : int Tensor of that shape, 1 or -1; 0 where a row is no example of a class
    """
    signs = targets.to(logits.dtype)
    return (functional.softplus(-signs * logits) * signs.abs()).sum(1).mean()


def make_optimizer(network: HeadNetwork, settings: SgdSettings) -> torch.optim.SGD:
    """Make SGD with momentum and weight decay for the trained parameters of a network."""
    return torch.optim.SGD(
        network.parameter_groups(),
        lr=settings.rates[0],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every parameter group to its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


class LearningRateSchedule:
    """The learning rate of each epoch, by the losses of the epochs before.

    A rate ends when an epoch has lowered the mean training loss by less than ``settings.settled`` of its value, or
    after its ``max_epochs``.

    Parameters
    ----------
    settings : rates, their ``max_epochs`` and ``settled``
    name : of the head, for messages

    Attributes
    ----------
    rate : of the current epoch; None when the fit is done
    epochs : `LossCurve` of the epochs that have ended
    """

    def __init__(self, settings: SgdSettings, name: str) -> None:
        self.rate: float | None = None
        self.epochs: LossCurve = []
        self._name, self._tolerance = name, settings.settled
        self._rates = iter([pair for pair in zip(settings.rates, settings.max_epochs, strict=True) if pair[1]])
        self._start_next_rate()

    def _start_next_rate(self) -> None:
        self.rate, self._epochs_left = next(self._rates, (None, 0))
        self._previous: float | None = None

    def end_epoch(self, mean_loss: float) -> None:
        """Record the mean loss of an epoch, and set the rate of the next one.

        Raises
        ------
        HeadError
            A loss that is not finite.
        """
        assert self.rate is not None  # no epoch follows the last one
        if not np.isfinite(mean_loss):
            raise HeadError(f"{self._name}: the loss is not finite at learning rate {self.rate:g}; lower the rates")
        self.epochs.append({"rate": self.rate, "loss": round(mean_loss, 6)})
        settled = self._previous is not None and self._previous - mean_loss < self._tolerance * self._previous
        self._previous = mean_loss
        self._epochs_left -= 1
        if settled or not self._epochs_left:
            self._start_next_rate()
