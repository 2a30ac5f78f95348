"""Trunks of the AlexNet family: from a card, from torchvision's weights, from a file, or random."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.io.digests import sha256_bytes, sha256_file
from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.messages import brief
from pipeline.io.model import MAX_FC_WIDTH
from pipeline.trunk.architectures import ALEXNET64, FORMS, AlexNet, AlexNetForm, krizhevsky, make_form
from pipeline.trunk.card import TrunkCard, read_card
from pipeline.trunk.fisher.trunk import ARCHITECTURE as FISHER
from pipeline.trunk.fisher.trunk import fisher_trunk
from pipeline.trunk.trunk import LayeredNetwork, Trunk, download_weights, load_state, read_weights
from pipeline.trunk.zoo.torchvision_import import import_torchvision

CAFFE_FORMS = ("bvlc_alexnet", "caffenet")


def _family_trunk(card: TrunkCard, form: AlexNetForm, state: dict[str, Tensor], layer: str, digest: str = "") -> Trunk:
    if layer not in form.widths:
        raise TrunkError(f"trunk {card.name!r} has no layer {layer!r}; it has {', '.join(form.widths)}")
    with torch.device("meta"):  # names and shapes only: other weights are refused before 240 MB are taken
        network = AlexNet(form)
    # FC8 travels with pre-trained weights; the trunk ends at FC7, and hands FC8 on as it is.
    load_state(network, {k: v for k, v in state.items() if not k.startswith("fc8.")}, card.name)
    last = {k: state[f"fc8.{k}"].float() for k in ("weight", "bias") if f"fc8.{k}" in state}
    classifier = last if len(last) == 2 else None
    digest = digest or sha256_bytes(save({k: v.contiguous() for k, v in state.items()}))
    return Trunk(card, layer, form.widths[layer], digest, LayeredNetwork(network, layer).eval(), classifier)


def _fc_width(state: dict[str, Tensor], where: Path) -> int:
    """Width of FC6 and FC7 of Krizhevsky's form, as the weights have it; a network of it is made before any check."""
    shape = tuple(state["fc6.weight"].shape) if "fc6.weight" in state else (4096,)
    if not shape or not 1 <= shape[0] <= MAX_FC_WIDTH:
        raise TrunkError(f"{where}: fc6.weight: shape {shape}, expected 1 to {MAX_FC_WIDTH:,} rows")
    return shape[0]


def load_card(path: Path, layer: str) -> Trunk:
    card = read_card(path)
    known = (*FORMS, FISHER)
    if card.architecture not in known or card.weights_file is None or card.weights_sha256 is None:
        raise TrunkError(f"{path}: expected an architecture of {', '.join(known)}, weights_file and weights_sha256")
    if Path(card.weights_file).name != card.weights_file:
        raise TrunkError(f"{path}: weights_file must be a plain name beside the card, got {brief(card.weights_file)}")
    weights = path.parent / card.weights_file
    state = read_weights(weights)
    digest = sha256_file(weights)
    if digest != card.weights_sha256:
        raise TrunkError(
            f"{weights}: digest {digest[:16]}..., the card says {card.weights_sha256[:16]}...: "
            "another or a damaged file"
        )
    if card.architecture == FISHER:
        return fisher_trunk(card, state, layer, digest)
    form = FORMS[card.architecture]
    if card.architecture == "krizhevsky":
        if card.input_px not in (224, 227):
            raise TrunkError(f"{path}: input_px of krizhevsky is 224 or 227, got {card.input_px}")
        form = krizhevsky(card.input_px, _fc_width(state, weights))
    elif card.architecture in CAFFE_FORMS:
        form = make_form(card.architecture, _fc_width(state, weights))
    elif card.architecture == "alexnet64":
        width = card.layers.get("fc6", form.fc_widths[0])
        if not 1 <= width <= MAX_FC_WIDTH:
            raise TrunkError(f"{path}: layers.fc6 must be 1 to {MAX_FC_WIDTH:,} wide, got {width:,}")
        form = make_form("alexnet64", width)
    if card.input_px != form.input_px:
        raise TrunkError(f"{path}: input_px of {card.architecture} is {form.input_px}, got {card.input_px}")
    return _family_trunk(card, form, state, layer, digest)


def _scale_like_he(network: AlexNet) -> None:
    """He initialisation: torch's default lets activations fade from layer to layer."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None  # a plain network: it has no batch normalisation
            nn.init.zeros_(module.bias)


def load_random(layer: str, seed: int) -> Trunk:
    """`alexnet64` with random weights: a baseline, named for what it is."""
    card = TrunkCard(
        name=f"random{seed}",
        architecture="alexnet64",
        input_px=ALEXNET64.input_px,
        layers=ALEXNET64.widths,
        trained={"source": f"nothing: random weights from seed {seed}"},
    )
    # The caller's generator goes on as if nothing had been drawn.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AlexNet(ALEXNET64)
        _scale_like_he(network)
        return _family_trunk(card, ALEXNET64, network.state_dict(), layer)


def from_torchvision_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of torchvision's ``alexnet`` to the family's names."""
    names = {
        "features.0": "conv1",
        "features.3": "conv2",
        "features.6": "conv3",
        "features.8": "conv4",
        "features.10": "conv5",
        "classifier.1": "fc6",
        "classifier.4": "fc7",
        "classifier.6": "fc8",
    }
    renamed = {}
    for key, tensor in state.items():
        stem, _, kind = key.rpartition(".")
        renamed[f"{names.get(stem, stem)}.{kind}"] = tensor
    return renamed


def load_alexnet(layer: str, weights: Path | None) -> Trunk:
    form = FORMS["alexnet"]
    if weights is None:
        enum = import_torchvision().models.AlexNet_Weights.IMAGENET1K_V1
        state = download_weights("alexnet", lambda: enum.get_state_dict(progress=False, check_hash=True))
        trained = {"source": "ImageNet, torchvision's IMAGENET1K_V1"}
    else:
        state, trained = read_weights(weights), {"source": f"as the file {weights.name} was"}
    if "features.0.weight" in state:
        state = from_torchvision_names(state)
    card = TrunkCard(
        name="alexnet", architecture="alexnet", input_px=form.input_px, layers=form.widths, trained=trained
    )
    return _family_trunk(card, form, state, layer)


def load_krizhevsky(layer: str, weights: Path | None) -> Trunk:
    if weights is None:
        raise MissingDataError(
            "trunk 'krizhevsky': no weights are shipped; give --weights FILE.safetensors, or a card that "
            "'pipeline pretrain --architecture krizhevsky' wrote"
        )
    state = read_weights(weights)
    form = krizhevsky(224, _fc_width(state, weights))
    card = TrunkCard(
        name="krizhevsky",
        architecture="krizhevsky",
        input_px=224,
        layers=form.widths,
        trained={"source": f"as the file {weights.name} was"},
    )
    return _family_trunk(card, form, state, layer)
