"""Running a frozen trunk: device, arithmetic, memory layout."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError, SettingsError
from pipeline.trunk.trunk import Trunk

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device, needed: str | None = None) -> str:
    """``auto`` is what the trunk needs; else fp16 on CUDA, bf16 on a CPU that computes in it, or fp32."""
    if precision != "auto":
        return precision
    if needed is not None:
        return needed
    if device.type == "cuda":
        return "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16 itself; emulated it would be slower than fp32."""
    return any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


class CompiledNetwork(nn.Module):
    """A frozen network compiled for batches of one size: the largest so far, up to which smaller ones are filled.

    Its operations are joined into fewer passes over memory, and its weights laid out for the device. The first
    batch takes some ten seconds.

    Raises
    ------
    SettingsError
        It is for a CPU, and there is no C++ compiler on this machine.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        # Imported here: it takes two seconds.
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
        self._compiled = torch.compile(network, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        self._rows = max(self._rows, len(x))
        missing = self._rows - len(x)
        whole = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
        # Weights that are known to stay are laid out once for all batches.
        with self._config.patch(freezing=True):
            return self._compiled(whole.contiguous(memory_format=torch.channels_last))[: len(x)]


class TrunkRunner:
    """Turns batches of patches into activations.

    Parameters
    ----------
    trunk : Trunk
    device : torch.device
    precision : {"fp32", "bf16", "fp16"}
    compiled : bool
        Whether the network is compiled, which joins its operations into fewer passes over memory. Batches are
        filled up to one size, since another shape would be compiled anew.
    """

    places: ClassVar[Mapping[str, str]] = {
        "method": "patches",
        "rounding": "window corners to the nearest pixel of the rescaled picture",
    }
    """How windows are looked at, as in a store's identity."""

    def __init__(self, trunk: Trunk, device: torch.device, precision: str, compiled: bool = False) -> None:
        if precision == "fp16" and device.type == "cpu":
            raise SettingsError("precision 'fp16': not on a CPU; use bf16 or fp32")
        if trunk.precision not in (None, precision):
            raise SettingsError(
                f"precision {precision!r}: trunk {trunk.card.name!r} computes in {trunk.precision} alone; "
                "leave precision at auto"
            )
        self.trunk = trunk
        self.device = device
        self.precision = precision
        self.dtype = DTYPES[precision]
        network = trunk.network.to(device=device, dtype=self.dtype, memory_format=torch.channels_last)
        self.compiled = compiled
        self._network = CompiledNetwork(network, device) if compiled else network
        preprocessing = trunk.card.preprocessing
        self._mean = 255 * torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._gain = 1 / (255 * torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1))

    @property
    def precision_name(self) -> str:
        """Backend and arithmetic, as in a store's identity, such as ``cpu-bf16`` or ``cpu-bf16-compiled``."""
        return f"{self.device.type}-{self.precision}" + ("-compiled" if self.compiled else "")

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Activations of a batch.

        Parameters
        ----------
        patches : uint8 ndarray of shape (n, px, px, 3), RGB

        Returns
        -------
        float16 ndarray of shape (n, width)
        """
        return self._run(patches, (self.trunk.layer,))[self.trunk.layer]

    def layers_of(self, patches: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Activations of a batch at several layers of the trunk, from one pass.

        Parameters
        ----------
        patches : uint8 ndarray of shape (n, px, px, 3), RGB
        layers : names that `Trunk.at` knows

        Returns
        -------
        dict of layer -> float16 ndarray of shape (n, width); bit for bit as from a runner of that layer alone
        """
        if tuple(layers) == (self.trunk.layer,):
            return {self.trunk.layer: self(patches)}
        return self._run(patches, layers)

    @torch.inference_mode()
    def _run(self, patches: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        # The trunk's network gives its own layer; the one within gives several of the AlexNet family.
        own = tuple(layers) == (self.trunk.layer,)
        if self.compiled and not own:
            raise SettingsError("compiled: only one layer a pass; extract them one by one, or leave compiled off")
        with self.explain_memory(f"a batch of {len(patches)} patches"):
            inputs = self._inputs(patches)
            found = {self.trunk.layer: self._network(inputs)} if own else self._network.network(inputs, layers)
            return {layer: rows.to(torch.float16).cpu().numpy() for layer, rows in found.items()}

    @contextmanager
    def explain_memory(self, what: str) -> Iterator[None]:
        """Say what did not fit where the device's memory is full."""
        try:
            yield
        except (torch.OutOfMemoryError, RuntimeError) as error:
            # On a CPU torch raises a plain RuntimeError that only its text tells apart.
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            raise PipelineError(
                f"the memory of {self.device} does not hold {what}; "
                "use a smaller --batch (another batch size is another store)"
            ) from error

    def _inputs(self, patches: np.ndarray) -> torch.Tensor:
        batch = torch.from_numpy(patches)
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        # (n, px, px, 3) seen as (n, 3, px, px) is channels-last already: nothing is moved.
        batch = batch.permute(0, 3, 1, 2)
        return ((batch.float() - self._mean) * self._gain).to(self.dtype)

    def measure_rate(self, n_rows: int) -> float:
        """Patches a second of one batch of grey patches, the first one (set-up) left out."""
        px = self.trunk.card.input_px
        patches = np.full((n_rows, px, px, 3), 128, np.uint8)
        self(patches)
        started = time.perf_counter()
        self(patches)
        return n_rows / (time.perf_counter() - started)
