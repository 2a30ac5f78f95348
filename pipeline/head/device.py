"""The device on which heads are fitted and score: by a setting, or by how large the work is.

A GPU holds all rows of a fit if they take at most half of its free memory; otherwise rows are moved to it block by
block. Either way a head has the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.io.errors import HeadError
from pipeline.io.numbers import format_bytes
from pipeline.io.progress import Say, silent
from pipeline.trunk.device_memory import explain_memory
from pipeline.trunk.devices import compute_exactly, name_device, resolve_device
from pipeline.trunk.windows import page_locked

CPU = torch.device("cpu")
WORTH_A_GPU = 10**12
"""Multiplications of a fit or a scoring from which on ``auto`` takes a GPU: some seconds of a CPU with many cores,
about what it takes to start with a GPU and to bring the rows there."""
SHARE_FOR_ROWS = 0.5
"""Of a device's free memory: rows that take at most so much, beside the fit, are held there."""
BLOCK_BYTES = 64 * 2**20
"""Of rows that are moved to a device at once."""
BLOCKS = 3
"""On the way at most: one is read, one waits, one is used."""
DEVICE_SLACK = 512 * 2**20
"""For what torch and the libraries of CUDA keep on a device."""
ADVICE = "use --head-device cpu, or a smaller batch in the settings of the head (which is another head)"


@dataclass(frozen=True)
class Place:
    """Where a fit or a scoring runs.

    Attributes
    ----------
    device : torch.device
    holds_rows : whether all rows are held there; otherwise they come block by block
    """

    device: torch.device = CPU
    holds_rows: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True)
class HeadDevice:
    """The setting of the device for heads.

    Attributes
    ----------
    setting : ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: a GPU where there is one, it holds the work, and the work
        takes at least `WORTH_A_GPU` multiplications
    say : takes one line where a GPU is used, or would be with more memory
    """

    setting: str = "cpu"
    say: Say = silent

    def choose(self, what: str, operations: int, working: int, rows: int = 0) -> Place:
        """Choose the device, before anything is read, and say which and how much of its memory.

        Parameters
        ----------
        what : runs there, for messages
        operations : multiplications
        working : most bytes of the device's memory that it takes beside the rows, blocks of rows not counted
        rows : bytes of all rows, if they can be held on the device; 0 if they come block by block always

        Raises
        ------
        SettingsError, HeadError
            There is no such device; one that was asked for does not hold the work.
        """
        is_auto = self.setting == "auto"
        if name_device(self.setting) == "cpu" or (is_auto and operations < WORTH_A_GPU):
            return Place()
        device = resolve_device(self.setting, self.say)
        free = free_memory(device)
        blocks = BLOCKS * BLOCK_BYTES
        holds = 0 < rows <= SHARE_FOR_ROWS * free and rows + blocks + working + DEVICE_SLACK <= free
        needed = working + blocks + DEVICE_SLACK + (rows if holds else 0)
        if needed > free:
            text = f"{what}: {format_bytes(needed)} of the memory of {device} are needed, {format_bytes(free)} are free"
            if not is_auto:
                raise HeadError(f"{text}; {ADVICE}")
            self.say(f"{text}; on the CPU")
            return Place()
        compute_exactly(device)
        where = "held there" if holds else "moved there block by block"
        self.say(f"{what}: on {device}, rows {where}; at most {format_bytes(needed)} of its {format_bytes(free)} free")
        return Place(device, holds)


def free_memory(device: torch.device) -> int:
    """Return the bytes of a GPU's memory that this process may take: free ones, and those that torch keeps unused.

    torch gives no memory back to the driver; it uses again what tensors have left, so that what an extraction took
    before, in the same process, is free for a fit.
    """
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


@contextlib.contextmanager
def explain_full_memory(place: Place, what: str) -> Iterator[None]:
    """Turn an error of a GPU whose memory is full into one that says what to change."""
    with explain_memory(place.device, what, ADVICE) if place.on_gpu else contextlib.nullcontext():
        yield


def fact_of_device(device: torch.device) -> dict[str, str]:
    """Return the fact that names the device of a head or of scores; none for a CPU, as before there was a choice."""
    return {} if device.type == "cpu" else {"device": device.type}


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device by way of page-locked memory; the CPU does not wait for a GPU."""
    if device.type != "cuda":
        return tensor
    locked = page_locked(tensor.shape, tensor.dtype)
    locked.copy_(tensor)
    return locked.to(device, non_blocking=True)


def upload_numbers(numbers: Sequence[float], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Copy some numbers to a device: Tensor (n,)."""
    return upload(torch.tensor(numbers, dtype=dtype), device)


def count_parameters(network: object) -> int:
    """Count the weights of a network."""
    assert isinstance(network, nn.Module)
    return sum(parameter.numel() for parameter in network.parameters())
