"""Results: what a run measured, and from what, as one record."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

from pipeline.io.errors import StoreError
from pipeline.patches.table import PatchTable
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.scores import SplitScores

OPTIONAL = ("devkit_files", "paths", "why_undefined", "accuracy", "balanced_accuracy", "confusion")
"""Entries of a result that are written only where they are set."""
LIBRARIES = ("torch", "torchvision", "numpy", "zarr", "h5py", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of the project, of Python and of the libraries that numbers depend on."""
    own = {"pipeline": version("pipeline"), "python": platform.python_version()}
    return {**own, **{name: version(name) for name in LIBRARIES}}


def number(value: float) -> float | None:
    """Round a float for JSON; NaN becomes None."""
    return None if math.isnan(value) else round(float(value), 6)


def check_scores(scores: SplitScores, table: PatchTable) -> None:
    """Refuse scores of other pictures, rows or classes than the table's.

    Raises
    ------
    StoreError
    """
    n_scored = scores.facts.n_scored
    pairs = {
        "pictures": (scores.ids, table.ids),
        "classes": (scores.classes, table.classes),
        "rows": (scores.facts.rows_digest, table.rows_digest),
        "picture contents": (scores.facts.pictures_digest, table.pictures_digest()),
        "numbers of pictures": (len(scores.ids) if n_scored is None else n_scored, len(table.ids)),
    }
    differing = [name for name, (got, expected) in pairs.items() if got != expected]
    if differing:
        raise StoreError(
            f"scores are of other {', '.join(differing)} than the patch table of {table.dataset} {table.split}; "
            f"score again: pipeline score --dataset {table.dataset}"
        )


@dataclass(frozen=True)
class Result:
    """What a run measured, and from what: the JSON object of ``results/*_map.json``.

    Attributes
    ----------
    dataset, split, fit_split : names
    metric : rule of AP
    k : aggregation of the patch scores
    recipe : JSON object: settings of the head, label rule and layer
    head, trunk, layer : names
    fingerprints : of both stores, and digests of the labels
    pictures : numbers of pictures ``used`` and ``skipped``, by side (``fit`` and ``eval``)
    skipped : id and reason of each bad picture, by side
    patches : counts of the patches of the fit; None for kinds that are not fitted on patches
    seed, loss : of the fit: its seed and loss curve
    seconds : by stage
    versions : of the project, Python and libraries
    command : that wrote the result
    mAP, AP : None where not defined
    undefined : classes without an AP, left out of the mean
    k_sweep : mAP by aggregation
    pointing : JSON object, how well heat maps localise; None where not measured
    official : whether the splits are the official ones
    notes : sentences on pictures and classes that are left out, and on scores that say nothing
    devkit_files : paths of files for the evaluation server, of a split without labels
    paths : of the files that the result was computed from
    why_undefined : why each class of `undefined` has no AP
    accuracy, balanced_accuracy : of the class with the highest score, where every picture shows one class
    confusion : JSON object: ``definition``, ``classes``, ``counts`` by class (row) and answer (column), and pictures
        without an answer, ``undecided``, by class
    """

    dataset: str
    split: str
    fit_split: str
    metric: str
    k: Aggregation
    recipe: dict[str, Any]
    head: str
    trunk: str
    layer: str
    fingerprints: dict[str, str]
    pictures: dict[str, dict[str, int]]
    skipped: dict[str, list[list[str]]]
    patches: dict[str, Any] | None
    seed: int
    loss: list[dict[str, float]]
    seconds: dict[str, float]
    versions: dict[str, str]
    command: str
    mAP: float | None  # noqa: N815
    AP: dict[str, float | None]
    undefined: list[str]
    k_sweep: dict[str, float | None]
    pointing: dict[str, Any] | None
    official: bool
    notes: list[str]
    devkit_files: list[str] | None = None
    paths: dict[str, str] | None = None
    why_undefined: dict[str, str] | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    confusion: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object; optional entries only where they are set."""
        entries = {item.name: getattr(self, item.name) for item in fields(self)}
        entries["k"] = self.k.to_json()
        return {n: value for n, value in entries.items() if value is not None or n not in OPTIONAL}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Result:
        """Read `to_dict`.

        Raises
        ------
        TypeError
            Missing or unknown entries.
        """
        return cls(**{**entries, "k": Aggregation.from_json(entries["k"])})
