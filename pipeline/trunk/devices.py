"""The device of this process: its own, on a machine with several."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from pipeline.io.errors import SettingsError

_leases: dict[Path, FileLock] = {}
"""Locks of this process. The system frees a lock also when its process is killed."""


def resolve_device(device: str) -> torch.device:
    """Resolve a setting: ``auto`` is CUDA if available, ``cuda`` a device that no other run uses.

    Raises
    ------
    SettingsError
        There is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):  # torch has further kinds, on which no trunk runs
        raise SettingsError(f"device {device!r}: expected auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(f"device {device!r}: torch {torch.__version__} finds no CUDA device; use --device cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(f"device {device!r}: expected auto, cpu, cuda or cuda:N") from error
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"device {device!r}: there are {torch.cuda.device_count()} CUDA devices")
    if device == "cuda":
        return torch.device("cuda", lease_device([_device_name(i) for i in range(torch.cuda.device_count())]))
    return resolved


def _device_name(index: int) -> str:
    # Not the index, which CUDA_VISIBLE_DEVICES changes per process.
    return str(torch.cuda.get_device_properties(index).uuid)


def lease_device(names: list[str], folder: Path | None = None) -> int:
    """Lease a device that no other process of this machine has leased, until this process ends; return its index.

    Several runs on a machine with several devices each get their own, whatever started them. If all are leased,
    the first one is shared.
    """
    folder = folder or Path(tempfile.gettempdir())
    for index, name in enumerate(names):
        path = folder / f"pipeline-device-{name}.lock"
        if path in _leases:
            return index
        # Runs of any user may hold or take the lock.
        lock = FileLock(path, mode=0o666)
        try:
            lock.acquire(timeout=0)
        except (Timeout, PermissionError):
            continue
        _leases[path] = lock
        return index
    return 0
