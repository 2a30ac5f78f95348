"""Trunks by their cards, of any architecture that a card can name; a new one is a branch in `load_card`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pipeline.io.digests import sha256_file
from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.messages import brief
from pipeline.trunk.alexnet import CONFIGS
from pipeline.trunk.card import read_card
from pipeline.trunk.fisher.trunk import ARCHITECTURE as FISHER
from pipeline.trunk.fisher.trunk import fisher_trunk
from pipeline.trunk.onnx.trunk import ARCHITECTURE as ONNX
from pipeline.trunk.onnx.trunk import onnx_trunk
from pipeline.trunk.registry import DEFAULT_LAYER, TrunkRequest
from pipeline.trunk.trunk import Trunk, read_weights
from pipeline.trunk.weight_files import refuse_lfs_pointer
from pipeline.trunk.zoo.alexnet import trunk_of_card


def load_embedded(request: TrunkRequest) -> Trunk:
    """Load a trunk whose card and weights are part of the package."""
    path = Path(str(files("pipeline.trunk") / "weights" / f"{request.name}.yaml"))
    return load_card(path, request.layer or DEFAULT_LAYER)


def load_card_file(request: TrunkRequest) -> Trunk:
    """Load a trunk by the path of its card, or of the weights next to the card."""
    path = Path(request.name)
    if path.suffix == ".safetensors":
        path = path.with_suffix(".yaml")
        if not path.is_file():
            raise TrunkError(f"trunk {request.name!r}: no card {path}; weights need one (YAML) next to them")
    return load_card(path, request.layer or DEFAULT_LAYER)


def load_card(path: Path, layer: str) -> Trunk:
    """Load the trunk of a card, after its weights' digest was compared.

    Raises
    ------
    MissingDataError, TrunkError
        No such card or weights, an unknown architecture, another or a damaged file.
    """
    card = read_card(path)
    known = (*CONFIGS, FISHER, ONNX)
    if card.architecture not in known or card.weights_file is None or card.weights_sha256 is None:
        raise TrunkError(f"{path}: expected an architecture of {', '.join(known)}, weights_file and weights_sha256")
    if Path(card.weights_file).name != card.weights_file:
        raise TrunkError(f"{path}: weights_file must be a plain name next to the card, got {brief(card.weights_file)}")
    weights = path.parent / card.weights_file
    state = {} if card.architecture == ONNX else read_weights(weights)
    if not weights.is_file():
        raise MissingDataError(f"{weights}: weights file not found")
    refuse_lfs_pointer(weights)
    digest = sha256_file(weights)
    if digest != card.weights_sha256:
        raise TrunkError(
            f"{weights}: digest {digest[:16]}..., the card says {card.weights_sha256[:16]}...: "
            "another or a damaged file"
        )
    if card.architecture == ONNX:
        return onnx_trunk(weights, card, layer, digest)
    if card.architecture == FISHER:
        return fisher_trunk(card, state, layer, digest)
    return trunk_of_card(path, card, state, layer, digest)
