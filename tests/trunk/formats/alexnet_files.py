"""Random weights of AlexNet's forms, in files as other tools write them, and what those tools would compute.

Caffe's files through the protobuf library, ONNX through its own, and pickles of Python 2.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.trunk.formats.convert import make_imported_config

FC_WIDTH, N_CLASSES = 24, 5
MEAN_BGR = (104.0, 117.0, 123.0)
GROUPS = {"conv2": 2, "conv4": 2, "conv5": 2}
REST = "conv3 relu conv4 relu conv5 relu pool fc6 relu fc7 relu fc8"
CHAIN = {
    "bvlc_alexnet": f"conv1 relu norm pool conv2 relu norm pool {REST}",
    "caffenet": f"conv1 relu pool norm conv2 relu pool norm {REST}",
}
V1_TYPES = {"conv": 4, "fc": 14, "norm": 15, "pool": 17, "relu": 18}
V2_TYPES = {"conv": "Convolution", "fc": "InnerProduct", "norm": "LRN", "pool": "Pooling", "relu": "ReLU"}
V0_TYPES = {"conv": "conv", "fc": "innerproduct", "norm": "lrn", "pool": "pool", "relu": "relu"}


def draw_weights(architecture: str, fc_width: int = FC_WIDTH, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights in Caffe's and torch's layout that let activations through; ``conv1.weight`` as the file has it."""
    rng = np.random.default_rng(seed)
    form, weights, n_inputs = make_imported_config(architecture, fc_width), {}, 3

    def add(name: str, *shape: int) -> None:
        deviation = (2 / np.prod(shape[1:])) ** 0.5
        weights[f"{name}.weight"] = (rng.standard_normal(shape) * deviation).astype(np.float32)
        weights[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)

    for index, conv in enumerate(form.convs, start=1):
        add(f"conv{index}", conv.channels, n_inputs // conv.groups, conv.kernel, conv.kernel)
        n_inputs = conv.channels
    for name, width, wide in (("fc6", fc_width, form.widths["pool5"]), ("fc7", fc_width, fc_width)):
        add(name, width, wide)
    add("fc8", N_CLASSES, fc_width)
    return weights


def caffe_fc7(weights: dict[str, np.ndarray], pixels: np.ndarray, pool_first: bool, k: float, mean: tuple) -> Tensor:
    """FC7 in float64 as Caffe computes it: pixels in blue, green, red, 0..255, less the mean.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (n, 227, 227, 3), RGB
    """
    w = {name: torch.from_numpy(value).double() for name, value in weights.items()}
    blue_first = pixels[..., ::-1].astype(np.float64) - np.array(mean)
    x = torch.from_numpy(blue_first.transpose(0, 3, 1, 2).copy())

    def conv(x: Tensor, name: str, groups: int, **how: int) -> Tensor:
        return torch.relu(functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], groups=groups, **how))

    def norm(x: Tensor) -> Tensor:
        # Jia et al.: alpha is divided by the size of the window.
        squares = functional.pad(x**2, (0, 0, 0, 0, 2, 2))
        near = sum(squares[:, i : i + x.shape[1]] for i in range(5))
        return x / (k + 1e-4 / 5 * near) ** 0.75

    def pool(x: Tensor) -> Tensor:
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)

    for name, groups, how in (("conv1", 1, {"stride": 4}), ("conv2", 2, {"padding": 2})):
        x = conv(x, name, groups, **how)
        x = norm(pool(x)) if pool_first else pool(norm(x))
    for name, groups in (("conv3", 1), ("conv4", 2), ("conv5", 2)):
        x = conv(x, name, groups, padding=1)
    x = pool(x).flatten(1)
    for name in ("fc6", "fc7"):
        x = torch.relu(functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]))
    return x


@cache
def caffe() -> SimpleNamespace:
    """Message classes of those parts of Caffe's schema that a network of AlexNet's kind uses."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    fields = {
        "BlobShape": [("dim", 1, "int64*")],
        "BlobProto": [
            ("num", 1, "int32"),
            ("channels", 2, "int32"),
            ("height", 3, "int32"),
            ("width", 4, "int32"),
            ("data", 5, "float*"),
            ("shape", 7, "BlobShape"),
            ("double_data", 8, "double*"),
        ],
        "ConvolutionParameter": [("num_output", 1, "uint32"), ("group", 5, "uint32")],
        "LRNParameter": [("local_size", 1, "uint32"), ("alpha", 2, "float"), ("beta", 3, "float"), ("k", 5, "float")],
        "V0LayerParameter": [
            ("name", 1, "string"),
            ("type", 2, "string"),
            ("group", 9, "uint32"),
            ("local_size", 13, "uint32"),
            ("alpha", 14, "float"),
            ("beta", 15, "float"),
            ("blobs", 50, "BlobProto+"),
        ],
        "V1LayerParameter": [
            ("layer", 1, "V0LayerParameter"),
            ("bottom", 2, "string+"),
            ("name", 4, "string"),
            ("type", 5, "int32"),
            ("blobs", 6, "BlobProto+"),
            ("blobs_lr", 7, "float+"),
            ("convolution_param", 10, "ConvolutionParameter"),
            ("lrn_param", 18, "LRNParameter"),
        ],
        "LayerParameter": [
            ("name", 1, "string"),
            ("type", 2, "string"),
            ("bottom", 3, "string+"),
            ("blobs", 7, "BlobProto+"),
            ("convolution_param", 106, "ConvolutionParameter"),
            ("lrn_param", 118, "LRNParameter"),
        ],
        "NetParameter": [("name", 1, "string"), ("layers", 2, "V1LayerParameter+"), ("layer", 100, "LayerParameter+")],
    }
    kind = descriptor_pb2.FieldDescriptorProto
    kinds = {"int32": 5, "int64": 3, "uint32": 13, "float": 2, "double": 1, "string": 9}
    file = descriptor_pb2.FileDescriptorProto(name="caffe_part.proto", package="caffe_part", syntax="proto2")
    for name, entries in fields.items():
        message = file.message_type.add(name=name)
        for field, number, type_ in entries:
            plain = type_.rstrip("*+")
            added = message.field.add(name=field, number=number, label=3 if type_ != plain else kind.LABEL_OPTIONAL)
            added.type = kinds.get(plain, kind.TYPE_MESSAGE)
            if plain not in kinds:
                added.type_name = f".caffe_part.{plain}"
            added.options.packed = type_.endswith("*")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return SimpleNamespace(
        **{name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe_part.{name}")) for name in fields}
    )


def fill_blob(blob, value: np.ndarray, old: bool, double: bool = False) -> None:
    if old:
        sides = [1] * (4 - value.ndim) + list(value.shape)
        blob.num, blob.channels, blob.height, blob.width = sides
    else:
        blob.shape.dim.extend(value.shape)
    (blob.double_data if double else blob.data).extend(value.ravel().tolist())


def write_caffemodel(
    path: Path, weights: dict[str, np.ndarray], chain: str, generation: int, alpha: float = 1e-4, **names: str
) -> None:
    """A caffemodel of the generation 0, 1 or 2; `names` are other names of layers."""
    net = caffe().NetParameter(name="test")
    data = net.layer.add(name="data", type="Data") if generation == 2 else net.layers.add(name="data", type=5)
    del data
    for index, step in enumerate(chain.split()):
        kind = step.rstrip("12345678")
        name = names.get(step, step) if kind in ("conv", "fc") else f"{step}{index}"
        if generation == 2:
            layer, types = net.layer.add(), V2_TYPES
        elif generation == 1:
            layer, types = net.layers.add(blobs_lr=[1, 2]), V1_TYPES
        else:
            layer, types = net.layers.add().layer, V0_TYPES
        layer.name, layer.type = name, types[kind]
        if kind == "conv" and step in GROUPS:
            (layer if generation == 0 else layer.convolution_param).group = GROUPS[step]
        if kind == "norm":
            norm = layer if generation == 0 else layer.lrn_param
            norm.local_size, norm.alpha, norm.beta = 5, alpha, 0.75
        if kind in ("conv", "fc"):
            for part in ("weight", "bias"):
                fill_blob(layer.blobs.add(), weights[f"{step}.{part}"], old=generation < 2)
    path.write_bytes(net.SerializeToString())


def write_onnx(path: Path, weights: dict[str, np.ndarray], chain: str, variant: str, external: bool = False) -> None:
    """An ONNX chain; linear layers as ``gemm`` (weights transposed or not, by turns), or as ``matmul`` and Add."""
    import onnx
    from onnx import helper, numpy_helper

    nodes, tensors, x = [], [], "input"
    linear = 0
    for index, step in enumerate(chain.split()):
        kind, y = step.rstrip("12345678"), f"y{index}"
        if kind in ("conv", "fc"):
            weight, bias = weights[f"{step}.weight"], weights[f"{step}.bias"]
            w, b = f"blob_{2 * index}", f"blob_{2 * index + 1}"
            if step == "fc6":
                nodes.append(helper.make_node("Flatten", [x], [f"flat{index}"], axis=1))
                x = f"flat{index}"
        if kind == "conv":
            pads = {"conv1": 0, "conv2": 2}.get(step, 1)
            stride = 4 if step == "conv1" else 1
            how = {"strides": [stride] * 2, "pads": [pads] * 4, "group": GROUPS.get(step, 1)}
            nodes.append(helper.make_node("Conv", [x, w, b], [y], **how))
        elif kind == "fc" and variant == "matmul":
            nodes.append(helper.make_node("MatMul", [x, w], [f"{y}m"]))
            nodes.append(helper.make_node("Add", [b, f"{y}m"], [y]))
            weight = weight.T
        elif kind == "fc":
            linear += 1
            if linear % 2:
                nodes.append(helper.make_node("Gemm", [x, w, b], [y], transB=1))
            else:
                nodes.append(helper.make_node("Gemm", [x, w, b], [y]))
                weight = weight.T
        elif kind == "norm":
            nodes.append(helper.make_node("LRN", [x], [y], size=5, alpha=1e-4, beta=0.75, bias=1.0))
        elif kind == "pool":
            nodes.append(helper.make_node("MaxPool", [x], [y], kernel_shape=[3, 3], strides=[2, 2]))
        else:
            nodes.append(helper.make_node("Relu", [x], [y]))
        if kind in ("conv", "fc"):
            tensors.append(numpy_helper.from_array(np.ascontiguousarray(weight), w))
            if step == "fc7":  # some exporters write lists of numbers in place of raw bytes
                tensors.append(helper.make_tensor(b, 1, bias.shape, bias.tolist()))
            elif step == "conv3":  # and some write constants as nodes
                nodes.insert(0, helper.make_node("Constant", [], [b], value=numpy_helper.from_array(bias)))
            else:
                tensors.append(numpy_helper.from_array(bias, b))
        x = y
    tensors.append(numpy_helper.from_array(np.array([-1, 9216], np.int64), "shape"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("input", 1, [1, 3, 227, 227])], [value(x, 1, None)], tensors)
    model = helper.make_model(graph)
    onnx.save_model(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)


def to_tensorflow(weights: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """The dict of ``bvlc_alexnet.npy``: (rows, columns, in, out) and (in, out); FC6 over row, column, channel."""
    layers = {}
    for name in (key.removesuffix(".weight") for key in weights if key.endswith(".weight")):
        weight = weights[f"{name}.weight"]
        if weight.ndim == 4:
            weight = weight.transpose(2, 3, 1, 0)
        elif name == "fc6":
            weight = weight.reshape(len(weight), 256, 6, 6).transpose(2, 3, 1, 0).reshape(9216, -1)
        else:
            weight = weight.T
        layers[name] = [np.ascontiguousarray(weight), weights[f"{name}.bias"]]
    return layers


def python2_npy(layers: dict[str, list[np.ndarray]]) -> bytes:
    """The bytes that ``numpy.save`` of Python 2 wrote for a dict: a pickle of protocol 2 in which text is bytes."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def array(shape: bytes, code: bytes, order: bytes, data: bytes) -> bytes:
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
        dtype = b"cnumpy\ndtype\n(" + text(code) + b"K\x00K\x01tR"
        flags = b"K\x3f" if code == b"O8" else b"K\x00"
        dtype += b"(K\x03" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + flags + b"tb"
        return made + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + data + b"tb"

    def plain(value: np.ndarray) -> bytes:
        shape = b"".join(b"J" + struct.pack("<i", side) for side in value.shape)
        return array(shape, b"f4", b"<", text(value.astype("<f4").tobytes()))

    items = b"".join(text(name.encode()) + b"](" + b"".join(map(plain, pair)) + b"e" for name, pair in layers.items())
    body = b"\x80\x02" + array(b"", b"O8", b"|", b"](}(" + items + b"ue") + b"."
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (-(10 + len(header) + 1) % 16) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body
