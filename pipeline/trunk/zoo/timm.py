"""Trunks of timm: ``timm/NAME@LAYER``. timm is an optional extra: ``pip install 'pipeline[timm]'``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.messages import enumerate_problems
from pipeline.trunk.card import Preprocessing, TrunkCard
from pipeline.trunk.nodes import Node, Prefix, parse_nodes, settle
from pipeline.trunk.sources import DEFAULT_LAYER, TrunkRequest
from pipeline.trunk.trunk import Trunk, digest_weights, read_weights
from pipeline.trunk.zoo.torchvision_import import import_torchvision

FEATURES = "features"
"""Node of every model: the input of its classifier, pooled in the model's own way."""


if TYPE_CHECKING:

    class TimmModel(nn.Module):
        """Members of timm's models that are used here; the models have no common class."""

        pretrained_cfg: dict[str, Any]

        def forward_features(self, x: Tensor) -> Tensor: ...
        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor: ...


class _Enough(Exception):
    """Raised once all nodes have values: the layers after them need not be computed."""


class HookedModel(nn.Module):
    """Outputs of modules of a timm model, by name; no module after the last requested one runs."""

    def __init__(self, model: TimmModel, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self._found: dict[str, Any] = {}
        for name in names:
            if name != FEATURES:
                model.get_submodule(name).register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._found[name] = output
            if len(self._found) == len(self.names):
                raise _Enough

        return keep

    def forward(self, x: Tensor) -> dict[str, Any]:
        self._found = {}
        try:
            features = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
            if FEATURES in self.names:
                self._found[FEATURES] = features
        except _Enough:
            pass
        found, self._found = self._found, {}
        return found


def import_timm() -> ModuleType:
    """Import ``timm``.

    Raises
    ------
    MissingDataError
        It is not installed.
    """
    import_torchvision()  # timm imports it, and fails where its operators do not load
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingDataError(
            "trunks timm/... need the package timm, which is not installed; install it with: "
            "pip install 'pipeline[timm]'"
        ) from error
    return timm


def parse_name(name: str, layer: str | None) -> tuple[str, tuple[Node, ...]]:
    """``timm/NAME@a:class+b`` -> NAME (with the tag of its weights, where given), nodes.

    >>> parse_name("timm/vit_tiny_patch16_224.augreg_in21k@norm:tokens", None)
    ('vit_tiny_patch16_224.augreg_in21k', (Node(name='norm', pooling='tokens'),))
    """
    model, separator, spec = name.removeprefix("timm/").partition("@")
    if not separator:
        spec = FEATURES if layer in (None, DEFAULT_LAYER) else layer
    return model, parse_nodes(spec, f"trunk {name!r}")


def preprocessing_of(name: str, timm: ModuleType, model: nn.Module) -> tuple[int, Preprocessing]:
    """Return the input size in pixels and the preprocessing that a model's weights were evaluated with."""
    config = timm.data.resolve_data_config({}, model=model)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width or len(config["mean"]) != 3:
        raise TrunkError(f"trunk {name!r}: takes inputs of {config['input_size']}; patches are square, of 3 colours")
    if config["interpolation"] not in ("bilinear", "bicubic", "lanczos", "nearest"):
        raise TrunkError(f"trunk {name!r}: resized by {config['interpolation']!r}, which is not known here")
    keys = ("mean", "std", "interpolation")
    return height, Preprocessing(**{key: config[key] for key in keys})


def make_model(name: str, timm: ModuleType, model_name: str, weights: Path | None) -> TimmModel:
    """Make the model with weights from a safetensors file, or through timm's own hub.

    Raises
    ------
    TrunkError, MissingDataError
    """
    stem, _, tag = model_name.partition(".")
    if not timm.is_model(stem):
        close = timm.list_models(f"{stem[:6]}*") or timm.list_models("resnet*")
        raise TrunkError(f"trunk {name!r}: timm has no model {stem!r}; for example {', '.join(close[:8])}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{stem}.*")]
    if tag and tag not in tags:
        raise TrunkError(f"trunk {name!r}: no weights {tag!r}; {stem} has {', '.join(tags) or 'none'}")
    # A file is read by our own reader, which takes safetensors alone, and then renamed by timm where it must be.
    overlay = {} if weights is None else {"state_dict": read_weights(weights), "custom_load": False}
    try:
        return timm.create_model(model_name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    except (OSError, RuntimeError, KeyError) as error:
        if weights is not None:
            raise TrunkError(f"{name} from {weights}: weights do not fit\n{error}") from error
        raise MissingDataError(
            f"trunk {name!r}: timm's weights are not on this machine and could not be downloaded: {error}\n"
            "you can: connect once (the hub caches them), or --weights FILE.safetensors, "
            "or the embedded trunk alexnet64"
        ) from error


def load_timm(request: TrunkRequest) -> Trunk:
    """Load a timm model by its name.

    Raises
    ------
    TrunkError
        No such model, tag or node; weights of another model, or not finite.
    MissingDataError
        timm, or the weights, are not on this machine.
    """
    name, weights = request.name, request.weights
    timm = import_timm()
    model_name, nodes = parse_name(name, request.layer)
    model = make_model(name, timm, model_name, weights)
    state = model.state_dict()
    bad = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise TrunkError(f"{name}: values that are not finite\n{enumerate_problems(bad)}")
    available = [known for known, _ in model.named_modules() if known]
    missing = [node.name for node in nodes if node.name not in (FEATURES, *available)]
    if missing:
        raise TrunkError(f"trunk {name!r}: no node {', '.join(missing)}; it has {', '.join((FEATURES, *available))}")
    px, preprocessing = preprocessing_of(name, timm, model)
    hooked = HookedModel(model, list(dict.fromkeys(node.name for node in nodes)))
    class_token = getattr(model, "has_class_token", getattr(model, "cls_token", None) is not None)
    prefix = Prefix(getattr(model, "num_prefix_tokens", 0), class_token)
    try:
        network, layer_name, width = settle(hooked, nodes, prefix, px)
    except TrunkError as error:
        raise TrunkError(f"trunk {name!r}: {error}") from error
    stem, tag = model_name.partition(".")[0], model.pretrained_cfg.get("tag") or "its own"
    card = TrunkCard(
        name=f"timm/{model_name}",
        architecture=f"timm/{stem}",
        input_px=px,
        layers={layer_name: width},
        preprocessing=preprocessing,
        trained={"source": f"file {weights.name}" if weights else f"timm's {stem}.{tag}"},
    )
    return Trunk(card, layer_name, width, digest_weights(state), network)
