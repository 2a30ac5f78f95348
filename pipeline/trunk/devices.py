"""The device of this process: its own, on a machine with several."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from pipeline.io.errors import SettingsError
from pipeline.io.progress import Say, silent

_leases: dict[str, Lease] = {}
"""Leases of this process, by the name of the device. The system frees a lock also when its process is killed."""
MOST_SHARED = 64
"""Runs on one device that are told apart; more count as the last one."""


@dataclass(frozen=True)
class Lease:
    """A place on a device.

    Attributes
    ----------
    index : of the device
    others : number of other runs that may be on it
    lock : held as long as this process lives
    """

    index: int
    others: int
    lock: FileLock


def name_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``, the kind of device that a setting means; the device need not exist here.

    Raises
    ------
    SettingsError
        The setting names no kind that trunks run on.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):  # torch has further kinds, on which no trunk runs
        raise SettingsError(f"device {device!r}: expected auto, cpu, cuda or cuda:N")
    return device.partition(":")[0]


def resolve_device(device: str, say: Say = silent) -> torch.device:
    """Resolve a setting: ``auto`` is CUDA if available, ``cuda`` the device that the fewest other runs use.

    Parameters
    ----------
    say : takes a line where the device is shared with other runs

    Raises
    ------
    SettingsError
        There is no such device.
    """
    kind = name_device(device)
    device = kind if device == "auto" else device
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(f"device {device!r}: torch {torch.__version__} finds no CUDA device; use --device cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(f"device {device!r}: expected auto, cpu, cuda or cuda:N") from error
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"device {device!r}: there are {torch.cuda.device_count()} CUDA devices")
    if resolved.type != "cuda":
        return resolved
    names = [_device_name(i) for i in range(torch.cuda.device_count())]
    lease = lease_device(names, wanted=resolved.index)
    if lease.others:
        say(f"note: cuda:{lease.index} is shared with {lease.others} other run(s), each slower for it")
    return torch.device("cuda", lease.index)


def _device_name(index: int) -> str:
    # Not the index, which CUDA_VISIBLE_DEVICES changes per process.
    return str(torch.cuda.get_device_properties(index).uuid)


def lease_device(names: list[str], folder: Path | None = None, wanted: int | None = None) -> Lease:
    """Lease the device with the fewest other processes of this machine on it, until this process ends.

    Several runs on a machine with several devices each get their own, whatever started them; with more runs than
    devices, all devices get about as many. A process that has a lease keeps it.

    Parameters
    ----------
    names : of all devices, in the order of their indices
    folder : of the locks, one for each place on a device
    wanted : index of the only device to lease; None for any
    """
    folder = folder or Path(tempfile.gettempdir())
    choices = [(index, name) for index, name in enumerate(names) if wanted in (None, index)]
    for index, name in choices:
        if name in _leases:
            return replace(_leases[name], index=index)
    for others in range(MOST_SHARED):
        for index, name in choices:
            suffix = f"-{others}" if others else ""
            # Runs of any user may hold or take the lock.
            lock = FileLock(folder / f"pipeline-device-{name}{suffix}.lock", mode=0o666)
            try:
                lock.acquire(timeout=0)
            except (Timeout, PermissionError):
                continue
            _leases[name] = Lease(index, others, lock)
            return _leases[name]
    index, name = choices[0]
    return Lease(index, MOST_SHARED, lock)


def compute_exactly(device: torch.device) -> None:
    """Let products on a GPU be what their precision says, for this process.

    By default torch computes fp32 convolutions with 10 bits of mantissa (TF32), and may add up parts of long sums in
    fp16 or bf16.
    """
    if device.type == "cuda":
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # no types of torch for it
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
