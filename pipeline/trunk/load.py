"""Load trunks by name, from the sources of `pipeline.trunk.registry`."""

from __future__ import annotations

from pathlib import Path

from pipeline.io.errors import TrunkError
from pipeline.trunk.outline import Outline
from pipeline.trunk.registry import LOADABLE, TrunkRequest, TrunkSource, find_source, suggest_trunk
from pipeline.trunk.trunk import Trunk
from pipeline.trunk.weight_files import PICKLED_SUFFIXES


def load_trunk(
    name: str,
    layer: str | None = None,
    weights: Path | None = None,
    seed: int = 0,
    *,
    download: bool = True,
    px: int | None = None,
) -> Trunk:
    """Load a trunk by its name.

    Parameters
    ----------
    name : one of `LOADABLE`
    layer : ``pool5``, ``fc6`` or ``fc7`` of the AlexNet family; for torchvision and timm it is in the name
    weights : a safetensors file, for ``torchvision/...``, ``timm/...``, ``alexnet`` and ``krizhevsky``
    seed : of the weights of ``random``
    download : whether a library's weights that are not on this machine may be downloaded
    px : side of the patches that it takes, in pixels; None for its own

    Raises
    ------
    TrunkError
        Unknown name or layer, weights of the wrong shape, digest or format, an input size that it cannot take.
    MissingDataError
        Weights that are neither on this machine nor could be downloaded.
    """
    source = find_source(name)
    if weights is not None and (source is None or source.weights == "own"):
        raise TrunkError(f"trunk {name!r} has weights of its own; give a path to a card instead of --weights")
    if source is not None and source.loader:
        _check_sized(source, name, px)
        return source.import_loader()(TrunkRequest(name, layer, weights, seed, download, px))
    if Path(name).suffix in PICKLED_SUFFIXES:
        raise TrunkError(
            f"trunk {name!r}: pickled weights are never loaded; expected safetensors with a card (YAML) next to it"
        )
    raise TrunkError(f"trunk {name!r}: unknown; expected one of {', '.join(LOADABLE)}{suggest_trunk(name)}")


def _check_sized(source: TrunkSource, name: str, px: int | None) -> None:
    if px is not None and not source.sized:
        raise TrunkError(
            f"trunk {name!r}: got trunk_px {px}, expected none: it takes patches of one size, and in the AlexNet "
            "family fc6 reads a map of one size. Leave trunk_px out, or take a convolutional node of a library's "
            "network, such as trunk=torchvision/alexnet@features.12"
        )


def outline_trunk(name: str, layer: str | None = None, px: int | None = None) -> Outline | None:
    """Describe a trunk without its weights; None where its source can tell nothing without them.

    Raises
    ------
    TrunkError, MissingDataError
        Unknown name or layer; a library that is not installed.
    """
    source = find_source(name)
    if source is None or not source.outliner:
        return None
    _check_sized(source, name, px)
    return source.import_outliner()(TrunkRequest(name, layer, px=px))
