"""Stage ``sweep``: head, label rule and aggregation chosen on held-out fit pictures.

The choice is made there; the evaluation split is shown next to it and never selected from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.activations.store import Store
from pipeline.head.device import HeadDevice
from pipeline.head.fit import fit_heads
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.head import Head
from pipeline.head.rows import RowReader
from pipeline.head.settings import AnyHead
from pipeline.io.atomic import read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import HeadError, PipelineError
from pipeline.metrics.average_precision import leave_out_certain, mean_average_precision
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.results import number, versions
from pipeline.scoring.score import score_split
from pipeline.scoring.scores import SplitScores
from pipeline.stages import extract, fit_head
from pipeline.stages.boxes import check_heads
from pipeline.stages.context import RunContext
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import open_rows
from pipeline.stages.workspace import VERSIONS


@dataclass(frozen=True)
class LabelledRows:
    """The patch table of a split and the store of its rows."""

    table: PatchTable
    store: Store


@dataclass(frozen=True)
class Grid:
    """What a sweep compares: every head under every label rule and every aggregation.

    Attributes
    ----------
    held_out_share : of the fit pictures, on which the choice is made
    budget : of the memory of each fit
    device : on which heads are fitted and score
    """

    heads: Mapping[str, AnyHead]
    rules: Sequence[LabelSettings]
    aggregations: Sequence[Aggregation]
    held_out_share: float
    seed: int
    metric: Literal["voc07", "voc12"]
    budget: MemoryBudget = MemoryBudget()
    device: HeadDevice = HeadDevice()


def path(run: RunContext) -> Path:
    """Return the file of a dataset's sweep."""
    return run.ws.sweep_path(run.dataset)


def why_due(run: RunContext) -> str | None:
    """Return why the sweep must be made, or None if it is of these heads, label rules, pictures and roles.

    Its name holds no digest, so the file records what it was made from.
    """
    file = path(run)
    if not file.is_file():
        return "it has not been made yet"
    for split in dict.fromkeys((run.manifest.fit, run.manifest.eval)):
        reason = extract.why_due(run, split)
        if reason is not None:
            return reason
    try:
        made_from = read_json(file)["made_from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}: does not say what it was made from ({type(error).__name__} {error})"
    return None if made_from == _digest_of_inputs(run) else "it is of other settings, pictures, labels or roles"


def _digest_of_inputs(run: RunContext) -> str:
    s = run.settings
    opened = [open_rows(run, split) for split in (run.manifest.fit, run.manifest.eval)]
    rules = _rules(run)
    settings = [
        {name: s.head_settings(name).model_dump(mode="json") for name in s.compared_heads(run.manifest.has_boxes)},
        [rule.model_dump(mode="json") for rule in rules],
        [aggregation.to_json() for aggregation in s.all_aggregations],
        [s.held_out, s.seed],
    ]
    data = [[store.fingerprint for _, store in opened], [table.labels_digest(s.labels) for table, _ in opened]]
    return digest_of([VERSIONS, settings, data, run.facts_of_roles()])


def _rules(run: RunContext) -> list[LabelSettings]:
    """Return the label rules of a sweep. Readings differ where there are boxes; without them the first is enough."""
    s = run.settings
    readings = s.readings if run.manifest.has_boxes else s.readings[:1]
    return [s.labels.model_copy(update={"single_object": reading}) for reading in readings]


def make(run: RunContext) -> dict[str, Any]:
    """Fit and score every head under every label rule, choose, and write the table of all.

    Returns
    -------
    JSON object with ``rows`` (one per head, label rule and k) and ``chosen``, the row with the highest held-out mAP
    """
    manifest, s = run.manifest, run.settings
    compared = run.compared_heads
    check_heads(manifest, s, compared, "compare")
    set_threads(s.threads)
    fit, shown = (LabelledRows(*open_rows(run, split)) for split in (manifest.fit, manifest.eval))
    if not shown.table.labelled:
        raise PipelineError(f"{run.dataset} {manifest.eval}: no labels to show a sweep on")
    heads = {name: s.head_settings(name) for name in compared}
    grid = Grid(
        heads,
        _rules(run),
        s.all_aggregations,
        s.held_out,
        s.seed,
        manifest.metric,
        fit_head.memory_budget(run),
        fit_head.head_device(run),
    )
    swept = sweep_grid(fit, shown, grid)
    chosen = swept["chosen"]
    run.say(
        f"chosen on {swept['held_out_pictures']} held-out fit pictures: head {chosen['head']}, "
        f"single_object {chosen['single_object']}, k {chosen['k']}"
    )
    result = {
        "dataset": run.dataset,
        "split": manifest.eval,
        "fit_split": manifest.fit,
        "metric": manifest.metric,
        "trunk": s.trunk,
        "layer": shown.store.identity.layer,
        "seed": s.seed,
        **swept,
        "heads": {name: head.model_dump(mode="json") for name, head in heads.items()},
        "made_from": _digest_of_inputs(run),
        "versions": versions(),
    }
    write_json(path(run), result)
    return result


def sweep_grid(fit: LabelledRows, shown: LabelledRows, grid: Grid) -> dict[str, Any]:
    """Measure every point of a grid, and choose by the mAP on held-out fit pictures.

    Parameters
    ----------
    fit, shown : the fit split, and the split that is shown and not chosen on

    Returns
    -------
    JSON object: ``held_out_pictures`` (how many), ``rows`` (one per point), ``chosen`` (a row)

    Raises
    ------
    HeadError
        No held-out picture shows any class.
    """
    is_held_out = hold_out_pictures(fit.table.picture_sha256, grid.held_out_share)
    rows = _measure(fit, shown, grid, is_held_out)
    n_held_out = int(is_held_out.sum())
    measured = [row for row in rows if row["held_out_mAP"] is not None]
    if not measured:
        raise HeadError(
            f"{fit.table.dataset} {fit.table.split}: no positive picture among the {n_held_out} held out, "
            "so nothing can be chosen; raise held_out"
        )
    chosen = max(measured, key=lambda row: row["held_out_mAP"])
    return {"held_out_pictures": n_held_out, "rows": rows, "chosen": chosen}


def _measure(fit: LabelledRows, shown: LabelledRows, grid: Grid, is_held_out: np.ndarray) -> list[dict[str, Any]]:
    """Return one row per point: mAP on held-out fit pictures, and on the split that is shown.

    For the first, heads are fitted on the rest of the fit pictures; for the second on all of them.
    """
    points = [(rule, name) for rule in grid.rules for name in grid.heads]
    reader = RowReader(fit.store, budget=grid.budget)

    def fit_all(share: float) -> list[Head]:
        of_rules = [
            dict(
                fit_heads(
                    fit.store,
                    fit.table,
                    grid.heads,
                    rule,
                    grid.seed,
                    held_out_share=share,
                    reader=reader,
                    device=grid.device,
                )
            )
            for rule in grid.rules
        ]
        return [by_name[name] for by_name in of_rules for name in grid.heads]

    def mean_ap(scores: SplitScores, k: Aggregation, labels: np.ndarray, pictures: Any = slice(None)) -> float | None:
        return number(mean_average_precision(scores.by(k)[pictures], labels[pictures], grid.metric)[0])

    on_part, on_all = fit_all(grid.held_out_share), fit_all(0.0)
    held_out_scores = score_split(fit.store, fit.table, on_part, grid.aggregations, is_held_out, grid.device)
    shown_scores = score_split(shown.store, shown.table, on_all, grid.aggregations, device=grid.device)
    return [
        {
            "head": name,
            "single_object": rule.single_object,
            "k": str(k),
            "held_out_mAP": mean_ap(of_part, k, fit.table.scored_labels, is_held_out),
            "mAP": mean_ap(of_all, k, leave_out_certain(shown.table.scored_labels)),
            "positive": (head.facts.patches or {}).get("positive"),  # of strong heads
        }
        for (rule, name), head, of_part, of_all in zip(points, on_all, held_out_scores, shown_scores, strict=True)
        for k in of_all.aggregations
    ]
