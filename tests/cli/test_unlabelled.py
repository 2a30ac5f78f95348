"""Pictures without labels, from the command line: one line to features, and what needs labels refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
from support.cli import run_command
from support.dataset import CONFIG, draw_scene

EXPORT = "export --root photos --config config.yaml --per picture --to photos.parquet"
NEED_LABELS = (
    "fit-head --dataset photos",
    "score --dataset photos --head fca",
    "evaluate --dataset photos",
    "sweep --dataset photos",
    "compare --dataset photos",
    "compare --dataset photos --heads",
    "recipe run svm --dataset photos",
    "report --dataset photos",
    "ranking --dataset photos",
    "taught --dataset photos a",
    "serve --dataset photos",
    "retrieve --dataset photos --evaluate",
    "map --dataset photos photos/p0.png",
    "extract --dataset photos --trunk no-pretrain",
    "extract --dataset photos --rows labelled",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of photos after one line, and how it ended."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "photos/holiday").mkdir(parents=True)
    for k in range(4):
        draw_scene(folder / f"photos/{'holiday/' * (k % 2)}p{k}.png", [["ball"], ["crate"]][k % 2], 90 + 10 * k)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder, run_command(folder, *EXPORT.split())


@pytest.fixture
def photos(exported, tmp_path):
    """A copy of that folder, with its pictures, to change at will."""
    shutil.copytree(exported[0], tmp_path / "work")
    manifest = tmp_path / "work/data_manifests/photos.yaml"
    content = yaml.safe_load(manifest.read_text())
    manifest.write_text(yaml.safe_dump({**content, "folder": str(tmp_path / "work/photos")}))
    return tmp_path / "work"


def test_one_line_makes_a_manifest_and_a_file_of_features(exported):
    folder, ended = exported
    assert ended.code == 0, ended.err
    assert "data_manifests/photos.yaml: a new dataset, photos, of all pictures in" in ended.err
    assert "--source whole: a row per picture" in ended.err
    table = parquet.read_table(folder / "photos.parquet")
    assert table["picture"].to_pylist() == ["holiday__p1", "holiday__p3", "p0", "p2"]
    assert set(table.column_names) == {"picture", "features"}


def test_the_same_line_again_costs_nothing(photos, monkeypatch):
    before = (photos / "photos.parquet").stat()
    refuse = pytest.fail
    monkeypatch.setattr("pipeline.stages.extract.make_runner", lambda *args, **kwargs: refuse("the trunk was loaded"))
    ended = run_command(photos, *EXPORT.split())
    assert ended.code == 0, ended.err
    assert "holds these rows already" in ended.err
    assert (photos / "photos.parquet").stat().st_mtime_ns == before.st_mtime_ns


def test_a_new_photo_costs_itself_alone_and_replaces_no_file_unasked(photos):
    old = parquet.read_table(photos / "photos.parquet")
    draw_scene(photos / "photos/new.png", ["crate"], 30)
    (photos / "photos/p0.png").rename(photos / "photos/renamed.png")
    refused = run_command(photos, *EXPORT.split())
    assert refused.code == 2 and "photos.parquet: exists already; give --overwrite" in refused.err
    ended = run_command(photos, *EXPORT.split(), "--overwrite")
    assert ended.code == 0, ended.err
    assert "68 rows are taken over" in ended.err and "17 rows to extract" in ended.err
    new = parquet.read_table(photos / "photos.parquet")
    assert new["picture"].to_pylist() == ["holiday__p1", "holiday__p3", "new", "p2", "renamed"]
    rows = [new["features"].to_pylist()[k] for k in (0, 1, 4, 3)]
    assert np.array_equal(rows, old["features"].to_pylist())


@pytest.mark.parametrize("line", NEED_LABELS)
def test_what_needs_labels_says_so_before_any_work_and_what_works(photos, line):
    before = sorted(photos.rglob("*"))
    ended = run_command(photos, *line.split(), "--config", "config.yaml")
    assert ended.code == 2, ended.err
    assert "needs labels, and dataset photos has none" in ended.err
    assert "pipeline export --dataset photos --split all --to FILE.parquet" in ended.err
    assert sorted(photos.rglob("*")) == before


def test_what_needs_none_works(photos):
    def run(line):
        ended = run_command(photos, *line.split())
        assert ended.code == 0, f"{line}: {ended.err}"
        return ended

    settings = "--dataset photos --config config.yaml"
    assert "complete" in run("data check photos --deep").out
    assert "pictures without labels in photos; no labels" in run("data list").out
    assert "no labels" in run(f"patches {settings} --split all").out
    assert "the trunk does not run" in run(f"extract {settings}").err
    planned = json.loads(run(f"plan {settings} --rate 1000 --trunk alexnet64 --json").out)
    assert set(planned["stages"]) == {"patches", "extract"}
    assert "fit-head" not in run(f"doctor {settings}").out
    found = json.loads(run(f"retrieve {settings} --query photos/p0.png --json").out)
    assert found["queries"][0]["results"][0]["id"] == "p0"
    (store,) = json.loads(run("cache ls --json").out)
    assert store["state"] == "sealed"
    run("cache verify")
    run(f"cache explain {settings} --split all")


def test_features_of_a_dataset_without_labels_are_no_garbage(photos):
    ended = run_command(photos, "cache", "gc", "--config", "config.yaml", "--older-than", "0")
    assert ended.code == 0 and ".zarr" not in ended.out, ended.out


def test_neither_dataset_nor_root_and_both(photos):
    assert "Missing option '--dataset' or '--root'" in run_command(photos, "extract").err
    both = run_command(photos, "extract", "--root", "photos", "--dataset", "photos")
    assert both.code == 2 and "--root goes without --dataset" in both.err


def test_data_new_ends_with_the_command_that_works(photos):
    line = "data new --root photos --name nested --no-labels"
    ended = run_command(photos, *line.split())
    assert ended.code == 0 and "next: pipeline extract --dataset nested --split all" in ended.err
