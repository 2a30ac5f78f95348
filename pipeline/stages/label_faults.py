"""Labels of the fit split that held-out scores contradict, from files to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.activations.store import Store
from pipeline.head.fit import fit_heads
from pipeline.head.rows import RowReader
from pipeline.head.svm import fold_of
from pipeline.io.atomic import check_writable, read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import PipelineError
from pipeline.metrics.average_precision import leave_out_certain, mean_average_precision
from pipeline.patches.table import PatchTable
from pipeline.scoring.label_faults import find_faults, to_probabilities
from pipeline.scoring.results import number, versions
from pipeline.scoring.score import score_split
from pipeline.stages.boxes import refuse_without_labels
from pipeline.stages.context import RunContext
from pipeline.stages.fit_head import head_device, memory_budget
from pipeline.stages.hints import name_command
from pipeline.stages.patches import TableDueError
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import open_rows, require_rows, rows_to_extract
from pipeline.stages.workspace import VERSIONS

HEAD = "svm"
"""The head whose held-out scores judge: it learns from labels of pictures alone."""
FOLDS = 5
"""Folds of the fit pictures; no multiple of those within which the head chooses its C, by hashes of one kind."""
FORMAT = 1
DEFINITION = (
    f"probability: of head {HEAD}, fitted on the other {FOLDS - 1} of {FOLDS} folds of the fit pictures (a picture's "
    "fold follows from its file's digest), turned into a probability by a sigmoid per class (Platt); a label is "
    "contradicted, class by class, where a picture without it has a probability of at least the mean of the pictures "
    "with it, and above 0.5, or where a picture with it has a probability of its absence of at least the mean of the "
    "pictures without, and above 0.5 (confident learning); margin: probability of the other label minus that of the "
    "given one; difficult and unknown labels are left out"
)


def path(run: RunContext) -> Path:
    """Return the file of a dataset's contradicted labels."""
    return run.ws.label_faults_path(run.dataset)


def why_due(run: RunContext) -> str | None:
    """Return why labels must be judged, or None if they were, by these rows, labels and settings."""
    file = path(run)
    if not file.is_file():
        return "labels have not been judged yet"
    try:
        found = read_json(file)["made_from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}: does not say what it was made from ({type(error).__name__} {error})"
    try:
        now = _digest_of_inputs(run)
    except TableDueError as due:
        return str(due)
    return None if found == now else "it is of other rows, labels or settings"


def _digest_of_inputs(run: RunContext) -> str:
    table, store = require_rows(run, run.manifest.fit)
    settings = [run.settings.head_settings(HEAD).model_dump(mode="json"), run.settings.seed]
    seen = [table.split, table.pictures_digest(), table.picture_labels.tolist(), store.fingerprint]
    return digest_of([FORMAT, VERSIONS, settings, seen, list(table.classes), list(table.unscored), run.manifest.metric])


def make(run: RunContext) -> dict[str, Any]:
    """Judge the labels of the fit split by held-out scores and write those that are contradicted.

    Returns
    -------
    JSON object: ``faults`` by falling margin, each with ``id``, ``class``, ``label`` (``present`` or ``absent``),
    ``probability`` and ``margin``; ``classes``, with the thresholds of each; and ``left_out``, with why

    Raises
    ------
    DatasetError
        The dataset has no labels.
    StoreError, HeadError
        The fit split was not extracted in full, or holds nothing to fit on.
    """
    refuse_without_labels(run.manifest, "a judgement of labels")
    check_writable(path(run))
    table, store = open_rows(run, run.manifest.fit)
    set_threads(run.settings.threads)
    scores = held_out_scores(run, table, store)
    labels = table.picture_labels
    faults, classes, left_out = [], {}, {}
    for column, name in enumerate(table.classes):
        if name in table.unscored:
            continue
        own = labels[:, column]
        try:
            probability = to_probabilities(scores[:, column], own)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        found = find_faults(probability, own)
        classes[name] = {
            "with": int((own == 1).sum()),
            "without": int((own == -1).sum()),
            "left_out": int((own == 0).sum()),
            "threshold_with": number(found.threshold_with),
            "threshold_without": number(found.threshold_without),
            "faults": len(found.picture),
        }
        faults += [
            {
                "id": table.ids[index],
                "class": name,
                "label": "present" if own[index] == 1 else "absent",
                "probability": number(float(probability[index])),
                "margin": number(float(margin)),
            }
            for index, margin in zip(found.picture.tolist(), found.margin, strict=True)
        ]
    faults.sort(key=lambda fault: -fault["margin"])
    mean = held_out_mean_ap(scores, table.scored_labels, run.manifest.metric)
    result = {
        "dataset": run.dataset,
        "split": table.split,
        "metric": run.manifest.metric,
        "head": HEAD,
        "trunk": run.settings.trunk,
        "layer": store.identity["how.layer"],
        "folds": FOLDS,
        "definition": DEFINITION,
        "pictures": len(table.ids),
        "held_out_mAP": number(mean),
        "faults": faults,
        "classes": classes,
        "left_out": left_out,
        "skipped": len(table.skipped),
        "fingerprint": store.fingerprint,
        "settings": run.settings.to_file(),
        "made_from": _digest_of_inputs(run),
        "versions": versions(),
        "command": run.command,
    }
    write_json(path(run), result)
    return result


def held_out_mean_ap(scores: np.ndarray, labels: np.ndarray, metric: Literal["voc07", "voc12"]) -> float:
    """Compute the mAP of held-out scores. As everywhere, a class that was not learnt, here by a fold's head, has no AP.

    Parameters
    ----------
    scores : float64 ndarray (n_pictures, n_classes), from `held_out_scores`
    labels : int8 ndarray of the same shape, 1, -1, or 0 (left out)
    """
    counted = np.where(np.isnan(scores).any(0), np.int8(0), leave_out_certain(labels))
    return mean_average_precision(scores, counted, metric)[0]


def held_out_scores(run: RunContext, table: PatchTable, store: Store) -> np.ndarray:
    """Score each fit picture by a head that was fitted on the pictures of the other folds.

    Returns
    -------
    float64 ndarray (n_pictures, n_classes); NaN for a class that the other folds have nothing to learn from
    """
    s = run.settings
    fold = fold_of(table.picture_sha256, FOLDS)
    settings, device = {HEAD: s.head_settings(HEAD)}, head_device(run)
    reader = RowReader(store, rows_to_extract(run, table), memory_budget(run))
    scores = np.full(table.picture_labels.shape, np.nan)
    for k in range(FOLDS):
        held_out = fold == k
        if not held_out.any():
            continue
        fitted = fit_heads(
            store, table, settings, s.labels, s.seed, held_out_share=held_out, reader=reader, device=device
        )
        ((_, head),) = fitted
        (found,) = score_split(store, table, [head], s.all_aggregations, held_out, device)
        scores[held_out] = found.by(found.resolve(s.main_aggregation))[held_out]
        for name in head.facts.never_learnt:
            scores[held_out, table.classes.index(name)] = np.nan
    return scores


def read(run: RunContext) -> dict[str, Any] | None:
    """Return the contradicted labels if they were judged and are current; says where they are not."""
    if not path(run).is_file():
        return None
    try:
        reason = why_due(run)
    except PipelineError as error:
        reason = str(error).partition("\n")[0]
    if reason is not None:
        run.say(f"{path(run)}: {reason}; judge again: {name_command('data check', run.dataset, '--labels')}")
        return None
    return read_json(path(run))
