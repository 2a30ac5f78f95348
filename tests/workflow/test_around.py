"""The report of a finished run, and the workflow as a part of other people's."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
from support.cli import run_command
from support.dataset import CONFIG, draw_scene
from support.workflow import CHECKOUT, NOTHING

from pipeline.activations.store import Store

# --- the report, and other people's workflows


def test_the_report_follows_from_a_finished_run(finished_work):
    target = "results/tiny_report.html"
    made = finished_work.snakemake(target)
    assert made.code == 0, made.output
    assert made.jobs == ["html_report"]
    assert "own pictures in tiny" in (finished_work.path / target).read_text()
    assert NOTHING in finished_work.snakemake(target, "--dry-run").output

    # A comparison that is new belongs into it.
    (finished_work.path / "results/tiny_compare.json").write_text('{"recipes": []}')
    assert finished_work.snakemake(target, "--dry-run").jobs == ["html_report"]
    finished_work.settings.append("aggregation=1")
    assert sorted(finished_work.snakemake(target, "--dry-run").jobs) == ["evaluate fca", "html_report", "map"]


def test_the_report_goes_into_snakemakes_own(finished_work):
    target = "results/tiny_report.html"
    assert finished_work.snakemake(target).code == 0
    made = finished_work.snakemake(target, "--report", "all.html")
    assert made.code == 0, made.output
    assert "tiny_report.html" in (finished_work.path / "all.html").read_text()


def test_features_of_pictures_without_labels(new_work):
    photos = new_work.path / "photos"
    photos.mkdir()
    for n in range(3):
        draw_scene(photos / f"{n}.png", ["ball"], 90 + 30 * n)
    said = run_command(new_work.path, "data", "new", "--root", "photos", "--name", "photos")
    assert said.code == 0, said.err
    target = "results/photos_features.parquet"

    made = new_work.snakemake(target)
    assert made.code == 0, made.output
    assert made.jobs == ["patches all", "extract all", "features"]
    rows = parquet.read_table(new_work.path / target)
    (store,) = (new_work.path / "cache").glob("photos-all-*.zarr")
    assert np.array_equal(np.stack(rows["features"].to_numpy()), Store(store).read_rows(np.arange(len(rows))))
    assert NOTHING in new_work.snakemake(target, "--dry-run").output

    draw_scene(photos / "3.png", ["crate"], 200)
    assert new_work.snakemake(target).jobs == ["patches all", "extract all", "features"]
    assert set(parquet.read_table(new_work.path / target)["picture"].to_pylist()) == {"0", "1", "2", "3"}
    # Another run's file at this name, as after an export by hand with other settings.
    by_hand = ("export", "--dataset", "photos", "--to", target, "--per", "picture", "--overwrite")
    (new_work.path / "hand.yaml").write_text(yaml.safe_dump(CONFIG))
    assert run_command(new_work.path, *by_hand, "--config", "hand.yaml").code == 0
    assert new_work.snakemake(target, "--dry-run").jobs == ["features"]


def test_features_of_several_splits_are_exported_one_by_one(new_work):
    made = new_work.snakemake("results/tiny_features.parquet")
    assert made.code != 0 and "pipeline export --dataset tiny --split train" in made.output


def test_a_key_that_stands_twice_in_a_settings_file_is_refused(new_work):
    """Snakemake itself would keep the last one."""
    for text in ("seed: 1\nheads: {}\nseed: 2\n", '{"seed": 1,\n\t"heads": {}, "seed": 2}'):
        (new_work.path / "config.yaml").write_text(text)
        made = new_work.snakemake()
        assert made.code != 0 and "twice, of which one would be lost: 'seed'" in made.output, made.output
    (new_work.path / "config.yaml").write_text("\ufeffseed: 1\nheads: {}\n")
    assert new_work.snakemake("results/tiny_map.json", "--dry-run").code == 0


@pytest.mark.long
def test_the_workflow_is_a_module_of_another(new_work):
    (new_work.path / "Snakefile").unlink()
    (new_work.path / "Snakefile").write_text(
        'configfile: "config.yaml"\n\n'
        "module features:\n"
        f"    snakefile: {str(CHECKOUT / 'Snakefile')!r}\n"
        "    config: config\n\n"
        "use rule * from features as features_*\n\n"
        "rule mine:\n"
        "    default_target: True\n"
        '    input: "results/tiny_map.json"\n'
        '    output: "mine.txt"\n'
        '    shell: "cp {input} {output}"\n'
    )
    finished = new_work.snakemake("mine.txt")
    assert finished.code == 0, finished.output
    assert json.loads((new_work.path / "mine.txt").read_text())["dataset"] == "tiny"
    assert NOTHING in new_work.snakemake("mine.txt", "--dry-run").output
