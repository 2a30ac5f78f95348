"""Dense trunks: the convolutions look at a whole rescaled picture once, and rows are read off at its windows' places.

Source: Oquab et al. (CVPR 2014) section 5, which suggests it for speed. A window's row differs from the one that the
same window has as a patch in two ways: its place is rounded to a cell of the map, and what lies around the
window is the picture and not the zeros with which convolutions continue a patch.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pipeline.io.errors import SettingsError, TrunkError
from pipeline.trunk.architectures import AlexNet
from pipeline.trunk.nodes import NodesNetwork
from pipeline.trunk.runner import Launched, TrunkRunner
from pipeline.trunk.trunk import LayeredNetwork, Trunk

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
"""What gives a cell from the cells around it, wherever in the picture they are; anything else may look at all of it."""


class Maps(Protocol):
    """The part of a trunk that runs over whole pictures, and the part that runs a window at a time.

    Attributes
    ----------
    strides : pixels from one cell to the next, of each of its maps
    """

    strides: tuple[int, ...]

    def at_places(self, pixels: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
        """A vector a window, Tensor of shape (n, columns), from one normalised picture of shape (1, 3, height, width).

        Parameters
        ----------
        x, y : int ndarrays of shape (n,), left and upper edges of the windows in pixels
        """

    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        """Rows of each layer from vectors of windows."""


def cells_of(edge: np.ndarray, stride: int, last: int) -> Tensor:
    """The first cells of windows that begin at pixels `edge`, the nearest ones, up to the `last`."""
    return torch.from_numpy(np.clip(np.rint(edge / stride).astype(np.int64), 0, last))


def windows_at(cells: Tensor, side: int, x: Tensor, y: Tensor) -> Tensor:
    """Windows (n, channels, side, side) of one map (1, channels, height, width), from their first cells."""
    views = cells[0].unfold(1, side, 1).unfold(2, side, 1)
    return views[:, y, x].transpose(0, 1)


class AlexNetMaps:
    """C1 to C5 over pictures; FC6 and FC7 a window."""

    def __init__(self, network: AlexNet) -> None:
        self.network = network
        self.strides: tuple[int, ...] = (network.config.stride,)

    def at_places(self, pixels: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
        cells = self.network.convolve(pixels)
        side, stride = self.network.config.pool5_px, self.strides[0]
        height, width = cells.shape[2:]
        places = cells_of(x, stride, width - side), cells_of(y, stride, height - side)
        return windows_at(cells, side, *places).flatten(1)

    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        return self.network.connect(vectors, layers)


class NodeMaps:
    """Pooled windows of named nodes of a network without anything that looks at the whole picture.

    Raises
    ------
    TrunkError
        The network has such a thing, or a node gives no map.
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
            known = {
                "call_module": lambda n: isinstance(extractor.get_submodule(n.target), LOCAL_MODULES),
                "call_function": lambda n: n.target in LOCAL_FUNCTIONS,
                "call_method": lambda n: False,
            }.get(node.op, lambda n: True)(node)
            if not known:
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
        found = self.network.extractor(torch.zeros(1, 3, px, px, device=weights.device, dtype=weights.dtype))
        maps = [found[node.name] for node in self.network.nodes]
        for node, value in zip(self.network.nodes, maps, strict=True):
            if value.ndim != 4 or node.pooling not in ("", "mean", "max", "flat"):
                raise TrunkError(f"method dense: node {node.label!r} gives no map, or is not pooled as one")
        return tuple(value.shape[-1] for value in maps)

    def at_places(self, pixels: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
        found = self.network.extractor(pixels)
        rows = []
        for node, side, stride in zip(self.network.nodes, self.sides, self.strides, strict=True):
            cells = found[node.name]
            height, width = cells.shape[2:]
            places = cells_of(x, stride, width - side), cells_of(y, stride, height - side)
            if node.pooling == "flat":
                rows.append(windows_at(cells, side, *places).flatten(1))
            elif node.pooling == "max":
                rows.append(functional.max_pool2d(cells, side, 1)[0][:, places[1], places[0]].T)
            else:
                # A moving mean, in fp32: sums over hundreds of cells.
                means = functional.avg_pool2d(cells.float(), side, 1)
                rows.append(means[0][:, places[1], places[0]].T.to(cells.dtype))
        return torch.cat(rows, 1)

    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        return {self.layer: vectors}


class DenseRunner(TrunkRunner):
    """A frozen trunk on its device, run over rescaled pictures in place of patches.

    Raises
    ------
    SettingsError, TrunkError
        As `TrunkRunner`; it shall be compiled, which asks for inputs of one size; the trunk cannot be run so.
    """

    def __init__(self, trunk: Trunk, device: torch.device, precision: str, compiled: bool = False) -> None:
        if compiled:
            raise SettingsError("method dense: pictures are of any size, and a compiled trunk takes one; leave one off")
        super().__init__(trunk, device, precision)
        if isinstance(trunk.network, LayeredNetwork):
            self.maps: Maps = AlexNetMaps(trunk.network.network)
        elif isinstance(trunk.network, NodesNetwork):
            self.maps = NodeMaps(trunk)
        else:
            raise TrunkError(f"trunk {trunk.card.name!r}: method dense: it has no maps; use method patches")

        strides = " and ".join(map(str, dict.fromkeys(self.maps.strides)))
        self.places = {
            "method": "dense",
            "rounding": f"window corners to the nearest multiple of {strides} pixels of the rescaled picture",
        }

    @property
    def batch_rows(self) -> int:
        """Windows that go through FC6 and FC7 at once: many, since their weights are read anew for each batch."""
        return 512

    @torch.inference_mode()
    def look(self, scaled: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
        """Vectors of windows of one rescaled picture, for `finish`.

        Parameters
        ----------
        scaled : from `to_device`, uint8 Tensor (height, width, 3), RGB, each side `input_px` at least
        x, y : int ndarrays of shape (n,), upper left corners in pixels

        Returns
        -------
        Tensor of shape (n, columns)
        """
        what = f"the maps of a rescaled picture of {scaled.shape[1]} x {scaled.shape[0]} pixels"
        with self.explain_memory(what, "use --method patches, or leave out the smallest windows"):
            return self.maps.at_places(self._inputs(scaled[None]), x, y)

    @torch.inference_mode()
    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Launched:
        """Rows of each layer: float16 of shape (n, width)."""
        with self.explain_memory(f"a batch of {len(vectors)} windows"):
            return self._bring(self.maps.finish(vectors, layers))
