"""Running a frozen trunk: device, arithmetic, memory layout."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.io.errors import PipelineError, SettingsError
from pipeline.trunk.trunk import LayeredNetwork, Trunk

SMALLER_BATCH = "use a smaller --batch (another batch size is another store)"
CACHED_VALUES = 2**20
"""Of fp32, 4 MiB: what a processor's cache holds."""
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
        # On a GPU the launches are captured as well: as one graph, they cost no time on the CPU.
        mode = "reduce-overhead" if device.type == "cuda" else None
        self._compiled = torch.compile(network, dynamic=False, mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        self._rows = max(self._rows, len(x))
        missing = self._rows - len(x)
        whole = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
        # Weights that are known to stay are laid out once for all batches.
        with self._config.patch(freezing=True):
            return self._compiled(whole.contiguous(memory_format=torch.channels_last))[: len(x)]


@dataclass(frozen=True)
class PendingBatch:
    """Rows of a batch that the device may still be at work on.

    Attributes
    ----------
    rows : layer -> float16 Tensor (n, width) in the memory of the CPU, page-locked if it is a GPU's
    done : recorded behind the last copy; None where everything is done
    """

    rows: Mapping[str, Tensor]
    done: torch.cuda.Event | None = None

    def result(self) -> dict[str, np.ndarray]:
        """Rows of each layer, as soon as they are there."""
        if self.done is not None:
            self.done.synchronize()
        return {layer: rows.numpy() for layer, rows in self.rows.items()}


def gather_windows(scaled: Tensor, x: np.ndarray, y: np.ndarray, px: int) -> Tensor:
    """Windows of a picture in one operation, which is what a GPU wants: uint8 Tensor (n, px, px, 3).

    Parameters
    ----------
    scaled : uint8 Tensor of shape (height, width, 3)
    x, y : int ndarrays of shape (n,), upper left corners
    """
    views = scaled.unfold(0, px, 1).unfold(1, px, 1)
    places = (torch.from_numpy(corner).to(scaled.device, non_blocking=True) for corner in (y, x))
    return views[tuple(places)].permute(0, 2, 3, 1)


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

    window_fields: Mapping[str, str] = {
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
        # torch's types of `to` leave its memory_format out.
        network = trunk.network.to(  # type: ignore[call-overload]
            device=device, dtype=self.dtype, memory_format=torch.channels_last
        )
        self.compiled = compiled
        self._network: nn.Module = CompiledNetwork(network, device) if compiled else network
        preprocessing = trunk.card.preprocessing
        self._mean = 255 * torch.tensor(preprocessing.mean, device=device)
        self._inv_std = 1 / (255 * torch.tensor(preprocessing.std, device=device))

    @property
    def batch_rows(self) -> int:
        """Rows that go through the trunk at once unless another number is asked for: more for smaller patches."""
        return 512 if self.trunk.card.input_px <= 96 else 64

    @property
    def precision_name(self) -> str:
        """Backend and arithmetic, as in a store's identity, such as ``cpu-bf16`` or ``cpu-bf16-compiled``."""
        return f"{self.device.type}-{self.precision}" + ("-compiled" if self.compiled else "")

    def __call__(self, patches: np.ndarray | Tensor) -> np.ndarray:
        """Activations of a batch.

        Parameters
        ----------
        patches : uint8 of shape (n, px, px, 3), RGB

        Returns
        -------
        float16 ndarray of shape (n, width)
        """
        return self.layers_of(patches, (self.trunk.layer,))[self.trunk.layer]

    def layers_of(self, patches: np.ndarray | Tensor, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Activations of a batch at several layers of the trunk, from one pass.

        Parameters
        ----------
        patches : uint8 of shape (n, px, px, 3), RGB
        layers : names that `Trunk.at` knows

        Returns
        -------
        dict of layer -> float16 ndarray of shape (n, width); bit for bit as from a runner of that layer alone
        """
        return self.launch(patches, layers).result()

    @torch.inference_mode()
    def launch(self, patches: np.ndarray | Tensor, layers: Sequence[str]) -> PendingBatch:
        """Begin what `layers_of` does: a GPU works on while the caller prepares the next batch."""
        # The trunk's network gives its own layer; the one within gives several of the AlexNet family.
        own = tuple(layers) == (self.trunk.layer,)
        if self.compiled and not own:
            raise SettingsError("compiled: only one layer a pass; extract them one by one, or leave compiled off")
        with self.explain_memory(f"a batch of {len(patches)} patches"):
            inputs = self._inputs(self.to_device(patches) if isinstance(patches, np.ndarray) else patches)
            if own:
                return self._bring({self.trunk.layer: self._network(inputs)})
            assert isinstance(self._network, LayeredNetwork)  # others have but their own layer
            return self._bring(self._network.network(inputs, layers))

    def _bring(self, found: Mapping[str, Tensor]) -> PendingBatch:
        """Rows on their way to the CPU."""
        if self.device.type != "cuda":
            return PendingBatch({layer: rows.to(torch.float16) for layer, rows in found.items()})
        brought = {}
        for layer, rows in found.items():
            brought[layer] = torch.empty(rows.shape, dtype=torch.float16, pin_memory=True)
            brought[layer].copy_(rows.to(torch.float16), non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self.device))
        return PendingBatch(brought, done)

    def to_device(self, pixels: np.ndarray) -> Tensor:
        """Pixels in the device's memory."""
        tensor = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            # A copy from page-locked memory runs beside the arithmetic.
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def new_batch(self, n: int) -> Tensor:
        """Room for patches in the device's memory: uint8 Tensor (n, px, px, 3)."""
        px = self.trunk.card.input_px
        return torch.empty((n, px, px, 3), dtype=torch.uint8, device=self.device)

    def cut(self, scaled: Tensor, x: np.ndarray, y: np.ndarray, batch: Tensor) -> None:
        """Copy windows of a rescaled picture into a batch, on the device.

        Parameters
        ----------
        scaled : from `to_device`, uint8 Tensor (height, width, 3)
        x, y : int ndarrays of shape (n,), upper left corners in pixels
        batch : the n places of `new_batch` that they go to
        """
        px = self.trunk.card.input_px
        if scaled.device.type == "cpu":
            for place, left, top in zip(batch, x.tolist(), y.tolist(), strict=True):
                place.copy_(scaled[top : top + px, left : left + px])
        else:
            batch.copy_(gather_windows(scaled, x, y, px))

    @contextmanager
    def explain_memory(self, what: str, advice: str = SMALLER_BATCH) -> Iterator[None]:
        """Say what did not fit where the device's memory is full."""
        try:
            yield
        except (torch.OutOfMemoryError, RuntimeError) as error:
            # On a CPU torch raises a plain RuntimeError that only its text tells apart.
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            raise PipelineError(f"the memory of {self.device} does not hold {what}; {advice}") from error

    def _inputs(self, patches: Tensor) -> Tensor:
        """Normalised pixels (n, 3, height, width), channels-last, of patches (n, height, width, 3)."""
        lines = patches.flatten(0, 1)
        inputs = torch.empty(lines.shape, dtype=self.dtype, device=lines.device)
        # On a CPU a block at a time, that fp32 of it stays in the cache: else this is a third of all time at 224 px.
        n = max(1, CACHED_VALUES // lines[0].numel()) if lines.device.type == "cpu" else len(lines)
        for given, block in zip(lines.split(n), inputs.split(n), strict=True):
            block.copy_(given.float().sub_(self._mean).mul_(self._inv_std))
        # Seen as (n, 3, height, width) this is channels-last already: nothing is moved.
        return inputs.view(patches.shape).permute(0, 3, 1, 2)

    def measure_rate(self, n_rows: int) -> float:
        """Patches a second of one batch of grey patches, the first one (set-up) left out."""
        px = self.trunk.card.input_px
        patches = np.full((n_rows, px, px, 3), 128, np.uint8)
        self(patches)
        started = time.perf_counter()
        self(patches)
        return n_rows / (time.perf_counter() - started)
