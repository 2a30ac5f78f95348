"""Trunks by name: ``alexnet64``, ``random``, ``alexnet``, ``krizhevsky``, ``torchvision/NAME@LAYER``, a path.

`resolve_trunk` answers cheaply, from card and weights file, what a trunk is; `load_trunk` makes it
run. What decides its activations is in the `TrunkCard` and the digest of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.errors import MissingDataError, TrunkError, enumerate_problems
from pipeline.files import sha256_bytes, sha256_file
from pipeline.settings import explain_validation
from pipeline.trunk.architectures import ALEXNET64, FORMS, AlexNet, AlexNetForm, krizhevsky
from pipeline.trunk.card import Preprocessing, TrunkCard
from pipeline.trunk.torchvision_import import import_torchvision

EMBEDDED = ("alexnet64",)
NAMES = ("alexnet64", "random", "alexnet", "krizhevsky", "torchvision/NAME@LAYER", "PATH.yaml")
DEFAULT_LAYER = "fc7"
TORCHVISION_INPUT_PX = 224
# What "the features" are when no @LAYER is given, by the start of the model's name. The rest takes
# ``flatten``, the input of the one linear layer that most classifiers end in.
TORCHVISION_LAYERS = {
    "squeezenet": "features.12+classifier.2",
    "alexnet": "classifier.5",
    "vgg": "classifier.4",
}


@dataclass(frozen=True)
class Trunk:
    """A frozen network, ready to run.

    Attributes
    ----------
    card : what travels with the weights
    layer : the one layer whose activations it gives
    width : columns of that layer
    weights_sha256 : digest of the weights as they are used
    network : takes a normalised float Tensor (n, 3, px, px), gives a Tensor (n, width)
    """

    card: TrunkCard
    layer: str
    width: int
    weights_sha256: str
    network: nn.Module

    @property
    def slug(self) -> str:
        """The trunk's name as a part of a file name."""
        return re.sub(r"[^A-Za-z0-9_.+]+", "-", self.card.name)


def load_trunk(name: str, layer: str | None = None, weights: Path | None = None, seed: int = 0) -> Trunk:
    """Make a trunk from its name.

    Parameters
    ----------
    name : one of ``NAMES``
    layer : ``pool5``, ``fc6`` or ``fc7`` of the AlexNet family; for torchvision it is in the name
    weights : a safetensors file, for ``torchvision/...``, ``alexnet`` and ``krizhevsky``
    seed : of the weights of ``random``

    Raises
    ------
    TrunkError
        Unknown name or layer, weights of the wrong shape, digest or form.
    MissingDataError
        Weights that are neither at hand nor could be downloaded.
    """
    if name.startswith("torchvision/"):
        return _load_torchvision(name, layer, weights)
    layer = layer or DEFAULT_LAYER
    if name in EMBEDDED:
        if weights is not None:
            raise TrunkError(f"trunk {name!r} has weights of its own; give a path to a card instead of --weights")
        return _load_card(Path(str(files("pipeline.trunk") / "weights" / f"{name}.yaml")), layer)
    if name == "random":
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
    if name == "alexnet":
        return _load_alexnet(layer, weights)
    if name == "krizhevsky":
        return _load_krizhevsky(layer, weights)
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _load_card(path, layer)
    if path.suffix == ".safetensors" and path.with_suffix(".yaml").is_file():
        return _load_card(path.with_suffix(".yaml"), layer)
    if path.suffix in (".pt", ".pth", ".pkl", ".bin", ".tar"):
        raise TrunkError(
            f"trunk {name!r}: pickled weights are never loaded; expected safetensors with a card (YAML) beside it"
        )
    raise TrunkError(f"trunk {name!r}: unknown; expected one of {', '.join(NAMES)}")


def _scale_like_he(network: AlexNet) -> None:
    """He initialisation: torch's default lets activations fade from layer to layer."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises
    ------
    MissingDataError, TrunkError
        No such file; a pickle or otherwise no safetensors file.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: weights file not found")
    with open(path, "rb") as stream:
        head = stream.read(9)
    # A safetensors file begins with the length of its header, which can look like a pickle's start,
    # and then the header's brace.
    pickled = head[:2] in (b"PK", b"\x80\x02", b"\x80\x04") and head[8:] != b"{"
    if pickled or path.suffix in (".pt", ".pth", ".pkl", ".bin"):
        raise TrunkError(
            f"{path}: pickled weights are never loaded, since a pickle can run any code; expected safetensors"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise TrunkError(f"{path}: not a safetensors file: {error}") from error


def load_state(network: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load weights into a network after comparing every name and shape.

    Raises
    ------
    TrunkError
        All tensors that are missing, unknown, of another shape, or not finite.
    """
    own = network.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    problems = [
        f"{k}: missing, expected shape {tuple(own[k].shape)}" for k in own if k not in state and k not in optional
    ]
    problems += [f"{k}: unknown" for k in state if k not in own]
    for key in own:
        if key in state and state[key].shape != own[key].shape:
            problems.append(f"{key}: shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}")
        elif key in state and not torch.isfinite(state[key].float()).all():
            problems.append(f"{key}: holds values that are not finite")
    if problems:
        raise TrunkError(f"{where}: weights do not fit\n{enumerate_problems(problems)}")
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=False)


class _OneLayer(nn.Module):
    """A member of the AlexNet family that gives one layer."""

    def __init__(self, network: AlexNet, layer: str) -> None:
        super().__init__()
        self.network = network
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, (self.layer,))[self.layer]


def _family_trunk(card: TrunkCard, form: AlexNetForm, state: dict[str, Tensor], layer: str, digest: str = "") -> Trunk:
    if layer not in form.widths:
        raise TrunkError(f"trunk {card.name!r} has no layer {layer!r}; it has {', '.join(form.widths)}")
    network = AlexNet(form)
    # FC8 travels with pre-trained weights so that their accuracy can be checked; the trunk ends at FC7.
    load_state(network, {k: v for k, v in state.items() if not k.startswith("fc8.")}, card.name)
    digest = digest or sha256_bytes(save({k: v.contiguous() for k, v in state.items()}))
    return Trunk(card, layer, form.widths[layer], digest, _OneLayer(network, layer).eval())


def _load_card(path: Path, layer: str) -> Trunk:
    if not path.is_file():
        raise MissingDataError(f"{path}: no such card; known trunks: {', '.join(NAMES)}")
    try:
        card = TrunkCard.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrunkError(f"{path}: not valid YAML: {error}") from error
    except ValidationError as error:
        raise TrunkError(f"{path}: not a trunk's card\n{enumerate_problems(explain_validation(error))}") from error
    if card.architecture not in FORMS or card.weights_file is None or card.weights_sha256 is None:
        raise TrunkError(f"{path}: expected an architecture of {', '.join(FORMS)}, weights_file and weights_sha256")
    if Path(card.weights_file).name != card.weights_file:
        raise TrunkError(f"{path}: weights_file must be a plain name beside the card, got {card.weights_file!r}")
    weights = path.parent / card.weights_file
    state = read_weights(weights)
    digest = sha256_file(weights)
    if digest != card.weights_sha256:
        raise TrunkError(
            f"{weights}: digest {digest[:16]}..., the card says {card.weights_sha256[:16]}...: "
            "another or a damaged file"
        )
    form = FORMS[card.architecture]
    if card.architecture == "krizhevsky":
        form = krizhevsky(card.input_px, card.layers.get("fc6", 4096))
    return _family_trunk(card, form, state, layer, digest)


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


def _torchvision_weights(name: str, fetch: Callable[[], Any]) -> Any:
    """Weights through torchvision's own API, which checks the digest in the file's name."""
    try:
        return fetch()
    except (OSError, RuntimeError) as error:
        raise MissingDataError(
            f"trunk {name!r}: torchvision's weights are not at hand and could not be downloaded: {error}\n"
            "ways on: connect once (they are kept in torch's cache), or --weights FILE.safetensors, "
            "or the embedded trunk alexnet64"
        ) from error


def _load_alexnet(layer: str, weights: Path | None) -> Trunk:
    form = FORMS["alexnet"]
    if weights is None:
        enum = import_torchvision().models.AlexNet_Weights.IMAGENET1K_V1
        state = _torchvision_weights("alexnet", lambda: enum.get_state_dict(progress=False, check_hash=True))
        trained = {"source": "ImageNet, torchvision's IMAGENET1K_V1"}
    else:
        state, trained = read_weights(weights), {"source": f"as the file {weights.name} was"}
    if "features.0.weight" in state:
        state = from_torchvision_names(state)
    card = TrunkCard(
        name="alexnet", architecture="alexnet", input_px=form.input_px, layers=form.widths, trained=trained
    )
    return _family_trunk(card, form, state, layer)


def _load_krizhevsky(layer: str, weights: Path | None) -> Trunk:
    if weights is None:
        raise MissingDataError(
            "trunk 'krizhevsky': no weights are shipped; give --weights FILE.safetensors, or a card that "
            "'pipeline pretrain --architecture krizhevsky' wrote"
        )
    state = read_weights(weights)
    width = state["fc6.weight"].shape[0] if "fc6.weight" in state else 4096
    form = krizhevsky(224, width)
    card = TrunkCard(
        name="krizhevsky",
        architecture="krizhevsky",
        input_px=224,
        layers=form.widths,
        trained={"source": f"as the file {weights.name} was"},
    )
    return _family_trunk(card, form, state, layer)


class _Nodes(nn.Module):
    """Joined activations of named nodes of a torchvision classifier; maps are averaged over places."""

    def __init__(self, extractor: nn.Module, nodes: tuple[str, ...], poolings: tuple[str, ...]) -> None:
        super().__init__()
        self.extractor = extractor
        self.nodes = nodes
        self.poolings = poolings

    def forward(self, x: Tensor) -> Tensor:
        found = self.extractor(x)
        columns = []
        for node, pooling in zip(self.nodes, self.poolings, strict=True):
            value = found[node]
            if pooling == "flat" or value.ndim == 2:
                value = value.flatten(1)
            elif pooling == "max":
                value = value.amax(tuple(range(2, value.ndim)))
            else:
                value = value.mean(tuple(range(2, value.ndim)))
            columns.append(value)
        return torch.cat(columns, 1)


POOLINGS = ("mean", "max", "flat")


def _parse_torchvision(name: str, layer: str | None) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """``torchvision/NAME@a:max+b`` -> NAME, nodes, poolings.

    >>> _parse_torchvision("torchvision/squeezenet1_0@features.12+classifier.2:max", None)
    ('squeezenet1_0', ('features.12', 'classifier.2'), ('mean', 'max'))
    """
    model, _, spec = name.removeprefix("torchvision/").partition("@")
    if not spec and layer not in (None, DEFAULT_LAYER):
        spec = layer
    if not spec:
        spec = next((v for k, v in TORCHVISION_LAYERS.items() if model.startswith(k)), "flatten")
    nodes, poolings = [], []
    for item in filter(None, spec.split("+")):
        node, _, pooling = item.partition(":")
        if pooling and pooling not in POOLINGS:
            raise TrunkError(f"trunk {name!r}: pooling {pooling!r}, expected one of {', '.join(POOLINGS)}")
        nodes.append(node)
        poolings.append(pooling or "mean")
    return model, tuple(nodes), tuple(poolings)


def _load_torchvision(name: str, layer: str | None, weights: Path | None) -> Trunk:
    torchvision = import_torchvision()
    from torchvision.models import feature_extraction

    model_name, nodes, poolings = _parse_torchvision(name, layer)
    known = torchvision.models.list_models(torchvision.models)
    if model_name not in known:
        close = [k for k in known if k[:4] == model_name[:4]] or known
        raise TrunkError(
            f"trunk {name!r}: torchvision has no classifier {model_name!r}; for example {', '.join(close[:8])}"
        )
    default = torchvision.models.get_model_weights(model_name).DEFAULT
    model = torchvision.models.get_model(model_name, weights=None)
    if weights is not None:
        state = read_weights(weights)
    else:
        state = _torchvision_weights(name, lambda: default.get_state_dict(progress=False, check_hash=True))
    load_state(model, state, f"{name} from {weights or 'torchvision'}")
    model.eval()
    available = feature_extraction.get_graph_node_names(model)[1]
    # A module's name stands for its last node.
    missing = [n for n in nodes if n not in available and not any(a.startswith(f"{n}.") for a in available)]
    if missing:
        raise TrunkError(f"trunk {name!r}: no node {', '.join(missing)} in {model_name}; it has {', '.join(available)}")
    extractor = feature_extraction.create_feature_extractor(model, return_nodes=list(nodes))
    transforms = default.transforms()
    crop = getattr(transforms, "crop_size", [TORCHVISION_INPUT_PX])[0]
    network = _Nodes(extractor, nodes, poolings).eval()
    with torch.inference_mode():
        width = network(torch.zeros(1, 3, crop, crop)).shape[1]
    layer_name = "+".join(
        node if pooling == "mean" else f"{node}:{pooling}" for node, pooling in zip(nodes, poolings, strict=True)
    )
    card = TrunkCard(
        name=f"torchvision/{model_name}",
        architecture=f"torchvision/{model_name}",
        input_px=crop,
        layers={layer_name: width},
        preprocessing=Preprocessing(mean=tuple(transforms.mean), std=tuple(transforms.std)),
        trained={"source": f"file {weights.name}" if weights else f"torchvision's {default}"},
    )
    digest = sha256_bytes(save({k: v.contiguous() for k, v in sorted(state.items())}))
    return Trunk(card, layer_name, width, digest, network)
