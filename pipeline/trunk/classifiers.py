"""Any torchvision classifier as a trunk: ``torchvision/NAME@LAYER``, through its feature extraction."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.errors import TrunkError
from pipeline.files import sha256_bytes
from pipeline.trunk.card import Preprocessing, TrunkCard
from pipeline.trunk.torchvision_import import import_torchvision
from pipeline.trunk.trunk import Trunk, download_weights, load_state, read_weights

FAMILY_LAYER = "fc7"  # the default of the setting `layer`, which means nothing here
USUAL_INPUT_PX = 224
POOLINGS = ("mean", "max", "flat")
# What "the features" are when no @LAYER is given, by the start of the model's name. The rest takes
# ``flatten``, the input of the one linear layer that most classifiers end in.
USUAL_LAYERS = {
    "squeezenet": "features.12+classifier.2",
    "alexnet": "classifier.5",
    "vgg": "classifier.4",
}


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
            elif value.ndim != 4:
                # Tokens of a transformer: which axis is which cannot be told from the shape.
                raise TrunkError(
                    f"node {node!r} gives {tuple(value.shape[1:])} a patch, which is neither a vector nor a map; "
                    f"name another node, or {node}:flat"
                )
            else:
                value = value.amax((2, 3)) if pooling == "max" else value.mean((2, 3))
            columns.append(value)
        return torch.cat(columns, 1)


def parse_name(name: str, layer: str | None) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """``torchvision/NAME@a:max+b`` -> NAME, nodes, poolings.

    >>> parse_name("torchvision/squeezenet1_0@features.12+classifier.2:max", None)
    ('squeezenet1_0', ('features.12', 'classifier.2'), ('mean', 'max'))
    """
    model, _, spec = name.removeprefix("torchvision/").partition("@")
    if not spec and layer not in (None, FAMILY_LAYER):
        spec = layer
    if not spec:
        spec = next((v for k, v in USUAL_LAYERS.items() if model.startswith(k)), "flatten")
    nodes, poolings = [], []
    for item in filter(None, spec.split("+")):
        node, _, pooling = item.partition(":")
        if pooling and pooling not in POOLINGS:
            raise TrunkError(f"trunk {name!r}: pooling {pooling!r}, expected one of {', '.join(POOLINGS)}")
        nodes.append(node)
        poolings.append(pooling or "mean")
    if not all(nodes) or not nodes:
        raise TrunkError(f"trunk {name!r}: a node has no name; expected torchvision/NAME@NODE or @NODE+NODE")
    return model, tuple(nodes), tuple(poolings)


def load_classifier(name: str, layer: str | None, weights: Path | None) -> Trunk:
    torchvision = import_torchvision()
    from torchvision.models import feature_extraction

    model_name, nodes, poolings = parse_name(name, layer)
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
        state = download_weights(name, lambda: default.get_state_dict(progress=False, check_hash=True))
    load_state(model, state, f"{name} from {weights or 'torchvision'}")
    model.eval()
    available = feature_extraction.get_graph_node_names(model)[1]
    # A module's name stands for its last node.
    missing = [n for n in nodes if n not in available and not any(a.startswith(f"{n}.") for a in available)]
    if missing:
        raise TrunkError(f"trunk {name!r}: no node {', '.join(missing)} in {model_name}; it has {', '.join(available)}")
    if model_name.startswith("swin") and not all(n.startswith(("permute", "flatten", "head")) for n in nodes):
        raise TrunkError(f"trunk {name!r}: maps of {model_name} have their channels last; name permute or flatten")
    extractor = feature_extraction.create_feature_extractor(model, return_nodes=list(nodes))
    transforms = default.transforms()
    crop = getattr(transforms, "crop_size", [USUAL_INPUT_PX])[0]
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
