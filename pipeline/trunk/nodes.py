"""Named nodes of any network, and the pooling of their values to one row per patch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.io.errors import TrunkError
from pipeline.trunk.attention import AttentionRecorder
from pipeline.trunk.state import record_used_tensors

POOLINGS = ("mean", "max", "flat", "class", "tokens")
"""Of a map: mean or max over places. Of tokens: the class token, or mean or max over patch tokens. Of any: flat."""


LAST = "last."
"""Begins the name of a node that counts a transformer's blocks from the end: ``last.1`` is the last one's output, each
through the network's final normalisation, as in DINO's linear protocol (Caron et al. 2021, appendix F)."""


@dataclass(frozen=True)
class Prefix:
    """The tokens before a transformer's patch tokens: how many, and whether the first is a class token."""

    n_tokens: int = 0
    class_token: bool = False


@dataclass(frozen=True)
class Node:
    """A node and its pooling; empty for the usual one: mean of a map, class token (or mean) of tokens."""

    name: str
    pooling: str = ""

    @property
    def label(self) -> str:
        """The node as a part of a layer's name; the mean of a map is not named."""
        return self.name if self.pooling in ("", "mean") else f"{self.name}:{self.pooling}"


def parse_nodes(spec: str, where: str) -> tuple[Node, ...]:
    """Parse ``a:max+b`` as nodes.

    >>> parse_nodes("features.12+classifier.2:max", "trunk 'x'")
    (Node(name='features.12', pooling=''), Node(name='classifier.2', pooling='max'))

    ``last:N``, ``last:N:tokens``, stands for the last N blocks of a transformer.

    >>> parse_nodes("last:2:tokens", "trunk 'x'")
    (Node(name='last.2', pooling='tokens'), Node(name='last.1', pooling='tokens'))
    """
    nodes = []
    for item in spec.split("+"):
        node, separator, pooling = item.partition(":")
        if node == "last" and separator:
            count, separator, pooling = pooling.partition(":")
            if not re.fullmatch(r"[1-9]\d{0,2}", count):
                raise TrunkError(f"{where}: got {item!r}, expected last:N, the number of blocks, such as last:4")
            names = [f"{LAST}{k}" for k in range(int(count), 0, -1)]
        else:
            names = [node]
        if separator and pooling not in POOLINGS:
            raise TrunkError(f"{where}: pooling {pooling!r}, expected one of {', '.join(POOLINGS)}")
        nodes += [Node(name, pooling) for name in names]
    if not all(node.name for node in nodes):
        raise TrunkError(f"{where}: a node has no name; expected NAME@NODE or NAME@NODE+NODE")
    if len({node.label for node in nodes}) < len(nodes):
        raise TrunkError(f"{where}: a node is named twice")
    return tuple(nodes)


def name_layer(nodes: Sequence[Node]) -> str:
    """Name the layer that joins nodes; the last N blocks, which file names could not hold one by one, as ``last:N``.

    >>> name_layer(parse_nodes("norm:class+last:3:tokens+last.2", ""))
    'norm:class+last:3:tokens+last.2'
    """
    labels, rest = [], list(nodes)
    while rest:
        node = rest[0]
        number = node.name.removeprefix(LAST)
        n = int(number) if node.name != number and number.isdecimal() else 0
        run = [replace(node, name=f"{LAST}{k}") for k in range(n, 0, -1)]
        whole = bool(run) and rest[:n] == run
        labels.append((replace(node, name=f"last:{n}") if whole else node).label)
        rest = rest[n if whole else 1 :]
    return "+".join(labels)


def find_block(name: str, blocks: Sequence[str], normalisation: str | None) -> str:
    """Find the block that a node ``last.K`` names.

    Parameters
    ----------
    blocks : names of a transformer's blocks, in the order in which they run; none for another network
    normalisation : name of the module behind the last block

    Raises
    ------
    TrunkError
    """
    number = name.removeprefix(LAST)
    if not blocks or normalisation is None:
        raise TrunkError(
            f"node {name}: last blocks are those of a plain vision transformer, each followed by one final "
            "normalisation, and this network has none; name nodes, joined by +"
        )
    if not re.fullmatch(r"[1-9]\d{0,2}", number) or int(number) > len(blocks):
        raise TrunkError(f"node {name}: expected {LAST}1 to {LAST}{len(blocks)}: the network has {len(blocks)} blocks")
    return blocks[-int(number)]


def pool(value: Tensor, node: Node, prefix: Prefix) -> Tensor:
    """Pool a node's value to one row per patch.

    Parameters
    ----------
    value : Tensor of shape (n, columns), (n, channels, side, side), (n, side, side, channels) or (n, tokens, columns)
        Whether a map's channels come first or last is seen from which two sides are equal, since patches are
        square; where all three are equal, they come first.

    Returns
    -------
    Tensor of shape (n, columns)

    Raises
    ------
    TrunkError
        The value is none of these, or the pooling is for another one.
    """
    shape = tuple(value.shape[1:])
    if node.pooling == "flat" or value.ndim == 2:
        return value.flatten(1)
    if value.ndim == 4 and node.pooling in ("", "mean", "max") and (shape[1] == shape[2] or shape[0] == shape[1]):
        places = (2, 3) if shape[1] == shape[2] else (1, 2)
        return value.amax(places) if node.pooling == "max" else value.mean(places)
    if value.ndim == 3 and node.pooling == "class" and prefix.class_token:
        return value[:, 0]
    if value.ndim == 3 and node.pooling in ("tokens", "max"):
        patches = value[:, prefix.n_tokens :]
        return patches.amax(1) if node.pooling == "max" else patches.mean(1)
    kind = {3: "tokens", 4: "a map"}.get(value.ndim, "neither a vector, a map nor tokens")
    fitting = {3: ("class", "tokens", "max") if prefix.class_token else ("tokens", "max"), 4: ("mean", "max")}.get(
        value.ndim, ()
    )
    choices = ", ".join(f"{node.name}:{p}" for p in (*fitting, "flat"))
    raise TrunkError(f"node {node.label!r} gives {shape} a patch: {kind}; name another node, or {choices}")


class NodesNetwork(nn.Module):
    """Network that joins the rows of several nodes.

    Parameters
    ----------
    extractor : turns a Tensor (n, 3, px, px) into a dict of node name -> Tensor
    used : names of the extractor's tensors that the nodes need
    """

    def __init__(
        self, extractor: nn.Module, nodes: Sequence[Node], prefix: Prefix, used: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.nodes = tuple(nodes)
        self.prefix = prefix
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.extractor(x), len(x))

    def join(self, found: Mapping[str, Any], n_patches: int) -> Tensor:
        """Join the rows of `n_patches` patches from the extractor's values."""
        rows = []
        for node in self.nodes:
            value = found[node.name]
            if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != n_patches:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise TrunkError(f"node {node.name!r} gives {got} for {n_patches} patches: not one value a patch")
            rows.append(pool(value, node, self.prefix))
        return torch.cat(rows, 1)


def settle_node(node: Node, value: Any, prefix: Prefix) -> Node:
    """Fill in the usual pooling of a node by its value."""
    if not node.pooling and isinstance(value, Tensor) and value.ndim == 3:
        return replace(node, pooling="class" if prefix.class_token else "tokens")
    return node


def check_is_map(node: Node, value: Any, in_attention: Callable[[Any], bool]) -> None:
    """Refuse to pool over places what has none.

    Parameters
    ----------
    in_attention : tells which values are inside of attention

    Raises
    ------
    TrunkError
    """
    if node.pooling != "flat" and isinstance(value, Tensor) and value.ndim == 4 and in_attention(value):
        raise TrunkError(
            f"node {node.label!r} gives {tuple(value.shape[1:])} a patch: what attention multiplies, head by head, and "
            f"no map; name another node, or {node.name}:flat"
        )


def widths_of(values: Mapping[str, Any], prefix: Prefix, in_attention: Callable[[Any], bool]) -> dict[str, int]:
    """Columns of every node whose values for two patches can be made rows, by the node's label.

    Parameters
    ----------
    in_attention : tells which values are inside of attention
    """
    widths = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.ndim >= 2 and len(value) == 2:
            node = settle_node(Node(name), value, prefix)
            try:
                check_is_map(node, value, in_attention)
                widths[node.label] = pool(value, node, prefix).shape[1]
            except TrunkError:
                continue
    return widths


@torch.inference_mode()
def settle(extractor: nn.Module, nodes: Sequence[Node], prefix: Prefix, px: int) -> tuple[NodesNetwork, str, int]:
    """Make the network that returns rows, with the usual poolings filled in; its layer's name and columns.

    The extractor is run once, on two black patches, on the device of its weights, which may be the meta device.
    """
    if next(extractor.parameters(), None) is None:
        raise TrunkError(f"no weights before {', '.join(node.name for node in nodes)}: this is the patch itself")
    device = next(extractor.parameters()).device
    patches = torch.zeros(2, 3, px, px, device=device)
    with AttentionRecorder(patches) as recorder:
        values, used = record_used_tensors(extractor, lambda: extractor(patches))
    found: Mapping[str, Any] = values
    never_run = [node.name for node in nodes if node.name not in found]
    if never_run:
        raise TrunkError(f"node {', '.join(never_run)} is not run for a patch; name another node")
    for node in nodes:
        check_is_map(node, found[node.name], recorder.values())
    settled = [settle_node(node, found[node.name], prefix) for node in nodes]
    network = NodesNetwork(extractor, settled, prefix, used).eval()
    return network, name_layer(settled), network.join(found, 2).shape[1]
