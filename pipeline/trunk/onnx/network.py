"""The network of an ONNX file, cut at the values that become rows.

OpenVINO reads and runs it: ``pip install 'pipeline[openvino]'``. Torch has no reader of ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.likeness import suggest
from pipeline.io.messages import brief
from pipeline.trunk.attention import RANK, Step, inside_attention, plain_name
from pipeline.trunk.formats.onnx_model import refuse_external_data
from pipeline.trunk.nodes import Node
from pipeline.trunk.operations import VALUE_OPERATIONS
from pipeline.trunk.weight_files import INSTALL_OPENVINO, refuse_lfs_pointer

POOLINGS: Mapping[int, tuple[str, ...]] = {
    2: ("flat",),
    3: ("class", "mean", "max", "flat"),
    4: ("mean", "max", "flat"),
}
"""Of values (n, columns), tokens (n, tokens, columns) and maps: the first is the usual one, but for tokens, of which a
file does not say what stands first."""
PROBED_ROWS = 2


class OnnxNetwork(nn.Module):
    """A network that OpenVINO runs, read from an ONNX file.

    Parameters
    ----------
    model : of OpenVINO; turns patches (n, 3, px, px) of fp32 into rows (n, width)
    """

    def __init__(self, model: Any, width: int) -> None:
        super().__init__()
        self.model = model
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Compute the rows, fp32 (n, width), of patches (n, 3, px, px); slow: the network is compiled for each call."""
        import openvino

        model = self.model.clone()
        model.reshape(list(x.shape))
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        request.infer([x.float().contiguous().numpy()])
        return torch.from_numpy(request.get_output_tensor().data.copy())

    def count_operations(self, px: int) -> int:
        """Count the operations per patch in multiply-adds, as `pipeline.trunk.operations` does for torch's networks."""
        model = self.model.clone()
        model.reshape([1, 3, px, px])
        multiply_adds = values = 0
        for op in model.get_ordered_ops():
            if op.get_type_name() in ("Constant", "Parameter", "Result"):
                continue
            written = sum(math.prod(output.get_shape()) for output in op.outputs())
            values += written
            multiply_adds += written * _products_per_value(op)
        return multiply_adds + VALUE_OPERATIONS * values


def _products_per_value(op: Any) -> int:
    """Return how many products are summed up for one value of a convolution or a product of matrices; else 0."""
    kind = op.get_type_name()
    if kind in ("Convolution", "GroupConvolution"):
        # (out, in, rows, columns), or (groups, out, in, rows, columns)
        return math.prod(list(op.input(1).get_shape())[1 if kind == "Convolution" else 2 :])
    if kind == "MatMul":
        transposed = op.get_attributes().get("transpose_a", False)
        return int(list(op.input(0).get_shape())[-2 if transposed else -1])
    return 0


def read_model(path: Path) -> Any:
    """Read an ONNX file as OpenVINO's model.

    Raises
    ------
    MissingDataError, TrunkError
        No such file, OpenVINO is not installed; not a model of one picture input, or with weights in other files.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    refuse_lfs_pointer(path)
    try:
        import openvino
    except ImportError as error:
        raise MissingDataError(
            f"{path}: ONNX files are run by OpenVINO; install it with: {INSTALL_OPENVINO}"
        ) from error
    data = path.read_bytes()
    refuse_external_data(data, path)
    try:
        model = openvino.Core().read_model(data, b"")
    except Exception as error:  # its errors have no class in common
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise TrunkError(f"{path}: not an ONNX model that OpenVINO reads: {lines[-1] if lines else error!r}") from error
    _check_input(model, path)
    return model


def _check_input(model: Any, path: Path) -> None:
    found = [str(given.get_partial_shape()) for given in model.inputs]
    shape: Any = model.inputs[0].get_partial_shape() if len(found) == 1 else None
    fits = shape is not None and shape.rank.is_static and len(shape) == 4 and shape[1].is_static
    if not fits or shape[1].get_length() != 3 or model.inputs[0].get_element_type().get_type_name() != "f32":
        kinds = ", ".join(given.get_element_type().get_type_name() for given in model.inputs)
        raise TrunkError(
            f"{path}: expected one input (n, 3, height, width) of float32, got {', '.join(found)} of {kinds}; "
            "export the network for pictures, colours before rows"
        )


def stated_px(model: Any) -> int | None:
    """Return the side of the patches that a model states; None where it leaves it open."""
    shape = model.inputs[0].get_partial_shape()
    sides = {side.get_length() if side.is_static else None for side in (shape[2], shape[3])}
    return sides.pop() if len(sides) == 1 else None


def reshaped(model: Any, px: int, path: Path) -> Any:
    """Return a copy of a model for `PROBED_ROWS` patches of `px` pixels.

    Raises
    ------
    TrunkError
        The model was exported for another number or size of patches.
    """
    copy = model.clone()
    try:
        copy.reshape([PROBED_ROWS, 3, px, px])
    except Exception as error:
        stated = model.inputs[0].get_partial_shape()
        raise TrunkError(
            f"{path}: was exported for {stated}, and cannot take {PROBED_ROWS} patches of {px} px; export it with an "
            "open number of patches (dynamic axes)"
        ) from error
    return copy


def nodes_of(probe: Any) -> dict[str, int]:
    """List the columns of every value that can become rows, with its usual poolings, in the order of the network.

    Parameters
    ----------
    probe : from `reshaped`
    """
    found, in_attention = {}, _names_in_attention(probe)
    for name, output in _values(probe).items():
        shape = list(output.get_shape())
        for pooling in ("class", "mean") if len(shape) == 3 else _poolings(shape, name in in_attention)[:1]:
            found[_label(name, pooling, len(shape))] = _width(shape, pooling)
    return found


def _values(probe: Any) -> dict[str, Any]:
    """Outputs of a network's operations by their names, of those with one value, map or row of tokens per patch."""
    values: dict[str, Any] = {}
    for op in probe.get_ordered_ops():
        if op.get_type_name() in ("Constant", "Parameter", "Result"):
            continue
        for output in op.outputs():
            shape = list(output.get_shape()) if output.get_partial_shape().is_static else []
            if len(shape) in POOLINGS and shape[0] == PROBED_ROWS and output.get_element_type().is_real():
                values |= dict.fromkeys(sorted(output.get_names()), output)
    return values


def _names_in_attention(probe: Any) -> set[str]:
    """Return the names of the values inside of attention."""
    computed: set[tuple[str, int]] = set()
    names: dict[tuple[str, int], set[str]] = {}
    steps: list[Step] = []
    for op in probe.get_ordered_ops():
        read = [value.get_source_output() for value in op.inputs()]
        keys = [(value.get_node().get_name(), value.get_index()) for value in read]
        depends = [key for key in keys if key in computed]
        if op.get_type_name() in ("ShapeOf", "Result") or not (depends or op.get_type_name() == "Parameter"):
            continue
        made = {(op.get_name(), output.get_index()): output for output in op.outputs()}
        computed.update(made)
        names.update((key, output.get_names()) for key, output in made.items())
        inputs = (key for key, value in zip(keys, read, strict=True) if key in computed and _has_rank(value))
        outputs = tuple(key for key, value in made.items() if _has_rank(value))
        steps.append(Step(plain_name(op.get_type_name()), tuple(dict.fromkeys(inputs)), outputs))
    return {name for key in inside_attention(steps) for name in names[key]}  # type: ignore[index]


def _has_rank(value: Any) -> bool:
    rank = value.get_partial_shape().rank
    return bool(rank.is_static and rank.get_length() == RANK)


def _places(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the axes of places: of a map the two of equal length, channels before or behind them; none of others."""
    if len(shape) == 3:
        return (1,)
    if len(shape) == 4 and shape[2] == shape[3]:
        return (2, 3)
    return (1, 2) if len(shape) == 4 and shape[1] == shape[2] else ()


def _poolings(shape: Sequence[int], in_attention: bool = False) -> tuple[str, ...]:
    is_map = bool(_places(shape)) and not in_attention
    return POOLINGS[len(shape)] if len(shape) == 3 or is_map else ("flat",)


def _label(name: str, pooling: str, rank: int) -> str:
    return name if rank != 3 and pooling == POOLINGS[rank][0] else f"{name}:{pooling}"


def _width(shape: Sequence[int], pooling: str) -> int:
    if pooling == "flat":
        return math.prod(shape[1:])
    return shape[1] if _places(shape) == (2, 3) else shape[-1]


def parse_layer(layer: str) -> list[Node]:
    """Parse ``a:max+b``; a name may hold colons, as TensorFlow's do.

    >>> parse_layer("features/Relu:0:max+head")
    [Node(name='features/Relu:0', pooling='max'), Node(name='head', pooling='')]
    """
    nodes = []
    for part in layer.split("+"):
        name, _, pooling = part.rpartition(":")
        known = bool(name) and any(pooling in choices for choices in POOLINGS.values())
        nodes.append(Node(name, pooling) if known else Node(part))
    return nodes


def cut(model: Any, layer: str, px: int, path: Path) -> OnnxNetwork:
    """Cut a model at the nodes of a layer; several are joined.

    Raises
    ------
    TrunkError
        No such node, or a pooling that it does not have.
    """
    import openvino
    from openvino import opset13

    probe = reshaped(model, px, path)
    values, in_attention, rows, width = _values(probe), _names_in_attention(probe), [], 0
    # Sizes stay open in what is cut; the probe alone has fixed ones.
    by_name = {name: output for op in model.get_ops() for output in op.outputs() for name in output.get_names()}
    for node in parse_layer(layer):
        if node.name not in values:
            raise TrunkError(f"{path}: no node {brief(node.name)}{suggest(node.name, list(values))}")
        shape = list(values[node.name].get_shape())
        choices = _poolings(shape, node.name in in_attention)
        is_told = len(shape) == 2 or (len(shape) == 4 and len(choices) > 1)
        pooling = node.pooling or (choices[0] if is_told else "")
        if pooling not in choices:
            ways = ", ".join(f"{node.name}:{choice}" for choice in choices)
            what = ", what attention multiplies, head by head, and no map" if node.name in in_attention else ""
            raise TrunkError(
                f"{path}: node {brief(node.label)} gives {tuple(shape[1:])} per patch{what}; name one of {ways}"
            )
        rows.append(_pooled(opset13, by_name[node.name], pooling, shape))
        width += _width(shape, pooling)
    joined = rows[0] if len(rows) == 1 else opset13.concat(rows, 1)
    return OnnxNetwork(openvino.Model([joined], model.get_parameters(), "rows"), width)


def _pooled(opset: Any, value: Any, pooling: str, shape: Sequence[int]) -> Any:
    """Append the operations that make rows (n, width) of a value."""
    import numpy as np

    if len(shape) == 2:
        return value
    places = np.array(_places(shape))
    if pooling == "mean":
        return opset.reduce_mean(value, places, False)
    if pooling == "max":
        return opset.reduce_max(value, places, False)
    if pooling == "class":
        return opset.gather(value, np.array(0), np.array(1))
    return opset.reshape(value, np.array([0, math.prod(shape[1:])]), True)
