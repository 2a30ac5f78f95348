"""Stage ``sweep``: head, label rule and aggregation chosen on held-out fit pictures.

The choice is made there; the evaluation split is shown next to it and never selected from.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.activations.store import Store
from pipeline.head.device import HeadDevice
from pipeline.head.fit import fit_heads
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.head import Head
from pipeline.head.points import Point, in_words, points_of
from pipeline.head.pooled import pool_for_all
from pipeline.head.rows import RowReader
from pipeline.head.settings import AnyHead
from pipeline.head.task import Columns
from pipeline.io.atomic import check_writable, read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import PipelineError
from pipeline.metrics.average_precision import leave_out_certain, mean_average_precision
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.results import number, versions
from pipeline.scoring.score import score_split
from pipeline.scoring.scores import SplitScores
from pipeline.stages import fit_head
from pipeline.stages.boxes import check_heads
from pipeline.stages.context import RunContext
from pipeline.stages.held_out import HeldOutMeasure, changed_choice
from pipeline.stages.patches import TableDueError
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import open_rows, require_rows
from pipeline.stages.workspace import VERSIONS


@dataclass(frozen=True)
class LabelledRows:
    """The patch table of a split and the store of its rows."""

    table: PatchTable
    store: Store


@dataclass(frozen=True)
class Grid:
    """What a sweep compares: every point of every head under every label rule and every aggregation.

    Attributes
    ----------
    heads : by name; one without a grid is one point
    held_out_share : of the fit pictures, on which the choice is made
    seeds : of fits; measures are means over them
    budget : of the memory of each fit
    device : on which heads are fitted and score
    """

    heads: Mapping[str, AnyHead]
    rules: Sequence[LabelSettings]
    aggregations: Sequence[Aggregation]
    held_out_share: float
    seeds: Sequence[int]
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
    try:
        made_from = read_json(file)["made_from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}: does not say what it was made from ({type(error).__name__} {error})"
    try:
        now = _digest_of_inputs(run)
    except TableDueError as due:
        return str(due)
    return None if made_from == now else "it is of other settings, pictures, labels or roles"


def _digest_of_inputs(run: RunContext) -> str:
    s = run.settings
    opened = [require_rows(run, split) for split in (run.manifest.fit, run.manifest.eval)]
    rules = _rules(run)
    heads = {name: s.head_settings(name) for name in s.compared_heads(run.manifest.has_boxes)}
    settings: list[Any] = [
        {name: head.model_dump(mode="json") for name, head in heads.items()},
        [rule.model_dump(mode="json") for rule in rules],
        [aggregation.to_json() for aggregation in s.all_aggregations],
        [s.held_out, *_seeds(run, heads)],
    ]
    data = [[store.fingerprint for _, store in opened], [table.labels_digest(s.labels) for table, _ in opened]]
    settings += changed_choice(opened[0][0], s.held_out, by_accuracy=True)
    # Digests sort keys, and of equal rows the first is chosen. Left out where the order is that of the alphabet.
    order = [[name, *head.grid] for name, head in heads.items()]
    if order != sorted([name, *sorted(grid)] for name, *grid in order):
        settings.append(order)
    return digest_of([VERSIONS, settings, data, run.facts_of_roles()])


def _rules(run: RunContext) -> list[LabelSettings]:
    """Return the label rules of a sweep. Readings differ where there are boxes; without them the first is enough."""
    s = run.settings
    readings = s.readings if run.manifest.has_boxes else s.readings[:1]
    return [s.labels.model_copy(update={"single_object": reading}) for reading in readings]


def _seeds(run: RunContext, heads: Mapping[str, AnyHead]) -> tuple[int, ...]:
    """Return the seeds of a sweep: all where a head has a grid, since of many points by one seed the luckiest wins."""
    return run.settings.seeds if any(head.grid for head in heads.values()) else (run.settings.seed,)


def make(run: RunContext) -> dict[str, Any]:
    """Fit and score every point of every head under every label rule, choose, and write the table of all.

    Returns
    -------
    JSON object with ``rows`` (one per point of a head, label rule and k) and ``chosen``, the row with the highest
    held-out mAP, or accuracy where every picture shows one class
    """
    manifest, s = run.manifest, run.settings
    compared = run.compared_heads
    check_heads(manifest, s, compared, "compare")
    check_writable(path(run))
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
        _seeds(run, heads),
        manifest.metric,
        fit_head.memory_budget(run),
        fit_head.head_device(run),
    )
    swept = sweep_grid(fit, shown, grid)
    chosen = swept["chosen"]
    run.say(
        f"chosen on {swept['held_out_pictures']} held-out fit pictures: head {name_row(chosen)}, "
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
        **({"seeds": list(grid.seeds)} if len(grid.seeds) > 1 else {}),
        **swept,
        "heads": {name: head.model_dump(mode="json") for name, head in heads.items()},
        "settings": s.to_file(),
        "made_from": _digest_of_inputs(run),
        "versions": versions(),
    }
    write_json(path(run), result)
    return result


def name_row(row: Mapping[str, Any]) -> str:
    """Name the head of a row, and its point where it has a grid."""
    return f"{row['head']} {in_words(row['point'])}" if "point" in row else row["head"]


def sweep_grid(fit: LabelledRows, shown: LabelledRows | None, grid: Grid) -> dict[str, Any]:
    """Measure every point of a grid, and choose one on held-out fit pictures.

    It is chosen by the mAP, or by the accuracy where every fit picture shows one class; of equal ones the first.

    Parameters
    ----------
    fit, shown : the fit split, and the split that is shown and not chosen on, if any is

    Returns
    -------
    JSON object: ``held_out_pictures`` (how many), ``rows`` (one per point and aggregation), ``chosen`` (a row), and
    ``chosen_by`` where that is the accuracy

    Raises
    ------
    HeadError
        No class has both a positive and a negative held-out picture.
    """
    measure = HeldOutMeasure.of_share(fit.table, grid.held_out_share, grid.metric)
    rows = _measure(fit, shown, grid, measure)
    told = {} if measure.by == "mAP" else {"chosen_by": measure.by}
    return {"held_out_pictures": measure.n_held_out, "rows": rows, "chosen": measure.choose(rows), **told}


@dataclass(frozen=True)
class _Case:
    """One point of a head under one label rule; `name` is for messages, and unique under that rule."""

    head: str
    point: Point
    settings: AnyHead
    rule: LabelSettings

    @property
    def name(self) -> str:
        return f"{self.head} {in_words(self.point)}" if self.point else self.head


def _measure(
    fit: LabelledRows, shown: LabelledRows | None, grid: Grid, measure: HeldOutMeasure
) -> list[dict[str, Any]]:
    """Return one row per point and aggregation: measured on held-out fit pictures, and on the split that is shown.

    For the first, heads are fitted on the rest of the fit pictures; for the second on all of them.
    """
    cases = [
        _Case(name, point, settings, rule)
        for rule in grid.rules
        for name, head in grid.heads.items()
        for point, settings in points_of(head)
    ]
    pooled = pool_for_all(fit.store, fit.table, [case.settings for case in cases], grid.budget)
    reader = RowReader(fit.store, budget=grid.budget, pooled=pooled)
    of_part = _scores(fit, fit, cases, grid, reader, measure.is_held_out)
    of_all = [] if shown is None else _scores(fit, shown, cases, grid, reader, None)
    rows = []
    for index, case in enumerate(cases):
        for k in of_part[index][0].aggregations:
            row: dict[str, Any] = {"head": case.head, "single_object": case.rule.single_object, "k": str(k)}
            row |= measure.of(of_part[index], k)
            if shown is not None:
                labels = leave_out_certain(shown.table.scored_labels)
                values = [mean_average_precision(scores.by(k), labels, grid.metric)[0] for scores in of_all[index]]
                row["mAP"] = number(float(np.mean(values)))
            patches = (of_all or of_part)[index][0].facts.head.patches or {}
            row["positive"] = patches.get("positive")  # of strong heads
            if case.point:
                row["point"] = case.point
            if case.point or shown is None:
                row |= measure.spread_of(of_part[index], k, grid.seeds)
            rows.append(row)
    return rows


def _scores(
    fit: LabelledRows,
    scored: LabelledRows,
    cases: Sequence[_Case],
    grid: Grid,
    reader: RowReader,
    is_held_out: np.ndarray | None,
) -> list[list[SplitScores]]:
    """Fit all cases and score a split, one pass over its rows per seed.

    Parameters
    ----------
    is_held_out : pictures that are not fitted on, and are scored; None for a fit on all, and a score of all

    Returns
    -------
    of each case one per seed; one alone where chance has no part in the fit
    """
    share = 0.0 if is_held_out is None else grid.held_out_share
    found: list[list[SplitScores]] = [[] for _ in cases]
    pooled: dict[Hashable, Columns] = {}
    for number_of_seed, seed in enumerate(grid.seeds):
        drawn = [i for i, case in enumerate(cases) if number_of_seed == 0 or case.settings.has_chance]
        heads: dict[int, Head] = {}
        for rule in grid.rules:
            of_rule = {cases[i].name: i for i in drawn if cases[i].rule is rule}
            fitted = fit_heads(
                fit.store,
                fit.table,
                {name: cases[i].settings for name, i in of_rule.items()},
                rule,
                seed,
                held_out_share=share,
                reader=reader,
                device=grid.device,
            )
            heads |= {of_rule[name]: head for name, head in fitted}
        if drawn:
            in_order = [heads[i] for i in drawn]
            score = partial(
                score_split, scored.store, scored.table, device=grid.device, pooled=pooled, budget=grid.budget
            )
            each = score(in_order, grid.aggregations, is_held_out)
            for i, scores in zip(drawn, each, strict=True):
                found[i].append(scores)
    return found
