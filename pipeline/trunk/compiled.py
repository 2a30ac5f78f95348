"""A frozen network, compiled by torch for batches of one size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.io.errors import SettingsError


class CompiledNetwork(nn.Module):
    """A frozen network compiled for batches of one size: the largest so far, to which smaller ones are padded.

    Its operations are fused into fewer passes over memory, and its weights laid out for the device. The first batch
    takes about ten seconds.

    Raises
    ------
    SettingsError
        The device is a CPU, and this machine has no C++ compiler.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        # Imported here: the import takes two seconds.
        from torch._inductor import config
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        if device.type == "cpu":
            try:
                get_cpp_compiler()
            except InvalidCxxCompiler as error:
                raise SettingsError(
                    "compiled: torch compiles for a CPU with a C++ compiler, and this machine has none; "
                    "install one (Debian: apt-get install g++), or leave compiled off"
                ) from error
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
