"""Trunks by name: of the AlexNet family, ``torchvision/NAME@LAYER``, ``timm/NAME@LAYER``, a card."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pipeline.io.errors import TrunkError
from pipeline.trunk.family import load_alexnet, load_card, load_krizhevsky, load_random
from pipeline.trunk.trunk import Trunk
from pipeline.trunk.zoo.timm import load_timm
from pipeline.trunk.zoo.torchvision import load_classifier

EMBEDDED = ("alexnet64",)
NAMES = ("alexnet64", "random", "alexnet", "krizhevsky", "torchvision/NAME@LAYER", "timm/NAME@LAYER", "PATH.yaml")
DEFAULT_LAYER = "fc7"


def load_trunk(name: str, layer: str | None = None, weights: Path | None = None, seed: int = 0) -> Trunk:
    """Make a trunk from its name.

    Parameters
    ----------
    name : one of ``NAMES``
    layer : ``pool5``, ``fc6`` or ``fc7`` of the AlexNet family; for torchvision and timm it is in the name
    weights : a safetensors file, for ``torchvision/...``, ``timm/...``, ``alexnet`` and ``krizhevsky``
    seed : of the weights of ``random``

    Raises
    ------
    TrunkError
        Unknown name or layer, weights of the wrong shape, digest or form.
    MissingDataError
        Weights that are neither at hand nor could be downloaded.
    """
    if name.startswith("torchvision/"):
        return load_classifier(name, layer, weights)
    if name.startswith("timm/"):
        return load_timm(name, layer, weights)
    layer = layer or DEFAULT_LAYER
    if weights is not None and name not in ("alexnet", "krizhevsky"):
        raise TrunkError(f"trunk {name!r} has weights of its own; give a path to a card instead of --weights")
    if name in EMBEDDED:
        return load_card(Path(str(files("pipeline.trunk") / "weights" / f"{name}.yaml")), layer)
    if name == "random":
        return load_random(layer, seed)
    if name == "alexnet":
        return load_alexnet(layer, weights)
    if name == "krizhevsky":
        return load_krizhevsky(layer, weights)
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return load_card(path, layer)
    if path.suffix == ".safetensors" and path.with_suffix(".yaml").is_file():
        return load_card(path.with_suffix(".yaml"), layer)
    if path.suffix == ".safetensors":
        raise TrunkError(f"trunk {name!r}: no card {path.with_suffix('.yaml')}; weights need one (YAML) beside them")
    if path.suffix in (".pt", ".pth", ".pkl", ".bin", ".tar"):
        raise TrunkError(
            f"trunk {name!r}: pickled weights are never loaded; expected safetensors with a card (YAML) beside it"
        )
    raise TrunkError(f"trunk {name!r}: unknown; expected one of {', '.join(NAMES)}")
