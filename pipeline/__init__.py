"""Offline feature extraction with cached activations (after Oquab et al., CVPR 2014).

The interface for Python; the commands and the workflow are the same thing from outside::

    import pipeline

    train = pipeline.open_features("demo", "train")   # cached rows, geometry and labels of a split
    train[:10], train.labels, train.box_xyxy
    pipeline.PatchDataset(train)                      # for torch
    pipeline.HeadClassifier().fit(X, y)               # for scikit-learn
    pipeline.open_photo_reader("demo").look("photo.jpg").maps([0])

Nothing is imported until it is asked for, so that ``import pipeline`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.version import __version__ as __version__

if TYPE_CHECKING:
    from pipeline.activations.features import Features, PatchDataset
    from pipeline.api import load_scores, open_features, open_photo_reader, open_store, open_workspace
    from pipeline.head.classifier import HeadClassifier

_PLACES = {
    "Features": "activations.features",
    "HeadClassifier": "head.classifier",
    "PatchDataset": "activations.features",
    "load_scores": "api",
    "open_features": "api",
    "open_photo_reader": "api",
    "open_store": "api",
    "open_workspace": "api",
}
__all__ = [
    "Features",
    "HeadClassifier",
    "PatchDataset",
    "load_scores",
    "open_features",
    "open_photo_reader",
    "open_store",
    "open_workspace",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(f"pipeline.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
