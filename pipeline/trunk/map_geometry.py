"""Local operations of a traced network: of each, the stride, field and padding of the map that it gives.

A local operation gives cells that depend only on the cells around them. Other operations depend on the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import fx


@dataclass(frozen=True)
class Geometry:
    """How the cells of a map lie in the input, along its longer reach of the two sides.

    Attributes
    ----------
    stride : pixels from one cell to the next
    field : pixels that a cell depends on
    start : first pixel of the first cell's field; negative where padding stands before the picture
    channels : axis of the channels, 1 or 3
    """

    stride: int = 1
    field: int = 1
    start: int = 0
    channels: int = 1

    @property
    def places(self) -> tuple[int, int]:
        """Axes of height and width."""
        return (2, 3) if self.channels == 1 else (1, 2)


UNARY = {
    *("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "silu", "silu_", "gelu", "gelu_"),
    *("sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_", "tanh", "tanh_", "elu", "elu_", "leaky_relu", "selu"),
    *("leaky_relu_", "mish", "mish_", "softplus", "clamp", "clamp_", "abs", "neg", "dropout", "clone", "contiguous"),
    *("detach", "alias"),
}
"""Operations on each value by itself."""
BINARY = {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"}
WHOLE = {
    "group_norm": "normalises over all places",
    "native_group_norm": "normalises over all places",
    "instance_norm": "normalises over all places",
    "scaled_dot_product_attention": "attends to all places",
    "bmm": "attends to all places",
    "baddbmm": "attends to all places",
    "matmul": "attends to all places",
    "einsum": "attends to all places",
    "softmax": "attends to all places",
    "conv2d": "reads it by places",
    "convolution": "reads it by places",
    "max_pool2d": "reads it by places",
    "avg_pool2d": "reads it by places",
}
"""Operations that have no place in the part per window, and why: with them, that part is most of the network."""


def name_of(node: fx.Node) -> str:
    """Name of an operation without its overload: ``conv2d``."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(node.target, "__name__", str(node.target))


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operation by name, with those that have their default."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    found = {item.name: item.default_value for item in schema if item.has_default_value()}
    found |= dict(zip((item.name for item in schema), node.args, strict=False))
    return found | node.kwargs


def pair(value: Any) -> tuple[int, int]:
    value = tuple(value) if isinstance(value, list | tuple) else (value,)
    return value if len(value) == 2 else (value[0], value[0])


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of what an operation gave for the traced patches; of the first of several values."""
    value = node.meta["val"]
    return tuple((value[0] if isinstance(value, list | tuple) else value).shape)


def _slide(of: Geometry, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Geometry | None:
    """Geometry behind a kernel that slides over the map; None where its steps differ along the sides."""
    steps = pair(stride)
    if steps[0] != steps[1] or of.channels != 1:
        return None
    reaches = [(k - 1) * d for k, d in zip(pair(kernel), pair(dilation), strict=True)]
    return Geometry(
        of.stride * steps[0],
        of.field + of.stride * max(reaches),
        of.start - of.stride * max(pair(padding)),
    )


def _convolve(node: fx.Node, of: Geometry) -> Geometry | None:
    given = arguments_of(node)
    if given.get("transposed"):
        return None
    kernel = shape_of(given["weight"])[2:]
    padding = given["padding"]
    if isinstance(padding, str):
        widths = [(k - 1) * d // 2 for k, d in zip(kernel, pair(given["dilation"]), strict=True)]
        padding = widths if padding == "same" else 0
    return _slide(of, kernel, given["stride"], padding, given["dilation"])


def _pool(node: fx.Node, of: Geometry) -> Geometry | None:
    given = arguments_of(node)
    return _slide(
        of, given["kernel_size"], given["stride"] or given["kernel_size"], given["padding"], given.get("dilation", 1)
    )


def _pad(node: fx.Node, of: Geometry) -> Geometry | None:
    given = arguments_of(node)
    if given.get("mode", "constant") != "constant" or of.channels != 1 or len(given["pad"]) > 4:
        return None
    return replace(of, start=of.start - of.stride * max(given["pad"][::2]))


def _getitem(node: fx.Node, of: Geometry) -> Geometry | None:
    # Of several maps, one; an index into a map itself takes places.
    return of if isinstance(node.all_input_nodes[0].meta["val"], list | tuple) else None


def _cat(node: fx.Node, of: Geometry) -> Geometry | None:
    return of if arguments_of(node)["dim"] % 4 == of.channels else None


def _permute(node: fx.Node, of: Geometry) -> Geometry | None:
    turns = {(0, 2, 3, 1): (1, 3), (0, 3, 1, 2): (3, 1)}
    before, after = turns.get(tuple(arguments_of(node)["dims"]), (None, 0))
    return replace(of, channels=after) if before == of.channels else None


def _layer_norm(node: fx.Node, of: Geometry) -> Geometry | None:
    return of if of.channels == 3 and len(arguments_of(node)["normalized_shape"]) == 1 else None


def _linear(node: fx.Node, of: Geometry) -> Geometry | None:
    return of if of.channels == 3 else None


def _batch_norm(node: fx.Node, of: Geometry) -> Geometry | None:
    return of if of.channels == 1 and not arguments_of(node)["training"] else None


LOCAL: dict[str, Callable[[fx.Node, Geometry], Geometry | None]] = {
    "conv2d": _convolve,
    "convolution": _convolve,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "cat": _cat,
    "chunk": _cat,
    "split": _cat,
    "split_with_sizes": _cat,
    "getitem": _getitem,
    "permute": _permute,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "batch_norm": _batch_norm,
    **dict.fromkeys((*UNARY, *BINARY), lambda node, of: of),
}
"""Local operations: the geometry of what they give, from that of what they read; None where they are not local."""


def maps_read(node: fx.Node, classes: Mapping[fx.Node, Any]) -> list[Geometry]:
    return [classes[n] for n in node.all_input_nodes if isinstance(classes[n], Geometry)]


def joined_geometry(node: fx.Node, classes: Mapping[fx.Node, Any]) -> Geometry | None:
    """Geometry of all maps that an operation reads, where they can be joined place by place."""
    maps = maps_read(node, classes)
    if not maps or len({(g.stride, g.channels) for g in maps}) > 1:
        return None
    field, start = max(g.field for g in maps), min(g.start for g in maps)
    joined = replace(maps[0], field=field, start=start)
    if name_of(node) in BINARY:
        for other in node.all_input_nodes:
            shape = shape_of(other)
            # A parameter of one value per channel; one of one value per place would fit no other size.
            per_place = [shape[axis - 4] for axis in joined.places if len(shape) >= 4 - axis]
            if classes[other] == "constant" and any(side != 1 for side in per_place):
                return None
    return joined


def pools_all(node: fx.Node, of: Geometry) -> Literal["mean", "max"] | None:
    """Whether an operation is the mean or the maximum of a whole map."""
    name, given = name_of(node), arguments_of(node) if hasattr(node.target, "_schema") else {}
    if name in ("mean", "amax"):
        dims = sorted(d % 4 for d in given.get("dim") or ())
        return ("mean" if name == "mean" else "max") if tuple(dims) == of.places else None
    if name == "adaptive_avg_pool2d" and of.channels == 1:
        return "mean" if pair(given["output_size"]) == (1, 1) else None
    if name == "avg_pool2d" and of.channels == 1 and pair(given["padding"]) == (0, 0):
        side = shape_of(node.all_input_nodes[0])[2:]
        return "mean" if pair(given["kernel_size"]) == side != (1, 1) else None
    return None
