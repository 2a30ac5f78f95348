"""Dense trunks: convolutions run once per rescaled picture, and rows are read off the maps at the windows' positions.

Source: Oquab et al. (CVPR 2014) section 5, which suggests it for speed. A window's row differs from its row as a
patch in two ways. Its position is rounded to a cell of the map. It is surrounded by the picture, and not by the zeros
that pad a patch.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pipeline.io.errors import SettingsError, TrunkError
from pipeline.trunk.architectures import AlexNet
from pipeline.trunk.device_memory import explain_memory
from pipeline.trunk.nodes import NodesNetwork
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import Measure, TrunkRunner, ignore_time
from pipeline.trunk.trunk import LayeredNetwork, Trunk
from pipeline.trunk.windows import ScaledWindows

LOCAL_MODULES = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Identity,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
)
LOCAL_FUNCTIONS = (torch.cat, torch.relu, functional.relu, operator.add, torch.add)
"""Local operations: a cell depends only on the cells around it. Other operations may depend on the whole picture."""


class Maps(Protocol):
    """The part of a trunk that runs over whole pictures, and the part that runs per window.

    Attributes
    ----------
    strides : pixels from one cell to the next, of each of its maps
    """

    strides: tuple[int, ...]

    def at_places(self, pixels: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Read one vector per window off the maps of one normalised picture (1, 3, height, width): Tensor (n, columns).

        Parameters
        ----------
        x, y : int64 Tensors of shape (n,) on the same device, left and upper edges of the windows in pixels
        """

    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        """Compute the rows of each layer from the windows' vectors."""


def cells_of(edge: Tensor, stride: int, last: int) -> Tensor:
    """Return the cells nearest to the windows' first pixels `edge`, at most `last`; halves go to the even cell."""
    # On the device of the map: indices from the CPU would make it wait, once per scale and side.
    return (edge.double() / stride).round_().clamp_(0, last).long()


def windows_at(cells: Tensor, side: int, x: Tensor, y: Tensor) -> Tensor:
    """Gather windows (n, channels, side, side) of one map (1, channels, height, width) at their first cells."""
    views = cells[0].unfold(1, side, 1).unfold(2, side, 1)
    return views[:, y, x].transpose(0, 1)


class AlexNetMaps:
    """C1 to C5 per picture; FC6 and FC7 per window."""

    def __init__(self, network: AlexNet) -> None:
        self.network = network
        self.strides: tuple[int, ...] = (network.config.stride,)

    def at_places(self, pixels: Tensor, x: Tensor, y: Tensor) -> Tensor:
        cells = self.network.convolve(pixels)
        side, stride = self.network.config.pool5_px, self.strides[0]
        height, width = cells.shape[2:]
        first = cells_of(x, stride, width - side), cells_of(y, stride, height - side)
        return windows_at(cells, side, *first).flatten(1)

    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        return self.network.connect(vectors, layers)


class NodeMaps:
    """Pooled windows of named nodes of a network of local operations.

    Raises
    ------
    TrunkError
        An operation is not local, or a node has no map.
    """

    def __init__(self, trunk: Trunk) -> None:
        assert isinstance(trunk.network, NodesNetwork)
        self.layer = trunk.layer
        self.network = trunk.network
        where = f"trunk {trunk.card.name!r}: method dense"
        extractor = self.network.extractor
        if not isinstance(extractor, fx.GraphModule):
            raise TrunkError(f"{where}: only for the AlexNet family and torchvision's networks")
        for node in extractor.graph.nodes:
            is_local = {
                "call_module": lambda n: isinstance(extractor.get_submodule(n.target), LOCAL_MODULES),
                "call_function": lambda n: n.target in LOCAL_FUNCTIONS,
                "call_method": lambda n: False,
            }.get(node.op, lambda n: True)(node)
            if not is_local:
                raise TrunkError(f"{where}: {node.name} is no convolution, pooling or the like; use method patches")
        px = trunk.card.input_px
        one, more = (self._sides(px + further) for further in (0, 512))
        self.sides = one
        self.strides = tuple(512 // max(1, b - a) for a, b in zip(one, more, strict=True))
        for stride, side, index in zip(self.strides, self.sides, range(len(one)), strict=True):
            if self._sides(px + stride)[index] != side + 1:
                raise TrunkError(f"{where}: the map of {self.network.nodes[index].name} does not grow with the picture")

    @torch.inference_mode()
    def _sides(self, px: int) -> tuple[int, ...]:
        weights = next(self.network.extractor.parameters())
        outputs = self.network.extractor(torch.zeros(1, 3, px, px, device=weights.device, dtype=weights.dtype))
        maps = [outputs[node.name] for node in self.network.nodes]
        for node, value in zip(self.network.nodes, maps, strict=True):
            if value.ndim != 4 or node.pooling not in ("", "mean", "max", "flat"):
                raise TrunkError(f"method dense: node {node.label!r} gives no map, or is not pooled as one")
        return tuple(value.shape[-1] for value in maps)

    def at_places(self, pixels: Tensor, x: Tensor, y: Tensor) -> Tensor:
        outputs = self.network.extractor(pixels)
        rows = []
        for node, side, stride in zip(self.network.nodes, self.sides, self.strides, strict=True):
            cells = outputs[node.name]
            height, width = cells.shape[2:]
            first = cells_of(x, stride, width - side), cells_of(y, stride, height - side)
            if node.pooling == "flat":
                rows.append(windows_at(cells, side, *first).flatten(1))
            elif node.pooling == "max":
                rows.append(functional.max_pool2d(cells, side, 1)[0][:, first[1], first[0]].T)
            else:
                # A moving mean, in fp32: sums over hundreds of cells.
                means = functional.avg_pool2d(cells.float(), side, 1)
                rows.append(means[0][:, first[1], first[0]].T.to(cells.dtype))
        return torch.cat(rows, 1)

    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        return {self.layer: vectors}


class DenseRunner(TrunkRunner):
    """A frozen trunk on its device, run over rescaled pictures in place of patches.

    Raises
    ------
    SettingsError, TrunkError
        As `TrunkRunner`; `compiled` is set, which needs inputs of one size; the trunk has no maps.
    """

    def __init__(
        self,
        trunk: Trunk,
        device: torch.device,
        precision: str,
        compiled: bool = False,
        *,
        elsewhere: bool = False,
    ) -> None:
        if compiled:
            raise SettingsError("method dense: pictures are of any size, and a compiled trunk takes one; leave one off")
        super().__init__(trunk, device, precision, elsewhere=elsewhere)
        if isinstance(trunk.network, LayeredNetwork):
            self.maps: Maps = AlexNetMaps(trunk.network.network)
        elif isinstance(trunk.network, NodesNetwork):
            self.maps = NodeMaps(trunk)
        else:
            raise TrunkError(f"trunk {trunk.card.name!r}: method dense: it has no maps; use method patches")

        strides = " and ".join(map(str, dict.fromkeys(self.maps.strides)))
        self.window_fields = {
            "method": "dense",
            "rounding": f"window corners to the nearest multiple of {strides} pixels of the rescaled picture",
        }

    @property
    def batch_rows(self) -> int:
        """Default number of windows per batch of FC6 and FC7: many, since each batch reads their weights anew."""
        return 512

    @torch.inference_mode()
    def read_windows(self, pixels: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Run the convolutions over one rescaled picture, and read off one vector per window, for `finish`.

        Parameters
        ----------
        pixels, x, y : as in `ScaledWindows`; each side of the picture has `input_px` pixels at least

        Returns
        -------
        Tensor of shape (n, columns)
        """
        what = f"the maps of a rescaled picture of {pixels.shape[1]} x {pixels.shape[0]} pixels"
        with explain_memory(self.device, what, "use --method patches, or leave out the smallest windows"):
            return self.maps.at_places(self._inputs(pixels[None]), x, y)

    @torch.inference_mode()
    def finish(self, vectors: Tensor, layers: Sequence[str]) -> PendingBatch:
        """Start to compute the rows of each layer from the windows' vectors: float16 of shape (n, width)."""
        with explain_memory(self.device, f"a batch of {len(vectors)} windows"):
            return self._copy_to_cpu(self.maps.finish(vectors, layers))

    def launch_batches(
        self,
        windows: Iterable[ScaledWindows],
        layers: Sequence[str],
        batch: int,
        measure: Measure = ignore_time,
    ) -> Iterator[PendingBatch]:
        """As `TrunkRunner.launch_batches`: maps of each rescaled picture, and batches of the vectors of all windows.

        Parameters
        ----------
        measure : takes the time of the stages ``maps`` and ``rows``
        """
        vectors: list[Tensor] = []
        waiting = 0
        what = f"a batch of {batch} windows"
        for pixels, x, y in windows:
            with measure("maps"):
                vectors.append(self.read_windows(pixels, x, y))
            waiting += len(x)
            if waiting >= batch:
                with explain_memory(self.device, what):
                    joined = torch.cat(vectors)
                for ready in joined[: waiting - waiting % batch].split(batch):
                    with measure("rows"):
                        pending = self.finish(ready, layers)
                    yield pending
                waiting %= batch
                vectors = [joined[len(joined) - waiting :]]
        if waiting:
            with explain_memory(self.device, what):
                joined = torch.cat(vectors)
                whole = torch.cat([joined, joined.new_zeros(batch - waiting, joined.shape[1])])
            with measure("rows"):
                pending = self.finish(whole, layers)
            yield pending.first(waiting)

    def rows_are_independent(self, batch: int) -> bool:
        """See `TrunkRunner`; of the layers per window, since maps are computed per picture."""
        if self.elsewhere:
            return False
        px, corner = self.trunk.card.input_px, np.zeros(1, int)
        pixels = np.random.default_rng(0).integers(0, 256, (8, px, px, 3), np.uint8)
        windows = self.load_windows([(picture, corner, corner) for picture in pixels])
        few = torch.cat([self.read_windows(*of_picture) for of_picture in windows])
        vectors = few.new_zeros((batch, few.shape[1]))
        n = min(batch, len(few))
        first, last = vectors.clone(), vectors.clone()
        first[:n], last[batch - n :] = few[:n], few[:n]
        (a,), (b,) = (self.finish(x, (self.trunk.layer,)).result().values() for x in (first, last))
        return np.array_equal(a[:n], b[batch - n :])

    def operations_per_row(self, trunk: Trunk) -> None:
        """Count nothing: maps are made per picture, however many windows it has."""
        return None

    def measure_rate(self, n_rows: int) -> None:
        """Measure nothing: the rate depends on the sizes of pictures and scales."""
        return None
