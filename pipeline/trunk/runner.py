"""Running a frozen trunk: device, arithmetic, memory layout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.io.errors import SettingsError
from pipeline.trunk.backends import Backend
from pipeline.trunk.compiled import CompiledNetwork
from pipeline.trunk.device_memory import explain_memory
from pipeline.trunk.devices import compute_exactly
from pipeline.trunk.onnx.network import OnnxNetwork
from pipeline.trunk.openvino_network import OpenVinoNetwork
from pipeline.trunk.operations import count_operations
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.resample import equals_pillow
from pipeline.trunk.trunk import LayeredNetwork, Trunk
from pipeline.trunk.windows import (
    FEWER_PICTURES,
    PlacedWindows,
    ScaledWindows,
    cut_windows,
    page_locked,
    rescale_on_device,
    upload_windows,
)
from pipeline.trunk.windows import to_device as copy_to_device

CACHED_VALUES = 2**20
"""Values of fp32 that fit into a processor's cache: 4 MiB."""
CUDA_BATCH_ROWS = {"small": 1024, "large": 512}
"""Rows per batch on a GPU by size of the patches: with fewer it waits for the launches of each batch."""
WARM_UP_LAUNCHES = 3
"""On a GPU. A compiled network is compiled in the first one, captured as a graph in the second and replayed after."""
TIMED_LAUNCHES = 8
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device, needed: str | None = None) -> str:
    """Resolve ``auto``: the trunk's own precision; else fp16 on CUDA, bf16 on a CPU that has it, or fp32."""
    if precision != "auto":
        return precision
    if needed is not None:
        return needed
    if device.type == "cuda":
        return "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies in bfloat16 itself; emulated, it would be slower than fp32."""
    return any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


Measure = Callable[[str], AbstractContextManager[None]]
"""Measures the seconds of a named stage in a ``with`` statement."""


def ignore_time(stage: str) -> AbstractContextManager[None]:
    """Measure nothing."""
    return nullcontext()


class TrunkRunner:
    """Runs a frozen trunk on batches of patches.

    Parameters
    ----------
    trunk : Trunk
    device : torch.device
    precision : {"fp32", "bf16", "fp16"}
    compiled : bool
        Whether to compile the network, which fuses its operations into fewer passes over memory. Batches are padded
        to one size, since each further shape would be compiled anew.
    backend : {"torch", "openvino"}
        The library that runs the network, see `resolve_backend`.
    elsewhere : bool
        Whether other processes run the trunk, on devices of their own. This one then only names what they compute:
        nothing is moved to a device, which need not exist here.
    """

    window_fields: Mapping[str, str] = {
        "method": "patches",
        "rounding": "window corners to the nearest pixel of the rescaled picture",
    }
    """How windows are read, as fields of a store's identity."""

    def __init__(
        self,
        trunk: Trunk,
        device: torch.device,
        precision: str,
        compiled: bool = False,
        backend: Backend = "torch",
        *,
        elsewhere: bool = False,
    ) -> None:
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
        self.compiled = compiled
        self.backend = backend
        self.elsewhere = elsewhere
        if elsewhere:
            return
        compute_exactly(device)
        preprocessing = trunk.card.preprocessing
        with explain_memory(device, "the trunk's weights", "use a device that nothing else uses, or --device cpu"):
            self._network = self._place_network()
            self._mean = (255 * torch.tensor(preprocessing.mean)).to(device)
            self._inv_std = (1 / (255 * torch.tensor(preprocessing.std))).to(device)

    def _place_network(self) -> nn.Module:
        """Move the network to the device, in the runner's arithmetic, or hand it to its library."""
        if self.backend == "openvino":
            return OpenVinoNetwork(self.trunk.network.float(), self.trunk.card.input_px, self.precision)
        # torch's types of `to` leave its memory_format out.
        network = self.trunk.network.to(  # type: ignore[call-overload]
            device=self.device, dtype=self.dtype, memory_format=torch.channels_last
        )
        return CompiledNetwork(network, self.device) if self.compiled else network

    @property
    def batch_rows(self) -> int:
        """Default number of rows per batch: more for smaller patches, and on a GPU; with OpenVINO by the network."""
        is_small = self.trunk.card.input_px <= 96
        if self.device.type == "cuda":
            return CUDA_BATCH_ROWS["small" if is_small else "large"]
        if isinstance(self._network, OpenVinoNetwork):
            return self._network.batch_rows
        return 512 if is_small else 64

    @property
    def precision_name(self) -> str:
        """Device, arithmetic and backend, as in a store's identity: ``cpu-bf16``, ``cpu-bf16-compiled``, ..."""
        how = "-compiled" if self.compiled else "-openvino" if self.backend == "openvino" else ""
        return f"{self.device.type}-{self.precision}{how}"

    def __call__(self, patches: np.ndarray | Tensor) -> np.ndarray:
        """Compute the activations of a batch at the runner's own layer.

        Parameters
        ----------
        patches : uint8 of shape (n, px, px, 3), RGB

        Returns
        -------
        float16 ndarray of shape (n, width)
        """
        (rows,) = self.launch(patches, (self.trunk.layer,)).result().values()
        return rows

    @torch.inference_mode()
    def launch(self, patches: np.ndarray | Tensor, layers: Sequence[str]) -> PendingBatch:
        """Start to compute the activations of a batch; a GPU computes while the caller prepares the next one.

        Parameters
        ----------
        patches : uint8 of shape (n, px, px, 3), RGB
        layers : names of layers of the trunk, see `Trunk.at`

        Returns
        -------
        PendingBatch
            Each layer's rows are bit for bit those of a runner of that layer alone.

        Raises
        ------
        SettingsError
            The network is compiled, by torch or OpenVINO, and has to give another layer than its own.
        PipelineError
            The device's memory does not hold the batch.
        """
        # The trunk's network returns its own layer; the network inside of it returns several layers of the family.
        is_own_layer = tuple(layers) == (self.trunk.layer,)
        if self.compiled and not is_own_layer:
            raise SettingsError("compiled: only one layer per pass; extract them one by one, or leave compiled off")
        if self.backend == "openvino" and not is_own_layer:
            raise SettingsError("backend openvino: only one layer per pass; extract them one by one, or use torch")
        with explain_memory(self.device, f"a batch of {len(patches)} patches"):
            on_device = copy_to_device(patches, self.device) if isinstance(patches, np.ndarray) else patches
            inputs = self._inputs(on_device)
            if is_own_layer:
                return self._copy_to_cpu({self.trunk.layer: self._network(inputs)})
            assert isinstance(self._network, LayeredNetwork)  # other networks have a single layer
            return self._copy_to_cpu(self._network.network(inputs, layers))

    def launch_batches(
        self,
        windows: Iterable[ScaledWindows],
        layers: Sequence[str],
        batch: int,
        measure: Measure = ignore_time,
    ) -> Iterator[PendingBatch]:
        """Launch the rows of all windows, batch by batch, in the order of the windows.

        The last batch is filled up with zeros. The arithmetic of a batch depends on its size and not on what else is
        in it, so a row has the same bits in every batch, wherever it stands.

        Parameters
        ----------
        windows : of pictures in turn; one batch may hold windows of several pictures
        layers : names of layers of the trunk
        batch : rows per batch of the trunk; the last batch gives fewer
        measure : takes the time of the stages ``cut`` and ``trunk``
        """
        what = f"a batch of {batch} patches"
        with explain_memory(self.device, what):
            patches = self.new_batch(batch)
        filled = 0
        for pixels, x, y in windows:
            position = 0
            while position < len(x):
                n = min(batch - filled, len(x) - position)
                taken = slice(position, position + n)
                with measure("cut"), explain_memory(self.device, what):
                    cut_windows(pixels, x[taken], y[taken], patches[filled : filled + n])
                filled += n
                position += n
                if filled == batch:
                    with measure("trunk"):
                        pending = self.launch(patches, layers)
                    yield pending
                    filled = 0
        if filled:
            patches[filled:] = 0
            with measure("trunk"):
                pending = self.launch(patches, layers)
            yield pending.first(filled)

    def _copy_to_cpu(self, activations: Mapping[str, Tensor]) -> PendingBatch:
        """Start to copy the rows of each layer to the CPU."""
        if self.device.type != "cuda":
            return PendingBatch({layer: rows.to(torch.float16) for layer, rows in activations.items()})
        copies = {}
        for layer, rows in activations.items():
            copies[layer] = torch.empty(rows.shape, dtype=torch.float16, pin_memory=True)
            copies[layer].copy_(rows.to(torch.float16), non_blocking=True)
        # A thread that waits for it sleeps, and leaves its core to those that decode.
        done = torch.cuda.Event(blocking=True)
        done.record(torch.cuda.current_stream(self.device))
        return PendingBatch(copies, done)

    def load_windows(self, scaled: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[ScaledWindows]:
        """Copy rescaled forms of one picture to the device; see `pipeline.trunk.windows.upload_windows`."""
        return upload_windows(scaled, self.device)

    def rescales(self, interpolation: str) -> bool:
        """Return whether `rescale_windows` can be used: a GPU, and a filter with the bits of the installed Pillow."""
        return self.device.type == "cuda" and equals_pillow(interpolation)

    def new_rows(self, n: int, width: int) -> np.ndarray:
        """Allocate rows in the CPU's memory: float16 ndarray (n, width).

        For a GPU from torch's page-locked memory, which is used again: fresh memory costs the main thread more than
        the copy into it.
        """
        if self.device.type != "cuda":
            return np.empty((n, width), np.float16)
        with explain_memory(self.device, f"{n} rows of a part", FEWER_PICTURES):
            return page_locked((n, width), torch.float16).numpy()

    @torch.inference_mode()
    def rescale_windows(self, picture: np.ndarray, placed: Sequence[PlacedWindows]) -> list[ScaledWindows]:
        """Rescale one picture on the device; see `pipeline.trunk.windows.rescale_on_device`."""
        return rescale_on_device(picture, placed, self.trunk.card.preprocessing.interpolation, self.device)

    def new_batch(self, n: int) -> Tensor:
        """Allocate a batch in the device's memory: uint8 Tensor (n, px, px, 3)."""
        px = self.trunk.card.input_px
        return torch.empty((n, px, px, 3), dtype=torch.uint8, device=self.device)

    def _inputs(self, patches: Tensor) -> Tensor:
        """Normalise patches (n, height, width, 3) to inputs (n, 3, height, width), channels-last."""
        if patches.device.type == "cuda":
            # Two passes over memory: types are converted as values are read and written.
            normalised = torch.empty(patches.shape, dtype=self.dtype, device=patches.device)
            torch.mul(torch.sub(patches, self._mean), self._inv_std, out=normalised)
            return normalised.permute(0, 3, 1, 2)
        lines = patches.flatten(0, 1)
        inputs = torch.empty(lines.shape, dtype=self.dtype, device=lines.device)
        # Block by block, so that fp32 stays in the cache: otherwise this takes a third of all time at 224 px.
        n = max(1, CACHED_VALUES // lines[0].numel())
        for pixels, block in zip(lines.split(n), inputs.split(n), strict=True):
            block.copy_(pixels.float().sub_(self._mean).mul_(self._inv_std))
        # As (n, 3, height, width) this is channels-last already: nothing is moved.
        return inputs.view(patches.shape).permute(0, 3, 1, 2)

    def rows_are_independent(self, batch: int) -> bool:
        """Return whether a row has the same bits at another place of a batch, beside other patches; tries it.

        Where other processes run the trunk nothing can be tried, and the answer is no.
        """
        if self.elsewhere:
            return False
        px = self.trunk.card.input_px
        rng = np.random.default_rng(0)
        patches = rng.integers(0, 256, (batch, px, px, 3), np.uint8)
        order = rng.permutation(batch)
        others = patches[order]
        others[batch // 2 :] = 0
        kept = slice(0, batch // 2)
        return np.array_equal(self(others)[kept], self(patches)[order[kept]])

    def operations_per_row(self, trunk: Trunk) -> int | None:
        """Count the operations per row of the runner's trunk, or of the same one at another layer.

        None for runners whose work depends on the pictures.
        """
        if isinstance(trunk.network, OnnxNetwork):
            return trunk.network.count_operations(trunk.card.input_px)
        return count_operations(trunk.network, trunk.card.input_px)

    def measure_rate(self, n_rows: int) -> float | None:
        """Measure the patches per second of grey patches: one batch on a CPU, some in turn on a GPU, after a warm-up.

        None for runners whose rate depends on the pictures, and where other processes run the trunk.
        """
        if self.elsewhere:
            return None
        patches, layers = self.new_batch(n_rows).fill_(128), (self.trunk.layer,)
        on_gpu = self.device.type == "cuda"
        for _ in range(WARM_UP_LAUNCHES if on_gpu else 1):
            self.launch(patches, layers).result()
        n_launches = TIMED_LAUNCHES if on_gpu else 1
        started = time.perf_counter()
        # One launch ahead, as in an extraction.
        before = self.launch(patches, layers)
        for _ in range(n_launches - 1):
            after = self.launch(patches, layers)
            before.result()
            before = after
        before.result()
        return n_launches * n_rows / (time.perf_counter() - started)
