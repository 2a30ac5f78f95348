"""``.caffemodel``: Caffe's NetParameter in each of its three generations.

Field numbers are those of ``caffe.proto``; the layer messages are called V0 (nested in V1's field 1), V1
(``layers``) and V2 (``layer``) after Caffe's own upgrades.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.io.errors import TrunkError
from pipeline.trunk.formats.weight_file import WeightFile
from pipeline.trunk.formats.wire import Message

KINDS = {"conv": "conv", "convolution": "conv", "innerproduct": "linear", "lrn": "norm", "pooling": "pool"}
V0_KINDS = {"conv": "conv", "innerproduct": "linear", "lrn": "norm", "pool": "pool"}
V1_KINDS = {4: "conv", 14: "linear", 15: "norm", 17: "pool"}


@dataclass(frozen=True)
class _Generation:
    """Field numbers of one generation's messages, as far as they are needed."""

    name: int
    kind: int
    blobs: int
    conv: int | None  # V0 has a layer's parameters in the layer itself
    norm: int | None
    group: int
    norm_fields: tuple[int, int, int, int]  # local_size, alpha, beta, k


V0 = _Generation(1, 2, 50, None, None, 9, (13, 14, 15, 22))
V1 = _Generation(4, 5, 6, 10, 18, 5, (1, 2, 3, 5))
V2 = _Generation(1, 2, 7, 106, 118, 5, (1, 2, 3, 5))


def read_blob(blob: Message) -> np.ndarray:
    """Read a BlobProto: its shape is a list, or in old files four numbers."""
    values = blob.reals(5) if 5 in blob else blob.reals(8, "<f8").astype(np.float32)
    shape = blob.messages(7)[-1].integers(1) if 7 in blob else [blob.integer(n) for n in (1, 2, 3, 4)]
    if any(side < 0 for side in shape) or int(np.prod(shape, dtype=object)) != len(values):
        raise ValueError(f"a blob of shape {shape} has {len(values)} values")
    return values.reshape(shape)


def _layers(net: Message) -> tuple[str, list[tuple[Message, _Generation]]]:
    if 100 in net:
        return "V2", [(layer, V2) for layer in net.messages(100)]
    found = [(layer.messages(1)[-1], V0) if 1 in layer else (layer, V1) for layer in net.messages(2)]
    return "V0" if any(generation is V0 for _, generation in found) else "V1", found


def _kind(layer: Message, generation: _Generation) -> str | None:
    if generation is V1:
        return V1_KINDS.get(layer.integer(generation.kind))
    return (V0_KINDS if generation is V0 else KINDS).get(layer.text(generation.kind).lower())


def _parameters(layer: Message, field: int | None) -> Message:
    if field is None:
        return layer
    return layer.messages(field)[-1] if field in layer else Message(b"")


def read_caffemodel(path: Path) -> WeightFile:
    """Read weights, order of layers, groups and response normalisation of a ``.caffemodel``.

    Raises
    ------
    TrunkError
        The file is not one.
    """
    try:
        generation_name, layers = _layers(Message(path.read_bytes()))
        order: list[str] = []
        source = WeightFile(f"caffemodel, {generation_name} layers", {}, order=order)
        for layer, generation in layers:
            kind = _kind(layer, generation)
            if kind is None:
                continue
            order.append(kind)
            if kind == "conv":
                source.groups.append(_parameters(layer, generation.conv).integer(generation.group, 1))
            if kind == "norm":
                norm, (size, alpha, beta, k) = _parameters(layer, generation.norm), generation.norm_fields
                source.norms.append(
                    (norm.integer(size, 5), norm.real(alpha, 1.0), norm.real(beta, 0.75), norm.real(k, 1.0))
                )
            for part, blob in zip(("weight", "bias"), layer.messages(generation.blobs), strict=False):
                source.tensors[f"{layer.text(generation.name)}.{part}"] = read_blob(blob)
    except (ValueError, IndexError) as error:
        raise TrunkError(f"{path}: not a caffemodel: {error}") from error
    if not source.tensors:
        raise TrunkError(f"{path}: no layer with weights in this caffemodel (is it a solverstate, or a prototxt?)")
    return source


def read_mean(path: Path) -> np.ndarray:
    """Read the mean picture of a ``.binaryproto`` file: float32 ndarray of shape (channels, rows, columns), BGR.

    Raises
    ------
    TrunkError
    """
    try:
        mean = read_blob(Message(path.read_bytes()))
    except (ValueError, IndexError) as error:
        raise TrunkError(f"{path}: not a mean picture (binaryproto): {error}") from error
    return mean.reshape(mean.shape[-3:])
