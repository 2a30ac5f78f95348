"""Values inside of attention have the shape of a map, (n, channels, side, side), and are not pooled as one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pipeline.io.errors import TrunkError
from pipeline.trunk.nodes import Node, Prefix, settle, widths_of
from pipeline.trunk.onnx.network import cut, nodes_of, read_model, reshaped
from pipeline.trunk.outline import run_blank

PX, TOKENS, HEADS, COLUMNS = 8, 16, 2, 16  # as many columns per head as there are tokens
INSIDE = ("query", "key", "scores", "scaled", "attention", "mixed", "by_place")
MAPS = ("map", "softened", "projected")
SHAPES = dict.fromkeys(MAPS, (12, 4, 4)) | dict.fromkeys(INSIDE, (HEADS, TOKENS, COLUMNS))
SHAPES["by_place"] = (TOKENS, HEADS, COLUMNS)


class Attentive(nn.Module):
    """Second implementation: the network of `write_attentive` in torch."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused = fused
        self.embed = nn.Conv2d(3, 12, 2, stride=2)
        self.side = nn.Parameter(torch.randn(4, 4))
        self.q, self.k, self.v = (nn.Parameter(0.1 * torch.randn(12, HEADS * COLUMNS)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        map_ = self.embed(x)
        tokens = map_.flatten(2).transpose(1, 2)
        q, k, v = ((tokens @ w).view(-1, TOKENS, HEADS, COLUMNS).transpose(1, 2) for w in (self.q, self.k, self.v))
        found = {"map": map_, "softened": map_.softmax(-1), "projected": map_ @ self.side, "query": q, "key": k}
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            found["scores"] = q @ k.transpose(-2, -1)
            found["scaled"] = found["scores"] * 0.25
            found["attention"] = found["scaled"].softmax(-1)
            mixed = found["attention"] @ v
        by_place = mixed.transpose(1, 2)
        return {**found, "mixed": mixed, "by_place": by_place, "tokens": by_place.flatten(2)}


def write_attentive(path):
    net, made = Attentive(), helper.make_node
    tensors = [numpy_helper.from_array(v.numpy(), k) for k, v in net.state_dict().items()]
    tensors += [
        numpy_helper.from_array(np.array([0, 12, -1]), "columns"),
        numpy_helper.from_array(np.array([0, TOKENS, HEADS, COLUMNS]), "by_head"),
        numpy_helper.from_array(np.array([0, TOKENS, HEADS * COLUMNS]), "joined"),
        numpy_helper.from_array(np.array(0.25, np.float32), "quarter"),
    ]
    nodes = [
        made("Conv", ["x", "embed.weight", "embed.bias"], ["map"], strides=[2, 2]),
        made("Softmax", ["map"], ["softened"], axis=-1),
        made("MatMul", ["map", "side"], ["projected"]),
        made("Reshape", ["map", "columns"], ["flat"]),
        made("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
    ]
    for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
        nodes += [
            made("MatMul", ["tokens", short], [f"{short}_of"]),
            made("Reshape", [f"{short}_of", "by_head"], [f"{short}_by_place"]),
            made("Transpose", [f"{short}_by_place"], [name], perm=[0, 2, 1, 3]),
        ]
    nodes += [
        made("Transpose", ["key"], ["turned"], perm=[0, 1, 3, 2]),
        made("MatMul", ["query", "turned"], ["scores"]),
        made("Mul", ["scores", "quarter"], ["scaled"]),
        made("Softmax", ["scaled"], ["attention"], axis=-1),
        made("MatMul", ["attention", "value"], ["mixed"]),
        made("Transpose", ["mixed"], ["by_place"], perm=[0, 2, 1, 3]),
        made("Reshape", ["by_place", "joined"], ["out"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, PX, PX])
    names = ("out", "softened", "projected")
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "net", [given], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_attentive(tmp_path_factory.mktemp("onnx") / "net.onnx")


def patches():
    return torch.randn(2, 3, PX, PX, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("pooling", ["", ":mean", ":max"])
def test_an_onnx_file_has_no_map_inside_of_attention(file, name, pooling):
    with pytest.raises(TrunkError, match=f"{name}.*attention multiplies, head by head, and no map.*{name}:flat"):
        cut(read_model(file), f"{name}{pooling}", PX, file)


@pytest.mark.parametrize("name", [*INSIDE, *MAPS])
def test_rows_of_onnx_are_those_of_torch(file, name):
    with torch.no_grad():
        expected = Attentive()(patches())[name]
    assert expected.shape[1:] == SHAPES[name]
    flat = cut(read_model(file), f"{name}:flat", PX, file)(patches())
    np.testing.assert_allclose(flat, expected.flatten(1), atol=1e-5)
    if name in MAPS:
        np.testing.assert_allclose(cut(read_model(file), name, PX, file)(patches()), expected.mean((2, 3)), atol=1e-5)


def test_the_nodes_of_an_onnx_file_are_listed_with_what_can_be_made_of_them(file):
    listed = nodes_of(reshaped(read_model(file), PX, file))
    for name in INSIDE:
        assert name not in listed and listed[f"{name}:flat"] == HEADS * TOKENS * COLUMNS
    assert [listed[name] for name in MAPS] == [12, 12, 12]


@pytest.mark.parametrize("fused", [False, True])
def test_a_network_of_torch_has_no_map_inside_of_attention(fused):
    network = Attentive(fused)
    with torch.no_grad():
        found = network(patches())
    for name in found.keys() & {*INSIDE}:
        for pooling in ("", "mean", "max"):
            with pytest.raises(TrunkError, match="attention multiplies, head by head, and no map"):
                settle(network, [Node(name, pooling)], Prefix(), PX)
        rows, _, width = settle(network, [Node(name, "flat")], Prefix(), PX)
        assert width == HEADS * TOKENS * COLUMNS
        assert torch.equal(rows(patches()), found[name].flatten(1))
    for name in MAPS:
        rows, _, width = settle(network, [Node(name)], Prefix(), PX)
        assert width == 12 and torch.equal(rows(patches()), found[name].mean((2, 3)))
    values, in_attention = run_blank(network, PX)
    assert set(widths_of(values, Prefix(), in_attention)) == {*MAPS, "tokens:tokens"}
