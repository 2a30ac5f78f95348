"""Offline feature extraction with cached activations (after Oquab et al., CVPR 2014).

The interface for Python; the commands and the workflow are the same thing from outside::

    import pipeline

    train = pipeline.open_features("demo", "train")   # cached rows, geometry and labels of a split
    train[:10], train.labels, train.box_xyxy
    pipeline.PatchDataset(train)                      # for torch
    pipeline.HeadClassifier().fit(X, y)               # for scikit-learn
    pipeline.open_photo_reader("demo").look("photo.jpg").maps([0])
    pipeline.average_precision(scores, labels)        # the metrics, on arrays

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
    from pipeline.metrics.accuracy import accuracy, balanced_accuracy, measure_confusion
    from pipeline.metrics.average_precision import average_precision, mean_average_precision, precision_recall
    from pipeline.metrics.bootstrap import bootstrap_interval, bootstrap_mean_ap, paired_difference

_PLACES = {
    "Features": "activations.features",
    "HeadClassifier": "head.classifier",
    "PatchDataset": "activations.features",
    "accuracy": "metrics.accuracy",
    "average_precision": "metrics.average_precision",
    "balanced_accuracy": "metrics.accuracy",
    "bootstrap_interval": "metrics.bootstrap",
    "bootstrap_mean_ap": "metrics.bootstrap",
    "load_scores": "api",
    "mean_average_precision": "metrics.average_precision",
    "measure_confusion": "metrics.accuracy",
    "open_features": "api",
    "open_photo_reader": "api",
    "open_store": "api",
    "open_workspace": "api",
    "paired_difference": "metrics.bootstrap",
    "precision_recall": "metrics.average_precision",
}
__all__ = [
    "Features",
    "HeadClassifier",
    "PatchDataset",
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "bootstrap_interval",
    "bootstrap_mean_ap",
    "load_scores",
    "mean_average_precision",
    "measure_confusion",
    "open_features",
    "open_photo_reader",
    "open_store",
    "open_workspace",
    "paired_difference",
    "precision_recall",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(f"pipeline.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
