"""Learning curves: recipes fitted on nested random subsets of the fit pictures, measured on the whole evaluation split.

Everything comes from the sealed stores of the whole splits: no picture is opened, and no trunk runs. The exception is
a network that is trained on the dataset alone (NO PRETRAIN): for each point one is trained on the subset's patches, and
run on the evaluation split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.head.fit import fit_heads
from pipeline.head.head import Head
from pipeline.head.rows import RowReader
from pipeline.io.atomic import read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError, HeadError, PipelineError, SettingsError
from pipeline.io.numbers import parse_count
from pipeline.metrics.average_precision import leave_out_certain, mean_average_precision
from pipeline.metrics.bootstrap import bootstrap_interval, spread
from pipeline.patches.subsets import ALL, By, choose_subset, order_of_draw
from pipeline.patches.table import PatchTable
from pipeline.recipes import recipe
from pipeline.recipes.catalogue import check_recipe, find_recipe
from pipeline.recipes.paths import recipe_digest, recipe_workspace
from pipeline.scoring.aggregation import POOLED, Aggregation
from pipeline.scoring.results import number, versions
from pipeline.scoring.score import score_split
from pipeline.scoring.scores import SplitScores
from pipeline.stages.context import RunContext
from pipeline.stages.fit_head import head_device, memory_budget
from pipeline.stages.patches import current_table
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import rows_to_extract, sealed_store
from pipeline.stages.workspace import VERSIONS, Workspace


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


def parse_sizes(text: str) -> tuple[int, ...]:
    """Read sizes such as ``10,30,all``.

    >>> parse_sizes("30,10,all")
    (10, 30, 0)

    Raises
    ------
    SettingsError
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    sizes = {ALL if word == "all" else parse_count(word) for word in words}
    if not words or None in sizes:
        raise SettingsError(f"expected numbers above 0, or all, joined by commas, such as 10,30,100,all, got {text!r}")
    return tuple(sorted((size for size in sizes if size is not None), key=lambda n: (n == ALL, n)))


def path(run: RunContext) -> Path:
    """Return the file of a dataset's learning curves."""
    return run.ws.curve_path(run.dataset)


def why_due(run: RunContext) -> str | None:
    """Return why the curves must be made again, or None if they are of these settings, pictures, labels and roles."""
    file = path(run)
    if not file.is_file():
        return "it has not been made yet"
    try:
        found = read_json(file)
        plan = found["plan"]
        sizes = tuple(ALL if size == "all" else int(size) for size in plan["sizes"])
        made_from = _digest_of_inputs(run, CurvePlan(tuple(plan["recipes"]), plan["by"], sizes))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}: does not say what it was made from ({type(error).__name__} {error})"
    return None if found.get("made_from") == made_from else "it is of other recipes, settings, pictures or labels"


def _digest_of_inputs(run: RunContext, plan: CurvePlan) -> str:
    recipes = [[name, recipe_digest(run.ws, name)] for name in plan.recipes]
    seen = []
    for name in plan.recipes:
        context = run.on(_first_workspace(run, name))
        for split in (run.manifest.fit, run.manifest.eval):
            table = current_table(context, split)
            seen.append([table.pictures_digest(), table.labels_digest(context.settings.labels)])
            if not _is_whole_network(run, name):  # which follows from pictures, labels and settings
                seen.append([sealed_store(context, split).fingerprint])
    return digest_of([VERSIONS, plan.to_json(), recipes, seen, list(run.settings.seeds), run.facts_of_roles()])


def make(run: RunContext, plan: CurvePlan) -> dict[str, Any]:
    """Fit every recipe on every subset with every seed, measure all on the evaluation split, and write the curves.

    A seed draws a subset and is the seed of the head. A class without a positive fit picture in a subset has one score
    for all pictures, so that its AP is chance and all points are means over the same classes. A class that all fit
    pictures show, or none, is left out of all of them.

    Raises
    ------
    SettingsError, DatasetError, PipelineError
        A recipe that joins others or is not fitted, or needs boxes where there are none; no labels; no store.
    """
    curves = draw(run, plan)
    manifest = run.manifest
    joined = {
        "dataset": run.dataset,
        "split": manifest.eval,
        "fit_split": manifest.fit,
        "metric": manifest.metric,
        "plan": plan.to_json(),
        "seeds": list(run.settings.seeds),
        "curves": curves,
        "made_from": _digest_of_inputs(run, plan),
        "versions": versions(),
        "command": run.command,
    }
    write_json(path(run), joined)
    run.say(f"{path(run)}: {len(curves)} recipes, {len(plan.sizes)} sizes, {len(run.settings.seeds)} draws")
    return joined


def draw(run: RunContext, plan: CurvePlan) -> list[dict[str, Any]]:
    """Fit every recipe on every subset with every seed, and measure all on the evaluation split.

    Returns
    -------
    A JSON object per recipe, with its points

    Raises
    ------
    SettingsError, DatasetError, PipelineError
        As `make`.
    """
    for name in plan.recipes:
        found = find_recipe(run.settings, name)
        if found.join or (_is_whole_network(run, name) and found.trunk != "no-pretrain"):
            raise SettingsError(f"recipe {name!r} has no head that is fitted on rows, so it has no learning curve")
        if found.has_points:
            raise SettingsError(
                f"recipe {name!r} has a grid or layers to choose from, and nothing is chosen for a curve; name a "
                "recipe of one point"
            )
        check_recipe(run.settings, name, run.manifest)
    manifest = run.manifest
    table = current_table(run, manifest.eval)
    if not table.labelled:
        raise PipelineError(f"{run.dataset} {manifest.eval}: no labels, so a curve cannot be measured on it")
    set_threads(run.settings.threads)
    fits = [fit for group in _group(run, plan).values() for fit in _fit_group(run, plan, group)]
    fits += [fit for name in plan.recipes if _is_whole_network(run, name) for fit in _train_networks(run, plan, name)]
    curves = []
    for name in plan.recipes:
        of_sizes = {size: [f for f in fits if (f.recipe, f.size) == (name, size)] for size in plan.sizes}
        first = run.on(_first_workspace(run, name))
        learnable = _learnable(current_table(first, manifest.fit))
        points = [_point(run, of_size, size, learnable) for size, of_size in of_sizes.items() if of_size]
        about = {"name": name, "title": find_recipe(run.settings, name).title, "trunk": first.settings.trunk}
        trained = _is_whole_network(run, name)
        layer = first.settings.layer if trained else sealed_store(first, manifest.fit).identity["how.layer"]
        curves.append({**about, "layer": layer, "points": points})
    return curves


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
            if _is_whole_network(run, name):
                continue
            context = run.on(recipe_workspace(run.ws, name, seed))
            key = context.ws.store_digest, context.settings.labels.model_dump_json()
            groups.setdefault(key, _Group(context, {})).by_seed.setdefault(seed, []).append(name)
    return groups


def _fit_group(run: RunContext, plan: CurvePlan, group: _Group) -> Iterator[Fit]:
    """Fit the recipes of a group on all subsets, and score the evaluation split in one pass for each size."""
    context, manifest = group.context, run.manifest
    table, store = current_table(context, manifest.fit), sealed_store(context, manifest.fit)
    reader = RowReader(store, rows_to_extract(context, table), memory_budget(context))
    device = head_device(context)
    other, other_store = current_table(context, manifest.eval), sealed_store(context, manifest.eval)
    for size in _sizes_that_are_there(run, plan, table):
        fitted: list[tuple[Fit, Head]] = []
        for seed, names in group.by_seed.items():
            chosen = choose_subset(order_of_draw(table.picture_sha256, seed), table.scored_labels, plan.by, size)
            for name in names:
                fit = Fit(name, seed, size, int(chosen.sum()))
                settings = recipe_workspace(run.ws, name, seed).settings.head_settings(name)
                rule = context.settings.labels
                try:
                    heads = fit_heads(
                        store, table, {name: settings}, rule, seed, held_out_share=~chosen, reader=reader, device=device
                    )
                    fitted += [(fit, head) for _, head in heads]
                except HeadError as error:
                    yield Fit(fit.recipe, fit.seed, fit.size, fit.n, why=str(error).partition("\n")[0])
        if fitted:
            wanted = {_configured(run, fit.recipe) for fit, _ in fitted} - {POOLED}
            heads_of = [head for _, head in fitted]
            scores = score_split(other_store, other, heads_of, sorted(wanted, key=str), device=device)
            for (fit, _), of_head in zip(fitted, scores, strict=True):
                yield Fit(fit.recipe, fit.seed, fit.size, fit.n, of_head)


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


def _is_whole_network(run: RunContext, name: str) -> bool:
    """Whether nothing of a recipe is fitted on rows: its head is the trunk's own last layer."""
    head = find_recipe(run.settings, name).head
    return head is not None and head.kind == "own"


def _train_networks(run: RunContext, plan: CurvePlan, name: str) -> Iterator[Fit]:
    """Train a network on each subset with each seed, and score the evaluation split; what is current is reused."""
    table = current_table(run.on(_first_workspace(run, name)), run.manifest.fit)
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


def _point(run: RunContext, fits: Sequence[Fit], size: int, learnable: np.ndarray) -> dict[str, Any]:
    """Return one point of a curve: the mean over draws, its spread, and its interval over pictures.

    Parameters
    ----------
    learnable : bool ndarray (n_classes,), the classes that count
    """
    table, metric = current_table(run, run.manifest.eval), run.manifest.metric
    labels = np.where(learnable, leave_out_certain(table.scored_labels), np.int8(0))
    done = [(fit, fit.scores) for fit in fits if fit.scores is not None]
    values = [_values(run, fit.recipe, scores, table) for fit, scores in done]
    maps = [mean_average_precision(of_seed, labels, metric)[0] for of_seed in values]
    measured = [value for value in maps if not np.isnan(value)]
    low, high = bootstrap_interval(np.array(values), labels, metric) if measured else (float("nan"),) * 2
    without = [len(scores.facts.head.never_learnt) for _, scores in done]
    why = next((fit.why for fit in fits if fit.why), None)
    return {
        "size": size or "all",
        "pictures": [fit.n for fit, _ in done] or [fit.n for fit in fits],
        "mAP": number(float(np.mean(measured))) if measured else None,
        "std": spread(measured),
        "interval": {"low": number(low), "high": number(high)},
        "runs": [{"seed": fit.seed, "mAP": number(value)} for (fit, _), value in zip(done, maps, strict=True)],
        "classes_without": max(without, default=0),
        **({"why": why} if why else {}),
    }


def _learnable(fit: PatchTable) -> np.ndarray:
    """Return the classes that all fit pictures show some of, and not all: bool ndarray (n_classes,).

    The others have no AP by the same recipe elsewhere, as no number of pictures teaches them.
    """
    return (fit.picture_labels == 1).any(0) & (fit.picture_labels == -1).any(0)


def _first_workspace(run: RunContext, recipe: str) -> Workspace:
    return recipe_workspace(run.ws, recipe, run.settings.seeds[0])


def _configured(run: RunContext, recipe: str) -> Aggregation:
    """Return the aggregation that a recipe states, or the configured one; nothing is chosen for a curve."""
    return _first_workspace(run, recipe).settings.main_aggregation


def _values(run: RunContext, recipe: str, scores: SplitScores, table: PatchTable) -> np.ndarray:
    """Return scores (n_pictures, n_classes), one score for all pictures of a class that was never learnt."""
    if scores.ids != table.ids:
        raise PipelineError(
            f"{run.dataset} {table.split}: a recipe of the curve scored other pictures than the others: bad ones were "
            "skipped for one of them; repair or remove them (pipeline data check), or use on_error=fail"
        )
    k = scores.resolve(_configured(run, recipe))
    values = scores.by(k).copy()
    for name in scores.facts.head.never_learnt:
        values[:, table.classes.index(name)] = 0.0
    return values
