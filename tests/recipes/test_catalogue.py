"""Recipes: what each changes of a run's settings, and which files it shares with others."""

import pytest

from pipeline.head.settings import HEADS
from pipeline.io.errors import SettingsError
from pipeline.recipes.catalogue import (
    apply_recipe,
    builtin_recipes,
    compared_recipes,
    find_recipe,
    heads_run,
    members_of,
    parts_of,
)
from pipeline.recipes.paths import recipe_digest, recipe_workspace
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.recipe_settings import RecipeSettings
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace

NAMED = (
    *("strong", "strong-fcb", "strong-fca2", "multilabel", "full-images", "weak"),
    *("strong+weak", "svm", "fc6", "no-pretrain", "random", "hand-made"),
)


def test_the_rows_that_a_comparison_must_have():
    assert set(NAMED) <= set(builtin_recipes())


def test_every_built_in_recipe_runs_on_the_embedded_trunk():
    names, left_out = compared_recipes(RunSettings())

    assert (set(names), left_out) == (set(builtin_recipes()), {})


def test_a_recipe_changes_what_it_names_and_nothing_else():
    settings = RunSettings(labels={"single_object": "touches"}, held_out=0.4, weights=None)

    run = apply_recipe(settings, "full-images", 7)

    expected = {"source": "whole", "seed": 7, "head": "full-images", "aggregation": "max"}
    assert {key: getattr(run, key) for key in expected} == expected
    assert (run.labels, run.grid, run.trunk) == (settings.labels, settings.grid, settings.trunk)
    assert run.head_settings("full-images").kind == "weak"


def test_another_trunk_takes_neither_layer_nor_weights_along():
    settings = RunSettings(trunk="alexnet", weights="w.safetensors", layer="fc6")

    run = apply_recipe(settings, "random", 0)
    assert (run.trunk, run.layer, run.weights) == ("random", "fc7", None)
    assert apply_recipe(settings, "strong", 0).layer == "fc6"


@pytest.mark.parametrize(("name", "seeds"), [("random", [0, 0]), ("no-pretrain", [1, 2])])
def test_whose_trunk_is_drawn_anew_for_each_seed(name, seeds):
    assert [apply_recipe(RunSettings(), name, seed).trunk_seed for seed in (1, 2)] == seeds


def test_recipes_share_stores_where_they_can():
    ws = Workspace(RunSettings())
    digest = {
        name: recipe_workspace(ws, name, 3).store_digest
        for name in builtin_recipes()
        if not find_recipe(RunSettings(), name).join
    }

    assert {ws.store_digest} == {
        digest[n] for n in ("strong", "strong-fcb", "strong-fca2", "multilabel", "weak", "svm")
    }
    assert digest["full-images"] == digest["svm-whole"]
    own = {digest[n] for n in ("strong", "full-images", "fc6", "fc6-retrained", "random", "no-pretrain", "hand-made")}
    assert len(own) == 7


def test_a_configured_recipe_replaces_the_built_in_one_and_a_head_is_a_recipe():
    settings = RunSettings(
        heads={"wide": {"hidden": [9]}}, recipes={"weak": {"title": "mine", "head": {"kind": "weak", "top": 3}}}
    )

    assert find_recipe(settings, "weak").head.top == 3
    assert find_recipe(settings, "wide") == RecipeSettings(head=settings.heads["wide"])
    assert apply_recipe(settings, "fcb", 0).head_settings("fcb") == HEADS["fcb"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        pytest.param({}, "needs a head, or recipes to join", id="nothing"),
        pytest.param({"join": ["strong"]}, "join needs two recipes at least", id="one member"),
        pytest.param(
            {"join": ["strong", "weak"], "layer": "fc6"},
            "a recipe that joins others has nothing of its own, got layer",
            id="both",
        ),
        pytest.param({"head": {"kind": "boosted"}}, "kind", id="unknown kind"),
        pytest.param({"head": {}, "aggregation": "most"}, "aggregation: must be a power", id="aggregation"),
    ],
)
def test_mistakes_in_a_recipe_are_named(recipe, message):
    with pytest.raises(SettingsError, match=message):
        parse_run_settings({"recipes": {"mine": recipe}})


def test_what_cannot_run_is_left_out_and_said_unless_it_was_asked_for():
    settings = RunSettings(trunk="torchvision/resnet18")

    names, left_out = compared_recipes(settings)
    assert set(left_out) == {"fc6", "svm-fc6", "fc6-retrained", "fc6-fc7-new", "wide-stacked"}
    assert not set(left_out) & set(names)
    with pytest.raises(SettingsError, match="recipe 'fc6': trunk 'torchvision/resnet18' has no layer fc6"):
        compared_recipes(settings.model_copy(update={"comparison": ("fc6",)}))


def test_joins_of_joins():
    recipes = {"pair": {"join": ["weak", "svm"]}, "all": {"join": ["strong", "pair", "svm"]}}
    settings = parse_run_settings({"recipes": recipes})

    assert members_of(settings, "all") == ("strong", "weak", "svm")
    assert parts_of(settings, "all") == ("strong", "weak", "svm", "pair", "all")
    assert members_of(settings, "weak") == ("weak",)


def test_a_circle_of_joins_is_refused():
    settings = parse_run_settings({"recipes": {"a": {"join": ["b", "svm"]}, "b": {"join": ["a", "svm"]}}})

    with pytest.raises(SettingsError, match="recipe 'a' joins itself: a -> b -> a"):
        members_of(settings, "a")


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [0, 1]},
        {"held_out": 0.4},
        {"labels": {"single_object": "touches"}},
        {"recipes": {"weak": {"head": {"kind": "weak", "top": 3}}}},
        {"recipes": {"strong": {"head": {"hidden": [3]}, "aggregation": 3}}},
    ],
)
def test_an_outcome_is_named_by_all_that_it_depends_on(change):
    before, after = Workspace(RunSettings()), Workspace(parse_run_settings(change))

    assert recipe_digest(before, "strong+weak") != recipe_digest(after, "strong+weak")
    if "recipes" in change:
        assert recipe_digest(before, "svm") == recipe_digest(after, "svm")


def test_the_comparison_of_heads_chooses_nothing_and_has_one_seed():
    settings = heads_run(RunSettings(compare=("fcb", "fca"), baselines=("random",), seed=4, aggregation=3))

    assert (settings.comparison, settings.seeds, settings.reference) == (("fcb", "fca", "fca-on-random"), (4,), "fcb")
    assert {settings.recipes[name].stated_aggregation.to_json() for name in settings.comparison} == {3.0}
    assert apply_recipe(settings, "fca-on-random", 4).trunk == "random"


def test_recipes_that_are_a_head_alone_are_heads_by_name_and_share_its_files():
    alone = {n: r.head for n, r in builtin_recipes().items() if set(r.changes) == {"head"} and not r.has_points}
    ws = Workspace(RunSettings())

    assert {name: HEADS[name] for name in alone} == alone
    for name in alone:
        of_recipe = recipe_workspace(ws, name, 0)
        assert of_recipe.head_path("demo", name) == ws.head_path("demo", name)
        assert of_recipe.scores_path("demo", name, "val") == ws.scores_path("demo", name, "val")
    assert recipe_workspace(ws, "svm", 0).run_dir("demo", "svm") == ws.run_dir("demo", "svm")


def test_a_configured_recipe_that_is_a_head_alone_is_a_head():
    settings = RunSettings(
        recipes={"mine": {"head": {"kind": "weak", "top": 3}}, "wide": {"layer": "fc6", "head": "svm"}}, head="mine"
    )

    assert settings.head_settings("mine").top == 3
    with pytest.raises(SettingsError, match="unknown head 'wide'"):
        settings.head_settings("wide")


def test_the_main_head_of_a_dataset_without_boxes():
    assert [RunSettings().main_head(has_boxes) for has_boxes in (True, False)] == ["fca", "svm"]
    assert [RunSettings(head="fca").main_head(has_boxes) for has_boxes in (True, False)] == ["fca", "fca"]
    for settings in (RunSettings(), RunSettings(head="fca")):
        again = parse_run_settings(settings.to_file())
        assert (again, again.main_head(False)) == (settings, settings.main_head(False))
