"""The action task from drawn people to average precision, by persons and by pictures."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from support.heads import fit_head
from support.tables import TableOfRows, all_rows

from pipeline.activations.store import Store
from pipeline.cli.main import cli
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.head.file import load_head
from pipeline.head.settings import HeadSettings
from pipeline.io.atomic import read_json
from pipeline.io.errors import DatasetError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.build import make_table
from pipeline.patches.labels import BACKGROUND, UNUSED
from pipeline.patches.settings import BoxSettings, CropSettings, LabelSettings, SourceSettings
from pipeline.patches.table import PatchTable
from pipeline.patches.table_file import read_table
from pipeline.recipes.catalogue import apply_recipe
from pipeline.scoring.score import score_split
from pipeline.stages.settings import RunSettings

SHIPPED = Path(__file__).resolve().parents[1] / "data_manifests"
HEAD = {"hidden": [256], "max_epochs": [30, 10, 5], "batch": 32}
PERSONS = {"source": "boxes"}
PICTURES = {"grid": {"scales": [1.0, 1.6, 2.4, 3.2], "overlap": 0.5}}
LABELS = LabelSettings()


class Work:
    """A folder in which the commands have run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, line: str) -> str:
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            done = CliRunner().invoke(cli, line.split(), catch_exceptions=False)
        finally:
            os.chdir(before)
        assert done.exit_code == 0, done.output
        return done.output

    def table(self, dataset: str, split: str) -> PatchTable:
        return read_table(next((self.folder / "cache/patches").glob(f"{dataset}-{split}-*.h5")))

    def store(self, dataset: str, split: str) -> Store:
        return Store(next((self.folder / "cache").glob(f"{dataset}-{split}-*.zarr")))

    def manifest(self, dataset: str):
        manifest = load_manifest(dataset, self.folder / "data_manifests")
        return manifest.model_copy(update={"folder": str(self.folder / "data/acts")})


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    """Seventy drawn pictures to fit on and forty to score, by persons (``acts``) and by pictures (``sights``)."""
    folder = tmp_path_factory.mktemp("actions")
    (folder / "data_manifests").mkdir()
    for name, shipped in (("acts", "demo_action"), ("sights", "demo_action_pictures")):
        content = yaml.safe_load((SHIPPED / f"{shipped}.yaml").read_text())
        content |= {"name": name, "folder": "acts", "drawn": {"train": 70, "val": 40, "seed": 3}}
        content["splits"] = {"train": {}, "val": {}, "test": {"labelled": False}}
        (folder / f"data_manifests/{name}.yaml").write_text(yaml.safe_dump(content))
        common = {"trunk": "alexnet64", "threads": 1, "heads": {"fca": HEAD}}
        settings = {**common, **(PERSONS if name == "acts" else PICTURES)}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    made = Work(folder)
    made.run("data fetch acts")
    # A split that nobody has labels of: the last pictures, known by their ids alone.
    lists = folder / "data/acts/ImageSets/Action"
    (lists / "test.txt").write_text("\n".join((lists / "val.txt").read_text().split()[-6:]) + "\n")
    for name in ("acts", "sights"):
        for split in ("train", "val"):
            made.run(f"patches --dataset {name} --split {split} --config {name}.yaml")
            made.run(f"extract --dataset {name} --split {split} --config {name}.yaml")
        made.run(f"fit-head --dataset {name} --config {name}.yaml")
        made.run(f"score --dataset {name} --config {name}.yaml")
        made.run(f"evaluate --dataset {name} --config {name}.yaml --output results/{name}_map.json")
    return made


def chance(table: PatchTable) -> float:
    """mAP of scores that know nothing, over many draws."""
    rng = np.random.default_rng(0)
    draws = [rng.random(table.picture_labels.shape) for _ in range(50)]
    return float(np.mean([mean_average_precision(d, table.scored_labels, "voc12")[0] for d in draws]))


# ---- persons -----------------------------------------------------------------------------------------


def test_a_row_is_a_person_and_its_label_the_action(work):
    table, split = work.table("acts", "train"), read_split(work.manifest("acts"), "train")
    labels = table.labels(LABELS)
    done = (split.labels == 1).sum(1)

    assert table.n_rows == len(split.ids) == len(table.ids) and table.source == "boxes"
    assert np.array_equal(labels[done == 1], split.labels[done == 1].argmax(1))
    assert (done == 2).any() and (labels[done == 2] == UNUSED).all(), "several actions: left out of training"
    assert not (labels == BACKGROUND).any()
    for box, annotation in zip(all_rows(table).box_xyxy, split.annotations, strict=True):
        x0, y0, x1, y1 = annotation.sample_xyxy
        assert box[2] - box[0] == pytest.approx(max(x1 - x0, y1 - y0), abs=1e-3)
        assert (box[:2] + box[2:]) / 2 == pytest.approx(np.array([x0 + x1, y0 + y1]) / 2, abs=1e-3)


def test_some_squares_leave_the_picture(work):
    table = work.table("acts", "train")
    size = table.size_wh[all_rows(table).picture]

    assert ((all_rows(table).box_xyxy[:, :2] < 0).any(1) | (all_rows(table).box_xyxy[:, 2:] > size).any(1)).sum() >= 5


def test_actions_are_told_apart(work):
    result = read_json(work.folder / "results/acts_map.json")
    by_luck = chance(work.table("acts", "val"))

    assert "other" not in result["AP"] and len(result["AP"]) == 8 and result["undefined"] == []
    assert by_luck < 0.3 and result["mAP"] > by_luck + 0.35
    assert result["patches"]["background"] == 0 and result["patches"]["per_class"]["other"] > 0


def test_with_shuffled_labels_nothing_is_left(work):
    train, val = work.table("acts", "train"), work.table("acts", "val")
    right = read_json(work.folder / "results/acts_map.json")["mAP"]
    single = np.flatnonzero(train.labels(LABELS) >= 0)
    maps = []
    for seed in range(3):
        given = TableOfRows.of(train)
        classes = given.overlap.filling_class.copy()
        classes[single] = np.random.default_rng(seed).permutation(classes[single])
        shuffled = replace(given, overlap=replace(given.overlap, filling_class=classes))
        head = fit_head(work.store("acts", "train"), shuffled, "shuffled", HeadSettings(**HEAD), LABELS, 0)
        (scores,) = score_split(work.store("acts", "val"), val, [head], [5.0])
        maps.append(mean_average_precision(scores.by(5.0), val.scored_labels, "voc12")[0])

    assert max(maps) < right - 0.25
    assert np.mean(maps) < chance(val) + 0.12


def test_a_split_without_labels_gives_files_for_the_server(work):
    for command in ("extract", "score", "evaluate"):
        work.run(f"{command} --dataset acts --split test --config acts.yaml")
    files = sorted((work.folder / "results/runs").glob("acts-*/devkit/*.txt"))

    classes = [c for c in work.manifest("acts").classes if c != "other"]
    assert [p.name for p in files] == [f"comp10_action_test_{c}.txt" for c in sorted(classes)]
    for path in files:
        lines = [line.split(" ") for line in path.read_text().splitlines()]
        assert all(len(line) == 3 and int(line[1]) >= 1 and 0 <= float(line[2]) <= 1 for line in lines)
        assert len({line[0] for line in lines}) == 6


def test_mirrored_squares_are_scored_with_the_others(work):
    table = make_table(
        read_split(work.manifest("acts"), "val"),
        SourceSettings(source="boxes", boxes=BoxSettings(margin=1.5, flips=True)),
    )
    plain = work.table("acts", "val")

    assert table.n_rows == 2 * plain.n_rows
    assert all_rows(table).flip.reshape(-1, 2).tolist() == [[False, True]] * plain.n_rows
    assert np.array_equal(table.labels(LABELS), np.repeat(plain.labels(LABELS), 2))


@pytest.mark.parametrize(
    ("dataset", "source", "message"),
    [
        pytest.param("acts", "grid", "samples are persons, and a grid covers pictures.*source=boxes", id="persons"),
        pytest.param("sights", "boxes", "source boxes is for samples that are persons.*source=grid", id="pictures"),
    ],
)
def test_sources_that_do_not_go_with_the_samples_are_refused(work, dataset, source, message):
    with pytest.raises(DatasetError, match=message):
        make_table(read_split(work.manifest(dataset), "val"), SourceSettings(source=source))


# ---- pictures ----------------------------------------------------------------------------------------


def test_without_boxes_at_test_time_pictures_are_ranked_by_their_actions(work):
    result = read_json(work.folder / "results/sights_map.json")
    table = work.table("sights", "val")

    assert len(table.ids) == 40 and table.source == "grid" and len(result["AP"]) == 8
    assert result["mAP"] > chance(table) + 0.25
    assert result["patches"]["background"] > 0


def test_the_best_patch_shows_the_person_who_does_it(work):
    """Localisation: for each action of a picture, the patch that is surest of it is filled by such a person."""
    table, store = work.table("sights", "val"), work.store("sights", "val")
    head = load_head(next((work.folder / "results/heads").glob("sights-fca-*.safetensors")))
    scores = head.patch_scores(np.concatenate([rows for _, rows in store.iter_parts()]))
    labels, first = table.labels(LABELS), table.first_row
    hits, lucky = [], []
    for picture in range(len(table.ids)):
        rows = slice(first[picture], first[picture + 1])
        for c in np.flatnonzero(table.picture_labels[picture][:8] == 1):
            right = labels[rows] == c
            if right.any():
                hits.append(right[scores[rows, c].argmax()])
                lucky.append(right.mean())

    assert len(hits) >= 30
    assert np.mean(hits) > 0.4 and np.mean(hits) > 3 * np.mean(lucky)


def test_patches_filled_by_a_person_who_does_two_things_are_unused(work):
    split, table = read_split(work.manifest("sights"), "train"), work.table("sights", "train")
    labels = table.labels(LABELS)
    doubled = [i for i, a in enumerate(split.annotations) if len(np.unique(a.box_xyxy, axis=0)) < len(a.box_xyxy)]

    assert doubled
    for picture in doubled:
        annotation = split.annotations[picture]
        boxes, counts = np.unique(annotation.box_xyxy, axis=0, return_counts=True)
        for box in boxes[counts == 2]:
            rows = table.slice_of(range(picture, picture + 1))
            patches = table.windows_of_picture(picture).box_xyxy
            held = (np.minimum(patches[:, 2:], box[2:]) - np.maximum(patches[:, :2], box[:2])).min(1)
            whole = held >= (box[2:] - box[:2]).min() - 1e-3
            large = (box[2:] - box[:2]).prod() >= 0.2 * (patches[:, 2] - patches[:, 0]) ** 2
            assert (labels[rows][whole & large] == UNUSED).all()


# ---- recipes -----------------------------------------------------------------------------------------


def test_a_recipe_may_name_sources_and_their_settings():
    recipes = {
        "persons": {"source": "boxes", "boxes": {"flips": True}, "head": HEAD},
        "jittered": {"source": "crops", "crops": {"shares": [0.5]}, "head": {"kind": "svm"}},
    }
    settings = RunSettings.model_validate({"recipes": recipes})
    persons, jittered = (apply_recipe(settings, name, 0) for name in recipes)

    assert (persons.source, persons.boxes) == ("boxes", BoxSettings(flips=True))
    assert (jittered.source, jittered.crops) == ("crops", CropSettings(shares=(0.5,)))
