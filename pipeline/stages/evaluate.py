"""Stage ``evaluate``: average precision of one head, or devkit files where a split has no labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.dataset.split import Annotation
from pipeline.io.atomic import read_json, write_json
from pipeline.io.errors import MissingDataError, PipelineError, StoreError
from pipeline.io.progress import silent
from pipeline.patches.table_file import read_table
from pipeline.scoring.devkit import write_devkit_files
from pipeline.scoring.evaluation import Evaluation
from pipeline.scoring.results import Result
from pipeline.stages import patches, score
from pipeline.stages.boxes import check_heads
from pipeline.stages.context import RunContext
from pipeline.stages.hints import name_command, name_way
from pipeline.stages.receipt import read_receipt
from pipeline.stages.seconds import stage_seconds
from pipeline.trunk.registry import SEEDED_TRUNKS


def path(run: RunContext, head: str) -> Path:
    """Return the file of a head's result, in the folder of its run."""
    return run.ws.run_dir(run.dataset, head) / "map.json"


NOT_DECIDED = ("seconds", "versions", "command", "paths", "devkit_files")
"""Fields of a result that its inputs do not decide."""


def why_due(run: RunContext, head: str, split: str | None = None) -> str | None:
    """Return why a head must be evaluated, or None if its result is what an evaluation would give now.

    The evaluation itself takes less than comparing everything that decides it, so it is made and compared.

    Raises
    ------
    MissingDataError
        Neither the pictures of a split nor their patch table.
    """
    file = path(run, head)
    if not file.is_file():
        return "it has not been evaluated yet"
    reason = score.why_due(run, head, split)
    if reason is not None:
        return reason
    try:
        found = read_json(file)
        expected = _measure(replace(run, say=silent), head, split or run.manifest.eval).to_dict()
        # Where the boxes are not available, it cannot be measured where maps point.
        left_out = NOT_DECIDED if expected["pointing"] is not None else (*NOT_DECIDED, "pointing")
        if not _fit_pictures(run, expected["fit_split"]):  # whether pictures are in both splits is in the notes
            left_out = (*left_out, "notes")
        differing = [
            field
            for field in dict.fromkeys((*expected, *found))
            if field not in left_out and found.get(field) != expected.get(field)
        ]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{file}: cannot be read as a result: {error}"
    return f"{', '.join(differing[:5])} would differ" if differing else None


def make(run: RunContext, head: str, split: str | None = None) -> dict[str, Any]:
    """Evaluate the scores of a head and write the result; without labels, the files for the evaluation server too.

    Returns
    -------
    The result, a JSON object.
    """
    ws, manifest, split = run.ws, run.manifest, split or run.manifest.eval
    check_heads(manifest, run.settings, [head])
    result = _measure(run, head, split)
    configured = run.settings.main_aggregation
    if result.k != configured:
        run.say(f"head {head!r}: k={result.k}, by which it was fitted; k={configured} does not apply to its scores")
    if not patches.require(run, split).labelled:
        folder = path(run, head).parent / "devkit"
        competition = manifest.competition_with(outside_data=run.settings.trunk not in SEEDED_TRUNKS)
        scores = score.require(run, head, split)
        files = write_devkit_files(scores, result.k, folder, competition, manifest.unscored)
        result = replace(result, devkit_files=[file.as_posix() for file in files])
        run.say(f"{folder}: {len(files)} files for the evaluation server ({competition}); {split} has no labels")
    for note in result.notes:
        run.say(f"NOTE: {note}")
    paths = {
        "head": ws.head_path(run.dataset, head).as_posix(),
        "scores": score.path(run, head, split).as_posix(),
        "store": str(ws.stores.child(read_receipt(ws.receipt_path(run.dataset, split)).store)),
        "result": path(run, head).as_posix(),
    }
    entries = replace(result, paths=paths).to_dict()
    write_json(path(run, head), entries)
    return entries


def _measure(run: RunContext, head: str, split: str) -> Result:
    scores, table = score.require(run, head, split), patches.require(run, split)
    evaluation = Evaluation(
        scores=scores,
        table=table,
        manifest=run.manifest,
        k=scores.resolve(run.settings.aggregation),
        trunk=run.settings.trunk,
        seconds=stage_seconds(run, head, split),
        command=run.command,
        fit_pictures=_fit_pictures(run, scores.facts.head.split),
    )
    if not table.labelled:
        return evaluation.unlabelled()
    return evaluation.result(_annotations(run, split) if scores.peak_xy is not None else None)


def _fit_pictures(run: RunContext, split: str) -> tuple[str, ...]:
    """Return the digests of the pictures of the fit split; none where it has no patch table any more."""
    file = patches.path(run, split)
    if file not in run.opened.tables:
        try:
            return read_table(file).picture_sha256
        except (StoreError, OSError):
            return ()
    return run.opened.tables[file].picture_sha256


def read_result(run: RunContext, head: str) -> dict[str, Any]:
    """Read the result of a head, as it was evaluated last.

    Raises
    ------
    PipelineError
        It was not evaluated yet, or its file is damaged.
    """
    file = path(run, head)
    if not file.is_file():
        check_heads(run.manifest, run.settings, [head])
        stages = (
            f"pipeline {stage} --dataset {run.dataset} --head {head}" for stage in ("fit-head", "score", "evaluate")
        )
        commands = f"{', '.join(stages)}, each with the same settings"
        is_main = head == run.settings.main_head(run.manifest.has_boxes)
        raise PipelineError(
            f"{run.dataset}: no result of head {head!r} with these settings yet (no {file}); make it with: "
            + (name_way(f"{run.ws.results}/{run.dataset}_map.json", commands) if is_main else commands)
        )
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{file}: cannot be read as a result: {error}; make it again: pipeline evaluate") from error


def require(run: RunContext, head: str) -> dict[str, Any]:
    """Read the result of a head that is what an evaluation of its split would give now.

    Raises
    ------
    PipelineError
        It was not evaluated yet, is damaged, or something changed since.
    """
    result = read_result(run, head)
    reason = why_due(run, head, result.get("split"))
    if reason is not None:
        options = ["--split", result["split"]] if result.get("split") not in (None, run.manifest.eval) else []
        command = name_command("evaluate", "--dataset", run.dataset, "--head", head, *options)
        raise PipelineError(f"{path(run, head)}: {reason}; evaluate again: {command}")
    return result


def _annotations(run: RunContext, split: str) -> dict[str, Annotation] | None:
    """Return the annotations of a split by id; None where there are none of objects that maps could show."""
    if run.manifest.layout == "voc-action":  # of persons
        return None
    try:
        of_split = run.split(split)
    except MissingDataError:
        run.say(f"{run.dataset} {split}: its boxes are not available, so it is not measured where maps point")
        return None
    return of_split.annotations_by_id
