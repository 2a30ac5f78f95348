"""A ladder: the same recipes, by one protocol, on one trunk after another.

A rung is a name and what it changes of a run's settings, such as the trunk and how its rows are computed; all else is
as configured. Recipes are measured on all fit pictures, and on a few per class (`pipeline.recipes.curve`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline.activations.run_log import RunLog
from pipeline.activations.store import Store
from pipeline.io.atomic import check_writable, read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.io.errors import SettingsError
from pipeline.io.messages import enumerate_problems
from pipeline.io.model import explain_validation
from pipeline.metrics.bootstrap import bootstrap_interval
from pipeline.recipes import curve, recipe
from pipeline.recipes.catalogue import compared_recipes, find_recipe, members_of
from pipeline.recipes.curve_fits import CurvePlan
from pipeline.recipes.outcome import Outcome
from pipeline.recipes.paths import recipe_digest, recipe_workspace, recipe_workspaces
from pipeline.recipes.points import Chosen
from pipeline.scoring.published import WHY_APART, published_rows
from pipeline.scoring.results import number, versions
from pipeline.stages.boxes import refuse_without_labels
from pipeline.stages.context import RunContext
from pipeline.stages.hints import name_command, read_if_sound
from pipeline.stages.patches import current_table
from pipeline.stages.settings import RunSettings
from pipeline.stages.stored import sealed_store
from pipeline.stages.workspace import VERSIONS, Workspace
from pipeline.trunk.registry import DEFAULT_LAYER


@dataclass(frozen=True)
class LadderPlan:
    """What is measured on every rung.

    Attributes
    ----------
    recipes : names
    shots : rising numbers of positive pictures per class; none for all fit pictures alone
    """

    recipes: tuple[str, ...]
    shots: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object in files."""
        return {"recipes": list(self.recipes), "shots": list(self.shots)}


def rung_settings(settings: RunSettings, name: str) -> RunSettings:
    """Return a run's settings as a rung changes them.

    Raises
    ------
    SettingsError
        They do not fit together.
    """
    rung, values = settings.ladder[name], settings.to_file()
    changes = rung.model_dump(mode="json", exclude_unset=True)
    if changes.get("trunk", settings.trunk) != settings.trunk:
        values.update(weights=None, trunk_px=None, layer=DEFAULT_LAYER, layers=())
    try:
        return RunSettings.model_validate({**values, **changes, "ladder": {}})
    except ValidationError as error:
        problems = enumerate_problems(explain_validation(error))
        raise SettingsError(f"ladder: rung {name!r} cannot run with these settings\n{problems}") from error


def path(run: RunContext) -> Path:
    """Return the file of a dataset's ladder."""
    return run.ws.ladder_path(run.dataset)


def why_due(run: RunContext) -> str | None:
    """Return why the ladder must be made again, or None if it is of these rungs, settings, pictures and labels."""
    file = path(run)
    if not file.is_file():
        return "it has not been made yet"
    try:
        found = read_json(file)
        plan = LadderPlan(tuple(found["plan"]["recipes"]), tuple(found["plan"]["shots"]))
        made_from = found["made_from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}: does not say what it was made from ({type(error).__name__} {error})"
    for context in _rungs(run).values():
        for name in _able(context, plan)[0]:
            reason = recipe.why_due(context, name)
            if reason is not None:
                return f"recipe {name!r} on {context.settings.trunk}: {reason}"
    return None if made_from == _digest_of_inputs(run, plan) else "it is of other rungs, recipes or settings"


def command_again(run: RunContext) -> str:
    """Return the command that gives the ladder of the file."""
    plan = read_if_sound(path(run)).get("plan", {})
    options = [word for name in plan.get("recipes", ()) for word in ("--recipe", name)]
    options += ["--shots", ",".join(map(str, plan["shots"]))] if plan.get("shots") else []
    return name_command("ladder", "--dataset", run.dataset, *options)


def make(run: RunContext, plan: LadderPlan) -> dict[str, Any]:
    """Run every recipe on every rung, those without a current outcome only, and write the ladder.

    A recipe that cannot run on a rung, such as one on FC6 where the trunk has none, is left out there, with the reason.

    Raises
    ------
    PipelineError
        No rungs, unknown recipes, no labels, or a recipe that fails.
    """
    refuse_without_labels(run.manifest, "a ladder")
    if not run.settings.ladder:
        raise SettingsError(
            "no rungs; name them in a --config file, such as\n"
            "ladder:\n  alexnet64: {trunk: alexnet64}\n  lite0: {trunk: efficientnet_lite0, method: dense}"
        )
    for name in plan.recipes:
        members_of(run.settings, name)  # unknown names are refused before anything runs
    check_writable(path(run))
    rungs = [_climb(run, name, context, plan) for name, context in _rungs(run).items()]
    table = current_table(run, run.manifest.eval)
    joined = {
        "dataset": run.dataset,
        "split": run.manifest.eval,
        "fit_split": run.manifest.fit,
        "metric": run.manifest.metric,
        "pictures": len(table.ids),
        "plan": plan.to_json(),
        "seeds": list(run.settings.seeds),
        "rungs": rungs,
        "published": published_rows(run.dataset),
        "published_note": WHY_APART,
        "settings": run.settings.to_file(),
        "made_from": _digest_of_inputs(run, plan),
        "versions": versions(),
        "command": run.command,
    }
    write_json(path(run), joined)
    run.say(f"{path(run)}: {len(rungs)} trunks, {len(plan.recipes)} recipes")
    return joined


def _rungs(run: RunContext) -> dict[str, RunContext]:
    return {name: run.on(Workspace(rung_settings(run.settings, name))) for name in run.settings.ladder}


def _able(run: RunContext, plan: LadderPlan) -> tuple[list[str], dict[str, str]]:
    """Return the recipes that can run on a rung, and why the others cannot."""
    names: list[str] = []
    left_out: dict[str, str] = {}
    for name in plan.recipes:
        try:
            names += compared_recipes(run.settings.model_copy(update={"comparison": (name,)}), run.manifest.has_boxes)[
                0
            ]
        except SettingsError as error:
            left_out[name] = str(error)
    return names, left_out


def _digest_of_inputs(run: RunContext, plan: LadderPlan) -> str:
    rungs = []
    for rung, context in _rungs(run).items():
        names, left_out = _able(context, plan)
        recipes = [[name, recipe_digest(context.ws, name), recipe.digest_of_inputs(context, name)] for name in names]
        rungs.append([rung, recipes, sorted(left_out)])
    return digest_of([VERSIONS, plan.to_json(), rungs, list(run.settings.seeds), published_rows(run.dataset)])


def _climb(run: RunContext, name: str, context: RunContext, plan: LadderPlan) -> dict[str, Any]:
    """Return a rung: what each recipe came to, and what its rows cost."""
    names, left_out = _able(context, plan)
    for why in left_out.values():
        run.say(f"{name}: left out: {why}")
    outcomes = {each: recipe.current_outcome(context, each) for each in names}
    few = _few_shots(context, names, plan.shots)
    return {
        "name": name,
        "trunk": context.settings.trunk,
        "settings": run.settings.ladder[name].model_dump(mode="json", exclude_unset=True),
        **_rows_of(context, names),
        "recipes": [{**_row(context, outcome), "few": few.get(each, [])} for each, outcome in outcomes.items()],
        "left_out": [{"name": each, "why": why} for each, why in left_out.items()],
    }


def _row(run: RunContext, outcome: Outcome) -> dict[str, Any]:
    table = current_table(run, run.manifest.eval)
    learnt = [outcome["AP"][name] is not None for name in table.classes]
    labels = np.where(learnt, table.scored_labels, np.int8(0))
    low, high = bootstrap_interval(np.array(recipe.scores_of_outcome(table, outcome)), labels, run.manifest.metric)
    pointing = [
        (read_json(Path(item["result"])).get("pointing") or {}).get("mean")
        for item in outcome["runs"]
        if "result" in item
    ]
    measured = [value for value in pointing if value is not None]
    return {
        **{key: outcome[key] for key in ("name", "title", "mAP", "std", "k")},
        **{key: outcome[key] for key in ("accuracy", "balanced_accuracy") if key in outcome},
        "interval": {"low": number(low), "high": number(high)},
        "pointing": number(float(np.mean(measured))) if measured and len(measured) == len(pointing) else None,
        "seconds": outcome["seconds"],
    }


def _few_shots(run: RunContext, names: Sequence[str], shots: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Return the points of the learning curve by recipe; joins have none, nor have recipes that choose a point."""
    found = {name: find_recipe(run.settings, name) for name in names}
    fitted = tuple(name for name, each in found.items() if not each.join and not each.has_points)
    if not shots or not fitted:
        return {}
    curves = curve.draw(run, CurvePlan(fitted, "shots", tuple(shots)))
    return {each["name"]: each["points"] for each in curves}


def _rows_of(run: RunContext, names: Sequence[str]) -> dict[str, Any]:
    """Return layers, columns, rows and bytes of the stores of a rung's recipes, and what extracting them took.

    A layer or source of its own is a store of its own; all that the recipes read are counted, also layers that a recipe
    chose among. Of a pass that extracted several stores each counts its share of the seconds.
    """
    stores: dict[str, Store] = {}
    for name in dict.fromkeys(member for each in names for member in members_of(run.settings, each)):
        layer = Chosen.of_outcome(recipe.current_outcome(run, name)).layer
        seed, fitted_on = run.settings.seeds[0], run.ws.split_of_rows(run.manifest, name)
        read = [(ws, fitted_on) for ws in recipe_workspaces(run.ws, name, seed)]
        read.append((recipe_workspace(run.ws, name, seed, layer), run.manifest.eval))
        for ws, split in read:
            store = sealed_store(run.on(ws), split)
            stores[store.fingerprint] = store
    widest = max(stores.values(), key=lambda store: store.n_bytes, default=None)
    logs = [RunLog.of_store(run.ws.cache, store.folder.name).read() for store in stores.values()]
    seconds = sum(entry.seconds / entry.stores for entries in logs for entry in entries)
    return {
        "layer": None if widest is None else widest.identity["how.layer"],
        "columns": None if widest is None else widest.width,
        "rows": sum(store.n_rows for store in stores.values()),
        "bytes": sum(store.n_bytes for store in stores.values()),
        "extract_seconds": round(seconds, 1) if all(logs) else None,
    }
