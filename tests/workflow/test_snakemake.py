"""Whole runs of the workflow: what is made, what is made again after a change, and nothing else.

`Finished.jobs` lists what Snakemake ran; a wrong list is either a stale result or lost hours.
"""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from support.dataset import draw_scene, write_annotation
from support.workflow import LABELS_OF_ALL_BALLS, NOTHING, bytes_of

from pipeline.activations.store import Store
from pipeline.metrics.average_precision import mean_average_precision

VAL_PICTURES = ("q0", "q1", "q2", "q3")
# Balls (first column) are in q0, q2 and q3, crates in q1 and q2.
VAL_LABELS = np.array([[1, -1], [-1, 1], [1, 1], [1, -1]])


# --- from nothing to a result


def test_first_run_makes_every_stage_once(first_run):
    work, finished = first_run

    assert sorted(finished.jobs) == [
        "evaluate fca", "extract train", "extract val", "fit_head fca",
        "map", "patches train", "patches val", "score val fca",
    ]  # fmt: skip
    assert (work.trunk_runs("train"), work.trunk_runs("val")) == (1, 1)


def test_a_run_says_a_line_per_job_and_the_stages_their_own(first_run):
    """Snakemake's blocks are in its log alone; the notes of the stages and the table at the end stay."""
    work, finished = first_run
    lines = finished.output.splitlines()
    assert "8 jobs to run: 2 patches, 2 extract, 1 fit_head, 1 score, 1 evaluate, 1 map" in lines
    assert [line for line in lines if line.startswith("8/8")] == ["8/8 done: map tiny"]
    assert len([line for line in lines if re.fullmatch("[1-7]/8 done: fit_head tiny fca", line)]) == 1
    assert f"{work.stores('val')[0].relative_to(work.path)}: sealed" in lines
    walls = (
        "Select jobs",
        "Building DAG",
        "Assuming unrestricted",
        "jobid",
        "wildcards:",
        "resources:",
        "Reason",
        "Host:",
    )
    assert [line for line in lines if any(wall in line for wall in walls)] == []
    (log,) = (work.path / ".snakemake/log").glob("*.log")
    assert log.read_text().count("rule extract:") == 2 and "wildcards: dataset=tiny, split=train" in log.read_text()


def test_first_result_is_the_average_precision_of_its_scores(first_run):
    work, _ = first_run
    result = work.result()

    expected, each = mean_average_precision(work.scores().by(5.0), VAL_LABELS, "voc12")
    assert result["mAP"] == pytest.approx(expected, abs=1e-6)
    assert list(result["AP"].values()) == pytest.approx(list(each), abs=1e-6)
    assert (result["dataset"], result["split"], result["fit_split"]) == ("tiny", "val", "train")
    assert (result["trunk"], result["layer"], result["head"], result["k"]) == ("random", "fc7", "fca", 5.0)
    assert result["pictures"] == {"fit": {"used": 6, "skipped": 0}, "eval": {"used": 4, "skipped": 0}}
    assert result["recipe"]["head"]["hidden"] == [32]
    assert result["official"] is False
    assert {"fit_head", "score", "extract_train", "extract_val"} <= result["seconds"].keys()
    assert result["fingerprints"]["fit"] == Store(work.stores("train")[0]).fingerprint
    assert result["fingerprints"]["eval"] == Store(work.stores("val")[0]).fingerprint


def test_first_run_keeps_a_row_for_each_window(first_run):
    # 64 x 48: 2 x 1 windows of 48 px, 5 x 3 windows of 24 px.
    work, _ = first_run
    assert Store(work.stores("train")[0]).n_rows == 6 * (2 + 15)
    assert Store(work.stores("val")[0]).n_rows == 4 * (2 + 15)


def test_second_run_does_nothing(finished_work):
    again = finished_work.snakemake()
    assert (again.code, again.jobs) == (0, [])
    assert NOTHING in again.output


# --- one change, the rules that must follow


def test_changed_picture_is_looked_at_again(finished_work):
    before, old_store = finished_work.scores(), finished_work.stores("val")
    draw_scene(finished_work.pictures / "q2.png", ["ball", "crate"], 255)

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs == ["patches val", "extract val", "score val fca", "evaluate fca", "map"]
    assert len(finished_work.stores("val")) == 2  # the old one is another fingerprint, and stays
    after = finished_work.scores()
    differs = (before.scores != after.scores).any(axis=(0, 2))
    assert dict(zip(VAL_PICTURES, differs, strict=True)) == {"q0": False, "q1": False, "q2": True, "q3": False}
    new_store = next(s for s in finished_work.stores("val") if s not in old_store)
    assert finished_work.result()["fingerprints"]["eval"] == Store(new_store).fingerprint


def test_changed_annotation_does_not_run_the_trunk(finished_work):
    store = finished_work.stores("val")[0]
    stored = finished_work.touched(store)
    old = finished_work.result()
    write_annotation(finished_work.annotations / "q1.xml", ["ball"])  # it was a crate

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs[0] == "patches val"
    assert {"fit_head fca", "patches train", "extract train"}.isdisjoint(again.jobs)
    assert (finished_work.stores("val"), finished_work.touched(store)) == ([store], stored)
    assert finished_work.trunk_runs("val") == 1
    new = finished_work.result()
    expected, _ = mean_average_precision(finished_work.scores().by(5.0), LABELS_OF_ALL_BALLS, "voc12")
    assert new["mAP"] == pytest.approx(expected, abs=1e-6)
    assert new["fingerprints"]["eval"] == old["fingerprints"]["eval"]
    assert new["fingerprints"]["labels_eval"] != old["fingerprints"]["labels_eval"]


def test_changed_annotation_of_the_fit_split_fits_again(finished_work):
    write_annotation(finished_work.annotations / "p0.xml", ["crate"])
    due = finished_work.snakemake("results/tiny_map.json", "--dry-run")
    assert sorted(due.jobs) == sorted(
        ["patches train", "extract train", "fit_head fca", "score val fca", "evaluate fca", "map"]
    )


def test_store_deleted_behind_its_receipt_is_made_again(finished_work):
    store = finished_work.stores("val")[0]
    old, old_map = bytes_of(store), finished_work.result()["mAP"]
    shutil.rmtree(store)

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs[0] == "extract val"
    assert {"patches val", "extract train", "fit_head fca"}.isdisjoint(again.jobs)
    assert bytes_of(store) == old
    assert finished_work.trunk_runs("val") == 2
    assert finished_work.result()["mAP"] == old_map
    assert NOTHING in finished_work.snakemake().output


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        ("scoring", "score val fca, evaluate fca, map"),
        ("head", "fit_head fca, score val fca, evaluate fca, map"),
        ("activations", "extract train, extract val, fit_head fca, score val fca, evaluate fca, map"),
        (
            "dataset",
            "patches train, patches val, extract train, extract val, fit_head fca, score val fca, evaluate fca, map",
        ),
    ],
)
def test_raised_version_of_a_room_reruns_from_there_on(finished_work, room, expected):
    raised = f"import pipeline.{room}\npipeline.{room}.VERSION = 99\n"
    due = finished_work.snakemake("results/tiny_map.json", "--dry-run", sitecustomize=raised)
    assert due.code == 0, due.output
    assert sorted(due.jobs) == sorted(expected.split(", "))


def test_another_aggregation_only_evaluates_and_the_way_back_only_copies(finished_work):
    old = finished_work.result()
    finished_work.settings.append("aggregation=1")

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs == ["evaluate fca", "map"]
    new = finished_work.result()
    assert (new["k"], new["mAP"]) == (1.0, old["k_sweep"]["1"])
    finished_work.settings.remove("aggregation=1")
    assert finished_work.snakemake().jobs == ["map"]
    assert finished_work.result() == old


def test_an_aggregation_without_scores_scores_again_but_fits_no_head(finished_work):
    finished_work.settings.append("aggregation=4")
    due = finished_work.snakemake("results/tiny_map.json", "--dry-run")
    assert sorted(due.jobs) == ["evaluate fca", "map", "score val fca"]


def test_another_seed_draws_another_random_trunk(finished_work):
    finished_work.settings.append("trunk_seed=1")
    due = finished_work.snakemake("results/tiny_map.json", "--dry-run")
    assert {"patches train", "patches val"}.isdisjoint(due.jobs)
    assert {"extract train", "extract val", "fit_head fca"} <= set(due.jobs)


def test_another_grid_starts_at_the_patches(finished_work):
    finished_work.settings[1] = "grid={scales: [1.0], overlap: 0.5}"
    due = finished_work.snakemake("results/tiny_map.json", "--dry-run")
    assert len(due.jobs) == 8


# --- the manifest is part of what a result depends on


def test_a_changed_metric_in_the_manifest_measures_again(finished_work):
    manifest = finished_work.path / "data_manifests/tiny.yaml"
    manifest.write_text(manifest.read_text().replace("metric: voc12", "metric: voc07"))
    due = finished_work.snakemake("results/tiny_map.json", "--dry-run")
    assert due.jobs == ["evaluate fca", "map"]
