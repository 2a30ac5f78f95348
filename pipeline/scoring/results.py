"""Results: what a run found, from what, as one JSON object; tables and devkit files made from it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.manifest import ACTION_COMPETITIONS, Manifest
from pipeline.dataset.read import is_official
from pipeline.dataset.split import Annotation
from pipeline.dataset.voc_action import split_sample_id
from pipeline.io.atomic import write_atomic
from pipeline.io.errors import StoreError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.maps import point_at
from pipeline.scoring.scores import SplitScores, format_aggregation

POINTING = (
    "of the pictures that show a class, the share whose map of it is highest inside of a box of it (pointing game); "
    "the mean is over classes; middle: the same for the middle of each picture in place of the map"
)
LIBRARIES = ("torch", "torchvision", "numpy", "zarr", "h5py", "pillow")


def versions() -> dict[str, str]:
    """Versions of the project, of Python and of the libraries that numbers depend on."""
    found = {"pipeline": version("pipeline"), "python": platform.python_version()}
    return {**found, **{name: version(name) for name in LIBRARIES}}


def number(value: float) -> float | None:
    """A float for JSON: NaN becomes None."""
    return None if math.isnan(value) else round(float(value), 6)


def check_scores(scores: SplitScores, table: PatchTable) -> None:
    """Refuse scores of other pictures, rows or classes than the table's.

    Raises
    ------
    StoreError
    """
    pairs = {
        "pictures": (scores.ids, table.ids),
        "classes": (scores.classes, table.classes),
        "rows": (scores.facts["rows"], table.rows_digest),
        "picture contents": (scores.facts["pictures"], table.pictures_digest()),
        "numbers of pictures": (scores.facts.get("scored", len(scores.ids)), len(table.ids)),
    }
    differing = [name for name, (got, expected) in pairs.items() if got != expected]
    if differing:
        raise StoreError(
            f"scores are of other {', '.join(differing)} than the patch table of {table.dataset} {table.split}; "
            f"score again: pipeline score --dataset {table.dataset}"
        )


def evaluate_scores(
    scores: SplitScores,
    table: PatchTable,
    manifest: Manifest,
    k: Aggregation,
    trunk: str,
    seconds: dict[str, float],
    command: str,
    annotations: Mapping[str, Annotation] | None = None,
) -> dict[str, Any]:
    """The result of one head on one labelled split.

    Parameters
    ----------
    annotations : of each id of the table, if it is to be measured where maps point

    Raises
    ------
    StoreError
        The scores are of other pictures than the table.
    """
    check_scores(scores, table)
    head = scores.facts["head"]
    mean, each = mean_average_precision(scores.by(k), table.scored_labels, manifest.metric)
    ap_of = {c: ap for c, ap in zip(table.classes, each, strict=True) if c not in table.unscored}
    undefined = [c for c, ap in ap_of.items() if math.isnan(ap)]
    official = is_official(manifest, table.split, len(table.ids)) and is_official(
        manifest, head["split"], head["pictures"]["used"]
    )
    notes = []
    if manifest.official and not official:
        fit_count, eval_count = manifest.splits[head["split"]].pictures, manifest.splits[table.split].pictures
        notes.append(
            f"not the official splits: {head['split']} has {head['pictures']['used']:,} of {fit_count:,} pictures, "
            f"{table.split} {len(table.ids):,} of {eval_count:,}; this mAP compares with no published one"
        )
    notes += _skipped_notes(scores, table)
    if undefined:
        notes.append(f"no positive picture, left out of the mean: {', '.join(undefined)}")
    sweep = {
        format_aggregation(a): number(mean_average_precision(scores.by(a), table.scored_labels, manifest.metric)[0])
        for a in scores.aggregations
    }
    return {
        **_about(scores, table, manifest, k, trunk, seconds, command),
        "mAP": number(mean),
        "AP": {c: number(ap) for c, ap in ap_of.items()},
        "undefined": undefined,
        "k_sweep": sweep,
        "pointing": _pointing(scores, table, annotations),
        "official": official,
        "notes": notes,
    }


def _pointing(
    scores: SplitScores, table: PatchTable, annotations: Mapping[str, Annotation] | None
) -> dict[str, Any] | None:
    """How well maps localise, or None where that is not known."""
    if scores.peak_xy is None or annotations is None:
        return None
    of_pictures = [annotations[i] for i in table.ids]
    each = point_at(scores.peak_xy, table.scored_labels, of_pictures)
    # What whoever always points at the middle would have: objects are often there.
    middle = np.broadcast_to(table.size_wh[:, None] / 2, scores.peak_xy.shape)
    by_middle = point_at(middle, table.scored_labels, of_pictures)
    counted = ~np.isnan(each)
    return {
        "definition": POINTING,
        "mean": number(float(each[counted].mean())) if counted.any() else None,
        "middle": number(float(by_middle[counted].mean())) if counted.any() else None,
        "share": {c: number(share) for c, share in zip(table.classes, each, strict=True) if c not in table.unscored},
    }


def unlabelled_result(
    scores: SplitScores,
    table: PatchTable,
    manifest: Manifest,
    k: Aggregation,
    trunk: str,
    seconds: dict[str, float],
    command: str,
) -> dict[str, Any]:
    """The result on a split that only an evaluation server can measure: all but AP."""
    check_scores(scores, table)
    return {
        **_about(scores, table, manifest, k, trunk, seconds, command),
        "mAP": None,
        "AP": {c: None for c in table.classes if c not in table.unscored},
        "undefined": [],
        "k_sweep": {},
        "pointing": None,
        "official": False,
        "notes": _skipped_notes(scores, table),
    }


def _skipped_notes(scores: SplitScores, table: PatchTable) -> list[str]:
    head = scores.facts["head"]
    if not (head["skipped"] or table.skipped):
        return []
    return [f"bad pictures left out: {len(head['skipped'])} of {head['split']}, {len(table.skipped)} of {table.split}"]


def _about(
    scores: SplitScores,
    table: PatchTable,
    manifest: Manifest,
    k: Aggregation,
    trunk: str,
    seconds: dict[str, float],
    command: str,
) -> dict[str, Any]:
    """What a result says of how it came about, labels or not."""
    head = scores.facts["head"]
    return {
        "dataset": table.dataset,
        "split": table.split,
        "fit_split": head["split"],
        "metric": manifest.metric,
        "k": k if isinstance(k, str) else float(k),
        "recipe": {"head": head["settings"], "reading": head["reading"], "layer": head["how"]["how.layer"]},
        "head": head["name"],
        "trunk": trunk,
        "layer": head["how"]["how.layer"],
        "fingerprints": {
            "fit": head["fingerprint"],
            "eval": scores.facts["fingerprint"],
            "labels_fit": head["labels_digest"],
            "labels_eval": table.labels_digest(LabelSettings.model_validate(head["reading"])),
        },
        "pictures": {
            "fit": {"used": head["pictures"]["used"], "skipped": head["pictures"]["skipped"]},
            "eval": {"used": len(table.ids), "skipped": len(table.skipped)},
        },
        # Id and reason of each bad picture.
        "skipped": {"fit": head["skipped"], "eval": [list(item) for item in table.skipped]},
        # What a head was fitted on, where it was patches.
        "patches": head.get("patches"),
        "seed": head["seed"],
        "loss": head["epochs"],
        "seconds": seconds,
        "versions": versions(),
        "command": command,
    }


def write_devkit_files(
    scores: SplitScores, k: Aggregation, folder: Path, competition: str, unscored: Sequence[str] = ()
) -> list[Path]:
    """Files for the evaluation server, one a class: ``<comp>_cls_<split>_<class>.txt``, one ``id score`` a line.

    For persons (``comp9``, ``comp10``) they are ``<comp>_action_<split>_<class>.txt`` and ``id object score``.

    Source: VOC2012 development kit, sections on submission of results.

    Parameters
    ----------
    unscored : classes that get no file
    """
    by_person = competition in ACTION_COMPETITIONS
    names = ["{} {}".format(*split_sample_id(i)) for i in scores.ids] if by_person else scores.ids
    paths = []
    for column, name in enumerate(scores.classes):
        if name in unscored:
            continue
        # In full, not with a fixed number of decimals: fifth powers of small odds would all become 0.
        lines = [f"{i} {float(value)!r}" for i, value in zip(names, scores.by(k)[:, column], strict=True)]
        task = "action" if by_person else "cls"
        path = folder / f"{competition}_{task}_{scores.facts['split']}_{name}.txt"
        write_atomic(path, ("\n".join(lines) + "\n").encode())
        paths.append(path)
    return paths
