"""Recipes that choose among the points of a grid and among layers: by files, from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from support.cli import run_command
from support.dataset import CONFIG, draw_scene, make_dataset, write_manifest
from support.tables import table_of_two_to_five

from pipeline.head.facts import read_facts
from pipeline.recipes import recipe
from pipeline.recipes.catalogue import apply_recipe
from pipeline.recipes.paths import recipe_digest, recipe_workspaces
from pipeline.scoring.aggregation import Aggregation
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace

GRID = {"pooling": [["mean"], ["mean", "max"]], "weight_decay": [0.1, "1e-3"]}
GRID_OF_SVM = {"pooling": [["mean"], ["max"]], "standardise": [True, False]}
RECIPES = {
    "few": {"head": {"kind": "logistic", "grid": GRID}},
    "layers": {"layers": ["fc6", "fc7"], "head": {"kind": "logistic", "grid": {"weight_decay": [0.1, 0.001]}}},
    "patches": {"head": {"hidden": [], "max_epochs": [1, 0, 0], "batch": 8, "grid": {"dropout": [0, 0.5]}}},
    "stacked": {"join": ["few", "svm"], "by": "stack"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen pictures to fit on: without the held-out ones every class is still there, and absent."""
    path = tmp_path_factory.mktemp("points") / "work"
    splits = {"train": ("p", 16), "val": ("q", 4)}
    make_dataset(path / "data/tiny", splits, lambda file, names, shade: draw_scene(file, names, 90 + (shade - 90) // 2))
    write_manifest(path)
    config = {**CONFIG, "held_out": 0.4, "seeds": [0, 1], "recipes": RECIPES, "compare": ["few", "fcb"], "head": "fcb"}
    heads = {"fcb": {"hidden": [], "max_epochs": [2, 1, 1]}, "few": RECIPES["few"]["head"]}
    (path / "points.yaml").write_text(yaml.safe_dump({**config, "aggregations": [1, "max"], "heads": heads}))
    return path


@pytest.fixture(scope="module")
def ran(folder):
    return run_command(folder, *f"recipe run {' '.join(RECIPES)} --dataset tiny --config points.yaml".split())


def outcome_of(folder: Path, name: str):
    (file,) = (folder / "results/recipes").glob(f"tiny-{name}-*.json")
    return json.loads(file.read_text()), file


def run(folder: Path, line: str):
    return run_command(folder, *line.split())


def test_the_chosen_point_is_fitted_with_every_seed(folder, ran):
    assert ran.code == 0, ran.err
    outcome, file = outcome_of(folder, "few")
    choice = outcome["choice"]
    assert [row["point"] for row in choice["points"]] == [
        {"pooling": pooling, "weight_decay": decay} for pooling in GRID["pooling"] for decay in (0.1, 0.001)
    ]
    best = max(row["held_out_mAP"] for row in choice["points"])
    assert choice["point"] == next(row["point"] for row in choice["points"] if row["held_out_mAP"] == best)
    assert (choice["by"], choice["seeds"]) == ("mAP", [0, 1]) and 0 < choice["pictures"] < 16
    assert outcome["head"]["kind"] == "logistic" and "grid" not in outcome["head"]
    assert {name: outcome["head"][name] for name in GRID} == choice["point"]
    # One file per seed, of the chosen point alone; the stack's is without the held-out pictures.
    facts = [read_facts(path) for path in (folder / "results/heads").glob("tiny-few-*.safetensors")]
    assert sorted((fact.seed, fact.held_out) for fact in facts) == [(0, 0.0), (0, 0.4), (1, 0.0)]
    assert all(fact.settings == outcome["head"] for fact in facts)
    assert "<- chosen" in ran.out
    table = run_command(folder, "show", str(file), "--format", "csv").out
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["chosen"] for row in rows].count("1") == 1 and rows[0]["pooling"] == "mean"
    assert {"interval_low", "interval_high", "std"} <= set(rows[0])


def test_layers_are_chosen_among_as_points_are(folder, ran):
    outcome, _ = outcome_of(folder, "layers")
    choice = outcome["choice"]
    assert [(row["layer"], row["point"]["weight_decay"]) for row in choice["points"]] == [
        (layer, decay) for layer in ("fc6", "fc7") for decay in (0.1, 0.001)
    ]
    assert outcome["layer"] == choice["layer"] in ("fc6", "fc7")
    assert outcome["head"]["weight_decay"] == choice["point"]["weight_decay"]


def test_a_point_of_a_head_on_patches_is_chosen_with_its_aggregation(folder, ran):
    outcome, _ = outcome_of(folder, "patches")
    rows = outcome["choice"]["points"]
    ks = {row["k"] for row in rows}
    assert len(ks) > 1 and len(rows) == 2 * len(ks)
    assert len(rows[0]["runs"]) == 2 and rows[0]["std"] is not None
    assert outcome["head"]["dropout"] == outcome["choice"]["point"]["dropout"]


def test_a_second_run_chooses_nothing_anew(folder, ran):
    files = [outcome_of(folder, name)[1] for name in ("few", "stacked")]
    before = [file.stat().st_mtime_ns for file in files]
    ended = run(folder, "compare --dataset tiny --config points.yaml --recipe few --recipe stacked")
    assert ended.code == 0 and "chosen among" not in ended.err, ended.err
    assert [file.stat().st_mtime_ns for file in files] == before
    for step in ("fit-head", "score", "evaluate", "report"):
        ended = run(folder, f"{step} --dataset tiny --config points.yaml --head fcb")
        assert ended.code == 0, ended.err
    page = (folder / "results/tiny_report.html").read_text()
    assert "What few chose from" in page and "weight_decay" in page


def test_a_sweep_has_the_points_beside_other_heads(folder, ran):
    ended = run(folder, "sweep --dataset tiny --config points.yaml")
    assert ended.code == 0, ended.err
    swept = json.loads((folder / "results/tiny_sweep.json").read_text())
    of_few = [row for row in swept["rows"] if row["head"] == "few"][: len(GRID) * 2]
    of_recipe = outcome_of(folder, "few")[0]["choice"]["points"]
    # The same heads on the same held-out pictures.
    for name in ("point", "held_out_mAP", "interval", "runs"):
        assert [row[name] for row in of_few] == [row[name] for row in of_recipe]
    assert swept["seeds"] == [0, 1] and any(row["head"] == "fcb" and "point" not in row for row in swept["rows"])
    assert run(folder, "show results/tiny_sweep.json --format markdown").code == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("fit-head --head few", "has a grid of 4 points"),
        ("curve --recipe few --pictures 3", "nothing is chosen for a curve"),
    ],
)
def test_what_needs_one_head_refuses_a_grid(folder, ran, line, problem):
    ended = run(folder, f"{line} --dataset tiny --config points.yaml")
    assert ended.code == 2 and problem in ended.err, ended.err


def test_layers_are_of_the_digest_and_of_the_name_of_some_trunks():
    def digest(**recipe):
        return recipe_digest(Workspace(RunSettings(recipes={"it": {"head": {"kind": "svm"}, **recipe}})), "it")

    assert len({digest(), digest(layers=["fc6"]), digest(layers=["fc6", "fc7"]), digest(layers=["fc7", "fc6"])}) == 4
    recipes = {"it": {"head": {"kind": "svm"}, "layers": ["norm:class", "norm:tokens"]}}
    settings = RunSettings(trunk="timm/vit_tiny_patch16_224.augreg_in21k@norm:class", recipes=recipes)
    trunks = [ws.settings.trunk.partition("@")[2] for ws in recipe_workspaces(Workspace(settings), "it", 0)]
    assert trunks == ["norm:class", "norm:tokens"]


def test_the_order_of_a_grid_is_of_the_digest_as_it_decides_ties():
    def digest(*names):
        head = {"kind": "svm", "grid": {name: GRID_OF_SVM[name] for name in names}}
        return recipe_digest(Workspace(RunSettings(recipes={"it": {"head": head}})), "it")

    assert digest("pooling", "standardise") != digest("standardise", "pooling")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"trunk": "imported/mine"}, "has one layer"),
        ({"trunk": "alexnet64"}, "trunk alexnet64 has pool5, fc6, fc7, got 'norm:class'"),
    ],
)
def test_layers_that_a_trunk_does_not_have_are_refused(settings, problem):
    recipes = {"it": {"head": {"kind": "svm"}, "layers": ["norm:class", "norm:tokens"]}}
    with pytest.raises(Exception, match=problem):
        apply_recipe(RunSettings(**settings, recipes=recipes), "it", 0)


@pytest.mark.parametrize("recipe", [{"layer": "fc6", "layers": ["fc7"]}, {"layers": ["fc7", "fc7"]}])
def test_a_layer_and_layers_do_not_go_together(recipe):
    with pytest.raises(ValueError, match="without a layer, and name each once"):
        RunSettings(recipes={"it": {"head": {"kind": "svm"}, **recipe}})


def test_an_aggregation_is_chosen_by_accuracy_where_every_picture_shows_one_class(monkeypatch):
    """As a point of a grid is."""
    table, said = table_of_two_to_five("train", 36), []
    shown = (table.picture_labels == 1).astype(float)
    per_class, per_picture = np.array([[0.0, 10.0, 20.0]]), np.random.default_rng(0).random((36, 1)) * 10
    # The mean ranks the pictures of each class rightly, and takes all for the last; the maximum does the opposite.
    by = {Aggregation.parse(1): shown + per_class, Aggregation.parse("max"): shown + per_picture}
    facts = SimpleNamespace(head=SimpleNamespace(never_learnt=()))
    scores = SimpleNamespace(aggregations=tuple(by), by=by.__getitem__, facts=facts)
    run = SimpleNamespace(
        settings=SimpleNamespace(held_out=0.4, seed=0),
        manifest=SimpleNamespace(fit="train", metric="voc12"),
        say=said.append,
    )
    monkeypatch.setattr(recipe, "_with_first_seed", lambda run, name: run)
    monkeypatch.setattr(recipe, "current_scores", lambda run, name, held_out: scores)
    monkeypatch.setattr(recipe, "current_table", lambda run, split: table)

    chosen = recipe._choose_aggregation(run, "strong", SimpleNamespace(stated_aggregation=None))

    assert str(chosen.aggregation) == "max" and chosen.about["mAP"]["1"] == 1.0 > chosen.about["mAP"]["max"]
    assert chosen.about["by"] == "accuracy" and chosen.about["accuracy"]["max"] == 1.0 and "100.0 accuracy" in said[0]
