"""A small network as an ONNX file, and the same in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

PX = 32


class Plain(nn.Module):
    """Second implementation: the network of `write_onnx` in torch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 12, 3, groups=2)
        self.last = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        map_ = torch.relu(self.second(torch.relu(self.first(x))))
        tokens = map_.flatten(2).transpose(1, 2)
        return {"net/map:0": map_, "tokens": tokens, "head": self.last(map_.mean((2, 3)))}


def write_onnx(
    path: Path,
    batch: int | str = "n",
    px: int | str = PX,
    channels_last: bool = False,
    batch_norm_of_the_batch: bool = False,
) -> Path:
    """Write the network of `Plain`: nodes net/map:0, tokens and head."""
    net = Plain()
    tensors = [numpy_helper.from_array(v.numpy(), k) for k, v in net.state_dict().items()]
    tensors.append(numpy_helper.from_array(np.array([0, 12, -1]), "flat"))
    made = helper.make_node
    nodes = [
        made("Transpose", ["x"], ["given"], perm=[0, 3, 1, 2]) if channels_last else made("Identity", ["x"], ["given"]),
        made("Conv", ["given", "first.weight", "first.bias"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        made("Relu", ["a"], ["b"]),
        made("Conv", ["b", "second.weight", "second.bias"], ["c"], group=2),
        made("Relu", ["c"], ["net/map:0"]),
        made("Reshape", ["net/map:0", "flat"], ["columns"]),
        made("Transpose", ["columns"], ["tokens"], perm=[0, 2, 1]),
        made("Transpose", ["net/map:0"], ["last"], perm=[0, 2, 3, 1]),
        made("GlobalAveragePool", ["net/map:0"], ["pooled"]),
        made("Flatten", ["pooled"], ["row"]),
        made("Gemm", ["row", "last.weight", "last.bias"], ["head"], transB=1),
    ]
    if batch_norm_of_the_batch:
        nodes.append(made("ReduceMean", ["head"], ["mean"], axes=[0], keepdims=1))
        nodes.append(made("Sub", ["head", "mean"], ["centred"]))
    shape = [batch, px, px, 3] if channels_last else [batch, 3, px, px]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("head", "tokens", "last")]
    if batch_norm_of_the_batch:
        outputs.append(helper.make_tensor_value_info("centred", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "net", [given], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path
