"""Trunks of timm: ``timm/NAME@LAYER``. timm is an optional extra: ``pip install 'pipeline[timm]'``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.likeness import suggest
from pipeline.io.messages import enumerate_problems
from pipeline.trunk.card import Preprocessing, TrunkCard
from pipeline.trunk.nodes import LAST, Node, NodesNetwork, Prefix, find_block, parse_nodes, settle, widths_of
from pipeline.trunk.outline import Outline, on_meta, run_blank
from pipeline.trunk.registry import DEFAULT_LAYER, TrunkRequest
from pipeline.trunk.trunk import Trunk, digest_weights, read_weights
from pipeline.trunk.zoo.input_size import at_size, check_px
from pipeline.trunk.zoo.timm_weights import TimmModel, fetch_model, has_fixed_size, load_file_weights, resize_model
from pipeline.trunk.zoo.torchvision_import import import_torchvision

FEATURES = "features"
"""Node of every model: the input of its classifier, pooled in the model's own way."""


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
            if name.startswith(LAST):
                block = find_block(name, *blocks_of(model))
                model.get_submodule(block).register_forward_hook(self._keeper(name, model.get_submodule("norm")))
            elif name != FEATURES:
                model.get_submodule(name).register_forward_hook(self._keeper(name))

    def _keeper(self, name: str, then: nn.Module | None = None) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._found[name] = output if then is None else then(output)
            if len(self._found) == len(self.names):
                raise _Enough

        return keep

    def forward(self, x: Tensor) -> dict[str, Any]:
        self._found = {}
        try:
            maps = self.model.forward_features(x)
            if FEATURES in self.names:
                self._found[FEATURES] = self.model.forward_head(maps, pre_logits=True)
            if len(self._found) < len(self.names):
                self.model.forward_head(maps)  # with the classifier, which may be one of the nodes
        except _Enough:
            pass
        found, self._found = self._found, {}
        return found


def blocks_of(model: nn.Module) -> tuple[list[str], str | None]:
    """Names of a transformer's blocks, and of the normalisation behind them; none of other networks."""
    from timm.models import Eva, VisionTransformer

    # Others have blocks of several widths, or blocks that the class token does not pass (CaiT, XCiT, ConViT).
    if not isinstance(model, VisionTransformer | Eva) or isinstance(model.norm, nn.Identity):
        return [], None
    blocks = model.blocks
    return [f"blocks.{i}" for i in range(len(blocks))], "norm"


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


def list_names() -> list[str]:
    """List the models of timm.

    Raises
    ------
    MissingDataError
    """
    return import_timm().list_models()


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


def check_name(name: str, timm: ModuleType, model_name: str) -> None:
    """Check that timm has a model, and weights of its tag.

    Raises
    ------
    TrunkError
    """
    stem, _, tag = model_name.partition(".")
    if not timm.is_model(stem):
        raise TrunkError(
            f"trunk {name!r}: timm has no model {stem!r}{suggest(stem, timm.list_models())}; "
            "all are listed by: pipeline trunk ls timm/"
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{stem}.*")]
    if tag and tag not in tags:
        raise TrunkError(f"trunk {name!r}: no weights {tag!r}; {stem} has {', '.join(tags) or 'none'}")


def make_bare(timm: ModuleType, model_name: str) -> TimmModel:
    """Make the model without weights, of names and shapes alone where that can be."""
    return on_meta(lambda: timm.create_model(model_name, pretrained=False).eval())


def make_sized(name: str, timm: ModuleType, bare: TimmModel, model_name: str, px: int) -> TimmModel:
    """Make the model without weights for an input size that need not be its own; `bare` is the model at its own.

    Raises
    ------
    TrunkError
        The network cannot take it.
    """
    own = preprocessing_of(name, timm, bare)[0]
    if px == own or not has_fixed_size(bare):
        return bare
    check_px(name, px, getattr(getattr(bare, "patch_embed", None), "patch_size", None))
    make = partial(timm.create_model, model_name, pretrained=False, img_size=px)
    return at_size(name, bare, px, own, lambda: on_meta(lambda: make().eval()))


def prefix_of(model: nn.Module) -> Prefix:
    """Return the tokens before the patch tokens, and whether the first is a class token."""
    class_token = getattr(model, "has_class_token", getattr(model, "cls_token", None) is not None)
    return Prefix(getattr(model, "num_prefix_tokens", 0), class_token)


def attach(name: str, model: TimmModel, nodes: Sequence[Node], px: int) -> tuple[NodesNetwork, str, int]:
    """Make the network that ends at the nodes; return it with its layer's name and its columns.

    Raises
    ------
    TrunkError
        A node that the model does not have, or whose values cannot be made rows.
    """
    available = [known for known, _ in model.named_modules() if known]
    counted = [node.name for node in nodes if node.name.startswith(LAST)]
    missing = [node.name for node in nodes if node.name not in (FEATURES, *available, *counted)]
    if missing:
        stem = name.partition("@")[0]
        raise TrunkError(
            f"trunk {name!r}: no node {', '.join(missing)}{suggest(missing[0], (FEATURES, *available))}; "
            f"all are listed by: pipeline trunk show {stem}"
        )
    try:
        hooked = HookedModel(model, list(dict.fromkeys(node.name for node in nodes)))
        network, layer, width = settle(hooked, nodes, prefix_of(model), px)
    except TrunkError as error:
        raise TrunkError(f"trunk {name!r}: {error}") from error
    network.used = frozenset(key.removeprefix("model.") for key in network.used)
    return network, layer, width


def make_card(model_name: str, model: TimmModel, layer: str, width: int, size: tuple[int, Preprocessing]) -> TrunkCard:
    """Make the card of a model at one layer; `size` is its input and preprocessing."""
    stem, tag = model_name.partition(".")[0], model.pretrained_cfg.get("tag") or "its own"
    return TrunkCard(
        name=f"timm/{model_name}",
        architecture=f"timm/{stem}",
        input_px=size[0],
        layers={layer: width},
        preprocessing=size[1],
        trained={"source": f"timm's {stem}.{tag}"},
    )


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
    check_name(name, timm, model_name)
    bare = make_bare(timm, model_name)
    own, preprocessing = preprocessing_of(name, timm, bare)
    px = request.px or own
    sized = make_sized(name, timm, bare, model_name, px)
    # The layer first: a mistyped node is refused before any weights are read.
    outline, layer, width = at_size(name, sized, px, own, lambda: attach(name, sized, nodes, px))
    notes: tuple[str, ...] = ()
    if weights is None:
        model = fetch_model(name, timm, model_name, download=request.download)
        identity = model.state_dict()
    else:
        state = read_weights(weights, name)
        model, identity, notes = load_file_weights(name, timm, model_name, bare, outline.used, state, weights)
    bad = [k for k, v in identity.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise TrunkError(f"{name}: values that are not finite\n{enumerate_problems(bad)}")

    def model_at(size: int) -> TimmModel:
        # The digest is of the weights as they came: what resampling makes of them follows from the input size.
        is_own = size == own or not has_fixed_size(bare)
        return model if is_own else resize_model(name, timm, model_name, model, size)

    def hook(of_size: TimmModel) -> NodesNetwork:
        hooked = HookedModel(of_size, list(dict.fromkeys(node.name for node in outline.nodes)))
        return NodesNetwork(hooked, outline.nodes, outline.prefix).eval()

    taken = model_at(px)
    card = make_card(model_name, taken, layer, width, (px, preprocessing))
    if weights is not None:
        card = card.model_copy(update={"trained": {"source": f"file {weights.name}"}})
    digest = digest_weights(identity)
    resize = (lambda size: hook(model_at(size))) if has_fixed_size(bare) else None
    return Trunk(card, layer, width, digest, hook(taken), notes=notes, resize=resize)


def fit_file(request: TrunkRequest, state: dict[str, Tensor], where: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Fit a file's tensors to a model: those that belong to it, and notes on the others.

    Raises
    ------
    TrunkError, MissingDataError
    """
    timm = import_timm()
    model_name, nodes = parse_name(request.name, request.layer)
    check_name(request.name, timm, model_name)
    bare = make_bare(timm, model_name)
    outline, _, _ = attach(request.name, bare, nodes, preprocessing_of(request.name, timm, bare)[0])
    _, tensors, notes = load_file_weights(request.name, timm, model_name, bare, outline.used, state, where)
    return tensors, notes


def outline_timm(request: TrunkRequest) -> Outline:
    """Describe a model and all of its nodes without any weights.

    Raises
    ------
    TrunkError, MissingDataError
    """
    timm = import_timm()
    model_name, nodes = parse_name(request.name, request.layer)
    check_name(request.name, timm, model_name)
    name, bare = request.name, make_bare(timm, model_name)
    own, preprocessing = preprocessing_of(name, timm, bare)
    px = request.px or own
    model = make_sized(name, timm, bare, model_name, px)
    again = make_sized(name, timm, make_bare(timm, model_name), model_name, px)  # hooks stay with a model
    _, layer, width = at_size(name, again, px, own, lambda: attach(name, again, nodes, px))
    names = [*(known for known, _ in model.named_modules() if known), FEATURES]
    values, in_attention = run_blank(HookedModel(model, names), px)
    widths = widths_of(values, prefix_of(model), in_attention)
    return Outline(make_card(model_name, model, layer, width, (px, preprocessing)), layer, width, widths)
