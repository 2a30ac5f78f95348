"""Patch tokens of vision transformers over tiles of a whole picture, pooled over the tokens of each window.

Attention looks at a whole tile. So rows say more of what is around a window than those of patches, and no row depends
on anything outside of its tile. A tile has at most `MOST` times the side of a patch: attention grows with the fourth
power of the side, and positions are resampled, as another input size is (`trunk_px`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.io.errors import TrunkError
from pipeline.trunk.dense_maps import Normalise, cells_of, describe_rounding, mirror, pool_windows
from pipeline.trunk.nodes import NodesNetwork
from pipeline.trunk.openvino_network import OpenVinoMaps
from pipeline.trunk.trunk import Trunk

MOST = 2
"""Side of the largest tile, in sides of a patch."""


class TokenGrids(nn.Module):
    """Patch tokens of each node of a transformer as maps: (n, 3, px, px) to a tuple of (n, channels, side, side).

    Raises
    ------
    TrunkError
        A node gives no tokens in a square, or is not pooled over them.
    """

    def __init__(self, network: NodesNetwork, px: int) -> None:
        super().__init__()
        self.network = network
        weights = next(network.parameters())
        with torch.inference_mode():
            found = network.extractor(torch.zeros(1, 3, px, px, device=weights.device, dtype=weights.dtype))
        self.sides = []
        for node in network.nodes:
            value = found[node.name]
            if node.pooling == "class":
                raise TrunkError(
                    f"node {node.label}: a class token stands for the whole picture; name patch tokens, such as "
                    f"{node.name}:tokens"
                )
            if value.ndim != 3 or node.pooling not in ("tokens", "max"):
                raise TrunkError(
                    f"node {node.label}: gives no patch tokens, or they are not pooled; name such a node, such as "
                    "norm:tokens (timm) or encoder.ln:tokens (torchvision)"
                )
            side = math.isqrt(max(0, value.shape[1] - network.prefix.n_tokens))
            if side**2 + network.prefix.n_tokens != value.shape[1] or not side or px % side:
                raise TrunkError(f"node {node.label}: its {value.shape[1]} tokens are no square of {px} pixels")
            self.sides.append(side)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found, first = self.network.extractor(x), self.network.prefix.n_tokens
        return tuple(
            found[node.name][:, first:].transpose(1, 2).unflatten(2, (side, side))
            for node, side in zip(self.network.nodes, self.sides, strict=True)
        )


class TokenMaps:
    """Tokens of tiles.

    Raises
    ------
    TrunkError
        The network has no tokens in a square, or cannot be made for another size.
    """

    def __init__(self, trunk: Trunk) -> None:
        assert isinstance(trunk.network, NodesNetwork)
        if trunk.resize is None:
            raise TrunkError("the network cannot be made for another input size")
        if trunk.card.architecture.rpartition("/")[2].startswith("hiera"):
            raise TrunkError("its tokens do not stand row by row; use method: patches")
        self.layer, self.px, self._resize = trunk.layer, trunk.card.input_px, trunk.resize
        self.nodes = trunk.network.nodes
        grids = TokenGrids(trunk.network, self.px)
        if len(set(grids.sides)) > 1:
            raise TrunkError("its nodes have tokens of several sizes")
        self.stride = self.px // grids.sides[0]
        self._own = grids
        try:
            self._resize(self.px + self.stride)
        except (TrunkError, RuntimeError) as error:
            raise TrunkError(f"the network cannot be made for another input size: {error}") from error
        self._runs: dict[int, Callable[[Tensor], Sequence[Tensor]]] = {}
        self._place: Callable[[TokenGrids, int], Callable[[Tensor], Sequence[Tensor]]] = lambda grids, px: grids
        self.fields: Mapping[str, str] = {
            "rounding": describe_rounding([self.stride]),
            "around": f"a tile of the picture's short side, at most {MOST * self.px} pixels; the picture mirrored at "
            f"its right and lower edge to multiples of {self.stride}",
        }

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        def move(grids: TokenGrids, px: int) -> Callable[[Tensor], Sequence[Tensor]]:
            # torch's types of `to` leave its memory_format out.
            return grids.to(  # type: ignore[call-overload]
                device=device, dtype=dtype, memory_format=torch.channels_last
            )

        self._place = move

    def use_openvino(self, precision: str, dtype: torch.dtype) -> None:
        """Run the tokens of tiles by OpenVINO."""
        self._place = lambda grids, px: OpenVinoMaps(grids.float(), px, None, precision)

    def _run(self, px: int) -> Callable[[Tensor], Sequence[Tensor]]:
        """The network for tiles of a size, which is made when it is first needed."""
        if px not in self._runs:
            grids = self._own
            if px != self.px:
                resized = self._resize(px)
                assert isinstance(resized, NodesNetwork)
                grids = TokenGrids(resized, px)
                share_tensors(grids, self._own)
            self._runs[px] = self._place(grids, px)
        return self._runs[px]

    def read(self, pixels: Tensor, x: Tensor, y: Tensor, normalise: Normalise) -> Tensor:
        stride = self.stride
        tokens = [-(-side // stride) for side in pixels.shape[:2]]
        tile = min(min(tokens), MOST * self.px // stride)
        picture = mirror(pixels, tokens[0] * stride, tokens[1] * stride)
        side = self.px // stride
        left, top = (cells_of(edge, stride, n - side) for edge, n in ((x, tokens[1]), (y, tokens[0])))
        tile_x, tile_y = (tile_starts(cell, n, tile, side) for cell, n in ((left, tokens[1]), (top, tokens[0])))
        rows: Tensor | None = None
        run = self._run(tile * stride)
        for at_y, at_x in torch.unique(torch.stack([tile_y, tile_x], 1), dim=0).tolist():
            here = (tile_y == at_y) & (tile_x == at_x)
            of_tile = picture[at_y * stride : (at_y + tile) * stride, at_x * stride : (at_x + tile) * stride]
            # Tiles one by one, so that the bits of a row depend on no other tile.
            inputs = normalise(of_tile.contiguous()[None])
            places = left[here] - at_x, top[here] - at_y
            found = torch.cat(
                [
                    pool_windows("max" if node.pooling == "max" else "mean", cells, side, *places).to(inputs.dtype)
                    for node, cells in zip(self.nodes, run(inputs), strict=True)
                ],
                1,
            )
            rows = found.new_empty(len(x), found.shape[1]) if rows is None else rows
            rows[here] = found
        assert rows is not None  # there is no picture without windows
        return rows

    def finish(self, vectors: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        return {self.layer: vectors}


def tile_starts(cells: Tensor, n: int, tile: int, side: int) -> Tensor:
    """Return the first token of the tile that each window lies in: tiles stand at fixed places, whatever is asked for.

    Parameters
    ----------
    cells : first tokens of windows
    n, tile, side : tokens of the picture, of a tile and of a window along this side

    >>> tile_starts(torch.tensor([0, 3, 14, 15, 21]), 35, 28, 14).tolist()
    [0, 0, 0, 7, 7]
    """
    step = tile - side + 1
    return (torch.div(cells, step, rounding_mode="floor") * step).clamp(max=n - tile)


def share_tensors(of: nn.Module, other: nn.Module) -> None:
    """Let a module hold the tensors of another one that has equal ones of the same name, in place of its own."""
    theirs = dict(other.named_parameters())
    for name, value in list(of.named_parameters()):
        same = theirs.get(name)
        if same is not None and same.shape == value.shape and torch.equal(same, value.to(same)):
            owner, _, attribute = name.rpartition(".")
            setattr(of.get_submodule(owner), attribute, same)
