"""Every built-in recipe on drawn scenes, against the same recipe taught wrong classes, and what a comparison says."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.comparison import run_comparison
from pipeline.dataset.demo import draw_demo
from pipeline.dataset.manifest import load_manifest
from pipeline.errors import PipelineError
from pipeline.recipe_runs import RecipeRuns
from pipeline.recipes import builtin_recipes
from pipeline.run import current_table
from pipeline.scoring.average_precision import mean_average_precision
from pipeline.scoring.ensemble import mean_rank
from pipeline.scoring.scores import load_scores
from pipeline.settings import parse_run_settings
from pipeline.workspace import Workspace

SETTINGS = {
    "threads": 2,
    "grid": {"scales": [1.0, 1.6, 2.4], "overlap": 0.4},
    "seeds": [0, 1],
    "held_out": 0.3,
    "no_pretrain": {"updates": 150, "batch": 32, "peak_rate": 0.05, "peak_rates": [], "held_out": 0.0},
    "fisher": {"words": 8, "components": 16, "input_px": 128},
}
MARGIN = {"random": 0.02, "no-pretrain": 0.02, "full-images": 0.02}
"""Least points of mAP above the same recipe taught wrong classes; 0.1 where nothing is said."""


def write_manifest(name: str) -> None:
    demo = load_manifest("demo")
    entry = {
        "name": name,
        "title": name,
        "folder": name,
        "metric": "voc12",
        "fit": "train",
        "eval": "val",
        "splits": {"train": {}, "val": {}},
        "classes": list(demo.classes),
    }
    Path("data_manifests").mkdir(exist_ok=True)
    (Path("data_manifests") / f"{name}.yaml").write_text(yaml.safe_dump(entry))


def teach_wrong_classes(folder: Path, classes: list[str]) -> None:
    """Give every object of the fit split a class by chance; boxes and pictures stay."""
    drawn = random.Random(3)
    for i in (folder / "ImageSets/Main/train.txt").read_text().split():
        path = folder / "Annotations" / f"{i}.xml"
        path.write_text(
            re.sub(r"<name>[^<]*</name>", lambda _: f"<name>{drawn.choice(classes)}</name>", path.read_text())
        )


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> dict[str, dict]:
    """The comparison of all built-in recipes on drawn scenes, right and wrong; and the workspace of the first."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("compared")
    os.chdir(folder)
    try:
        draw_demo(Path("data/scenes"), 90, 70, seed=11)
        shutil.copytree("data/scenes", "data/wrong")
        for name in ("scenes", "wrong"):
            write_manifest(name)
        teach_wrong_classes(Path("data/wrong"), list(load_manifest("scenes").classes))
        found = {}
        for name, seeds in (("scenes", [0, 1]), ("wrong", [0])):
            ws = Workspace(parse_run_settings({**SETTINGS, "seeds": seeds}))
            found[name] = run_comparison(ws, name, ws.compare_path(name), "a test", lambda text: None)
        yield {"folder": folder, **found}
    finally:
        os.chdir(before)


def rows(comparison: dict) -> dict[str, dict]:
    return {row["name"]: row for row in comparison["recipes"]}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_a_recipe_learns_the_classes_that_it_is_taught(compared, name):
    right, wrong = rows(compared["scenes"])[name]["mAP"], rows(compared["wrong"])[name]["mAP"]

    assert right > wrong + MARGIN.get(name, 0.1), (right, wrong)


def test_pre_training_beats_none_and_random_weights(compared):
    by_name = rows(compared["scenes"])

    assert by_name["strong"]["mAP"] > by_name["no-pretrain"]["mAP"] + 0.1
    assert by_name["strong"]["mAP"] > by_name["random"]["mAP"] + 0.1
    assert by_name["random"]["difference"]["high"] < 0 and by_name["random"]["difference"]["to"] == "strong"


def test_all_recipes_on_a_layer_and_source_share_one_store(compared):
    kept = {(row["trunk"], row["layer"], row["source"]): row for row in compared["scenes"]["recipes"] if row["head"]}
    stores = {path.name for path in (compared["folder"] / "cache").glob("scenes-val-*.zarr")}

    # fc7, fc6 and pool5 of the grid, fc7 of whole and crops, random, fisher, and a trunk for each seed of no-pretrain
    assert len(stores) == 9
    assert len(kept) == 8


def test_aggregations_are_chosen_on_held_out_pictures_only(compared):
    for row in compared["scenes"]["recipes"]:
        choice = row["choice"]
        if choice["chosen"] == "held-out":
            best = max(choice["mAP"], key=lambda k: choice["mAP"][k])
            assert (row["k"] if isinstance(row["k"], str) else f"{row['k']:g}") == best
            assert choice["pictures"] < 90
    assert rows(compared["scenes"])["strong"]["choice"]["chosen"] == "held-out"
    assert rows(compared["scenes"])["no-pretrain"]["choice"]["chosen"] == "stated"


def test_a_row_is_what_its_scores_say(compared):
    """mAP, spread and join of the file, computed again from the files of scores."""
    by_name = rows(compared["scenes"])
    ws = Workspace(parse_run_settings(SETTINGS))
    os.chdir(compared["folder"])
    labels = current_table(ws, "scenes", "val", lambda text: None).picture_labels

    def scores(name: str) -> list[np.ndarray]:
        return [load_scores(Path(run["scores"])).by(by_name[name]["k"]) for run in by_name[name]["runs"]]

    for name in ("strong", "strong+weak"):
        maps = [mean_average_precision(s, labels, "voc12")[0] for s in scores(name)]
        assert by_name[name]["mAP"] == pytest.approx(np.mean(maps), abs=1e-5)
        assert by_name[name]["std"] == pytest.approx(np.std(maps, ddof=1), abs=1e-5)
    for joined, *members in zip(scores("strong+weak"), scores("strong"), scores("weak"), strict=True):
        np.testing.assert_array_equal(joined, mean_rank(members))


def test_the_file_says_what_readers_need(compared):
    comparison = json.loads((compared["folder"] / "results/scenes_compare.json").read_text())

    assert comparison["left_out"] == [] and comparison["published"] == []
    for row in comparison["recipes"]:
        assert {"name", "mAP", "std", "seeds", "seconds", "AP", "interval", "difference", "runs"} <= set(row)
        assert row["seeds"] == [0, 1] and row["interval"]["low"] < row["interval"]["high"]
        assert set(row["AP"]) == set(load_manifest("demo").classes)
    stacked = rows(comparison)["all-stacked"]
    assert stacked["stack"]["cross_validated_mAP"] > 0.3


def test_a_finished_recipe_is_left_alone_and_one_without_its_file_fits_nothing_again(compared):
    os.chdir(compared["folder"])
    ws = Workspace(parse_run_settings(SETTINGS))
    ws.recipe_path("scenes", "svm").unlink()
    said: list[str] = []

    again = RecipeRuns(ws, "scenes", "a test", said.append).run("svm")

    assert again["mAP"] == rows(compared["scenes"])["svm"]["mAP"]
    assert not any("scored" in line for line in said)
    assert sum("already" in line for line in said) == 2


def test_what_changed_since_is_run_again_and_nothing_else(compared):
    os.chdir(compared["folder"])
    ws = Workspace(parse_run_settings({**SETTINGS, "comparison": ["strong", "svm-whole"]}))
    said: list[str] = []
    path = Path("results/changed.json")
    unchanged = run_comparison(ws, "scenes", path, "a test", said.append)
    assert not any("again" in line or "fitted" in line for line in said)
    annotation = (
        next(Path("data/scenes/Annotations").glob("val*.xml"), None)
        or sorted(Path("data/scenes/Annotations").glob("*.xml"))[-1]
    )
    before = annotation.read_text()
    annotation.write_text(re.sub(r"<xmin>\d+</xmin>", "<xmin>1</xmin>", before))
    try:
        run_comparison(ws, "scenes", path, "a test", said.append)
        assert any("strong" in line and "changed since; running strong again" in line for line in said)
        assert not any("trunk alone needs" in line for line in said)  # labels changed, rows did not
        said.clear()
        annotation.write_text(before)
        restored = run_comparison(ws, "scenes", path, "a test", said.append)
        assert any("changed since" in line for line in said)
    finally:
        annotation.write_text(before)
    assert [row["mAP"] for row in restored["recipes"]] == [row["mAP"] for row in unchanged["recipes"]]


def test_a_split_without_labels_cannot_be_compared(compared):
    os.chdir(compared["folder"])
    content = yaml.safe_load(Path("data_manifests/scenes.yaml").read_text())
    content.update(name="blind", splits={"train": {}, "val": {"labelled": False}})
    Path("data_manifests/blind.yaml").write_text(yaml.safe_dump(content))

    with pytest.raises(PipelineError, match="blind val: no labels, so a recipe cannot be measured"):
        RecipeRuns(Workspace(parse_run_settings(SETTINGS)), "blind", "a test", lambda text: None).run("strong")
