"""The same pictures and boxes in every layout are the same dataset as in VOC's: boxes, labels, rows and AP."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from support.cli import run_command, run_to_success
from support.dataset import CONFIG
from support.layouts import LAYOUTS, Layout

from pipeline.dataset.describe.annotated import FINDERS
from pipeline.dataset.formats.names import ANNOTATED
from pipeline.dataset.formats.registry import FORMATS
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import check, read_split, state_of_split
from pipeline.dataset.split import Split
from pipeline.patches.build import make_table
from pipeline.patches.settings import GridSettings, SourceSettings


def describe(folder, layout: Layout, name: str) -> tuple[Split, Split]:
    """Write a layout, run ``data new``, and read both splits."""
    layout.write(folder / name, layout.scenes())
    ended = run_command(folder, "data", "new", "--root", name, "--name", name)
    assert ended.code == 0, ended.err
    manifest = load_manifest(name, folder / "data_manifests")
    return read_split(manifest, "train"), read_split(manifest, "val")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_the_same_dataset_as_in_the_form_of_voc(tmp_path, name):
    layout = LAYOUTS[name]
    expected = describe(tmp_path, layout.reference(), "voc")
    got = describe(tmp_path, layout, "other")

    sources = SourceSettings(grid=GridSettings(scales=(1.0, 2.0)))
    for split, of_voc in zip(got, expected, strict=True):
        assert (split.ids, split.manifest.classes) == (of_voc.ids, of_voc.manifest.classes)
        assert np.array_equal(split.labels, of_voc.labels)
        for item, of_item in zip(split.annotations, of_voc.annotations, strict=True):
            assert item.box_xyxy.tolist() == of_item.box_xyxy.tolist()  # exact, no tolerance
            assert item.class_index.tolist() == of_item.class_index.tolist()
            assert item.difficult.tolist() == of_item.difficult.tolist()
        table, of_table = make_table(split, sources), make_table(of_voc, sources)
        assert table.rows_digest == of_table.rows_digest
        assert table.label_hashes == of_table.label_hashes
        assert np.array_equal(table.picture_labels, of_table.picture_labels)
    report = check(got[0].manifest, deep=True)
    assert report.ok, report.problems
    assert state_of_split(got[0].manifest, "train") == state_of_split(got[0].manifest, "train")


def test_stores_and_results_are_those_of_voc_to_the_last_bit(tmp_path):
    """Rows and results of all layouts follow from the tables above; one is run."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "heads": {"fca": CONFIG["heads"]["fca"]}}))
    results = {}
    for name, layout in (("voc", LAYOUTS["yolo of roboflow"].reference()), ("yolo", LAYOUTS["yolo of roboflow"])):
        describe(tmp_path, layout, name)
        steps = [f"extract --split {split}" for split in ("train", "val")]
        steps += ["fit-head --head fca", "score --head fca", f"evaluate --head fca --output {name}.json"]
        run_to_success(tmp_path, *(f"{step} --dataset {name} --config config.yaml" for step in steps))
        result = json.loads((tmp_path / f"{name}.json").read_text())
        results[name] = result["fingerprints"], result["patches"], result["loss"], result["AP"], result["mAP"]
    assert results["yolo"] == results["voc"]


def test_every_table_of_formats_has_the_same_names():
    assert set(FORMATS) == set(FINDERS) == set(ANNOTATED)
