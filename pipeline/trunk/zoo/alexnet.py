"""Trunks of the AlexNet family: of a card, with torchvision's weights, those of a file, or random ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.model import MAX_FC_WIDTH
from pipeline.trunk.alexnet import ALEXNET64, CONFIGS, AlexNet, AlexNetConfig, krizhevsky, make_config
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.outline import Outline
from pipeline.trunk.registry import DEFAULT_LAYER, TrunkRequest
from pipeline.trunk.state import assign_state, fit_state, strip_prefix
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


NEEDED = {
    "pool5": tuple(f"conv{i}" for i in range(1, 6)),
    "fc6": (*(f"conv{i}" for i in range(1, 6)), "fc6"),
    "fc7": (*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7"),
}
"""Modules that each layer needs."""


def _tensors_for(layer: str) -> frozenset[str]:
    return frozenset(f"{module}.{kind}" for module in NEEDED[layer] for kind in ("weight", "bias"))


def _trunk_of_file(
    card: TrunkCard, config: AlexNetConfig, prefix: str, state: dict[str, Tensor], request: TrunkRequest
) -> Trunk:
    """Make the trunk of a weights file, which holds what the layer needs and, if it does, the layers after it.

    Parameters
    ----------
    state : under the family's names, without the prefix
    """
    layer = request.layer or DEFAULT_LAYER
    if layer not in NEEDED:
        raise TrunkError(f"trunk {card.name!r} has no layer {layer!r}; it has {', '.join(NEEDED)}")
    with torch.device("meta"):
        network = AlexNet(config)
    own = {**network.state_dict(), **{k: v for k, v in state.items() if k in ("fc8.weight", "fc8.bias")}}
    modules = {name for name, _ in network.named_modules() if name} | {"fc8"}
    fitted = fit_state(state, own, modules, _tensors_for(layer), f"{card.name} from {request.weights or 'torchvision'}")
    finite = {name for name, value in fitted.tensors.items() if torch.isfinite(value.float()).all()}
    available = [name for name in NEEDED if name == layer or _tensors_for(name) <= finite]
    held = frozenset().union(*map(_tensors_for, available))
    assign_state(network, {k: v for k, v in fitted.tensors.items() if k in held})
    for name in ("fc6", "fc7"):
        if f"{name}.weight" not in held:
            setattr(network, name, None)  # the layer ends before it, and there are no weights to move to a device
    last = {k: state[f"fc8.{k}"].float() for k in ("weight", "bias") if f"fc8.{k}" in state}
    notes = ((f"prefix {prefix!r} of the names in the file stripped",) if prefix else ()) + fitted.notes
    card = card.model_copy(update={"layers": {name: config.widths[name] for name in available}})
    return Trunk(
        card,
        layer,
        config.widths[layer],
        digest_weights(fitted.identity),
        LayeredNetwork(network, layer, available).eval(),
        last if len(last) == 2 else None,
        notes=notes,
    )


def _read_named(request: TrunkRequest) -> tuple[str, dict[str, Tensor]]:
    """Read a weights file under the family's names: the prefix that was stripped, and the tensors."""
    assert request.weights is not None
    state = from_torchvision_names(read_weights(request.weights, request.name))
    return strip_prefix(state, _tensors_for("pool5"), f"{request.name} from {request.weights}")


def _fc_width(state: dict[str, Tensor], where: Path) -> int:
    """Read the width of FC6 and FC7 from the weights, within bounds: a network of it is made before any check."""
    shape = tuple(state["fc6.weight"].shape) if "fc6.weight" in state else (4096,)
    if not shape or not 1 <= shape[0] <= MAX_FC_WIDTH:
        raise TrunkError(f"{where}: fc6.weight: shape {shape}, expected 1 to {MAX_FC_WIDTH:,} rows")
    return shape[0]


def trunk_of_card(path: Path, card: TrunkCard, state: dict[str, Tensor], layer: str, digest: str) -> Trunk:
    """Make the trunk of a card of the family.

    Parameters
    ----------
    path : of the card
    state, digest : of its weights
    """
    config, weights = CONFIGS[card.architecture], path.with_name(str(card.weights_file))
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
    if not any(key.endswith("features.0.weight") for key in state):
        return state
    renamed = {}
    for key, tensor in state.items():
        stem, _, kind = key.rpartition(".")
        # A wrapper's prefix may stand before the name.
        found = next((old for old in names if stem == old or stem.endswith(f".{old}")), None)
        renamed[key if found is None else f"{stem.removesuffix(found)}{names[found]}.{kind}"] = tensor
    return renamed


def load_alexnet(request: TrunkRequest) -> Trunk:
    """Load torchvision's ``alexnet``, with downloaded weights or those of a file."""
    weights = request.weights
    config = CONFIGS["alexnet"]
    if weights is None:
        entry = import_torchvision().models.AlexNet_Weights.IMAGENET1K_V1
        state = from_torchvision_names(download_weights("alexnet", entry, download=request.download))
        prefix, trained = "", {"source": "ImageNet, torchvision's IMAGENET1K_V1"}
    else:
        prefix, state = _read_named(request)
        trained = {"source": f"as the file {weights.name} was"}
    card = TrunkCard(
        name="alexnet", architecture="alexnet", input_px=config.input_px, layers=config.widths, trained=trained
    )
    return _trunk_of_file(card, config, prefix, state, request)


def load_krizhevsky(request: TrunkRequest) -> Trunk:
    """Load weights of the paper's network from a file."""
    weights = request.weights
    if weights is None:
        raise MissingDataError(
            "trunk 'krizhevsky': no weights are shipped; give --weights FILE.safetensors, or a card that "
            "'pipeline pretrain --architecture krizhevsky' wrote"
        )
    prefix, state = _read_named(request)
    config = krizhevsky(224, _fc_width(state, weights))
    card = TrunkCard(
        name="krizhevsky",
        architecture="krizhevsky",
        input_px=224,
        layers=config.widths,
        trained={"source": f"as the file {weights.name} was"},
    )
    return _trunk_of_file(card, config, prefix, state, request)


def outline(request: TrunkRequest) -> Outline:
    """Describe a trunk of the family without its weights.

    Raises
    ------
    TrunkError
    """
    name, layer = request.name, request.layer or DEFAULT_LAYER
    config = CONFIGS[name]
    if layer not in config.widths:
        raise TrunkError(f"trunk {name!r} has no layer {layer!r}; it has {', '.join(config.widths)}")
    card = TrunkCard(name=name, architecture=name, input_px=config.input_px, layers=config.widths)
    return Outline(card, layer, config.widths[layer], config.widths)
