"""Which device this process computes on: its own, where a machine has several."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from pipeline.io.errors import SettingsError

_leases: dict[Path, FileLock] = {}
"""Held until the process ends: the system frees a lock also when its process is killed."""


def resolve_device(device: str) -> torch.device:
    """The device of a setting: ``auto`` is CUDA where there is one, ``cuda`` a device that no other run uses.

    Raises
    ------
    SettingsError
        CUDA is asked for and not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):  # torch knows others, which no trunk is run on
        raise SettingsError(f"device {device!r}: expected auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(f"device {device!r}: torch {torch.__version__} sees no CUDA device; use --device cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(f"device {device!r}: expected auto, cpu, cuda or cuda:N") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"device {device!r}: there are {torch.cuda.device_count()} CUDA devices")
    if device == "cuda":
        return torch.device("cuda", lease_device([_device_name(i) for i in range(torch.cuda.device_count())]))
    return found


def _device_name(index: int) -> str:
    # Not the number, which CUDA_VISIBLE_DEVICES changes from process to process.
    return str(torch.cuda.get_device_properties(index).uuid)


def lease_device(names: list[str], folder: Path | None = None) -> int:
    """Index of a device that no other process of this machine has leased, for as long as this process lives.

    Several runs on a machine with several devices each get their own, whatever started them. Where
    all are taken, the first one is shared.
    """
    folder = folder or Path(tempfile.gettempdir())
    for index, name in enumerate(names):
        path = folder / f"pipeline-device-{name}.lock"
        if path in _leases:
            return index
        # Any user's run may hold it, so any may lock it.
        lock = FileLock(path, mode=0o666)
        try:
            lock.acquire(timeout=0)
        except (Timeout, PermissionError):
            continue
        _leases[path] = lock
        return index
    return 0
