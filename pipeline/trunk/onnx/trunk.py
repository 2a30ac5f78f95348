"""Trunks whose network is an ONNX file beside their card: how one is made, and how it is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from pipeline.io.atomic import write_atomic
from pipeline.io.digests import sha256_file
from pipeline.io.errors import TrunkError
from pipeline.trunk.card import Preprocessing, TrunkCard
from pipeline.trunk.onnx.network import cut, nodes_of, read_model, reshaped, stated_px
from pipeline.trunk.trunk import Trunk

ARCHITECTURE = "onnx"
TOLERANCE = 1e-3
"""Largest difference of a patch's row alone from its row beside another patch, as a share of its norm."""
LISTED = 30


def onnx_trunk(path: Path, card: TrunkCard, layer: str, digest: str) -> Trunk:
    """Load the trunk of a card.

    Parameters
    ----------
    path : of the ONNX file, whose digest was checked
    layer : names of nodes and their poolings, joined by ``+``

    Raises
    ------
    MissingDataError, TrunkError
    """
    network = cut(read_model(path), layer, card.input_px, path)
    return Trunk(card, layer, network.width, digest, network.eval())


def import_onnx(
    path: Path, out: Path, name: str, layers: Sequence[str], pixels: Preprocessing, px: int | None = None
) -> TrunkCard:
    """Copy an ONNX file into a folder, and write its card.

    Parameters
    ----------
    out : folder that gets ``<name>.onnx`` and ``<name>.yaml``
    layers : that the card lists, each names of nodes joined by ``+``; others can be asked for, too
    pixels : what the network takes; no file says it
    px : side of a patch; None: as the file states

    Raises
    ------
    MissingDataError, TrunkError
        No layer is named; a row depends on the other patches of its batch; see also `read_model` and `cut`.
    """
    model = read_model(path)
    stated = stated_px(model)
    if px is not None and stated not in (None, px):
        raise TrunkError(f"{path}: takes patches of {stated} px, got --px {px}; leave --px out")
    px = px or stated
    if px is None:
        raise TrunkError(f"{path}: does not say how large its patches are; give --px, such as --px 224")
    if not layers:
        nodes = list(nodes_of(reshaped(model, px, path)).items())
        listed = "\n".join(f"  {label}  {width:,}" for label, width in nodes[-LISTED:])
        raise TrunkError(
            f"{path}: which activations are kept? give --layer NODE (mean of a map), NODE:max or NODE:flat, NODE+NODE "
            f"to join; the last {min(LISTED, len(nodes))} of {len(nodes)} and their columns:\n{listed}"
        )
    widths = {layer: _check_rows(path, model, layer, px) for layer in layers}
    out.mkdir(parents=True, exist_ok=True)
    target, partial = out / f"{name}.onnx", out / f"{name}.onnx.partial"
    shutil.copyfile(path, partial)
    partial.replace(target)
    card = TrunkCard(
        name=name,
        architecture=ARCHITECTURE,
        input_px=px,
        layers=widths,
        preprocessing=pixels,
        weights_file=target.name,
        weights_sha256=sha256_file(target),
        trained={"source": f"imported from {path.name}"},
    )
    write_atomic(out / f"{name}.yaml", yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False).encode())
    return card


def _check_rows(path: Path, model: object, layer: str, px: int) -> int:
    """Run a layer on two patches and on one: return its columns, or refuse rows that are no patch's own."""
    network = cut(model, layer, px, path)
    patches = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(0))
    together, alone = network(patches), network(patches[:1])
    if not bool(torch.isfinite(together).all()):
        raise TrunkError(f"{path}: layer {layer} gives values that are not finite")
    apart, norm = (together[0] - alone[0]).norm(), alone[0].norm()
    if float(apart) > TOLERANCE * float(norm):
        raise TrunkError(f"{path}: layer {layer}: a patch's row depends on the other patches of its batch")
    if torch.equal(together[0], together[1]):
        raise TrunkError(f"{path}: layer {layer} gives the same row for any patch")
    return network.width
