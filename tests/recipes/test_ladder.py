"""Ladders: each figure is that of the recipe and of the curve on that trunk, and what changed is made again."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from support.cli import run_command

from pipeline.activations.run_log import LogEntry, RunLog
from pipeline.recipes import ladder
from pipeline.recipes.ladder import LadderPlan, rung_settings
from pipeline.recipes.paths import recipe_path
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace

RUNGS = {"fc7": {"trunk": "random"}, "fc6": {"trunk": "random", "layer": "fc6"}}
LINE = "ladder --dataset tiny --recipe ncm --recipe svm --recipe ncm+svm --shots 1,2 --config ladder.yaml"


@pytest.fixture(scope="module")
def folder(stepped, tmp_path_factory):
    path = tmp_path_factory.mktemp("ladder") / "work"
    shutil.copytree(stepped[0], path)
    config = yaml.safe_load((path / "config.yaml").read_text())
    config |= {"ladder": RUNGS, "seeds": [0, 1], "recipes": {"ncm+svm": {"join": ["ncm", "svm"]}}}
    (path / "ladder.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def made(folder):
    ended = run_command(folder, *LINE.split())
    assert ended.code == 0, ended.err
    assert "by trunk" in ended.out and "1 per class" in ended.out
    return json.loads((folder / "results/tiny_ladder.json").read_text())


def test_a_rung_is_its_recipes_run_by_hand(folder, made):
    assert [rung["name"] for rung in made["rungs"]] == ["fc7", "fc6"]
    found = {}
    for rung in made["rungs"]:
        for name in ("ncm", "svm"):
            line = f"recipe run {name} --dataset tiny --config ladder.yaml --layer {rung['name']}"
            ended = run_command(folder, *line.split())
            assert ended.code == 0 and ": fitted on" not in ended.err, ended.err
            settings = {**yaml.safe_load((folder / "ladder.yaml").read_text()), "layer": rung["name"]}
            ws = Workspace(parse_run_settings(settings))
            outcome = json.loads((folder / recipe_path(ws, "tiny", name)).read_text())
            row = next(row for row in rung["recipes"] if row["name"] == name)
            assert (row["mAP"], row["std"]) == (outcome["mAP"], outcome["std"])
            assert row["interval"]["low"] <= row["mAP"] <= row["interval"]["high"]
            found[rung["name"], name] = outcome["fingerprints"]
    assert found["fc7", "ncm"] != found["fc6", "ncm"]


def test_few_shots_are_the_curve_of_that_rung(folder, made):
    line = "curve --dataset tiny --recipe ncm --recipe svm --shots 1,2 --config ladder.yaml --layer fc6 --json"
    ended = run_command(folder, *line.split())
    assert ended.code == 0, ended.err
    points = {curve["name"]: curve["points"] for curve in json.loads(ended.out)["curves"]}
    rows = {row["name"]: row for row in made["rungs"][1]["recipes"]}
    assert {name: rows[name]["few"] for name in points} == points
    assert rows["ncm+svm"]["few"] == []


def test_bytes_and_rows_are_those_of_the_stores(folder, made):
    for rung in made["rungs"]:
        assert rung["layer"] == rung["name"] and rung["rows"] > 0 and rung["extract_seconds"] is not None
        assert 0 < rung["bytes"] < 4 * rung["rows"] * rung["columns"]


class ShownRun:
    """A run of settings alone."""

    manifest = SimpleNamespace(fit="train", eval="val")

    def __init__(self, ws):
        self.ws, self.settings, self.on = ws, ws.settings, ShownRun


def test_a_recipe_that_chose_a_layer_has_read_the_stores_of_all_and_draws_no_curve(tmp_path, monkeypatch):
    recipes = {"layered": {"layers": ["fc6", "fc7"], "head": {"kind": "ncm"}}, "both": {"join": ["layered", "knn"]}}
    run = ShownRun(Workspace(RunSettings(trunk="random", layer="fc6", cache=str(tmp_path), recipes=recipes)))
    sizes = {"train": 100, "val": 10}

    def store(run, split):
        layer, n = run.settings.layer, sizes[split]
        name, n_bytes = f"{split}-{layer}.zarr", n * (2 if layer == "fc6" else 3)
        about = {"fingerprint": name, "identity": {"how.layer": layer}, "folder": SimpleNamespace(name=name)}
        return SimpleNamespace(n_rows=n, width=8, n_bytes=n_bytes, **about)

    for name, n_stores in (("train-fc6", 2), ("train-fc7", 2), ("val-fc6", 1), ("val-fc7", 1)):
        entry = LogEntry.of_this_run(rows=1, parts=1, stores=n_stores, seconds=10, stages={})
        RunLog.of_store(tmp_path, f"{name}.zarr").append(entry)
    choices = {"layered": {"layer": "fc7"}, "knn": {"chosen": "stated"}}
    outcomes = {name: {"k": "pooled", "choice": choice} for name, choice in choices.items()}
    monkeypatch.setattr(ladder, "sealed_store", store)
    monkeypatch.setattr(ladder.recipe, "current_outcome", lambda run, name: outcomes[name])
    expected = {"layer": "fc7", "columns": 8, "rows": 220, "bytes": 550, "extract_seconds": 30.0}
    assert ladder._rows_of(run, ["both"]) == expected

    monkeypatch.setattr(ladder.curve, "draw", lambda run, plan: [{"name": name, "points": []} for name in plan.recipes])
    assert list(ladder._few_shots(run, ["layered", "knn", "probe", "both"], (1,))) == ["knn"]


def test_it_is_current_until_a_rung_changes(folder, made, monkeypatch):
    monkeypatch.chdir(folder)
    config = yaml.safe_load((folder / "ladder.yaml").read_text())

    def due(changes):
        ws = Workspace(parse_run_settings({**config, **changes}))
        return ladder.why_due(RunContext(ws, "tiny"))

    assert due({}) is None
    assert due({"ladder": {**RUNGS, "fc6": {"trunk": "random", "layer": "pool5"}}}) is not None
    assert due({"ladder": {"fc7": RUNGS["fc7"]}}) == "it is of other rungs, recipes or settings"
    assert due({"seeds": [0]}) is not None


def test_it_is_shown_as_a_flat_table(folder, made):
    ended = run_command(folder, *["show", "results/tiny_ladder.json", "--format", "csv"])
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert len(lines) == 1 + 2 * 3 and lines[0].startswith("rung,recipe,mAP_1,mAP_2,mAP,")


def test_a_recipe_that_a_trunk_cannot_run_is_left_out_there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    ws = Workspace(parse_run_settings({"trunk": "torchvision/squeezenet1_0"}))
    names, left_out = ladder._able(RunContext(ws, "tiny"), LadderPlan(("svm", "fc6")))
    assert names == ["svm"] and "has no layer fc6" in left_out["fc6"]


def test_a_rung_takes_nothing_of_another_trunk():
    config = {"weights": "mine.safetensors", "layer": "fc6", "trunk": "alexnet", "precision": "fp32"}
    settings = parse_run_settings({**config, "ladder": {"lite0": {"trunk": "efficientnet_lite0", "method": "dense"}}})
    changed = rung_settings(settings, "lite0")
    assert (changed.weights, changed.layer, changed.method) == (None, "fc7", "dense")
    assert changed.precision == "fp32" and not changed.ladder


def test_the_report_has_it_while_it_is_current(folder, made):
    report = ["report", "--dataset", "tiny", "--config"]
    ended = run_command(folder, *report, "ladder.yaml")
    assert ended.code == 0, ended.err
    page = (folder / "results/tiny_report.html").read_text()
    assert '<h2 id="ladder">' in page and 'data-label="2 per class"' in page
    config = yaml.safe_load((folder / "ladder.yaml").read_text())
    (folder / "other.yaml").write_text(yaml.safe_dump({**config, "seeds": [7]}))
    ended = run_command(folder, *report, "other.yaml")
    assert ended.code == 0 and "tiny_ladder.json" in ended.err and "left out of the report" in ended.err, ended.err
    plan = json.loads((folder / "results/tiny_ladder.json").read_text())["plan"]
    recipes = " ".join(f"--recipe {name}" for name in plan["recipes"])
    again = f"pipeline ladder --dataset tiny {recipes} --shots {','.join(map(str, plan['shots']))}"
    assert f"make it again: {again}, with the same settings" in ended.err


@pytest.mark.parametrize(
    ("config", "line", "problem"),
    [
        ({}, "", "no rungs"),
        ({"ladder": RUNGS}, "--recipe nothing", "unknown recipe"),
        ({"ladder": RUNGS}, "--shots ten", "expected numbers above 0"),
        ({"ladder": {"a b": {"trunk": "random"}}}, "", "names may have letters"),
        ({"ladder": {"a": {"trunk": "random", "layer": "fc9"}}}, "", "has pool5, fc6, fc7"),
    ],
)
def test_bad_input_is_refused(folder, config, line, problem):
    base = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "bad.yaml").write_text(yaml.safe_dump(base | config))
    ended = run_command(folder, *f"ladder --dataset tiny --config bad.yaml {line}".split())
    assert ended.code == 2 and problem in ended.err, ended.err
