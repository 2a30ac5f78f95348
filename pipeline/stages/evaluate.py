"""Stage ``evaluate``: average precision of one head, or devkit files where a split has no labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.dataset.split import Annotation
from pipeline.io.atomic import read_json, write_json
from pipeline.io.errors import MissingDataError, PipelineError
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.evaluation import Evaluation
from pipeline.scoring.results import write_devkit_files
from pipeline.scoring.scores_file import load_scores
from pipeline.stages import score
from pipeline.stages.boxes import check_heads
from pipeline.stages.context import RunContext
from pipeline.stages.hints import name_way
from pipeline.stages.patches import current_table
from pipeline.stages.receipt import read_receipt
from pipeline.stages.seconds import stage_seconds
from pipeline.trunk.sources import SEEDED_TRUNKS


def path(run: RunContext, head: str) -> Path:
    """Return the file of a head's result, in the folder of its run."""
    return run.ws.run_dir(run.dataset, head) / "map.json"


def why_due(run: RunContext, head: str, split: str | None = None) -> str | None:
    """Return why a head must be evaluated, or None if its result is of these scores, labels and roles.

    Raises
    ------
    StoreError, HeadError
        There are no scores, or what they were made from is missing.
    """
    file = path(run, head)
    if not file.is_file():
        return "it has not been evaluated yet"
    reason = score.why_due(run, head, split)
    if reason is not None:
        return f"scores: {reason}"
    try:
        return _first_difference(read_json(file), _decided_by(run, head, split))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{file}: cannot be read as a result: {error}"


def _decided_by(run: RunContext, head: str, split: str | None) -> dict[str, Any]:
    """Return those fields of a result that follow from its inputs, as the inputs are now."""
    manifest, split = run.manifest, split or run.manifest.eval
    scores, table = load_scores(score.path(run, head, split)), current_table(run, split)
    fitted = scores.facts.head
    return {
        "dataset": run.dataset,
        "split": split,
        "fit_split": fitted.split,
        "metric": manifest.metric,
        "k": scores.resolve(run.settings.aggregation).to_json(),
        "head": fitted.name,
        "fingerprints": {
            "fit": fitted.fingerprint,
            "eval": scores.facts.fingerprint,
            "labels_fit": fitted.labels_digest,
            "labels_eval": table.labels_digest(LabelSettings.model_validate(fitted.reading)),
        },
    }


def _first_difference(result: dict[str, Any], expected: dict[str, Any]) -> str | None:
    for field, value in expected.items():
        if result.get(field) != value:
            return f"{field} differs"
    return None


def make(run: RunContext, head: str, split: str | None = None) -> dict[str, Any]:
    """Evaluate the scores of a head and write the result; without labels, the files for the evaluation server too.

    Returns
    -------
    The result, a JSON object.
    """
    ws, manifest, split = run.ws, run.manifest, split or run.manifest.eval
    check_heads(manifest, run.settings, [head])
    table = current_table(run, split)
    scores_file = score.path(run, head, split)
    scores = load_scores(scores_file)
    folder, trunk = path(run, head).parent, run.settings.trunk
    k, configured = scores.resolve(run.settings.aggregation), run.settings.main_aggregation
    if k != configured:
        run.say(f"head {head!r}: k={k}, by which it was fitted; k={configured} does not apply to its scores")
    evaluation = Evaluation(
        scores=scores,
        table=table,
        manifest=manifest,
        k=k,
        trunk=trunk,
        seconds=stage_seconds(run, head, split),
        command=run.command,
    )
    if not table.labelled:
        result = evaluation.unlabelled()
        competition = manifest.competition_with(outside_data=trunk not in SEEDED_TRUNKS)
        files = write_devkit_files(scores, evaluation.k, folder / "devkit", competition, manifest.unscored)
        result = replace(result, devkit_files=[file.as_posix() for file in files])
        where = f"{folder / 'devkit'}: {len(files)} files for the evaluation server ({competition})"
        run.say(f"{where}; {split} has no labels")
    else:
        result = evaluation.result(_annotations(run, split) if scores.peak_xy is not None else None)
        for note in result.notes:
            run.say(f"NOTE: {note}")
    paths = {
        "head": ws.head_path(run.dataset, head).as_posix(),
        "scores": scores_file.as_posix(),
        "store": str(ws.stores.child(read_receipt(ws.receipt_path(run.dataset, split)).store)),
        "result": path(run, head).as_posix(),
    }
    entries = replace(result, paths=paths).to_dict()
    write_json(path(run, head), entries)
    return entries


def read_result(run: RunContext, head: str) -> dict[str, Any]:
    """Read the result of a head.

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
