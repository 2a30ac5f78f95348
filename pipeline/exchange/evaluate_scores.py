"""Evaluation of scores that were made elsewhere, on the labels of a split: from a file to a result of its own kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.read import is_official
from pipeline.dataset.split import Split
from pipeline.exchange.given_scores import join_scores, read_given_scores
from pipeline.io.atomic import write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError
from pipeline.io.messages import enumerate_problems
from pipeline.patches.notes import is_few
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
        Scores that are not exactly one per picture and class of the split; a split without labels, or with more
        annotations that cannot be used than may be skipped.
    """
    given, manifest = read_given_scores(file), run.manifest
    name = split or manifest.eval
    of_split = run.split(name)
    where = f"{run.dataset} {name}"
    if of_split.labels is None:
        raise DatasetError(f"{where}: no labels, so scores cannot be measured on it")
    used = _usable(of_split, where, run.settings.max_skipped)
    ids, labels = [of_split.ids[index] for index in used], of_split.labels[used]
    joined = join_scores(given, where, ids, manifest.classes, incomplete=incomplete)
    measured = measure_given(joined.values, labels, manifest.classes, manifest.unscored, manifest.metric)
    notes = [f"{reason}, left out of the mean: {of}" for of, reason in measured["why_undefined"].items()]
    if constant := _constant(joined.values, labels, measured["AP"], manifest.classes):
        notes.append(f"one score for all pictures, so that AP is chance: {', '.join(constant)}")
    if joined.without:
        notes.append(f"{len(joined.without):,} pictures lack scores and rank last: {', '.join(joined.without[:5])}")
    ignored = sum(i in of_split.unusable for i in given.ids)
    if joined.left_out > ignored:
        notes.append(f"{joined.left_out - ignored:,} rows of pictures that are not of {name} were left out")
    if of_split.unusable:
        rows = f", and the {ignored:,} rows of them" if ignored else ""
        notes.append(f"{len(of_split.unusable):,} pictures with unusable annotations were left out{rows}")
    result = {
        "kind": KIND,
        "dataset": run.dataset,
        "split": name,
        "metric": manifest.metric,
        "scores": {"file": file.as_posix(), "sha256": given.sha256, "made_by": made_by},
        "measured": measured,
        "pictures": {"used": len(ids), "without_score": len(joined.without), "left_out": joined.left_out},
        "official": is_official(manifest, name, len(ids)),
        "annotations": of_split.annotation_digest,
        "notes": notes,
        "versions": versions(),
        "command": run.command,
    }
    key = [given.sha256, of_split.annotation_digest, name, run.facts_of_roles(), incomplete, made_by]
    path = run.ws.results / "given" / f"{run.dataset}-{name}-{file.stem}-{digest_of(key)[:DIGITS]}.json"
    write_json(path, result)
    return path, result


def _constant(
    values: np.ndarray, labels: np.ndarray, by_class: Mapping[str, float | None], classes: Sequence[str]
) -> list[str]:
    """Return the classes with an AP of which no two pictures that count have different scores, or none has one."""
    columns = [column for column, name in enumerate(classes) if by_class.get(name) is not None]
    return [classes[c] for c in columns if len(np.unique(values[labels[:, c] != 0, c])) == 1]


def _usable(split: Split, where: str, max_skipped: float) -> np.ndarray:
    """Return the indices of the pictures whose annotations can be used: int64 ndarray, in the split's order.

    Raises
    ------
    DatasetError
        More of them cannot be used than may be skipped.
    """
    n_bad, n = len(split.unusable), len(split.ids)
    if n_bad and not is_few(n_bad, n, max_skipped):
        raise DatasetError(
            f"{where}: the annotations of {n_bad:,} of {n:,} pictures cannot be used\n"
            f"{enumerate_problems([f'{i}: {why}' for i, why in split.unusable.items()])}\nmore than may be skipped "
            f"(setting max_skipped: {max_skipped:g} of all, and never all); fix them, or set a larger share"
        )
    return np.array([index for index, i in enumerate(split.ids) if i not in split.unusable], np.int64)
