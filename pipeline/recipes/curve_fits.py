"""The fits of learning curves: a recipe with a seed on a subset of the fit pictures, scored on the evaluation split.

What several fits need is read once, while memory has room: pooled vectors of both splits, and the rows of both stores
where heads learn from rows. The scores of each fit are kept in a file, so that a curve resumes with those it has.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.head.fit import fit_heads
from pipeline.head.fit_memory import reading_bytes, rows_bytes
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.head import Head
from pipeline.head.pooled import pool_for_all
from pipeline.head.rows import RowReader
from pipeline.head.settings import AnyHead
from pipeline.head.task import Columns
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError, HeadError, StoreError
from pipeline.io.progress import Progress
from pipeline.patches.subsets import ALL, By, choose_subset, order_of_draw
from pipeline.patches.table import PatchTable
from pipeline.recipes import recipe
from pipeline.recipes.catalogue import find_recipe
from pipeline.recipes.paths import curve_scores_path, recipe_workspace
from pipeline.scoring.aggregation import POOLED, Aggregation
from pipeline.scoring.score import score_split
from pipeline.scoring.scores import SplitScores
from pipeline.scoring.scores_file import load_scores, save_scores
from pipeline.stages.context import RunContext
from pipeline.stages.fit_head import head_device, memory_budget
from pipeline.stages.patches import current_table
from pipeline.stages.stored import open_rows, rows_to_extract
from pipeline.stages.sweep import LabelledRows
from pipeline.stages.workspace import Workspace


@dataclass(frozen=True)
class CurvePlan:
    """What a curve is drawn over.

    Attributes
    ----------
    recipes : names
    by : whether a size is a number of pictures, or of positive pictures per class
    sizes : rising, with `ALL` last if it is asked for
    """

    recipes: tuple[str, ...]
    by: By
    sizes: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object in files."""
        return {"recipes": list(self.recipes), "by": self.by, "sizes": [size or "all" for size in self.sizes]}


@dataclass(frozen=True)
class Fit:
    """One recipe with one seed on one subset.

    Attributes
    ----------
    n : number of pictures of the subset
    scores : None where it could not be fitted, for the reason `why`
    """

    recipe: str
    seed: int
    size: int
    n: int
    scores: SplitScores | None = None
    why: str = ""


def fit_all(run: RunContext, plan: CurvePlan, again: bool = False) -> list[Fit]:
    """Fit every recipe on every subset with every seed, and score the evaluation split with each.

    Parameters
    ----------
    again : fit also those whose scores are there
    """
    fits = [fit for group in _group(run, plan).values() for fit in _fit_group(run, plan, group, again)]
    fits += [fit for name in plan.recipes if is_whole_network(run, name) for fit in _train_networks(run, plan, name)]
    return sorted(fits, key=lambda fit: run.settings.seeds.index(fit.seed))  # whichever were there already


def is_whole_network(run: RunContext, name: str) -> bool:
    """Whether nothing of a recipe is fitted on rows: its head is the trunk's own last layer."""
    head = find_recipe(run.settings, name).head
    return head is not None and head.kind == "own"


def configured(run: RunContext, name: str) -> Aggregation:
    """Return the aggregation that a recipe states, or the configured one; nothing is chosen for a curve."""
    return recipe_workspace(run.ws, name, run.settings.seeds[0]).settings.main_aggregation


# ---- recipes that share rows and labels are fitted and scored together


@dataclass
class _Group:
    """Recipes of one store and one label rule, by seed."""

    context: RunContext
    by_seed: dict[int, list[str]]


def _group(run: RunContext, plan: CurvePlan) -> dict[Any, _Group]:
    groups: dict[Any, _Group] = {}
    for seed in run.settings.seeds:
        for name in plan.recipes:
            if is_whole_network(run, name):
                continue
            context = run.on(recipe_workspace(run.ws, name, seed))
            key = context.ws.store_digest, context.settings.labels.model_dump_json()
            groups.setdefault(key, _Group(context, {})).by_seed.setdefault(seed, []).append(name)
    return groups


def _fit_group(run: RunContext, plan: CurvePlan, group: _Group, again: bool) -> Iterator[Fit]:
    """Fit the recipes of a group on all subsets, and score the evaluation split in one pass for each size."""
    context, manifest = group.context, run.manifest
    fit_split, eval_split = (LabelledRows(*open_rows(context, split)) for split in (manifest.fit, manifest.eval))
    table = fit_split.table
    kept = _KeptScores(run, plan.by, _digest_of_rows(context, (fit_split, eval_split)), eval_split.table.ids)
    subset = {
        (size, seed): choose_subset(order_of_draw(table.picture_sha256, seed), table.scored_labels, plan.by, size)
        for size in _sizes_that_are_there(run, plan, table)
        for seed in group.by_seed
    }
    due: dict[int, list[Fit]] = {}
    for (size, seed), chosen in subset.items():
        for name in group.by_seed[seed]:
            fit = Fit(name, seed, size, int(chosen.sum()))
            scores = None if again else kept.load(fit)
            if scores is None:
                due.setdefault(size, []).append(fit)
            else:
                yield replace(fit, scores=scores)
    if kept.n_loaded:
        run.say(f"{kept.n_loaded} of {kept.n_loaded + sum(map(len, due.values()))} fits of the curve are there already")
    if not due:
        return
    shared = _Shared(context, [list(map(partial(_head_of, run), fits)) for fits in due.values()], fit_split, eval_split)
    for size, fits in due.items():
        fitted: list[tuple[Fit, Head]] = []
        for fit in fits:
            try:
                heads = shared.fit(fit.recipe, _head_of(run, fit), fit.seed, subset[size, fit.seed])
                fitted += [(fit, head) for head in heads]
            except HeadError as error:
                yield replace(fit, why=str(error).partition("\n")[0])
        if fitted:
            wanted = {configured(run, fit.recipe) for fit, _ in fitted} - {POOLED}
            scored = shared.score([head for _, head in fitted], sorted(wanted, key=str))
            for (fit, _), scores in zip(fitted, scored, strict=True):
                kept.save(fit, scores)
                yield replace(fit, scores=scores)


def _head_of(run: RunContext, fit: Fit) -> AnyHead:
    return recipe_workspace(run.ws, fit.recipe, fit.seed).settings.head_settings(fit.recipe)


def _digest_of_rows(run: RunContext, splits: Sequence[LabelledRows]) -> str:
    """Return the digest of what decides scores beside settings: pictures, labels, stores and the manifest's roles."""
    rule = run.settings.labels
    seen = [[s.table.pictures_digest(), s.table.labels_digest(rule), s.store.fingerprint] for s in splits]
    return digest_of([seen, run.facts_of_roles()])


class _KeptScores:
    """The files of the scores of fits.

    Parameters
    ----------
    made_from : digest of what decides scores, beside the settings, which name the files
    ids : of the evaluation split

    Attributes
    ----------
    n_loaded : fits whose scores were there
    """

    def __init__(self, run: RunContext, by: By, made_from: str, ids: tuple[str, ...]) -> None:
        self._run, self._by, self._made_from, self._ids = run, by, made_from, ids
        self.n_loaded = 0

    def _path(self, fit: Fit) -> Path:
        ws = recipe_workspace(self._run.ws, fit.recipe, fit.seed)
        part = "all" if fit.size == ALL else f"{self._by}-{fit.size}"
        return curve_scores_path(ws, self._run.dataset, fit.recipe, part)

    def _facts(self, fit: Fit) -> dict[str, Any]:
        return {"curve": {"pictures": fit.n, "made_from": self._made_from}}

    def load(self, fit: Fit) -> SplitScores | None:
        """Return the scores of a fit if they are there and of these pictures, labels and stores."""
        try:
            scores = load_scores(self._path(fit))
        except StoreError:
            return None
        if (scores.facts.joined, scores.ids) != (self._facts(fit), self._ids):
            return None
        self.n_loaded += 1
        return scores

    def save(self, fit: Fit, scores: SplitScores) -> None:
        """Write the scores of a fit."""
        facts = replace(scores.facts, joined=self._facts(fit))
        save_scores(replace(scores, facts=facts, peak_xy=None), self._path(fit))


class _Shared:
    """What the fits of a group have in common, read once where that saves a pass and memory has room.

    Parameters
    ----------
    by_size : heads that are fitted for each size
    fit_split, eval_split : of the group
    """

    def __init__(
        self, run: RunContext, by_size: Sequence[Sequence[AnyHead]], fit_split: LabelledRows, eval_split: LabelledRows
    ) -> None:
        self._run, self._fit, self._eval = run, fit_split, eval_split
        self._device = head_device(run)
        budget = replace(memory_budget(run), drop=self._release)
        heads = [head for of_size in by_size for head in of_size]
        rows = rows_to_extract(run, fit_split.table)
        if sum(not head.pooled_by for head in heads) > 1:
            _hold(fit_split, budget)
        if sum(any(not head.pooled_by for head in of_size) for of_size in by_size) > 1:
            _hold(eval_split, budget)
        pooled = {} if rows is not None else pool_for_all(fit_split.store, fit_split.table, heads, budget)
        self._reader = RowReader(fit_split.store, rows, budget, pooled)
        self._scored: dict[Hashable, Columns] = {}

    def _release(self) -> int:
        return self._fit.store.release() + self._eval.store.release()

    def fit(self, name: str, head: AnyHead, seed: int, chosen: np.ndarray) -> list[Head]:
        """Fit a head on chosen pictures.

        Raises
        ------
        HeadError
        """
        fitted = fit_heads(
            self._fit.store,
            self._fit.table,
            {name: head},
            self._run.settings.labels,
            seed,
            held_out_share=~chosen,
            reader=self._reader,
            device=self._device,
        )
        return [head for _, head in fitted]

    def score(self, heads: Sequence[Head], aggregations: Sequence[Aggregation]) -> list[SplitScores]:
        """Score the evaluation split."""
        store, table = self._eval.store, self._eval.table
        return score_split(
            store, table, heads, aggregations, device=self._device, pooled=self._scored, budget=self._reader.budget
        )


def _hold(split: LabelledRows, budget: MemoryBudget) -> None:
    """Read all rows of a split once, if they take at most half of the memory that may be used."""
    table, store = split.table, split.store
    if 2 * rows_bytes(store.n_rows, store.width) + reading_bytes(store) > budget.room():
        return
    with Progress(f"read {table.dataset} {table.split}", store.n_rows, "patches") as progress:
        store.hold(progress.advance)


def _sizes_that_are_there(run: RunContext, plan: CurvePlan, table: PatchTable) -> list[int]:
    sizes = [size for size in plan.sizes if size == ALL or plan.by == "shots" or size < len(table.ids)]
    left_out = [size for size in plan.sizes if size not in sizes]
    if left_out:
        text = ", ".join(map(str, left_out))
        line = f"{run.dataset} {run.manifest.fit}: has {len(table.ids):,} pictures; left out: {text}"
        if line not in run.opened.said:
            run.opened.said.add(line)
            run.say(line)
    return sizes


def _train_networks(run: RunContext, plan: CurvePlan, name: str) -> Iterator[Fit]:
    """Train a network on each subset with each seed, and score the evaluation split; what is current is reused."""
    table = current_table(run.on(recipe_workspace(run.ws, name, run.settings.seeds[0])), run.manifest.fit)
    for size in _sizes_that_are_there(run, plan, table):
        part = {"part": None if size == ALL else f"{plan.by}:{size}"}
        settings = run.settings.model_copy(update={"no_pretrain": run.settings.no_pretrain.model_copy(update=part)})
        for seed in run.settings.seeds:
            context = run.on(recipe_workspace(Workspace(settings), name, seed))
            order = order_of_draw(table.picture_sha256, context.settings.trunk_seed)
            chosen = choose_subset(order, table.scored_labels, plan.by, size)
            try:
                scores = recipe.current_scores(context, name)
            except DatasetError as error:  # no positive patch among the subset's pictures
                yield Fit(name, seed, size, int(chosen.sum()), why=str(error).partition("\n")[0])
            else:
                yield Fit(name, seed, size, int(chosen.sum()), scores)
