"""Fitting a head on rows in memory: seeded, repeatable, three learning rates in turn.

Source: Oquab et al. (CVPR 2014) section 3.3 and Krizhevsky et al. (2012): SGD with momentum,
dropout, the rate lowered tenfold when the loss settles.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.head.networks import HeadNetwork, SharedDrops, draw_and_drop
from pipeline.head.settings import NetworkSettings, SgdSettings
from pipeline.io.errors import HeadError
from pipeline.io.progress import Progress

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def logistic_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One logistic loss a class: their sum, its mean over rows.

    The sum, so that a class learns as fast beside many others as it does beside few.

    Parameters
    ----------
    logits : float Tensor of shape (n, n_classes)
    targets : int Tensor of that shape, 1 or -1; where it is 0, a row says nothing of a class
    """
    signs = targets.to(logits.dtype)
    return (functional.softplus(-signs * logits) * signs.abs()).sum(1).mean()


def rates_in_turn(settings: SgdSettings, name: str) -> Generator[float, float, list[dict[str, float]]]:
    """Yields the learning rate of each epoch, and is sent the mean loss of that epoch.

    A rate ends when an epoch has lowered the mean training loss by less than ``settings.settled`` of
    its value, or after its ``max_epochs``.

    Returns
    -------
    list of one ``{rate, loss}`` an epoch

    Raises
    ------
    HeadError
        A loss that is not finite.
    """
    epochs: list[dict[str, float]] = []
    for rate, most in zip(settings.rates, settings.max_epochs, strict=True):
        previous = None
        for _ in range(most):
            mean = yield rate
            if not np.isfinite(mean):
                raise HeadError(f"{name}: the loss is not finite at learning rate {rate:g}; lower the rates")
            epochs.append({"rate": rate, "loss": round(mean, 6)})
            if previous is not None and previous - mean < settings.settled * previous:
                break
            previous = mean
    return epochs


def run_rates(one_epoch: Callable[[float], float], settings: SgdSettings, name: str) -> list[dict[str, float]]:
    """Run epochs by `rates_in_turn`.

    Parameters
    ----------
    one_epoch : from a learning rate to the mean loss of an epoch at it
    """
    schedule = rates_in_turn(settings, name)
    try:
        rate = next(schedule)
        while True:
            rate = schedule.send(one_epoch(rate))
    except StopIteration as ended:
        return ended.value


def make_optimizer(network: HeadNetwork, settings: SgdSettings) -> torch.optim.SGD:
    """SGD with momentum and weight decay on all of a network that is trained."""
    return torch.optim.SGD(
        network.parameter_groups(),
        lr=settings.rates[0],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def fit_network(
    network: HeadNetwork,
    rows: np.ndarray,
    targets: np.ndarray,
    settings: NetworkSettings,
    seed: int,
    name: str = "head",
    loss: Loss = functional.cross_entropy,
) -> list[dict[str, float]]:
    """`fit_networks` of one: its ``{rate, loss}`` of each epoch."""
    return fit_networks([network], rows, targets, [settings], seed, [name], loss)[0]


def alike(settings: NetworkSettings) -> tuple[Any, ...]:
    """Heads whose settings agree in this can be fitted side by side: they draw the same numbers in the same order."""
    first = settings.dropout if settings.input_dropout is None else settings.input_dropout
    return settings.hidden, settings.batch, settings.standardise, settings.precision, first > 0, settings.dropout > 0


def fit_networks(
    networks: Sequence[HeadNetwork],
    rows: np.ndarray,
    targets: np.ndarray,
    settings: Sequence[NetworkSettings],
    seed: int,
    names: Sequence[str],
    loss: Loss = functional.cross_entropy,
) -> list[list[dict[str, float]]]:
    """Initialise and fit networks side by side, each by its `rates_in_turn`; they are left in eval mode.

    A batch is gathered and standardised, and its dropout drawn, once for all of them. Each gets the very weights
    that it gets alone.

    Parameters
    ----------
    networks : of settings that are `alike`; but for one alone, of plain `HeadNetwork`
    rows : float16 ndarray of shape (n, width)
    targets : what `loss` compares logits with
        For ``cross_entropy`` an int64 ndarray of shape (n,), the output that each row should raise; for
        `logistic_loss` an int8 ndarray of shape (n, n_classes).

    Returns
    -------
    for each network, a list of one ``{rate, loss}`` an epoch

    Raises
    ------
    HeadError
        No row, or a loss that is not finite.
    """
    if not len(rows):
        raise HeadError(f"{names[0]}: no row to fit on")
    x, y = torch.from_numpy(rows), torch.from_numpy(targets)
    drops = SharedDrops()
    for network in networks:
        generator = torch.Generator().manual_seed(seed)
        network.initialise(generator)
        network.drop_by(drops)
    if settings[0].standardise:
        networks[0].standardise_to(x)
        for other in networks[1:]:
            other.mean.copy_(networks[0].mean)
            other.gain.copy_(networks[0].gain)
    runs = [Run(*one) for one in zip(networks, settings, names, strict=True)]
    n_most = max(sum(its.max_epochs) for its in settings)
    # Dropout draws from torch's global generator; the caller's state is put back afterwards.
    with torch.random.fork_rng(devices=[]), Progress(f"fit {', '.join(names)}", n_most * len(x), "rows") as progress:
        torch.manual_seed(seed)
        while going := [run for run in runs if run.rate is not None]:
            for chosen in torch.randperm(len(x), generator=generator).split(settings[0].batch):
                drops.begin_step()
                inputs = going[0].network.prepare(x[chosen])
                drops.end_preparation()
                for run in going:
                    drops.begin_network()
                    run.step(inputs, y[chosen], loss)
                progress.advance(len(chosen), note=going[0].note)
            for run in going:
                run.end_epoch(len(x))
        progress.total = progress.done
    for network in networks:
        network.drop_by(draw_and_drop)
        network.eval()
    return [run.epochs for run in runs]


class Run:
    """A network on its way through the learning rates.

    Attributes
    ----------
    rate : of this epoch; None when all are done
    epochs : one ``{rate, loss}`` an epoch, when they are
    """

    def __init__(self, network: HeadNetwork, settings: NetworkSettings, name: str) -> None:
        self.network = network
        self.epochs: list[dict[str, float]] = []
        self.note = ""
        self._optimizer = make_optimizer(network, settings)
        self._schedule = rates_in_turn(settings, name)
        self._total = 0.0
        self._begin_epoch(next(self._schedule))

    def _begin_epoch(self, rate: float) -> None:
        self.rate: float | None = rate
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.network.train()

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, loss_of: Loss) -> None:
        """One step on prepared rows."""
        loss = loss_of(self.network.logits(inputs), targets)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        mean = loss.item()
        self._total += mean * len(inputs)
        self.note = f"rate {self.rate:g}, loss {mean:.3f}"

    def end_epoch(self, n_rows: int) -> None:
        mean, self._total = self._total / n_rows, 0.0
        try:
            self._begin_epoch(self._schedule.send(mean))
        except StopIteration as ended:
            self.rate, self.epochs = None, ended.value
