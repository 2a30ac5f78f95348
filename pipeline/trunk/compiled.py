"""A frozen network, compiled by torch for batches of one size."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.io.errors import SettingsError


def find_missing_compiler(device_type: str) -> tuple[str, str] | None:
    """Return what torch lacks on this machine to compile a network, and how to install it; None if nothing.

    Parameters
    ----------
    device_type : ``cuda`` or ``cpu``
    """
    if device_type == "cuda":
        # Triton writes the kernels, and compiles what starts them with a C compiler and Python's headers.
        if importlib.util.find_spec("triton") is None:
            return "for a GPU with Triton, which is not installed", "install torch's CUDA build, which brings it"
        compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
        if not any(shutil.which(name) for name in compilers if name):
            return "for a GPU with a C compiler, and this machine has none", "install one (Debian: apt-get install gcc)"
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():
            return "for a GPU with Python.h, which is missing", "install it (Debian: apt-get install python3-dev)"
        return None
    # Imported here: the import takes two seconds.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "for a CPU with a C++ compiler, and this machine has none", "install one (Debian: apt-get install g++)"
    return None


class CompiledNetwork(nn.Module):
    """A frozen network compiled for batches of one size: the largest so far, to which smaller ones are padded.

    Its operations are fused into fewer passes over memory, and its weights laid out for the device. The first batch
    takes about ten seconds.

    Raises
    ------
    SettingsError
        This machine lacks a compiler for the device.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        missing = find_missing_compiler(device.type)
        if missing is not None:
            what, fix = missing
            raise SettingsError(f"compiled: torch compiles {what}; {fix}, or leave compiled off")
        # Imported here: the import takes two seconds.
        from torch._inductor import config

        self._rows = 0
        self._config = config
        # On a GPU the launches are captured as one graph, which costs no time on the CPU.
        mode = "reduce-overhead" if device.type == "cuda" else None
        self._compiled = torch.compile(network, dynamic=False, mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        self._rows = max(self._rows, len(x))
        missing = self._rows - len(x)
        whole = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
        # Frozen weights are laid out once for all batches.
        with self._config.patch(freezing=True):
            return self._compiled(whole.contiguous(memory_format=torch.channels_last))[: len(x)]
