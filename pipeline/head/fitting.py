"""What all fits by SGD have in common: the loss, the optimizer and the learning-rate schedule.

Source: Oquab et al. (CVPR 2014) section 3.3 and Krizhevsky et al. (2012): SGD with momentum, dropout, and a rate
that is lowered tenfold when the loss settles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.sgd import sgd

from pipeline.head.network_settings import SgdSettings
from pipeline.head.networks import HeadNetwork
from pipeline.io.errors import HeadError

Loss = Callable[[Tensor, Tensor], Tensor]
LossCurve = list[dict[str, float]]
"""One ``{rate, loss}`` per epoch: the learning rate and the mean training loss."""


def logistic_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute one logistic loss per class: the sum over classes, the mean over rows.

    With the sum, a class learns as fast next to many other classes as next to few.

    Parameters
    ----------
    logits : float Tensor of shape (n, n_classes)
    targets : int Tensor of that shape, 1 or -1; 0 where a row is no example of a class
    """
    signs = targets.to(logits.dtype)
    return (functional.softplus(-signs * logits) * signs.abs()).sum(1).mean()


class Sgd:
    """SGD with momentum and weight decay, by the arithmetic of `torch.optim.SGD`, to the bit.

    That class imports torch's compiler: 1.5 s and 90 MB per process, where a head is often fitted in less.

    Parameters
    ----------
    groups : each with ``params`` and ``share``, its share of the learning rate
    rate : the first learning rate
    """

    def __init__(self, groups: list[dict[str, Any]], rate: float, *, momentum: float, weight_decay: float) -> None:
        self._groups = [(list(group["params"]), group["share"]) for group in groups]
        self._buffers: list[list[Tensor | None]] = [[None] * len(parameters) for parameters, _ in self._groups]
        self._momentum, self._weight_decay = momentum, weight_decay
        self.rate = rate

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for parameters, _ in self._groups:
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; each parameter has a gradient."""
        for (parameters, share), buffers in zip(self._groups, self._buffers, strict=True):
            sgd(
                parameters,
                [parameter.grad for parameter in parameters],
                buffers,  # filled by the first step
                weight_decay=self._weight_decay,
                momentum=self._momentum,
                lr=self.rate * share,
                dampening=0,
                nesterov=False,
                maximize=False,
            )


def make_optimizer(network: HeadNetwork, settings: SgdSettings) -> Sgd:
    """Make SGD with momentum and weight decay for the trained parameters of a network."""
    return Sgd(
        network.parameter_groups(),
        settings.rates[0],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


class LossSum:
    """Sums the losses of an epoch on their device, which is asked for them once per epoch.

    Parameters
    ----------
    n : number of losses per step
    """

    def __init__(self, device: torch.device, n: int = 1) -> None:
        self._total = torch.zeros(n, dtype=torch.float64, device=device)
        self._last: Tensor | None = None

    def add(self, losses: Tensor, n_rows: int) -> None:
        """Add the mean losses of a step on `n_rows` rows, a Tensor () or (n,)."""
        losses = losses.detach().double()
        # A float32 times a number of rows is exact, and so is the sum that of Python's floats.
        self._total += losses * n_rows
        if self._total.device.type == "cpu":
            self._last = losses

    def take(self) -> list[float]:
        """Return the sums since the last call; the CPU waits for the device."""
        totals = self._total.cpu().tolist()
        self._total.zero_()
        return totals

    def note(self, schedule: LearningRateSchedule) -> str:
        """Return the progress note: the loss of the last step on a CPU, of the last epoch on a GPU."""
        text = f"rate {schedule.rate:g}"
        if self._last is not None:
            return f"{text}, loss {self._last.item():.3f}"
        return f"{text}, loss {schedule.epochs[-1]['loss']:.3f}" if schedule.epochs else text


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
