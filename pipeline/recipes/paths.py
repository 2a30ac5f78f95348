"""Where recipes keep what: names from settings alone, as in `pipeline.stages.workspace`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.io.digests import digest_of
from pipeline.recipes.catalogue import apply_recipe, find_recipe, members_of
from pipeline.stages.workspace import DIGITS, Workspace


def recipe_workspace(ws: Workspace, name: str, seed: int, layer: str | None = None) -> Workspace:
    """Return the workspace of one recipe with one seed; its head has the recipe's name.

    Parameters
    ----------
    layer : one of the recipe's `layers`; None for the first of them
    """
    return Workspace(apply_recipe(ws.settings, name, seed, layer))


def recipe_workspaces(ws: Workspace, name: str, seed: int) -> list[Workspace]:
    """Return the workspaces of one recipe with one seed, one for each layer that it chooses from."""
    layers = find_recipe(ws.settings, name).layers or (None,)
    return [recipe_workspace(ws, name, seed, layer) for layer in layers]


def recipe_digest(ws: Workspace, name: str) -> str:
    """Return the digest of a recipe's runs with all seeds; of a join, of its members' too."""
    members_of(ws.settings, name)  # refuses circles
    recipe = find_recipe(ws.settings, name)
    if recipe.join:
        parts: list[Any] = [recipe.by, *(recipe_digest(ws, member) for member in recipe.join)]
    else:
        runs = [recipe_workspace(ws, name, seed) for seed in ws.settings.seeds]
        parts = [*(run.run_digest(name) for run in runs), recipe.aggregation is None, *recipe.layers]
        # Digests sort keys, and of equal points the first is chosen. Left out where the order is that of the alphabet.
        order = [] if recipe.head is None else list(recipe.head.grid)
        parts += [order] if order != sorted(order) else []
    return digest_of([name, recipe.title, recipe.published, ws.settings.held_out, *parts])[:DIGITS]


def curve_scores_path(ws: Workspace, dataset: str, name: str, part: str) -> Path:
    """Return the path of the scores of the evaluation split by a recipe that was fitted on a part of the fit pictures.

    Parameters
    ----------
    ws : of the recipe with one seed
    part : ``all``, or a subset such as ``pictures-30``
    """
    return ws.results / "curves" / f"{dataset}-{name}-{part}-{ws.run_digest(name)}.h5"


def recipe_path(ws: Workspace, dataset: str, name: str) -> Path:
    """Return the path of a recipe's outcome, all seeds together."""
    return ws.results / "recipes" / f"{dataset}-{name}-{recipe_digest(ws, name)}.json"
