"""Fitting a head on rows in memory: seeded, repeatable, three learning rates in turn.

Source: Oquab et al. (CVPR 2014) section 3.3 and Krizhevsky et al. (2012): SGD with momentum,
dropout, the rate lowered tenfold when the loss settles.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipeline.errors import HeadError
from pipeline.head.networks import HeadNetwork
from pipeline.progress import Progress
from pipeline.settings import HeadSettings


@dataclass(frozen=True)
class FitLog:
    """What happened while fitting: one entry an epoch, and the seconds."""

    epochs: list[dict[str, float]]
    seconds: float


def fit_network(
    rows: np.ndarray, targets: np.ndarray, n_outputs: int, settings: HeadSettings, seed: int, name: str = "head"
) -> tuple[HeadNetwork, FitLog]:
    """Fit one head.

    A rate ends when an epoch has lowered the mean training loss by less than ``settings.settled`` of
    its value, or after its ``max_epochs``.

    Parameters
    ----------
    rows : float16 ndarray of shape (n, width)
    targets : int64 ndarray of shape (n,), the output that each row should raise
    n_outputs : classes and background

    Returns
    -------
    network : HeadNetwork in eval mode
    log : FitLog

    Raises
    ------
    HeadError
        No row, or a loss that is not finite.
    """
    if not len(rows):
        raise HeadError(f"{name}: no row to fit on")
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(rows), torch.from_numpy(targets)
    # Layers draw from torch's global generator when they are made, and dropout does when it runs; the
    # caller's state is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        network = HeadNetwork(rows.shape[1], n_outputs, settings)
    network.initialise(generator)
    if settings.standardise:
        network.standardise_to(x)
    optimizer = torch.optim.SGD(
        network.layers.parameters(),
        lr=settings.rates[0],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    epochs: list[dict[str, float]] = []
    n_most = sum(settings.max_epochs)
    with torch.random.fork_rng(devices=[]), Progress(f"fit {name}", n_most * len(x), "rows") as progress:
        torch.manual_seed(seed)
        for rate, most in zip(settings.rates, settings.max_epochs, strict=True):
            previous = None
            for _ in range(most):
                loss = _one_epoch(network, optimizer, x, y, rate, settings.batch, generator, progress)
                if not np.isfinite(loss):
                    raise HeadError(f"{name}: the loss is not finite at learning rate {rate:g}; lower the rates")
                epochs.append({"rate": rate, "loss": round(loss, 6)})
                if previous is not None and previous - loss < settings.settled * previous:
                    break
                previous = loss
        progress.total = progress.done
    return network.eval(), FitLog(epochs, time.perf_counter() - started)


def _one_epoch(
    network: HeadNetwork,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    rate: float,
    batch: int,
    generator: torch.Generator,
    progress: Progress,
) -> float:
    """One pass over all rows in a new order; the mean loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    network.train()
    total = 0.0
    for chosen in torch.randperm(len(x), generator=generator).split(batch):
        loss = functional.cross_entropy(network(x[chosen]), y[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(chosen)
        progress.advance(len(chosen), note=f"rate {rate:g}, loss {loss.item():.3f}")
    return total / len(x)
