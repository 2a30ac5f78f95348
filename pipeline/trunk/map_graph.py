"""A frozen network, traced, in two parts: one that can run over whole pictures, and one that runs per window.

The network is traced by torch on patches of its own size, so that a padding which depends on the size of the input
(TensorFlow's SAME) is the one of a patch. Each operation is one of a table of local ones, of which a cell depends
only on the cells around it, or the first one behind the maps: a pooling over all places, or fc layers. From the table
follow stride, receptive field and padding of each map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from pipeline.io.errors import TrunkError
from pipeline.trunk.map_geometry import (
    BINARY,
    LOCAL,
    WHOLE,
    Geometry,
    arguments_of,
    joined_geometry,
    name_of,
    pools_all,
    shape_of,
)

TRACED_PATCHES = 2
Kind = Literal["mean", "max", "cells"]


@dataclass(frozen=True)
class Cut:
    """A map at which the first part ends.

    Attributes
    ----------
    node : of the map in the trace
    kind : what of a window's cells is read: their ``mean``, their ``max``, or the ``cells`` themselves
    geometry : of the map
    side : cells of a window along one side
    shape : of what the second part reads per window
    """

    node: fx.Node
    kind: Kind
    geometry: Geometry
    side: int
    shape: tuple[int, ...]

    @property
    def columns(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class MapGraph:
    """A network in two parts.

    Attributes
    ----------
    maps : turns a normalised Tensor (1, 3, height, width) into a tuple of maps, one per cut, channels first
    window : turns, per cut, a Tensor (n, *shape) into rows (n, width)
    cuts : in the order of both
    """

    maps: fx.GraphModule
    window: fx.GraphModule
    cuts: tuple[Cut, ...]

    @property
    def stride(self) -> int:
        """Pixels by which a picture must grow so that every map grows by whole cells."""
        return math.lcm(*(cut.geometry.stride for cut in self.cuts))


def trace(network: nn.Module, px: int) -> fx.GraphModule:
    """Trace a network on black patches of `px` pixels, on the device of its weights.

    Raises
    ------
    TrunkError
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    weights = next(network.parameters())
    patches = torch.zeros(TRACED_PATCHES, 3, px, px, device=weights.device, dtype=weights.dtype)
    try:
        with torch.inference_mode(False), torch.no_grad():
            return make_fx(network, pre_dispatch=True)(patches)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrunkError(f"the network cannot be traced: {first}") from error


class _Splitter:
    """Divides one trace; see `split`."""

    def __init__(self, network: nn.Module, px: int) -> None:
        self.traced = trace(network, px)
        self.names = {id(value): name for name, value in (*network.named_parameters(), *network.named_buffers())}
        self.nodes = list(self.traced.graph.nodes)
        self.classes: dict[fx.Node, Any] = {}
        self.pooled: dict[fx.Node, Kind] = {}
        self.first: dict[fx.Node, fx.Node] = {}

    def where(self, node: fx.Node) -> str:
        """Name the module nearest before an operation, by its weights, and the operation."""
        found, waiting = set(), [node]
        while waiting:
            here = waiting.pop(0)
            if here.op == "get_attr":
                name = self.names.get(id(getattr(self.traced, str(here.target))))
                if name:
                    # Names of modules inside of the network, without those of the wrappers around it.
                    parts = [p for p in name.split(".")[:-1] if p not in ("extractor", "model")]
                    return f"{name_of(node)} at {'.'.join(parts)}"
            waiting += [n for n in here.all_input_nodes if n not in found]
            found |= set(here.all_input_nodes)
        return name_of(node)

    def classify(self) -> None:
        """Class each node: the geometry of a map, ``constant``, or ``window``."""
        for node in self.nodes:
            if node.op == "placeholder":
                self.classes[node] = Geometry()
            elif node.op == "get_attr":
                self.classes[node] = "constant"
            elif node.op == "call_function":
                self.classes[node] = self._class_of(node)

    def _class_of(self, node: fx.Node) -> Geometry | str:
        kinds = [self.classes[n] for n in node.all_input_nodes]
        if all(kind == "constant" for kind in kinds):
            return "constant"
        joined, name = joined_geometry(node, self.classes), name_of(node)
        if "window" not in kinds and joined is not None:
            pooled = pools_all(node, joined)
            if pooled:
                self.pooled[node] = pooled
                return "window"
            rule = LOCAL.get(name)
            found = None if rule is None else rule(node, joined)
            if found is not None:
                return found
        self._check_window(node, name, joined)
        return "window"

    def _check_window(self, node: fx.Node, name: str, joined: Geometry | None) -> None:
        """Refuse what would leave most of the network to the part per window, or make it depend on the picture."""
        pooled = [n for n in node.all_input_nodes if self.classes[n] == "window"]
        if pooled and joined is not None and name in BINARY:
            raise TrunkError(
                f"{name} behind {self.where(pooled[0])} joins a map with what was pooled from all places (squeeze and "
                "excitation, or another gate)"
            )
        shapes = [shape_of(n) for n in node.all_input_nodes if self.classes[n] != "constant"]
        vectors = all(len(shape) < 3 or math.prod(shape[1:]) == max(shape[1:]) for shape in shapes)
        before = [self.first[n] for n in node.all_input_nodes if n in self.first]
        self.first[node] = before[0] if before else node
        if name in WHOLE and not vectors:
            first = self.first[node]
            cause = "" if first is node else f"{self.where(first)} is no operation on places alone, and "
            raise TrunkError(f"{cause}{self.where(node)} {WHOLE[name]}")
        if name == "layer_norm" and len(arguments_of(node)["normalized_shape"]) > 1 and not vectors:
            raise TrunkError(f"{self.where(node)} normalises over all places")

    def cuts(self) -> list[tuple[Cut, fx.Node]]:
        """The maps that the part per window reads, each with the node of the trace that it stands for there."""
        found: dict[fx.Node, Cut] = {}
        for node in self.nodes:
            behind = node.op == "output" or self.classes.get(node) == "window"
            for source in node.all_input_nodes if behind else ():
                geometry = self.classes[source]
                if not isinstance(geometry, Geometry):
                    continue
                kind: Kind = self.pooled.get(node, "cells")
                stands_for = source if kind == "cells" else node
                side, width = (shape_of(source)[place] for place in geometry.places)
                if side != width:
                    raise TrunkError(f"{self.where(source)} gives maps of {side} x {width} per patch, expected squares")
                found[stands_for] = Cut(source, kind, geometry, side, shape_of(stands_for)[1:])
        return [(cut, node) for node, cut in found.items()]

    def copy_maps(self, cuts: Iterable[Cut]) -> fx.GraphModule:
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        # Also maps that none of the cuts reads: their operation may write in place.
        wanted = {node for node in self.nodes if isinstance(self.classes.get(node), Geometry)}
        for node in reversed(self.nodes):
            if self.classes.get(node) == "constant" and not wanted.isdisjoint(node.users):
                wanted.add(node)
        for node in self.nodes:
            if node in wanted:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[cut.node] for cut in cuts))
        return fx.GraphModule(self.traced, graph)

    def copy_window(self, stand_ins: Iterable[fx.Node]) -> fx.GraphModule:
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for index, node in enumerate(stand_ins):
            copies[node] = graph.placeholder(f"cut_{index}")
        for node in self.nodes:
            wanted = node.op == "get_attr" or self.classes.get(node) in ("constant", "window")
            if wanted and node not in copies:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        (output,) = (node for node in self.nodes if node.op == "output")
        graph.output(copies[output.args[0]])
        graph.eliminate_dead_code()
        return fx.GraphModule(self.traced, graph)


def split(network: nn.Module, px: int) -> MapGraph:
    """Divide a network of local operations, poolings over all places and fc layers.

    Parameters
    ----------
    network : turns a normalised Tensor (n, 3, px, px) into rows (n, width); its weights are shared, not copied

    Raises
    ------
    TrunkError
        It is another network; the operation and the reason are named.
    """
    splitter = _Splitter(network, px)
    splitter.classify()
    cuts = splitter.cuts()
    if not cuts or all(cut.geometry.stride == 1 for cut, _ in cuts):
        raise TrunkError("nothing of it runs over maps")
    maps = splitter.copy_maps(cut for cut, _ in cuts)
    window = splitter.copy_window(node for _, node in cuts)
    graph = MapGraph(maps, window, tuple(cut for cut, _ in cuts))
    _check_rows(graph, network)
    return graph


@torch.no_grad()
def _check_rows(graph: MapGraph, network: nn.Module) -> None:
    """Refuse a part per window whose operations are fixed to the number of patches that were traced."""
    weights = next(network.parameters())
    n = TRACED_PATCHES + 1
    inputs = [torch.zeros(n, *cut.shape, device=weights.device, dtype=weights.dtype) for cut in graph.cuts]
    try:
        rows = graph.window(*inputs)
    except RuntimeError as error:
        raise TrunkError("its fc layers are written for one number of patches") from error
    if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != n:
        raise TrunkError("its fc layers are written for one number of patches")
