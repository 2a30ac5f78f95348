"""Every built-in recipe on drawn scenes, against the same recipe taught wrong classes, and what a comparison says.

All recipes run in the short form, too, with one seed. Those that differ from another one in a setting alone are taught
wrong classes in the long form: ``PIPELINE_TORTURE=1``.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from defusedxml import ElementTree
from PIL import Image
from support.torture import TORTURE

from pipeline.dataset.demo.scenes import draw_demo
from pipeline.dataset.manifest import load_manifest
from pipeline.io.errors import PipelineError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.recipes import compare, recipe
from pipeline.recipes.catalogue import builtin_recipes
from pipeline.recipes.paths import recipe_path
from pipeline.scoring.ensemble import mean_rank
from pipeline.scoring.scores_file import load_scores
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.patches import current_table
from pipeline.stages.workspace import Workspace

SEEDS = [0, 1] if TORTURE else [0]
N_SCENES = (80, 60) if TORTURE else (56, 40)
"""Drawn to fit on, and to score."""
UPDATES = 120 if TORTURE else 80
SETTINGS = {
    "threads": 1,
    "grid": {"scales": [1.0, 1.6, 2.4], "overlap": 0.4},
    "seeds": SEEDS,
    "held_out": 0.3,
    "no_pretrain": {
        "updates": UPDATES,
        "batch": 32,
        "peak_rate": 0.05,
        "peak_rates": [],
        "held_out": 0.0,
    },
    "fisher": {"words": 8, "components": 16, "input_px": 128},
}
WHOLE = ("svm-whole", "svm-crops", "svm-aug", "full-images", "hand-made")
"""Recipes that look at whole pictures: objects of scenes are too small for them, so they get a picture an object."""
IN_SCENES = tuple(name for name in builtin_recipes() if name not in WHOLE)
ALONE = tuple(name for name in IN_SCENES if not builtin_recipes()[name].join)
JOINED = {member for name in IN_SCENES for member in builtin_recipes()[name].join}
VARIED = ("strong-fca2", "multilabel", "weak-fca", "fc6-retrained", "svm-fc6")
"""Recipes of a kind that another one of `ALONE` has."""
MISTAUGHT = ALONE if TORTURE else tuple(name for name in ALONE if name not in VARIED)
TWICE = ("strong", "weak", "strong+weak")
MARGIN = {"random": 0.03, "fc6-fc7-new": 0.05, "knn": 0.05, "attention": 0.05, "no-pretrain": 0.05}
"""Least points of mAP above the same recipe taught wrong classes; 0.1 where nothing is said."""


def write_manifest(name: str, folder: str) -> None:
    demo = load_manifest("demo")
    entry = {
        "name": name,
        "title": name,
        "folder": folder,
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


def cut_out_objects(scenes: Path, folder: Path) -> None:
    """A picture an object, with a margin around its box, from drawn scenes."""
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True)
    for split in ("train", "val"):
        ids = []
        for i in (scenes / f"ImageSets/Main/{split}.txt").read_text().split():
            picture = Image.open(next((scenes / "JPEGImages").glob(f"{i}.*")))
            for number, item in enumerate(ElementTree.parse(scenes / f"Annotations/{i}.xml").iter("object")):
                box = [float(item.find(f"bndbox/{key}").text) for key in ("xmin", "ymin", "xmax", "ymax")]
                margin = 0.15 * max(box[2] - box[0], box[3] - box[1])
                x0, y0 = (max(0, round(v - margin)) for v in box[:2])
                x1, y1 = min(picture.width, round(box[2] + margin)), min(picture.height, round(box[3] + margin))
                if min(x1 - x0, y1 - y0) < 40:
                    continue
                ids.append(f"{i}_{number}")
                picture.crop((x0, y0, x1, y1)).save(folder / "JPEGImages" / f"{ids[-1]}.png")
                inner = (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0)
                corners = "".join(
                    f"<{k}>{v:g}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), inner, strict=True)
                )
                (folder / "Annotations" / f"{ids[-1]}.xml").write_text(
                    f"<annotation><object><name>{item.find('name').text}</name><bndbox>{corners}</bndbox></object></annotation>"
                )
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(ids) + "\n")


class Compared(dict):
    """Comparisons by dataset, each made when a test first asks for it, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> dict:
        # Joins in scenes have members that look at whole pictures.
        in_scenes = (*IN_SCENES, *sorted(JOINED - set(IN_SCENES)))
        recipes = WHOLE if name.endswith("objects") else MISTAUGHT if name.startswith("wrong") else in_scenes
        recipes = TWICE if name == "twice" else recipes
        seeds = [0, 1] if name == "twice" else SEEDS if name == "scenes" else [0]
        write_manifest(name, "scenes" if name == "twice" else name)
        ws = Workspace(parse_run_settings({**SETTINGS, "seeds": seeds, "comparison": recipes}))
        self[name] = compare.make(RunContext(ws, name, command="a test"))
        return self[name]


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Iterator[Compared]:
    """The built-in recipes on drawn scenes and on objects cut out of them, right and wrong."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("compared")
    os.chdir(folder)
    try:
        draw_demo(Path("data/scenes"), *N_SCENES, seed=11)
        cut_out_objects(Path("data/scenes"), Path("data/objects"))
        for name in ("scenes", "objects"):
            shutil.copytree(f"data/{name}", f"data/wrong_{name}")
            teach_wrong_classes(Path(f"data/wrong_{name}"), list(load_manifest("demo").classes))
        yield Compared(folder)
    finally:
        os.chdir(before)


def rows(comparison: dict) -> dict[str, dict]:
    return {row["name"]: row for row in comparison["recipes"]}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(set(IN_SCENES) - set(ALONE)))
def test_a_join_beats_the_mean_of_its_members(compared, name):
    by_name = rows(compared["scenes"])
    members = [by_name[member]["mAP"] for member in by_name[name]["join"]]

    assert by_name[name]["mAP"] > np.mean(members)


@pytest.mark.timeout(900)
def test_pre_training_beats_none_and_random_weights(compared):
    by_name = rows(compared["scenes"])

    assert by_name["strong"]["mAP"] > by_name["no-pretrain"]["mAP"] + 0.1
    assert by_name["strong"]["mAP"] > by_name["random"]["mAP"] + 0.1
    assert by_name["random"]["difference"]["high"] < 0 and by_name["random"]["difference"]["to"] == "strong"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*MISTAUGHT, *WHOLE])
def test_a_recipe_learns_the_classes_that_it_is_taught(compared: Compared, name):
    right, wrong = ("scenes", "wrong_scenes") if name in ALONE else ("objects", "wrong_objects")
    taught, mistaught = rows(compared[right])[name]["mAP"], rows(compared[wrong])[name]["mAP"]

    assert taught > mistaught + MARGIN.get(name, 0.1)


def test_all_recipes_on_a_layer_and_source_share_one_store(compared):
    kept = {(row["trunk"], row["layer"], row["source"]): row for row in compared["scenes"]["recipes"] if row["head"]}
    stores = {path.name for path in (compared.folder / "cache").glob("scenes-val-*.zarr")}

    # fc7, fc6 and pool5 of the grid, fc7 of crops, random, and a trunk for each seed of no-pretrain and of hand-made
    assert len(stores) == 5 + 2 * len(SEEDS)
    assert len(kept) == 7


def test_aggregations_are_chosen_on_held_out_pictures_only(compared):
    for row in compared["scenes"]["recipes"]:
        choice = row["choice"]
        if "points" in choice:  # a point of a grid, of which the aggregation is a part
            best = max(choice["points"], key=lambda point: point["held_out_mAP"])
            assert best["point"] == choice["point"] and choice["pictures"] < N_SCENES[0]
        elif choice["chosen"] == "held-out":
            best = max(choice["mAP"], key=lambda k: choice["mAP"][k])
            assert (row["k"] if isinstance(row["k"], str) else f"{row['k']:g}") == best
            assert choice["pictures"] < N_SCENES[0]
    assert rows(compared["scenes"])["strong"]["choice"]["chosen"] == "held-out"
    assert rows(compared["scenes"])["no-pretrain"]["choice"]["chosen"] == "stated"


@pytest.mark.timeout(900)
def test_a_row_is_what_its_scores_say(compared):
    """mAP, spread and join of the file, computed again from the files of scores."""
    by_name = rows(compared["twice"])
    ws = Workspace(parse_run_settings(SETTINGS))
    os.chdir(compared.folder)
    labels = current_table(RunContext(ws, "twice"), "val").picture_labels

    def scores(name: str) -> list[np.ndarray]:
        return [load_scores(Path(run["scores"])).by(by_name[name]["k"]) for run in by_name[name]["runs"]]

    for name in ("strong", "strong+weak"):
        maps = [mean_average_precision(s, labels, "voc12")[0] for s in scores(name)]
        assert by_name[name]["mAP"] == pytest.approx(np.mean(maps), abs=1e-5)
        assert by_name[name]["std"] == pytest.approx(np.std(maps, ddof=1), abs=1e-5)
    for joined, *members in zip(scores("strong+weak"), scores("strong"), scores("weak"), strict=True):
        np.testing.assert_array_equal(joined, mean_rank(members))


def test_the_file_says_what_readers_need(compared):
    comparison = json.loads((compared.folder / "results/scenes_compare.json").read_text())

    assert comparison["left_out"] == [] and comparison["published"] == []
    for row in comparison["recipes"]:
        assert {"name", "mAP", "std", "seeds", "seconds", "AP", "interval", "difference", "runs"} <= set(row)
        assert row["interval"]["low"] < row["interval"]["high"]
        assert set(row["AP"]) == set(load_manifest("demo").classes)
    assert all(row["seeds"] == [0, 1] and row["std"] > 0 for row in compared["twice"]["recipes"])
    stacked = rows(comparison)["all-stacked"]
    assert max(stacked["stack"]["cross_validated_mAP"].values()) > 0.35


def test_a_finished_recipe_is_left_alone_and_one_without_its_file_fits_nothing_again(compared):
    os.chdir(compared.folder)
    ws = Workspace(parse_run_settings(SETTINGS))
    recipe_path(ws, "scenes", "svm").unlink()
    said: list[str] = []

    again = recipe.make(RunContext(ws, "scenes", said.append, "a test"), "svm")

    assert again["mAP"] == rows(compared["scenes"])["svm"]["mAP"]
    assert not any("scored" in line for line in said)
    assert sum("already" in line for line in said) == len(SEEDS)


def test_what_changed_since_is_run_again_and_nothing_else(compared):
    compared["scenes"]  # made if this test runs alone
    os.chdir(compared.folder)
    ws = Workspace(parse_run_settings({**SETTINGS, "comparison": ["strong-fcb", "svm"]}))
    said: list[str] = []
    file = compare.path(RunContext(ws, "scenes"))
    of_all = file.read_bytes()  # other tests read it
    unchanged = compare.make(RunContext(ws, "scenes", said.append, "a test"))
    assert not any("again" in line or "fitted" in line for line in said)
    annotation = (
        next(Path("data/scenes/Annotations").glob("val*.xml"), None)
        or sorted(Path("data/scenes/Annotations").glob("*.xml"))[-1]
    )
    before = annotation.read_text()
    annotation.write_text(re.sub(r"<xmin>\d+</xmin>", "<xmin>1</xmin>", before))
    try:
        compare.make(RunContext(ws, "scenes", said.append, "a test"))
        assert any("; running strong-fcb again" in line for line in said)
        assert not any("trunk alone needs" in line for line in said)  # labels changed, rows did not
        said.clear()
        annotation.write_text(before)
        restored = compare.make(RunContext(ws, "scenes", said.append, "a test"))
        assert any("; running strong-fcb again" in line for line in said)
    finally:
        annotation.write_text(before)
        file.write_bytes(of_all)
    assert [row["mAP"] for row in restored["recipes"]] == [row["mAP"] for row in unchanged["recipes"]]


def test_a_split_without_labels_cannot_be_compared(compared):
    os.chdir(compared.folder)
    content = yaml.safe_load(Path("data_manifests/scenes.yaml").read_text())
    content.update(name="blind", splits={"train": {}, "val": {"labelled": False}})
    Path("data_manifests/blind.yaml").write_text(yaml.safe_dump(content))

    with pytest.raises(PipelineError, match="blind val: no labels, so a recipe cannot be measured"):
        recipe.make(RunContext(Workspace(parse_run_settings(SETTINGS)), "blind"), "strong")
