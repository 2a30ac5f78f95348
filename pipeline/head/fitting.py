"""Fitting a head on rows in memory: seeded, repeatable, three learning rates in turn.

Source: Oquab et al. (CVPR 2014) section 3.3 and Krizhevsky et al. (2012): SGD with momentum,
dropout, the rate lowered tenfold when the loss settles.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from pipeline.errors import HeadError
from pipeline.head.networks import HeadNetwork
from pipeline.progress import Progress
from pipeline.settings import NetworkSettings, SgdSettings

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


def run_rates(one_epoch: Callable[[float], float], settings: SgdSettings, name: str) -> list[dict[str, float]]:
    """Run epochs, the learning rates in turn.

    A rate ends when an epoch has lowered the mean training loss by less than ``settings.settled`` of
    its value, or after its ``max_epochs``.

    Parameters
    ----------
    one_epoch : from a learning rate to the mean loss of an epoch at it

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
            mean = one_epoch(rate)
            if not np.isfinite(mean):
                raise HeadError(f"{name}: the loss is not finite at learning rate {rate:g}; lower the rates")
            epochs.append({"rate": rate, "loss": round(mean, 6)})
            if previous is not None and previous - mean < settings.settled * previous:
                break
            previous = mean
    return epochs


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
    """Initialise and fit a network, by `run_rates`; it is left in eval mode.

    Parameters
    ----------
    rows : float16 ndarray of shape (n, width)
    targets : what `loss` compares logits with
        For ``cross_entropy`` an int64 ndarray of shape (n,), the output that each row should raise; for
        `logistic_loss` an int8 ndarray of shape (n, n_classes).

    Returns
    -------
    list of one ``{rate, loss}`` an epoch

    Raises
    ------
    HeadError
        No row, or a loss that is not finite.
    """
    if not len(rows):
        raise HeadError(f"{name}: no row to fit on")
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(rows), torch.from_numpy(targets)
    network.initialise(generator)
    if settings.standardise:
        network.standardise_to(x)
    optimizer = make_optimizer(network, settings)
    n_most = sum(settings.max_epochs)
    # Dropout draws from torch's global generator; the caller's state is put back afterwards.
    with torch.random.fork_rng(devices=[]), Progress(f"fit {name}", n_most * len(x), "rows") as progress:
        torch.manual_seed(seed)

        def one_epoch(rate: float) -> float:
            return _one_epoch(network, optimizer, x, y, rate, settings.batch, generator, progress, loss)

        epochs = run_rates(one_epoch, settings, name)
        progress.total = progress.done
    network.eval()
    return epochs


def _one_epoch(
    network: HeadNetwork,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    rate: float,
    batch: int,
    generator: torch.Generator,
    progress: Progress,
    loss_of: Loss,
) -> float:
    """One pass over all rows in a new order; the mean loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
    network.train()
    total = 0.0
    for chosen in torch.randperm(len(x), generator=generator).split(batch):
        loss = loss_of(network(x[chosen]), y[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(chosen)
        progress.advance(len(chosen), note=f"rate {rate:g}, loss {loss.item():.3f}")
    return total / len(x)
