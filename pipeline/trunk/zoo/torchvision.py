"""Any torchvision classifier as a trunk: ``torchvision/NAME@LAYER``, through its feature extraction."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from pipeline.io.errors import TrunkError
from pipeline.io.likeness import suggest
from pipeline.trunk.card import Preprocessing, TrunkCard
from pipeline.trunk.nodes import LAST, Node, NodesNetwork, Prefix, find_block, parse_nodes, settle, widths_of
from pipeline.trunk.outline import Outline, on_meta, run_blank
from pipeline.trunk.registry import DEFAULT_LAYER, TrunkRequest
from pipeline.trunk.state import FittedState, assign_state, fit_state
from pipeline.trunk.trunk import Trunk, digest_weights, download_weights, read_weights
from pipeline.trunk.zoo.input_size import at_size, check_px
from pipeline.trunk.zoo.torchvision_import import import_torchvision

FINAL_NORM = "encoder.ln"
POSITIONS = "encoder.pos_embedding"
USUAL_LAYERS = {
    "squeezenet": "features.12+classifier.2",
    "alexnet": "classifier.5",
    "vgg": "classifier.4",
    "mobilenet_v3": "classifier.1",
    "convnext": "classifier.1",
    "maxvit": "classifier.4",
    "mnasnet": "mean",
    "shufflenet": "mean",
    "vit": "encoder.ln:class",
}
"""What "the features" are when no @LAYER is given, by name: the input of the last linear layer.

The rest has it at ``flatten``; SqueezeNet has no linear layer.
"""


def parse_name(name: str, layer: str | None) -> tuple[str, str, tuple[Node, ...]]:
    """``torchvision/NAME.WEIGHTS@a:max+b`` -> NAME, WEIGHTS (may be empty), nodes.

    >>> parse_name("torchvision/vit_b_16.IMAGENET1K_SWAG_LINEAR_V1", None)
    ('vit_b_16', 'IMAGENET1K_SWAG_LINEAR_V1', (Node(name='encoder.ln', pooling='class'),))
    """
    stem, separator, spec = name.removeprefix("torchvision/").partition("@")
    model, _, variant = stem.partition(".")
    if not separator and layer not in (None, DEFAULT_LAYER):
        spec = layer
    elif not separator:
        spec = next((v for k, v in USUAL_LAYERS.items() if model.startswith(k)), "flatten")
    return model, variant, parse_nodes(spec, f"trunk {name!r}")


def list_names() -> list[str]:
    """List the classifiers of torchvision."""
    models = import_torchvision().models
    return models.list_models(models)


def find_weights(name: str, model_name: str, variant: str) -> Any:
    """Find torchvision's entry of a model's weights (a member of its enum), by name or the default one.

    Raises
    ------
    TrunkError
        No such classifier, or no such weights of it.
    """
    models = import_torchvision().models
    names = list_names()
    if model_name not in names:
        raise TrunkError(
            f"trunk {name!r}: torchvision has no classifier {model_name!r}{suggest(model_name, names)}; "
            "all are listed by: pipeline trunk ls torchvision/"
        )
    entries = models.get_model_weights(model_name)
    if variant and variant not in entries.__members__:
        raise TrunkError(f"trunk {name!r}: no weights {variant!r}; {model_name} has {', '.join(entries.__members__)}")
    return entries[variant] if variant else entries.DEFAULT


def preprocessing_of(model_name: str, entry: Any) -> tuple[int, Preprocessing]:
    """Return the input size in pixels and the preprocessing that weights were evaluated with."""
    transforms = entry.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if model_name in ("googlenet", "inception_v3"):
        # Their weights were trained on -1..1, and torchvision's own models turn their input into that.
        mean = std = (0.5, 0.5, 0.5)
    return transforms.crop_size[0], Preprocessing(mean=mean, std=std, interpolation=transforms.interpolation.value)


def make_model(model_name: str, entry: Any, px: int | None = None) -> nn.Module:
    """Make the classifier with the shapes of a set of weights, and no weights yet.

    Parameters
    ----------
    px : side of its input; None for that of the weights
    """
    sizes: dict[str, Any] = {"num_classes": len(entry.meta["categories"])}
    if model_name.startswith("vit"):
        sizes["image_size"] = px or entry.transforms().crop_size[0]
    if model_name.startswith("maxvit") and px:
        sizes["input_size"] = (px, px)
    if model_name in ("googlenet", "inception_v3"):
        sizes |= {"transform_input": False, "init_weights": False}
    return import_torchvision().models.get_model(model_name, weights=None, **sizes).eval()


def node_names(model: nn.Module) -> dict[str, str]:
    """Map the nodes of a model, in the order in which they are run, to themselves, and modules to their last node."""
    from torchvision.models import feature_extraction

    nodes = feature_extraction.get_graph_node_names(model, suppress_diff_warning=True)[1]
    last = {node: [node] for node in nodes[1:]}  # the first one is the input
    for name, _ in reversed(list(model.named_modules())):
        inside = [node for node in last if node.startswith(f"{name}.")]
        if name and inside and name not in last:
            last[inside[-1]].append(name)
    return {name: node for node, names in last.items() for name in names}


def prefix_of(model: nn.Module) -> Prefix:
    """Return the tokens before the patch tokens: the class token of a transformer, or none."""
    return Prefix(1, True) if hasattr(model, "class_token") else Prefix()


def blocks_of(model: nn.Module) -> tuple[list[str], str | None]:
    """Names of a vision transformer's blocks, and of the normalisation behind them; none of other networks."""
    if not hasattr(model, "class_token"):
        return [], None
    layers = model.get_submodule("encoder.layers")
    return [f"encoder.layers.{name}" for name, _ in layers.named_children()], FINAL_NORM


def add_normalised(extractor: fx.GraphModule, model: nn.Module, blocks: dict[str, str]) -> None:
    """Add the normalised outputs of blocks to what an extractor returns.

    Parameters
    ----------
    blocks : of each node ``last.K``, the block, whose output the extractor returns
    """
    if not blocks:
        return
    extractor.add_submodule(FINAL_NORM, model.get_submodule(FINAL_NORM))
    output = next(node for node in extractor.graph.nodes if node.op == "output")
    returned = dict(output.args[0])
    with extractor.graph.inserting_before(output):
        for name, block in blocks.items():
            returned[name] = extractor.graph.call_module(FINAL_NORM, (returned[block],))
    output.args = (returned,)
    extractor.recompile()


def attach(name: str, model: nn.Module, nodes: tuple[Node, ...], px: int) -> tuple[NodesNetwork, str, int]:
    """Make the network that ends at the nodes; return it with its layer's name and its columns.

    Raises
    ------
    TrunkError
        A node that the model does not have, or whose values cannot be made rows.
    """
    import_torchvision()
    from torchvision.models import feature_extraction

    names = list(dict.fromkeys(node.name for node in nodes))
    try:
        blocks = {n: find_block(n, *blocks_of(model)) for n in names if n.startswith(LAST)}
    except TrunkError as error:
        raise TrunkError(f"trunk {name!r}: {error}") from error
    names = list(dict.fromkeys(blocks.get(n, n) for n in names))
    try:
        extractor = feature_extraction.create_feature_extractor(model, names, suppress_diff_warning=True)
        add_normalised(extractor, model, blocks)
    except ValueError:
        available = node_names(model)
        missing = [n for n in names if n not in available]
        if not missing:
            raise
        model_kind = name.removeprefix("torchvision/").partition("@")[0]
        raise TrunkError(
            f"trunk {name!r}: no node {', '.join(missing)} in {model_kind}{suggest(missing[0], available)}; "
            f"all are listed by: pipeline trunk show torchvision/{model_kind}"
        ) from None
    try:
        return settle(extractor, nodes, prefix_of(model), px)
    except TrunkError as error:
        raise TrunkError(f"trunk {name!r}: {error}") from error


def make_at(name: str, model_name: str, entry: Any, px: int) -> nn.Module:
    """Make the classifier for an input size that need not be its own.

    Raises
    ------
    TrunkError
        The network cannot take it.
    """
    own = preprocessing_of(model_name, entry)[0]
    model = make_model(model_name, entry)
    if px == own:
        return model
    check_px(name, px, getattr(model, "patch_size", None))
    return at_size(name, model, px, own, lambda: make_model(model_name, entry, px))


def resample_positions(state: dict[str, Tensor], model: nn.Module, px: int) -> dict[str, Tensor]:
    """Resample a transformer's position embeddings as torchvision does; other networks have none."""
    if POSITIONS not in state:
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    only = OrderedDict({POSITIONS: state[POSITIONS].float()})
    return {**state, **interpolate_embeddings(px, getattr(model, "patch_size"), only)}  # noqa: B009, of a ViT alone


def fit_to_model(
    name: str, model: nn.Module, network: NodesNetwork, state: dict[str, Tensor], source: str
) -> FittedState:
    """Fit a file's tensors to the layer at which a network ends.

    Raises
    ------
    TrunkError
    """
    modules = {known for known, _ in model.named_modules() if known}
    return fit_state(state, model.state_dict(), modules, network.used, f"{name} from {source}")


def load_torchvision(request: TrunkRequest) -> Trunk:
    """Load a classifier of torchvision by its name, with downloaded weights or those of a file.

    Raises
    ------
    TrunkError, MissingDataError
    """
    name, weights = request.name, request.weights
    model_name, variant, nodes = parse_name(name, request.layer)
    entry = find_weights(name, model_name, variant)
    own, preprocessing = preprocessing_of(model_name, entry)
    px = request.px or own
    model = make_model(model_name, entry)
    # The layer first: a mistyped node is refused before any weights are read.
    network, layer_name, width = attach(name, model, nodes, own)
    sized = network
    if px != own:
        large = make_at(name, model_name, entry, px)
        sized, layer_name, width = at_size(name, large, px, own, lambda: attach(name, large, nodes, px))
    if weights is not None:
        state = read_weights(weights, name)
    else:
        state = download_weights(name, entry, download=request.download)
    fitted = fit_to_model(name, model, network, state, str(weights or "torchvision"))
    # The digest is of the weights as they came: what resampling makes of them follows from the input size.
    assign_state(sized.extractor, resample_positions(fitted.used, model, px) if px != own else fitted.used)
    card = TrunkCard(
        name=f"torchvision/{model_name}" + (f".{variant}" if variant else ""),
        architecture=f"torchvision/{model_name}",
        input_px=px,
        layers={layer_name: width},
        preprocessing=preprocessing,
        trained={"source": f"file {weights.name}" if weights else f"torchvision's {entry}"},
    )

    def network_at(size: int) -> NodesNetwork:
        of_size = make_at(name, model_name, entry, size)
        other, _, _ = at_size(name, of_size, size, own, lambda: attach(name, of_size, nodes, size))
        assign_state(other.extractor, resample_positions(fitted.used, model, size) if size != own else fitted.used)
        return other

    resize = network_at if hasattr(model, "patch_size") else None
    return Trunk(card, layer_name, width, digest_weights(fitted.identity), sized, notes=fitted.notes, resize=resize)


def fit_file(request: TrunkRequest, state: dict[str, Tensor], where: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Fit a file's tensors to a classifier: those that belong to it, and notes on the others.

    Raises
    ------
    TrunkError
    """
    model_name, variant, nodes = parse_name(request.name, request.layer)
    entry = find_weights(request.name, model_name, variant)
    model = make_model(model_name, entry)
    network, _, _ = attach(request.name, model, nodes, preprocessing_of(model_name, entry)[0])
    fitted = fit_to_model(request.name, model, network, state, str(where))
    return fitted.tensors, fitted.notes


def outline_torchvision(request: TrunkRequest) -> Outline:
    """Describe a classifier and all of its nodes without any weights.

    Raises
    ------
    TrunkError
    """
    model_name, variant, nodes = parse_name(request.name, request.layer)
    entry = find_weights(request.name, model_name, variant)
    own, preprocessing = preprocessing_of(model_name, entry)
    px = request.px or own
    model = on_meta(lambda: make_at(request.name, model_name, entry, px))
    _, layer_name, width = at_size(request.name, model, px, own, lambda: attach(request.name, model, nodes, px))
    from torchvision.models import feature_extraction

    names = node_names(model)
    nodes_alone = list(dict.fromkeys(names.values()))
    extractor = feature_extraction.create_feature_extractor(model, nodes_alone, suppress_diff_warning=True)
    values, in_attention = run_blank(extractor, px)
    widths = widths_of({name: values[node] for name, node in names.items()}, prefix_of(model), in_attention)
    card = TrunkCard(
        name=f"torchvision/{model_name}" + (f".{variant}" if variant else ""),
        architecture=f"torchvision/{model_name}",
        input_px=px,
        layers={layer_name: width},
        preprocessing=preprocessing,
        trained={"source": f"torchvision's {entry}"},
    )
    return Outline(card, layer_name, width, widths)
