"""``.onnx``: the chain of convolutions and linear layers of a ModelProto, with the tensors that they use.

Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.io.errors import TrunkError
from pipeline.trunk.formats.weight_file import WeightFile
from pipeline.trunk.formats.wire import Message

DTYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
EXTERNAL = 1


def _tensor(message: Message, folder: Path) -> np.ndarray | None:
    """A TensorProto of floats; None for other types."""
    dtype = DTYPES.get(message.integer(2))
    if dtype is None:
        return None
    shape = message.integers(1)
    if message.integer(14) == EXTERNAL:
        values = np.frombuffer(_external(message, folder), dtype)
    elif 9 in message:
        values = np.frombuffer(message.blobs(9)[-1], dtype)
    elif dtype == "<f8":
        values = message.reals(10, "<f8")
    elif dtype == "<f2":  # held as the bits of 16-bit numbers
        values = np.array(message.integers(5), np.uint16).view("<f2")
    else:
        values = message.reals(4)
    if any(side < 0 for side in shape) or int(np.prod(shape, dtype=object)) != len(values):
        raise ValueError(f"tensor {message.text(8)!r} of shape {shape} has {len(values)} values")
    return values.reshape(shape).astype(np.float32)


def _external(message: Message, folder: Path) -> bytes:
    """Read the bytes of a tensor in a file next to the model."""
    entries = {entry.text(1): entry.text(2) for entry in message.messages(13)}
    location = entries.get("location", "")
    if not location or Path(location).name != location:
        raise ValueError(f"tensor {message.text(8)!r}: its file must lie next to the model, got {location!r}")
    path = folder / location
    if not path.is_file():
        raise ValueError(f"tensor {message.text(8)!r}: {path} is missing")
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", path.stat().st_size))
    if offset < 0 or not 0 <= length <= path.stat().st_size - offset:
        raise ValueError(f"tensor {message.text(8)!r}: {path} is too short")
    with open(path, "rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def refuse_external_data(data: bytes, path: Path) -> None:
    """Refuse a model whose weights lie in other files, which its digest would not tell.

    Raises
    ------
    TrunkError
    """
    try:
        graphs = Message(data).messages(7)
        external = [t.text(8) for graph in graphs for t in graph.messages(5) if t.integer(14) == EXTERNAL]
    except ValueError as error:
        raise TrunkError(f"{path}: not an ONNX model: {error}") from error
    if external:
        raise TrunkError(
            f"{path}: {len(external)} of its tensors lie in other files, {external[0]!r} for one; write one file with: "
            "onnx.save(onnx.load(FILE), NEW_FILE)"
        )


def _attributes(node: Message) -> dict[str, Message]:
    return {attribute.text(1): attribute for attribute in node.messages(5)}


def _norm(attributes: dict[str, Message]) -> tuple[int, float, float, float]:
    real = {name: a.real(2, 0.0) for name, a in attributes.items()}
    size = attributes["size"].integer(3) if "size" in attributes else 0
    return size, real.get("alpha", 1e-4), real.get("beta", 0.75), real.get("bias", 1.0)


def read_onnx(path: Path) -> WeightFile:
    """Read the weights of an ONNX model in the order of its nodes, named conv1, conv2, ..., fc1, fc2, ...

    Raises
    ------
    TrunkError
        The file is not one, or a layer's weights are no tensors of it.
    """
    try:
        model = Message(path.read_bytes())
        if 7 not in model:
            raise ValueError("it has no graph")
        graph = model.messages(7)[-1]
        tensors = {message.text(8): _tensor(message, path.parent) for message in graph.messages(5)}
        nodes = [(node.text(4), node.texts(1), node.texts(2), _attributes(node)) for node in graph.messages(1)]
        for kind, _, outputs, attributes in nodes:
            if kind == "Constant" and "value" in attributes and outputs:
                tensors[outputs[0]] = _tensor(attributes["value"].messages(5)[-1], path.parent)
        order: list[str] = []
        source = WeightFile("ONNX", {}, order=order)
        n_conv = n_linear = 0
        for kind, inputs, outputs, attributes in nodes:
            if kind == "LRN":
                order.append("norm")
                source.norms.append(_norm(attributes))
            elif kind == "MaxPool":
                order.append("pool")
            elif kind == "Conv":
                n_conv += 1
                order.append("conv")
                source.groups.append(attributes["group"].integer(3, 1) if "group" in attributes else 1)
                _keep(source, f"conv{n_conv}", inputs[1:3], tensors)
            elif kind in ("Gemm", "MatMul"):
                n_linear += 1
                order.append("linear")
                transposed = kind == "Gemm" and "transB" in attributes and attributes["transB"].integer(3) == 1
                bias = inputs[2:3] if kind == "Gemm" else _added(outputs, nodes, tensors)
                _keep(source, f"fc{n_linear}", [*inputs[1:2], *bias], tensors, transposed)
    except (ValueError, IndexError) as error:
        raise TrunkError(f"{path}: not an ONNX model that can be read here: {error}") from error
    return source


def _added(outputs: list[str], nodes: list, tensors: dict[str, np.ndarray | None]) -> list[str]:
    """Find the bias that an Add after a MatMul adds."""
    for kind, inputs, _, _ in nodes:
        if kind == "Add" and outputs[0] in inputs:
            return [name for name in inputs if name in tensors]
    return []


def _keep(
    source: WeightFile, layer: str, names: list[str], tensors: dict[str, np.ndarray | None], transposed: bool = True
) -> None:
    for part, name in zip(("weight", "bias"), names, strict=False):
        value = tensors.get(name)
        if value is None:
            raise ValueError(f"the {part} of {layer}, {name!r}, is no float tensor of the file")
        source.tensors[f"{layer}.{part}"] = value if transposed or part == "bias" else value.T
