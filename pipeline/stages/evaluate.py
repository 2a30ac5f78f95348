"""Stage ``evaluate``: average precision of one head, or devkit files where a split has no labels."""

from __future__ import annotations

from typing import Any

from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.dataset.read import read_split
from pipeline.dataset.split import Annotation
from pipeline.io.atomic import write_json
from pipeline.io.errors import MissingDataError
from pipeline.io.progress import Say
from pipeline.scoring.results import evaluate_scores, unlabelled_result, write_devkit_files
from pipeline.scoring.scores import effective, load_scores
from pipeline.stages.patches import current_table
from pipeline.stages.receipt import read_receipt
from pipeline.stages.seconds import stage_seconds
from pipeline.stages.workspace import Workspace
from pipeline.trunk.sources import SEEDED_TRUNKS


def run_evaluate(ws: Workspace, dataset: str, head: str, split: str | None, command: str, say: Say) -> dict[str, Any]:
    """Average precision of one head, or devkit files where the split has no labels."""
    manifest = load_manifest(dataset)
    split = split or manifest.eval
    table = current_table(ws, dataset, split, say)
    scores_path = ws.scores_path(dataset, head, split)
    scores = load_scores(scores_path)
    folder = ws.run_dir(dataset, head)
    seconds = stage_seconds(ws, dataset, head, manifest, split)
    k = effective(ws.settings.aggregation, scores.aggregations)
    about = (scores, table, manifest, k, ws.settings.trunk, seconds, command)
    if not table.labelled:
        result = unlabelled_result(*about)
        competition = manifest.competition_with(outside_data=ws.settings.trunk not in SEEDED_TRUNKS)
        files = write_devkit_files(scores, k, folder / "devkit", competition, manifest.unscored)
        result["devkit_files"] = [path.as_posix() for path in files]
        say(f"{folder / 'devkit'}: {len(files)} files for the evaluation server ({competition}); {split} has no labels")
    else:
        result = evaluate_scores(*about, _annotations(ws, manifest, split, say) if scores.peak_xy is not None else None)
        for note in result["notes"]:
            say(f"NOTE: {note}")
    result["paths"] = {
        "head": ws.head_path(dataset, head).as_posix(),
        "scores": scores_path.as_posix(),
        "store": str(ws.stores.child(read_receipt(ws.receipt_path(dataset, split))["store"])),
        "result": (folder / "map.json").as_posix(),
    }
    write_json(folder / "map.json", result)
    return result


def _annotations(ws: Workspace, manifest: Manifest, split: str, say: Say) -> dict[str, Annotation] | None:
    """Annotations of a split by id; None where they are not at hand, or are of persons and not of what maps show."""
    if manifest.layout == "voc-action":
        return None
    try:
        of_split = read_split(manifest, split, ws.settings.data_root)
    except MissingDataError:
        say(f"{manifest.name} {split}: its boxes are not at hand, so it is not measured where maps point")
        return None
    return of_split.annotations_by_id
