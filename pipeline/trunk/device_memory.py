"""Errors of a device: memory that is full, and a device that computes nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.io.errors import PipelineError

SMALLER_BATCH = "use a smaller --batch (another batch size is another store)"
FULL = ("allocate memory", "out of memory", "ALLOC_FAILED")
"""Texts of torch for a CPU, of CUDA for page-locked memory, and of cuBLAS and cuDNN: all are plain RuntimeErrors."""


def says_memory_is_full(error: BaseException) -> bool:
    """Return whether an error of torch says that memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in FULL)


def device_is_lost(error: BaseException) -> bool:
    """Return whether no further operation of this process on its device will succeed.

    A failed launch, a failed assertion in a kernel and an uncorrectable memory error all leave the process without a
    usable device. Only another process can go on.
    """
    is_of_device = isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
    return is_of_device and not says_memory_is_full(error)


@contextmanager
def explain_memory(device: torch.device, what: str, advice: str = SMALLER_BATCH) -> Iterator[None]:
    """Turn an error of full memory into a `PipelineError` that names `what` did not fit, and what to change."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one, and an error that is explained is none
        if not says_memory_is_full(error):
            raise
        raise PipelineError(f"the memory of {device} does not hold {what}; {advice}") from error
