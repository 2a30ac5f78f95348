"""Learning curves: recipes fitted on nested random subsets of the fit pictures, measured on the whole evaluation split.

Everything comes from the sealed stores of the whole splits: no picture is opened, and no trunk runs. The exception is
a network that is trained on the dataset alone (NO PRETRAIN): for each point one is trained on the subset's patches, and
run on the evaluation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.io.atomic import check_writable, read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.io.numbers import parse_count
from pipeline.metrics.average_precision import leave_out_certain, mean_average_precision
from pipeline.metrics.bootstrap import bootstrap_interval, spread
from pipeline.patches.subsets import ALL
from pipeline.patches.table import PatchTable
from pipeline.recipes.catalogue import check_recipe, find_recipe
from pipeline.recipes.curve_fits import CurvePlan, Fit, configured, fit_all, is_whole_network
from pipeline.recipes.paths import recipe_digest, recipe_workspace
from pipeline.scoring.results import number, versions
from pipeline.scoring.scores import SplitScores
from pipeline.stages.context import RunContext
from pipeline.stages.hints import name_command, read_if_sound
from pipeline.stages.patches import TableDueError, current_table, require
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import sealed_store
from pipeline.stages.workspace import VERSIONS, Workspace


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


def why_due(run: RunContext, plan: CurvePlan | None = None) -> str | None:
    """Return why the curves must be made again, or None if they are of these settings, pictures, labels and roles.

    Parameters
    ----------
    plan : None for that of the file
    """
    file = path(run)
    if not file.is_file():
        return "it has not been made yet"
    try:
        found = read_json(file)
        of_file = found["plan"]
        sizes = tuple(ALL if size == "all" else int(size) for size in of_file["sizes"])
        stated, made_from = CurvePlan(tuple(of_file["recipes"]), of_file["by"], sizes), found["made_from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}: does not say what it was made from ({type(error).__name__} {error})"
    try:
        now = _digest_of_inputs(run, plan or stated)
    except TableDueError as due:
        return str(due)
    return None if made_from == now else "it is of other recipes, settings, pictures or labels"


def ensure(run: RunContext, plan: CurvePlan, again: bool = False) -> dict[str, Any]:
    """Return the curves, which are made unless they are current.

    Parameters
    ----------
    again : make them also where they are current, from no fit that is there

    Raises
    ------
    SettingsError, DatasetError, PipelineError
        As `make`.
    """
    _check(run, plan)
    if not again and why_due(run, plan) is None:
        found = read_json(path(run))
        if not any("why" in point for curve in found["curves"] for point in curve["points"]):
            run.say(f"{path(run)}: is current; --again makes it anew")
            return found
        # A fit that failed is tried again: there may be more memory for it.
    return make(run, plan, again)


def _digest_of_inputs(run: RunContext, plan: CurvePlan) -> str:
    recipes = [[name, recipe_digest(run.ws, name)] for name in plan.recipes]
    seen = []
    for name in plan.recipes:
        context = run.on(_first_workspace(run, name))
        for split in (run.manifest.fit, run.manifest.eval):
            table = require(context, split)
            seen.append([table.pictures_digest(), table.labels_digest(context.settings.labels)])
            if split == run.manifest.fit and table.labelled and not _learnable(table).all():
                seen.append(["classes that no fit picture shows, or every one, left out"])  # they had counted before
            if not is_whole_network(run, name):  # which follows from pictures, labels and settings
                seen.append([sealed_store(context, split).fingerprint])
    return digest_of([VERSIONS, plan.to_json(), recipes, seen, list(run.settings.seeds), run.facts_of_roles()])


def command_again(run: RunContext) -> str:
    """Return the command that gives the curves of the file."""
    plan = read_if_sound(path(run)).get("plan", {})
    options = [word for name in plan.get("recipes", ()) for word in ("--recipe", name)]
    options += [f"--{plan['by']}", ",".join(map(str, plan["sizes"]))] if {"by", "sizes"} <= set(plan) else []
    return name_command("curve", "--dataset", run.dataset, *options)


def _check(run: RunContext, plan: CurvePlan) -> None:
    """Refuse recipes that have no curve."""
    for name in plan.recipes:
        found = find_recipe(run.settings, name)
        if found.join or (is_whole_network(run, name) and found.trunk != "no-pretrain"):
            raise SettingsError(f"recipe {name!r} has no head that is fitted on rows, so it has no learning curve")
        if found.has_points:
            raise SettingsError(
                f"recipe {name!r} has a grid or layers to choose from, and nothing is chosen for a curve; name a "
                "recipe of one point"
            )
        check_recipe(run.settings, name, run.manifest)


def make(run: RunContext, plan: CurvePlan, again: bool = False) -> dict[str, Any]:
    """Fit every recipe on every subset with every seed, measure all on the evaluation split, and write the curves.

    A seed draws a subset and is the seed of the head. A class without a positive fit picture in a subset has one score
    for all pictures, so that its AP is chance and all points are means over the same classes. A class that all fit
    pictures show, or none, is left out of all of them.

    Raises
    ------
    SettingsError, DatasetError, PipelineError
        A recipe that joins others or is not fitted, or needs boxes where there are none; no labels; no store.
    """
    check_writable(path(run))
    curves = draw(run, plan, again)
    manifest = run.manifest
    joined = {
        "dataset": run.dataset,
        "split": manifest.eval,
        "fit_split": manifest.fit,
        "metric": manifest.metric,
        "plan": plan.to_json(),
        "seeds": list(run.settings.seeds),
        "curves": curves,
        "settings": run.settings.to_file(),
        "made_from": _digest_of_inputs(run, plan),
        "versions": versions(),
        "command": run.command,
    }
    write_json(path(run), joined)
    run.say(f"{path(run)}: {len(curves)} recipes, {len(plan.sizes)} sizes, {len(run.settings.seeds)} draws")
    return joined


def draw(run: RunContext, plan: CurvePlan, again: bool = False) -> list[dict[str, Any]]:
    """Fit every recipe on every subset with every seed, and measure all on the evaluation split.

    Fits of these settings, pictures and labels whose scores are there from before are not made again.

    Parameters
    ----------
    again : they are

    Returns
    -------
    A JSON object per recipe, with its points

    Raises
    ------
    SettingsError, DatasetError, PipelineError
        As `make`.
    """
    _check(run, plan)
    manifest = run.manifest
    table = current_table(run, manifest.eval)
    if not table.labelled:
        raise PipelineError(f"{run.dataset} {manifest.eval}: no labels, so a curve cannot be measured on it")
    set_threads(run.settings.threads)
    fits = fit_all(run, plan, again)
    curves = []
    for name in plan.recipes:
        of_sizes = {size: [f for f in fits if (f.recipe, f.size) == (name, size)] for size in plan.sizes}
        first = run.on(_first_workspace(run, name))
        learnable = _learnable(current_table(first, manifest.fit))
        points = [_point(run, of_size, size, learnable) for size, of_size in of_sizes.items() if of_size]
        about = {"name": name, "title": find_recipe(run.settings, name).title, "trunk": first.settings.trunk}
        trained = is_whole_network(run, name)
        layer = first.settings.layer if trained else sealed_store(first, manifest.fit).identity["how.layer"]
        curves.append({**about, "layer": layer, "points": points})
    return curves


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


def _values(run: RunContext, recipe: str, scores: SplitScores, table: PatchTable) -> np.ndarray:
    """Return scores (n_pictures, n_classes), one score for all pictures of a class that was never learnt."""
    if scores.ids != table.ids:
        raise PipelineError(
            f"{run.dataset} {table.split}: a recipe of the curve scored other pictures than the others: bad ones were "
            "skipped for one of them; repair or remove them (pipeline data check), or use on_error=fail"
        )
    k = scores.resolve(configured(run, recipe))
    values = scores.by(k).copy()
    for name in scores.facts.head.never_learnt:
        values[:, table.classes.index(name)] = 0.0
    return values
