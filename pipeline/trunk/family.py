"""Trunks of the AlexNet family: from a card, from torchvision's weights, from a file, or random."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.io.digests import sha256_file
from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.messages import brief
from pipeline.io.model import MAX_FC_WIDTH
from pipeline.trunk.architectures import ALEXNET64, CONFIGS, AlexNet, AlexNetConfig, krizhevsky, make_config
from pipeline.trunk.card import TrunkCard, read_card
from pipeline.trunk.fisher.trunk import ARCHITECTURE as FISHER
from pipeline.trunk.fisher.trunk import fisher_trunk
from pipeline.trunk.sources import DEFAULT_LAYER, TrunkRequest
from pipeline.trunk.trunk import LayeredNetwork, Trunk, digest_weights, download_weights, load_state, read_weights
from pipeline.trunk.zoo.torchvision_import import import_torchvision

CAFFE_FORMS = ("bvlc_alexnet", "caffenet")


def _family_trunk(
    card: TrunkCard, config: AlexNetConfig, state: dict[str, Tensor], layer: str, digest: str = ""
) -> Trunk:
    if layer not in config.widths:
        raise TrunkError(f"trunk {card.name!r} has no layer {layer!r}; it has {', '.join(config.widths)}")
    with torch.device("meta"):  # names and shapes only: other weights are refused before 240 MB are allocated
        network = AlexNet(config)
    # Pre-trained weights include FC8; the trunk ends at FC7, and carries FC8 unchanged.
    load_state(network, {k: v for k, v in state.items() if not k.startswith("fc8.")}, card.name)
    last = {k: state[f"fc8.{k}"].float() for k in ("weight", "bias") if f"fc8.{k}" in state}
    classifier = last if len(last) == 2 else None
    return Trunk(
        card,
        layer,
        config.widths[layer],
        digest or digest_weights(state),
        LayeredNetwork(network, layer).eval(),
        classifier,
    )


def _fc_width(state: dict[str, Tensor], where: Path) -> int:
    """Read the width of FC6 and FC7 from the weights, within bounds: a network of it is made before any check."""
    shape = tuple(state["fc6.weight"].shape) if "fc6.weight" in state else (4096,)
    if not shape or not 1 <= shape[0] <= MAX_FC_WIDTH:
        raise TrunkError(f"{where}: fc6.weight: shape {shape}, expected 1 to {MAX_FC_WIDTH:,} rows")
    return shape[0]


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
            raise TrunkError(f"trunk {request.name!r}: no card {path}; weights need one (YAML) beside them")
    return load_card(path, request.layer or DEFAULT_LAYER)


def load_card(path: Path, layer: str) -> Trunk:
    card = read_card(path)
    known = (*CONFIGS, FISHER)
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
    config = CONFIGS[card.architecture]
    if card.architecture == "krizhevsky":
        if card.input_px not in (224, 227):
            raise TrunkError(f"{path}: input_px of krizhevsky is 224 or 227, got {card.input_px}")
        config = krizhevsky(card.input_px, _fc_width(state, weights))
    elif card.architecture in CAFFE_FORMS:
        config = make_config(card.architecture, _fc_width(state, weights))
    elif card.architecture == "alexnet64":
        width = card.layers.get("fc6", config.fc_widths[0])
        if not 1 <= width <= MAX_FC_WIDTH:
            raise TrunkError(f"{path}: layers.fc6 must be 1 to {MAX_FC_WIDTH:,} wide, got {width:,}")
        config = make_config("alexnet64", width)
    if card.input_px != config.input_px:
        raise TrunkError(f"{path}: input_px of {card.architecture} is {config.input_px}, got {card.input_px}")
    return _family_trunk(card, config, state, layer, digest)


def _scale_like_he(network: AlexNet) -> None:
    """Initialise as He et al.: with torch's default, activations fade from layer to layer."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None  # a plain network: it has no batch normalisation
            nn.init.zeros_(module.bias)


def load_random(request: TrunkRequest) -> Trunk:
    """Make `alexnet64` with random weights, a baseline."""
    seed = request.seed
    card = TrunkCard(
        name=f"random{seed}",
        architecture="alexnet64",
        input_px=ALEXNET64.input_px,
        layers=ALEXNET64.widths,
        trained={"source": f"nothing: random weights from seed {seed}"},
    )
    # The state of the caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AlexNet(ALEXNET64)
        _scale_like_he(network)
        return _family_trunk(card, ALEXNET64, network.state_dict(), request.layer or DEFAULT_LAYER)


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


def load_alexnet(request: TrunkRequest) -> Trunk:
    """Load torchvision's ``alexnet``, with downloaded weights or those of a file."""
    weights = request.weights
    config = CONFIGS["alexnet"]
    if weights is None:
        enum = import_torchvision().models.AlexNet_Weights.IMAGENET1K_V1
        state = download_weights("alexnet", lambda: enum.get_state_dict(progress=False, check_hash=True))
        trained = {"source": "ImageNet, torchvision's IMAGENET1K_V1"}
    else:
        state, trained = read_weights(weights), {"source": f"as the file {weights.name} was"}
    if "features.0.weight" in state:
        state = from_torchvision_names(state)
    card = TrunkCard(
        name="alexnet", architecture="alexnet", input_px=config.input_px, layers=config.widths, trained=trained
    )
    return _family_trunk(card, config, state, request.layer or DEFAULT_LAYER)


def load_krizhevsky(request: TrunkRequest) -> Trunk:
    """Load weights of the paper's network from a file."""
    weights = request.weights
    if weights is None:
        raise MissingDataError(
            "trunk 'krizhevsky': no weights are shipped; give --weights FILE.safetensors, or a card that "
            "'pipeline pretrain --architecture krizhevsky' wrote"
        )
    state = read_weights(weights)
    config = krizhevsky(224, _fc_width(state, weights))
    card = TrunkCard(
        name="krizhevsky",
        architecture="krizhevsky",
        input_px=224,
        layers=config.widths,
        trained={"source": f"as the file {weights.name} was"},
    )
    return _family_trunk(card, config, state, request.layer or DEFAULT_LAYER)
