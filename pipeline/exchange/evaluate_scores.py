"""Evaluation of scores that were made elsewhere, on the labels of a split: from a file to a result of its own kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.dataset.read import is_official
from pipeline.exchange.given_scores import join_scores, read_given_scores
from pipeline.io.atomic import write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError
from pipeline.scoring.given import KIND, measure_given
from pipeline.scoring.results import versions
from pipeline.stages.context import RunContext
from pipeline.stages.workspace import DIGITS


def evaluate_scores(
    run: RunContext, file: Path, split: str | None = None, *, incomplete: bool = False, made_by: str = ""
) -> tuple[Path, dict[str, Any]]:
    """Measure the scores of a file on a split, by the metric of the dataset; no picture is opened.

    The result is written to ``results/given/``, in a file that is named by the scores, the labels and the metric.

    Parameters
    ----------
    file : see `read_given_scores`
    split : None for the evaluation split
    incomplete : let pictures lack scores; they rank last
    made_by : what made the scores, for people

    Returns
    -------
    file of the result, and its JSON object

    Raises
    ------
    DatasetError
        Scores that are not exactly one per picture and class of the split; a split without labels.
    """
    given, manifest = read_given_scores(file), run.manifest
    name = split or manifest.eval
    of_split = run.split(name)
    where = f"{run.dataset} {name}"
    if of_split.labels is None:
        raise DatasetError(f"{where}: no labels, so scores cannot be measured on it")
    joined = join_scores(given, where, of_split.ids, manifest.classes, incomplete=incomplete)
    measured = measure_given(joined.values, of_split.labels, manifest.classes, manifest.unscored, manifest.metric)
    notes = [f"{reason}, left out of the mean: {of}" for of, reason in measured["why_undefined"].items()]
    if joined.without:
        notes.append(f"{len(joined.without):,} pictures lack scores and rank last: {', '.join(joined.without[:5])}")
    if joined.left_out:
        notes.append(f"{joined.left_out:,} rows of pictures that are not of {name} were left out")
    if of_split.unusable:
        notes.append(f"{len(of_split.unusable):,} pictures with unusable annotations were left out")
    result = {
        "kind": KIND,
        "dataset": run.dataset,
        "split": name,
        "metric": manifest.metric,
        "scores": {"file": file.as_posix(), "sha256": given.sha256, "made_by": made_by},
        "measured": measured,
        "pictures": {"used": len(of_split.ids), "without_score": len(joined.without), "left_out": joined.left_out},
        "official": is_official(manifest, name, len(of_split.ids)),
        "annotations": of_split.annotation_digest,
        "notes": notes,
        "versions": versions(),
        "command": run.command,
    }
    key = [given.sha256, of_split.annotation_digest, name, run.facts_of_roles(), incomplete, made_by]
    path = run.ws.results / "given" / f"{run.dataset}-{name}-{file.stem}-{digest_of(key)[:DIGITS]}.json"
    write_json(path, result)
    return path, result
