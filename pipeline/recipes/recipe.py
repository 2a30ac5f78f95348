"""Stage ``recipe``: one recipe with every seed, from activations to mAP; a join after its members.

A recipe's aggregation is chosen on held-out fit pictures with the first seed, by a head that was fitted without
them; nothing is ever chosen on the split that is reported. Current files are reused, so that an interrupted run
resumes where it stopped.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.io.atomic import check_writable, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import PipelineError
from pipeline.metrics.bootstrap import spread
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.table import PatchTable
from pipeline.recipes.catalogue import check_recipe, find_recipe, members_of
from pipeline.recipes.join import describe_members, facts_of_member, join_seed, undefined_in_all
from pipeline.recipes.outcome import Outcome, mean_accuracy, mean_each, read_outcome
from pipeline.recipes.paths import recipe_digest, recipe_path, recipe_workspace
from pipeline.recipes.points import Chosen, choose_point, ensure_activations
from pipeline.scoring.ensemble import fit_stack, mean_rank
from pipeline.scoring.results import number, versions
from pipeline.scoring.scores import SplitScores
from pipeline.scoring.scores_file import load_scores
from pipeline.stages import evaluate, fit_head, patches, score
from pipeline.stages.context import RunContext
from pipeline.stages.held_out import HeldOutMeasure, changed_choice
from pipeline.stages.patches import current_table
from pipeline.stages.recipe_settings import RecipeSettings


def path(run: RunContext, name: str) -> Path:
    """Return the file of a recipe's outcome."""
    return recipe_path(run.ws, run.dataset, name)


def why_due(run: RunContext, name: str) -> str | None:
    """Return why a recipe must be run, or None if its outcome is of the current pictures, labels and weights."""
    file = path(run, name)
    if not file.is_file():
        return "it has not been run yet"
    first = [_with_first_seed(run, member) for member in members_of(run.settings, name)]
    for context in first:
        for split in (run.manifest.fit, run.manifest.eval):
            reason = patches.why_due(context, split)
            if reason is not None:
                return f"{run.dataset} {split}: {reason}"
    if read_outcome(file)["made_from"] != digest_of_inputs(run, name):
        return "pictures, labels, weights or the manifest changed since"
    return None


def make(run: RunContext, name: str) -> Outcome:
    """Run a recipe with every seed, and write its outcome.

    Missing inputs are made first: trunk, activations, members of a join.

    Raises
    ------
    PipelineError
    """
    members_of(run.settings, name)  # refuses circles before anything runs
    recipe, manifest = find_recipe(run.settings, name), run.manifest
    check_recipe(run.settings, name, manifest)
    check_writable(path(run, name))
    table = current_table(run, manifest.eval)
    if not table.labelled:
        raise PipelineError(f"{run.dataset} {manifest.eval}: no labels, so a recipe cannot be measured on it")
    about = _run_join(run, name, recipe, table) if recipe.join else _run_head(run, name, recipe)
    means = [item["mAP"] for item in about["runs"] if item["mAP"] is not None]
    outcome = {
        "name": name,
        "title": recipe.title,
        "published": recipe.published,
        "dataset": run.dataset,
        "split": manifest.eval,
        "fit_split": manifest.fit,
        "metric": manifest.metric,
        "mAP": number(float(np.mean(means))) if means else None,
        "std": spread(means),
        "seeds": list(run.settings.seeds),
        "AP": mean_each([item["AP"] for item in about["runs"]]),
        **about,
        "made_from": digest_of_inputs(run, name),
        "versions": versions(),
        "command": run.command,
    }
    write_json(path(run, name), outcome)
    return outcome


def current_outcome(run: RunContext, name: str) -> Outcome:
    """Return a recipe's outcome; the recipe is run unless its outcome is current."""
    check_recipe(run.settings, name, run.manifest)
    file, reason = path(run, name), why_due(run, name)
    if reason is None:
        return read_outcome(file)
    if file.is_file():
        run.say(f"{file}: {reason}; running {name} again")
    return make(run, name)


def digest_of_inputs(run: RunContext, name: str) -> str:
    """Return the digest of pictures, boxes, labels, weights and roles from which an outcome would be made now.

    All else that decides an outcome is in the name of its file.
    """
    recipe = find_recipe(run.settings, name)
    if recipe.join:
        return digest_of([digest_of_inputs(run, member) for member in recipe.join])
    first = _with_first_seed(run, name)
    tables = [current_table(first, split) for split in (run.manifest.fit, run.manifest.eval)]
    seen = [(table.pictures_digest(), table.labels_digest(first.settings.labels)) for table in tables]
    chooses = recipe.has_points or recipe.stated_aggregation is None
    # Points were chosen by accuracy before, too.
    changed = changed_choice(tables[0], run.settings.held_out, not recipe.has_points) if chooses else []
    return digest_of([seen, first.ws.weights_state(run.dataset), run.facts_of_roles(), *changed])


def scores_of_outcome(table: PatchTable, outcome: Outcome) -> list[np.ndarray]:
    """Return scores (n_pictures, n_classes) of the evaluation split by a recipe, one array per seed.

    Parameters
    ----------
    table : of the evaluation split

    Raises
    ------
    PipelineError
        Bad pictures were left out for this recipe and not for others, or the other way round.
    """
    scores = [load_scores(Path(item["scores"])) for item in outcome["runs"]]
    if any(item.ids != table.ids for item in scores):
        raise PipelineError(
            f"recipe {outcome['name']!r} scored other pictures of {table.dataset} {table.split} than are "
            "compared: bad ones were skipped for one of them; repair or remove them (pipeline data check), "
            "or use on_error=fail"
        )
    return [item.by(outcome["k"]) for item in scores]


def _with_first_seed(run: RunContext, name: str) -> RunContext:
    return run.on(recipe_workspace(run.ws, name, run.settings.seeds[0]))


# ---- a recipe with a head of its own


def _run_head(run: RunContext, name: str, recipe: RecipeSettings) -> dict[str, Any]:
    chosen = choose_point(run, name, recipe) if recipe.has_points else _choose_aggregation(run, name, recipe)
    results = []
    for seed in run.settings.seeds:
        with_seed = run.on(chosen.workspace(run.ws, name, seed))
        current_scores(with_seed, name)
        results.append(evaluate.make(with_seed, name))
    first, seconds = results[0], [result["seconds"] for result in results]
    return {
        "head": first["recipe"]["head"],
        "trunk": first["trunk"],
        "layer": first["layer"],
        "source": with_seed.settings.source,
        "reading": first["recipe"]["reading"],
        "k": first["k"],
        "choice": chosen.about,
        "k_sweep": mean_each([result["k_sweep"] for result in results]),
        "seconds": {
            stage: round(float(np.mean([s.get(stage, 0.0) for s in seconds])), 2) for stage in ("fit_head", "score")
        },
        "extract_seconds": {stage: s for stage, s in seconds[0].items() if stage.startswith("extract_")},
        "fingerprints": first["fingerprints"],
        "pictures": first["pictures"],
        "official": first["official"],
        "notes": first["notes"],
        **({"why_undefined": first["why_undefined"]} if "why_undefined" in first else {}),
        **mean_accuracy(results),
        "runs": [
            {"seed": r["seed"], "mAP": r["mAP"], "AP": r["AP"], **{k: r["paths"][k] for k in ("scores", "result")}}
            for r in results
        ],
    }


def _choose_aggregation(run: RunContext, name: str, recipe: RecipeSettings) -> Chosen:
    """Return a recipe's aggregation and how it came about: stated, or the best on held-out fit pictures."""
    if recipe.stated_aggregation is not None:
        return Chosen(recipe.stated_aggregation, {"chosen": "stated"})
    first = _with_first_seed(run, name)
    scores = current_scores(first, name, held_out=True)
    table = current_table(first, run.manifest.fit)
    measure = HeldOutMeasure.of_share(table, run.settings.held_out, run.manifest.metric)
    rows = [{"k": aggregation, **measure.of([scores], aggregation)} for aggregation in scores.aggregations]
    best = measure.choose(rows)
    found = f"{100 * best[f'held_out_{measure.by}']:.1f} {measure.by}"
    run.say(f"{name}: aggregation {best['k']} chosen on {measure.n_held_out} held-out fit pictures ({found})")
    about: dict[str, Any] = {"chosen": "held-out", "seed": first.settings.seed, "pictures": measure.n_held_out}
    about["mAP"] = {str(row["k"]): row["held_out_mAP"] for row in rows}
    if measure.by == "accuracy":
        about |= {"by": "accuracy", "accuracy": {str(row["k"]): row["held_out_accuracy"] for row in rows}}
    return Chosen(best["k"], about)


def _held_out_labels(run: RunContext) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (m, n_classes) of the held-out fit pictures, and a mask of them over all fit pictures."""
    table = current_table(run, run.manifest.fit)
    is_held_out = hold_out_pictures(table.picture_sha256, run.settings.held_out)
    return table.scored_labels[is_held_out], is_held_out


def current_scores(run: RunContext, name: str, held_out: bool = False) -> SplitScores:
    """Return scores of the evaluation split, or of the held-out fit pictures; missing inputs are made first."""
    splits = {run.ws.split_of_rows(run.manifest, name, held_out), score.scored_split(run, held_out=held_out)}
    ensure_activations(run, sorted(splits))
    fit_head.ensure(run, [name], held_out)
    return score.current_scores(run, name, held_out=held_out)


# ---- joins


def _run_join(run: RunContext, name: str, recipe: RecipeSettings, table: PatchTable) -> dict[str, Any]:
    members = [current_outcome(run, member) for member in recipe.join]
    scores = [scores_of_outcome(table, member) for member in members]
    metric = run.manifest.metric
    started = time.perf_counter()
    facts: dict[str, Any] = {"join": list(recipe.join), "by": recipe.by}
    stack = None
    if recipe.by == "stack":
        held_out = [_held_out_scores(run, member) for member in recipe.join]
        stack = fit_stack(held_out, _held_out_labels(run)[0], metric)
        facts["stack"] = stack.facts
    undefined, runs = undefined_in_all(members), []
    for index, seed in enumerate(run.settings.seeds):
        file = f"{run.dataset}-{run.manifest.eval}-{name}-{recipe_digest(run.ws, name)}-{seed}.h5"
        first = facts_of_member(members[0], index)
        about = replace(first, joined={**first.joined, "recipe": name, **facts})
        of_seed = [of_member[index] for of_member in scores]
        joined = join_seed(of_seed, stack, table, metric, run.ws.results / "scores" / file, about, undefined)
        runs.append({"seed": seed, **joined})
    seconds = {"join": round(time.perf_counter() - started, 2)}
    return {"head": None, **facts, **describe_members(members, seconds), "runs": runs}


def _held_out_scores(run: RunContext, name: str) -> np.ndarray:
    """Return scores (m, n_classes) of the held-out fit pictures by a recipe fitted without them."""
    recipe = find_recipe(run.settings, name)
    if recipe.by == "stack" and recipe.join:
        raise PipelineError(f"recipe {name!r} is a stack: it has no held-out scores of its own to learn from")
    if recipe.join:
        return mean_rank([_held_out_scores(run, member) for member in recipe.join])
    outcome = current_outcome(run, name)
    first = _with_first_seed(run, name)
    if recipe.has_points:
        first = run.on(Chosen.of_outcome(outcome).workspace(run.ws, name, run.settings.seeds[0]))
    is_held_out = _held_out_labels(first)[1]
    return current_scores(first, name, held_out=True).by(outcome["k"])[is_held_out]
