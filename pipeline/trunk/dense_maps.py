"""Maps of whole pictures, and what of them is a window's: the parts of dense trunks that depend on the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.io.errors import SettingsError
from pipeline.trunk.alexnet import AlexNet
from pipeline.trunk.dense_sizes import LEADING_BITS, extended_size
from pipeline.trunk.map_graph import Cut, split
from pipeline.trunk.openvino_network import OpenVinoMaps
from pipeline.trunk.trunk import Trunk

Normalise = Callable[[Tensor], Tensor]
"""Turns uint8 (n, height, width, 3) into normalised inputs (n, 3, height, width)."""


class Maps(Protocol):
    """The part of a trunk that runs over whole pictures, and the part that runs per window.

    Attributes
    ----------
    fields : how windows are read, as fields of a store's identity
    """

    fields: Mapping[str, str]

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move what is not in the trunk's own network to the device, in its arithmetic."""

    def use_openvino(self, precision: str, dtype: torch.dtype) -> None:
        """Run the maps by OpenVINO, and the part per window by torch.

        Raises
        ------
        SettingsError, TrunkError
            As `OpenVinoMaps`; the AlexNet family is run by torch alone.
        """

    def read(self, pixels: Tensor, x: Tensor, y: Tensor, normalise: Normalise) -> Tensor:
        """Read one vector per window off the maps of one picture: Tensor (n, columns).

        Parameters
        ----------
        pixels : uint8 Tensor (height, width, 3)
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


def means_at(cells: Tensor, side: int, x: Tensor, y: Tensor) -> Tensor:
    """Mean over windows of one map (1, channels, height, width) at their first cells: (n, channels), in fp32.

    All windows of the map are computed, so that the bits of one depend on no other.
    """
    rows = functional.avg_pool2d(cells.float(), (side, 1), 1)
    means = functional.avg_pool2d(rows, (1, side), 1)
    return means[0].permute(1, 2, 0)[y, x]


def pool_windows(kind: str, cells: Tensor, side: int, x: Tensor, y: Tensor) -> Tensor:
    """``mean`` or ``max`` of windows of one map at their first cells: Tensor (n, channels)."""
    if kind == "mean":
        return means_at(cells, side, x, y)
    return functional.max_pool2d(cells, side, 1)[0].permute(1, 2, 0)[y, x]


def mirror(pixels: Tensor, height: int, width: int) -> Tensor:
    """Extend a picture (height, width, 3) to the right and below by its mirror image."""
    for axis, size in enumerate((height, width)):
        n = pixels.shape[axis]
        if size > n:
            index = torch.arange(size, device=pixels.device) % (2 * n)
            pixels = pixels.index_select(axis, torch.where(index < n, index, 2 * n - 1 - index))
    return pixels


class AlexNetMaps:
    """C1 to C5 per picture; FC6 and FC7 per window."""

    def __init__(self, network: AlexNet) -> None:
        self.network = network
        self.stride = network.config.stride
        self.fields: Mapping[str, str] = {"rounding": describe_rounding([self.stride])}

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Do nothing: all is in the trunk's own network."""

    def use_openvino(self, precision: str, dtype: torch.dtype) -> None:
        raise SettingsError("backend openvino: method dense of the AlexNet family is run by torch; use backend: torch")

    def read(self, pixels: Tensor, x: Tensor, y: Tensor, normalise: Normalise) -> Tensor:
        cells = self.network.convolve(normalise(pixels[None]))
        side = self.network.config.pool5_px
        height, width = cells.shape[2:]
        first = cells_of(x, self.stride, width - side), cells_of(y, self.stride, height - side)
        return windows_at(cells, side, *first).flatten(1)

    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        return self.network.connect(vectors, layers)


class GraphMaps:
    """Any network of convolutions, poolings and fc layers: see `pipeline.trunk.map_graph`.

    Raises
    ------
    TrunkError
        The network is another one.
    """

    def __init__(self, trunk: Trunk) -> None:
        self.layer, self.px = trunk.layer, trunk.card.input_px
        self.graph = split(trunk.network, self.px)
        self.stride = self.graph.stride
        self._run: Callable[[Tensor], Sequence[Tensor]] = self.graph.maps
        self.fields: Mapping[str, str] = {
            "rounding": describe_rounding(cut.geometry.stride for cut in self.graph.cuts),
            "around": f"the picture, mirrored at its right and lower edge up to {self.px} + n * {self.stride} pixels, "
            f"n of {LEADING_BITS} bits, then zeros",
        }

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        for part in (self.graph.maps, self.graph.window):
            part.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def use_openvino(self, precision: str, dtype: torch.dtype) -> None:
        self._run = OpenVinoMaps(self.graph.maps.float(), self.px, self.stride, precision)
        self.graph.window.to(dtype=dtype)

    def read(self, pixels: Tensor, x: Tensor, y: Tensor, normalise: Normalise) -> Tensor:
        height, width = (extended_size(side, self.px, self.stride) for side in pixels.shape[:2])
        inputs = normalise(mirror(pixels, height, width)[None])
        found = zip(self.graph.cuts, self._run(inputs), strict=True)
        return torch.cat([self._read_cut(cut, cells, x, y).to(inputs.dtype) for cut, cells in found], 1)

    def _read_cut(self, cut: Cut, cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
        geometry, side = cut.geometry, cut.side
        cells = cells if geometry.channels == 1 else cells.permute(0, 3, 1, 2)
        height, width = cells.shape[2:]
        left, top = (cells_of(edge, geometry.stride, places - side) for edge, places in ((x, width), (y, height)))
        if cut.kind != "cells":
            return pool_windows(cut.kind, cells, side, left, top)
        windows = windows_at(cells, side, left, top)
        return (windows if geometry.channels == 1 else windows.permute(0, 2, 3, 1)).flatten(1)

    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        parts = vectors.split([cut.columns for cut in self.graph.cuts], 1)
        inputs = [part.unflatten(1, cut.shape) for part, cut in zip(parts, self.graph.cuts, strict=True)]
        return {self.layer: self.graph.window(*inputs)}


def describe_rounding(strides: Iterable[int]) -> str:
    """Say to what the corners of windows are rounded, as a field of the identity."""
    steps = " and ".join(map(str, dict.fromkeys(strides)))
    return f"window corners to the nearest multiple of {steps} pixels of the rescaled picture"
