"""Stage ``localise``: boxes from the heat maps of a head, measured against the objects of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations.match import check_joined
from pipeline.dataset.split import Annotation
from pipeline.head.head import Head
from pipeline.io.atomic import check_writable, read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import HeadError, PipelineError, SettingsError
from pipeline.io.progress import Progress
from pipeline.metrics.detection import MIN_OVERLAP
from pipeline.patches.table import PatchTable
from pipeline.scoring.localisation import SHARES, Boxes, MapBoxes, mean_of, measure_boxes, whole_pictures
from pipeline.scoring.results import number, versions
from pipeline.stages import fit_head
from pipeline.stages.boxes import check_heads, refuse_without_boxes
from pipeline.stages.context import RunContext
from pipeline.stages.hints import name_command, read_if_sound
from pipeline.stages.patches import TableDueError, current_table
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import require_rows, sealed_store

SHARE = 0.5
"""Usual share: halfway from a map's lowest value to its highest. Stated, not chosen by what it measures."""
FORMAT = 1
SHOWN = 4
"""Boxes that are named per class, of the highest scores: right ones, and wrong ones."""
BOX = (
    "cells of the smoothed map that lie at least a share of the way from its lowest value to its highest; each "
    "connected group of them gives a box, whose score is the group's highest value; an even map gives none"
)
CORLOC = (
    f"of the pictures that show a class, the share whose box of the highest score overlaps an object of it by "
    f"{MIN_OVERLAP:g} or more (intersection over union), a difficult one too; whole: the same for the whole "
    "picture as the box; the means are over classes"
)
AP_OF_BOXES = (
    f"average precision of all boxes of a class by VOC's detection rule: a box is right if it overlaps an object by "
    f"{MIN_OVERLAP:g} or more and no box of a higher score is right for it; difficult objects count neither way"
)


def path(run: RunContext, head: str, split: str | None = None) -> Path:
    """Return the file of what a head's boxes came to, in the folder of its run."""
    return run.ws.run_dir(run.dataset, head) / f"boxes_{split or run.manifest.eval}.json"


def paths(run: RunContext, head: str) -> list[Path]:
    """Return the files of what a head's boxes came to, of all splits that were measured."""
    return sorted(run.ws.run_dir(run.dataset, head).glob("boxes_*.json"))


def why_due(run: RunContext, head: str, split: str | None = None, share: float | None = None) -> str | None:
    """Return why boxes must be measured, or None if they are of this head, store, objects and share.

    Parameters
    ----------
    share : None for that of the file
    """
    file = path(run, head, split)
    if not file.is_file():
        return "its boxes have not been measured yet"
    try:
        found = read_json(file)
        stated, made_from = float(found["share"]) if share is None else share, found["made_from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}: does not say what it was made from ({type(error).__name__} {error})"
    try:
        now = _digest_of_inputs(run, fit_head.require(run, head), split or run.manifest.eval, stated)
    except TableDueError as due:
        return str(due)
    return None if made_from == now else "it is of another head, store, share or other objects"


def _digest_of_inputs(run: RunContext, head: Head, split: str, share: float) -> str:
    table, store = require_rows(run, split)
    seen = [table.pictures_digest(), table.annotation_digest, store.fingerprint, head.weights_digest()]
    roles = [run.manifest.metric, list(run.manifest.unscored), list(table.classes)]
    return digest_of([FORMAT, split, seen, roles, head.facts.settings, share, SHARES])


def make(run: RunContext, head: str, split: str | None = None, share: float = SHARE) -> dict[str, Any]:
    """Draw boxes from all maps of a split, measure them, and write what they came to.

    Parameters
    ----------
    share : of the way from a map's lowest value to its highest, from which its cells are kept

    Returns
    -------
    JSON object: ``CorLoc`` and ``box_AP``, each with ``mean`` and ``by_class``; both means ``by_share``; and
    ``examples``, the boxes of the highest scores of each class

    Raises
    ------
    DatasetError
        The dataset has no boxes, or the split no labels.
    MissingDataError
        The annotations are not available.
    HeadError
        The head has no maps.
    SettingsError
        The share is not between 0 and 1.
    """
    manifest, split = run.manifest, split or run.manifest.eval
    refuse_without_boxes(manifest, "a measure of boxes", "pipeline map draws the maps")
    if manifest.by_person:
        raise SettingsError(f"{run.dataset}: its samples are persons, and maps are of whole pictures")
    if not 0 < share < 1:
        raise SettingsError(f"--share: expected a number between 0 and 1, got {share:g}")
    check_heads(manifest, run.settings, [head])
    check_writable(path(run, head, split))
    table = current_table(run, split)
    if not table.labelled:
        raise SettingsError(f"{run.dataset} {split}: has no labels, so boxes cannot be measured on it")
    fitted, store = fit_head.require(run, head), sealed_store(run, split)
    if not fitted.scores_patches or table.source != "grid":
        raise HeadError(
            f"head {head!r} gives no scores of patches of a grid, so it has no maps; give one of kind "
            "strong or weak, such as --head weak, on --source grid"
        )
    check_joined(store, table)
    fitted.check_rows(store)
    annotations = [run.split(split).annotations_by_id[i] for i in table.ids]
    set_threads(run.settings.threads)
    drawn = MapBoxes(table, sorted({*SHARES, share}))
    with Progress(f"boxes of {run.dataset} {split}", table.n_rows, "patches") as progress:
        for part, rows in store.iter_parts():
            drawn.add(fitted.patch_scores(rows), table.picture_of(slice(part.start, part.stop)))
            progress.advance(part.n_rows)
    result = _measure(run, fitted, table, drawn.result(), annotations, share)
    write_json(path(run, head, split), result)
    return result


def _measure(
    run: RunContext,
    head: Head,
    table: PatchTable,
    boxes: dict[float, Boxes],
    annotations: list[Annotation],
    share: float,
) -> dict[str, Any]:
    never_learnt, metric = head.facts.never_learnt, run.manifest.metric
    labels = np.where([name not in never_learnt for name in table.classes], table.scored_labels, np.int8(0))
    measured = {each: measure_boxes(some, annotations, labels, metric) for each, some in boxes.items()}
    whole = measure_boxes(whole_pictures(table.size_wh, labels), annotations, labels, metric)
    main = measured[share]
    scored = [name for name in table.classes if name not in table.unscored]

    def of_classes(values: np.ndarray) -> dict[str, float | None]:
        return {name: number(float(values[table.classes.index(name)])) for name in scored}

    return {
        "dataset": run.dataset,
        "split": table.split,
        "fit_split": head.facts.split,
        "metric": metric,
        "head": head.name,
        "trunk": run.settings.trunk,
        "layer": head.facts.how["how.layer"],
        "seed": head.facts.seed,
        "share": share,
        "definition": {"box": BOX, "CorLoc": CORLOC, "AP": AP_OF_BOXES},
        "CorLoc": {
            "mean": number(mean_of(main.corloc)),
            "whole": number(mean_of(whole.corloc)),
            "by_class": of_classes(main.corloc),
        },
        "box_AP": {"mean": number(mean_of(main.ap)), "by_class": of_classes(main.ap)},
        "by_share": {
            f"{each:g}": {
                "CorLoc": number(mean_of(found.corloc)),
                "box_AP": number(mean_of(found.ap)),
                "boxes": len(boxes[each].score),
            }
            for each, found in measured.items()
        },
        "never_learnt": dict(never_learnt),
        "pictures": {"eval": {"used": len(table.ids), "skipped": len(table.skipped)}},
        "objects": _count_objects(table, annotations, scored),
        "examples": _examples(table, boxes[share], main.judged, scored, labels),
        "settings": run.settings.to_file(),
        "made_from": _digest_of_inputs(run, head, table.split, share),
        "versions": versions(),
        "command": run.command,
    }


def _count_objects(table: PatchTable, annotations: list[Annotation], scored: list[str]) -> dict[str, int]:
    """Return the number of objects of each class that are not difficult."""
    counts = np.zeros(len(table.classes), np.int64)
    for each in annotations:
        counts += np.bincount(each.class_index[~each.difficult], minlength=len(counts))
    return {name: int(counts[table.classes.index(name)]) for name in scored}


def _examples(
    table: PatchTable, boxes: Boxes, judged: np.ndarray, scored: list[str], labels: np.ndarray
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the boxes of the highest scores of each class, ``right`` and ``wrong``."""
    examples = {}
    for name in scored:
        column = table.classes.index(name)
        of_class = np.flatnonzero((boxes.class_index == column) & (labels[:, column].any()))
        order = of_class[np.argsort(-boxes.score[of_class], kind="stable")]
        examples[name] = {
            word: [
                {
                    "id": table.ids[boxes.picture[i]],
                    "box_xyxy": [round(float(v), 2) for v in boxes.box_xyxy[i]],
                    "score": number(float(boxes.score[i])),
                }
                for i in order[judged[order] == value][:SHOWN]
            ]
            for word, value in (("right", 1), ("wrong", -1))
        }
    return examples


def read(run: RunContext, head: str, split: str | None = None) -> dict[str, Any] | None:
    """Return what a head's boxes came to if it was measured and is current; says where it is not."""
    file = path(run, head, split)
    if not file.is_file():
        return None
    try:
        reason = why_due(run, head, split)
    except PipelineError as error:
        reason = str(error).partition("\n")[0]
    if reason is not None:
        options = ["--split", split] if split not in (None, run.manifest.eval) else []
        share = read_if_sound(file).get("share", SHARE)
        options += ["--share", str(share)] if share != SHARE else []
        again = name_command("localise", "--dataset", run.dataset, "--head", head, *options)
        run.say(f"{file}: {reason}; measure again: {again}")
        return None
    return read_json(file)
