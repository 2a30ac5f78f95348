"""Recipes by name: what each changes of a run's settings.

A recipe is found among the configured ones, then the built-in ones (``recipes.yaml`` beside this file),
then the heads: a head's name is the recipe of that head, all else as configured.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.dataset.manifest import Manifest
from pipeline.head.settings import HEAD_KINDS, HEADS
from pipeline.io.errors import SettingsError
from pipeline.io.likeness import suggest
from pipeline.io.messages import enumerate_problems
from pipeline.io.model import explain_validation
from pipeline.io.names import make_file_part
from pipeline.io.yaml import read_mapping
from pipeline.stages.boxes import refuse_without_boxes, refuse_without_labels
from pipeline.stages.recipe_settings import RecipeSettings
from pipeline.stages.settings import RunSettings
from pipeline.trunk.registry import DEFAULT_LAYER, LAYERS, find_source, names_layer


@cache
def builtin_recipes() -> dict[str, RecipeSettings]:
    """The recipes that the package ships, in the order in which a comparison shows them."""
    content = read_mapping(Path(str(files("pipeline.recipes") / "recipes.yaml")))
    return {name: RecipeSettings.model_validate(block) for name, block in content.items()}


def known_recipes(settings: RunSettings) -> dict[str, RecipeSettings]:
    """All recipes of a run, built-in ones first; configured ones replace those of the same name."""
    built_in = builtin_recipes()
    heads = {name: head for name, head in HEADS.items() if name not in built_in} | settings.heads
    return {**built_in, **{name: RecipeSettings(head=head) for name, head in heads.items()}, **settings.recipes}


def find_recipe(settings: RunSettings, name: str) -> RecipeSettings:
    """A recipe by name.

    Raises
    ------
    SettingsError
        Unknown; those that are known are named.
    """
    known = known_recipes(settings)
    if name not in known:
        raise SettingsError(
            f"unknown recipe {name!r}{suggest(name, known)}; add it under 'recipes:' in a --config file"
        )
    return known[name]


def apply_recipe(settings: RunSettings, name: str, seed: int, layer: str | None = None) -> RunSettings:
    """The settings of a run of one recipe with one seed; its head has the recipe's name.

    Parameters
    ----------
    layer : one of the recipe's `layers`; None for the first of them

    Raises
    ------
    SettingsError
        Unknown, joined from others, or it cannot run with these settings.
    """
    recipe = find_recipe(settings, name)
    if recipe.join:
        raise SettingsError(f"recipe {name!r} joins {', '.join(recipe.join)}: it has no run of its own")
    trunk = recipe.trunk or settings.trunk
    if recipe.layer in LAYERS and names_layer(trunk):
        raise SettingsError(f"recipe {name!r}: trunk {trunk!r} has no layer {recipe.layer}")
    values = settings.to_file()
    if trunk != settings.trunk:
        values.update(weights=None, trunk_px=None, layer=DEFAULT_LAYER, layers=())
    values.update(RecipeSettings.model_dump(recipe, mode="json", include=set(recipe.changes)))
    if recipe.stated_aggregation is not None:
        values["aggregation"] = recipe.stated_aggregation.to_json()
    # The setting `compare` may name heads that recipes bring.
    named = {each: settings.known_heads[each].model_dump(mode="json") for each in settings.compare}
    brought = {each: head for each, head in named.items() if each in settings.recipes}
    values.update(seed=seed, head=name, heads={**brought, **values["heads"], name: values["head"]}, recipes={})
    if recipe.reseed_trunk:
        values["trunk_seed"] = seed
    at_layers = [_at_layer(values, name, trunk, each) for each in recipe.layers] or [values]
    try:
        runs = [RunSettings.model_validate(at_layer) for at_layer in at_layers]
    except ValidationError as error:
        problems = enumerate_problems(explain_validation(error, HEAD_KINDS))
        raise SettingsError(f"recipe {name!r} cannot run with these settings\n{problems}") from error
    return runs[0 if layer is None else recipe.layers.index(layer)]


def _at_layer(values: dict[str, Any], name: str, trunk: str, layer: str) -> dict[str, Any]:
    """Return values of settings at another layer, which ends the name of some trunks, such as ``timm/x@norm:class``.

    Raises
    ------
    SettingsError
        The trunk has no layers to choose from.
    """
    if not names_layer(trunk):
        return {**values, "layer": layer}
    source = find_source(trunk)
    if source is None or source.imported or source.coded:
        raise SettingsError(f"recipe {name!r}: trunk {trunk!r} has one layer, so none can be chosen; leave layers out")
    return {**values, "trunk": f"{trunk.partition('@')[0]}@{layer}"}


def members_of(settings: RunSettings, name: str, above: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The recipes with a head of their own that a recipe is made of, joins of joins included.

    Raises
    ------
    SettingsError
        Unknown recipes, or a join that contains itself.
    """
    if name in above:
        raise SettingsError(f"recipe {name!r} joins itself: {' -> '.join((*above, name))}")
    recipe = find_recipe(settings, name)
    found: dict[str, None] = {}
    for member in recipe.join or (name,):
        inner = members_of(settings, member, (*above, name)) if recipe.join else (member,)
        found.update(dict.fromkeys(inner))
    return tuple(found)


def parts_of(settings: RunSettings, name: str) -> tuple[str, ...]:
    """A recipe and all that it joins, directly or not, each after what it joins."""
    inner = [part for member in find_recipe(settings, name).join for part in parts_of(settings, member)]
    return tuple(dict.fromkeys((*inner, name)))


def needs_boxes(settings: RunSettings, name: str) -> bool:
    """Whether a recipe, or one that it joins, learns from patches whose labels follow from boxes."""
    runs = ((apply_recipe(settings, member, settings.seeds[0]), member) for member in members_of(settings, name))
    return any(run.trunk == "no-pretrain" or run.head_settings(member).needs_boxes for run, member in runs)


def check_recipe(settings: RunSettings, name: str, manifest: Manifest) -> None:
    """Refuse a recipe that needs boxes on a dataset without boxes, before any work.

    Raises
    ------
    DatasetError
        The message names the recipes that work.
    """
    refuse_without_labels(manifest, f"recipe {name!r}")
    if not manifest.has_boxes and needs_boxes(settings, name):
        refuse_without_boxes(manifest, f"recipe {name!r}", f"recipes that work: {_able_without_boxes(settings)}")


def _able_without_boxes(settings: RunSettings) -> str:
    return ", ".join(compared_recipes(settings.model_copy(update={"comparison": ()}), has_boxes=False)[0])


def compared_recipes(settings: RunSettings, has_boxes: bool = True) -> tuple[list[str], dict[str, str]]:
    """Recipes of a comparison that can run with these settings, and why the others cannot.

    Parameters
    ----------
    has_boxes : whether the dataset's objects have boxes

    Raises
    ------
    SettingsError
        A recipe that was asked for by name cannot run.
    """
    names, left_out = [], {}
    for name in settings.comparison or builtin_recipes():
        try:
            for member in members_of(settings, name):
                apply_recipe(settings, member, settings.seeds[0])
            if not has_boxes and needs_boxes(settings, name):
                raise SettingsError(
                    f"recipe {name!r} needs boxes, and the dataset has none, only labels of pictures"
                    + (f"; recipes that work: {_able_without_boxes(settings)}" if settings.comparison else "")
                )
        except SettingsError as error:
            if settings.comparison:
                raise
            left_out[name] = str(error)
        else:
            names.append(name)
    return names, left_out


def heads_run(settings: RunSettings, has_boxes: bool = True) -> RunSettings:
    """The comparison of the configured heads: one seed, the configured aggregation, baselines beside the main head.

    Parameters
    ----------
    has_boxes : whether the dataset's objects have boxes
    """

    def stated(recipe: RecipeSettings) -> RecipeSettings:
        k = recipe.stated_aggregation or settings.main_aggregation
        return recipe.model_copy(update={"aggregation": k.to_json()})

    known = known_recipes(settings)
    compared = settings.compared_heads(has_boxes)
    recipes = {name: stated(known[name]) for name in compared}
    head = settings.main_head(has_boxes)
    main = settings.head_settings(head)
    for trunk in settings.baselines:
        slug = make_file_part(trunk, ".-").strip("-")
        title = f"{head} on {trunk}"
        recipes[f"{head}-on-{slug}"] = stated(RecipeSettings(title=title, trunk=trunk, head=main))
    return settings.model_copy(
        update={
            "recipes": {**settings.recipes, **recipes},
            "comparison": tuple(recipes),
            "seeds": (settings.seed,),
            "reference": compared[0],
        }
    )
