"""The configured trunk, loaded, on the configured device."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pipeline.io.errors import MissingDataError
from pipeline.io.progress import Say, silent
from pipeline.stages.workspace import Workspace
from pipeline.trunk.backends import resolve_backend
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.devices import name_device, resolve_device
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner, resolve_precision
from pipeline.trunk.trunk import Trunk


def set_threads(n: int) -> int:
    """Give torch `n` threads, or one per usable core for 0; return the number given."""
    n = n or len(os.sched_getaffinity(0))
    torch.set_num_threads(n)
    return n


def worker_threads(threads: int, n_local: int | None) -> int:
    """Return the threads of one worker of an engine: the configured ones, or its share of the cores.

    Parameters
    ----------
    threads : of the settings, 0 for the usual
    n_local : workers of this machine; None for workers elsewhere, each of which counts its own cores (0)
    """
    return threads or (max(1, len(os.sched_getaffinity(0)) // n_local) if n_local else 0)


def make_trunk(ws: Workspace, dataset: str | None = None, *, download: bool = True) -> Trunk:
    """Load the configured trunk; one that is made from a dataset must have been made.

    Parameters
    ----------
    download : whether a library's weights that are not on this machine may be downloaded

    Raises
    ------
    TrunkError, MissingDataError
    """
    s = ws.settings
    name = s.trunk
    if dataset is not None and ws.makes_trunk:
        card = ws.trunk_path(dataset)
        if not card.is_file():
            raise MissingDataError(
                f"{dataset}: trunk {s.trunk!r} has not been made from its fit split yet (no {card}); "
                f"make it with: pipeline trunk make --dataset {dataset} --trunk {s.trunk}"
            )
        name = str(card)
    weights = Path(s.weights) if s.weights else None
    return load_trunk(name, s.layer, weights, s.trunk_seed, download=download, px=s.trunk_px)


def make_runner(
    ws: Workspace,
    dataset: str | None = None,
    *,
    download: bool = True,
    elsewhere: bool = False,
    say: Say = silent,
) -> TrunkRunner:
    """Load the configured trunk on the configured device.

    Parameters
    ----------
    elsewhere : whether workers run the trunk. A GPU is then neither needed nor taken here.
    say : takes a line where the device is shared with other runs
    """
    s = ws.settings
    set_threads(s.threads)
    elsewhere = elsewhere and name_device(s.device) == "cuda"
    device = torch.device("cuda") if elsewhere else resolve_device(s.device, say)
    trunk = make_trunk(ws, dataset, download=download)
    precision = resolve_precision(s.precision, device, trunk.precision)
    backend = resolve_backend(s.backend, trunk, device, precision, compiled=s.compiled, dense=ws.dense)
    if ws.dense:
        return DenseRunner(trunk, device, precision, s.compiled, backend, elsewhere=elsewhere)
    return TrunkRunner(trunk, device, precision, s.compiled, backend, elsewhere=elsewhere)
