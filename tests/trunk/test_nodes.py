"""How what a node gives becomes one row a patch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.io.errors import TrunkError
from pipeline.trunk.nodes import Node, Prefix, parse_nodes, pool, settle

MAP = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
TOKENS = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
CLASS = Prefix(2, True)


def test_maps_are_pooled_over_places_wherever_their_channels_are():
    for value in (MAP, MAP.permute(0, 2, 3, 1)):
        assert pool(value, Node("a"), Prefix()).tolist() == MAP.flatten(2).mean(2).tolist()
        assert pool(value, Node("a", "max"), Prefix()).tolist() == MAP.flatten(2).amax(2).tolist()
    assert torch.equal(pool(MAP, Node("a", "flat"), Prefix()), MAP.flatten(1))


def test_tokens_are_pooled_without_those_before_the_patches():
    assert torch.equal(pool(TOKENS, Node("a", "class"), CLASS), TOKENS[:, 0])
    assert torch.equal(pool(TOKENS, Node("a", "tokens"), CLASS), (TOKENS[:, 2] + TOKENS[:, 3] + TOKENS[:, 4]) / 3)
    assert torch.equal(pool(TOKENS, Node("a", "max"), CLASS), TOKENS[:, 4])
    assert torch.equal(pool(TOKENS, Node("a", "tokens"), Prefix()), TOKENS.mean(1))


@pytest.mark.parametrize(
    ("value", "pooling", "prefix", "message"),
    [
        (MAP, "class", CLASS, r"'a:class' gives \(3, 4, 4\) a patch: a map; name another node, or a:mean, a:max"),
        (TOKENS, "mean", CLASS, r"tokens; name another node, or a:class, a:tokens, a:max, a:flat"),
        (TOKENS, "class", Prefix(2), r"tokens; name another node, or a:tokens, a:max, a:flat"),  # registers alone
        (torch.zeros(2, 3, 4, 5), "mean", Prefix(), "a map; name"),  # not square: which side is which is unknown
        (torch.zeros(2, 3, 4, 5, 6), "mean", Prefix(), "neither a vector, a map nor tokens; name another node, or a:f"),
    ],
)
def test_poolings_that_do_not_fit(value, pooling, prefix, message):
    with pytest.raises(TrunkError, match=message):
        pool(value, Node("a", pooling), prefix)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a:median", "x: pooling 'median', expected one of mean, max, flat, class, tokens"),
        ("a:", "x: pooling '', expected one of"),
        ("", "x: a node has no name"),
        ("a++b", "x: a node has no name"),
        ("a:max+a:max", "x: a node is named twice"),
        ("a+a:mean", "x: a node is named twice"),
    ],
)
def test_mistakes_in_a_name(spec, message):
    with pytest.raises(TrunkError, match=message):
        parse_nodes(spec, "x")


class Windows(nn.Module):
    """A transformer with windows as a second batch, and a map beside."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return {"map": x, "tokens": tokens, "windows": tokens.reshape(-1, 4, 3), "pair": (x, x)}


def test_the_usual_pooling_is_filled_in_and_named():
    network, layer, width = settle(Windows(), [Node("tokens"), Node("map"), Node("map", "max")], Prefix(1, True), 4)
    assert (layer, width) == ("tokens:class+map+map:max", 9)
    x = torch.randn(5, 3, 4, 4)
    assert torch.equal(network(x), torch.cat([x[:, :, 0, 0], x.mean((2, 3)), x.amax((2, 3))], 1))
    assert settle(Windows(), [Node("tokens")], Prefix(), 4)[1] == "tokens:tokens"


def test_values_that_are_not_one_a_patch_are_refused():
    with pytest.raises(TrunkError, match=r"node 'windows' gives \(8, 4, 3\) for 2 patches: not one value a patch"):
        settle(Windows(), [Node("windows", "tokens")], Prefix(), 4)
    with pytest.raises(TrunkError, match="node 'pair' gives tuple for 2 patches"):
        settle(Windows(), [Node("pair")], Prefix(), 4)
