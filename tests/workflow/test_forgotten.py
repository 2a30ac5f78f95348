"""What stops a run, and what the workflow finds out from files where Snakemake remembers something else, or nothing."""

from __future__ import annotations

import base64
import shutil

import pytest
import yaml
from support.dataset import write_annotation
from support.workflow import LABELS_OF_ALL_BALLS

from pipeline.metrics.average_precision import mean_average_precision

# --- what stops a run


def test_missing_data_stops_at_once_and_names_the_ways_on(new_work):
    finished = new_work.snakemake("results/voc12_map.json")
    assert finished.code != 0
    assert finished.seconds < 10
    assert finished.jobs == []
    for way in ("pipeline data fetch voc12", "data_root=DIR", "make demo"):
        assert way in finished.output
    assert "Traceback" not in finished.output


def test_all_wrong_settings_are_reported_at_once(new_work):
    new_work.settings += ["trnk=random", "head=fcz", "seed=-1", "aggregation=0.5"]
    finished = new_work.snakemake()
    assert finished.code != 0
    for part in ("mistake(s)", "trnk", "seed", "aggregation", "did you mean trunk"):
        assert part in finished.output
    assert "Traceback" not in finished.output


def test_unknown_head_names_the_known_ones(new_work):
    new_work.settings.append("head=fcz")
    finished = new_work.snakemake()
    assert finished.code != 0
    assert "unknown head fcz; did you mean fcb, fca or fca2?" in finished.output


def test_failing_stage_shows_its_message_and_is_not_forgotten(finished_work):
    # The table of the failed stage is deleted, all after it is still there: that must not pass for done.
    (finished_work.pictures / "p3.png").write_bytes(b"no picture")
    finished = finished_work.snakemake()
    assert finished.code != 0
    assert "p3" in finished.output and "cannot be decoded" in finished.output
    assert "Traceback" not in finished.output
    assert finished.jobs == ["patches train"]
    (log,) = finished_work.path.glob("logs/patches/tiny-train-*.log")
    after = finished.output.partition("error: patches tiny train failed\n")[2]
    assert after.startswith("Its command:\n    pipeline patches --dataset tiny --split train ")
    assert f"\nIts log, {log.relative_to(finished_work.path)}:\n" in after
    assert all(f"\n    {line}\n" in after for line in log.read_text().splitlines())
    assert "Complete log" in after  # all that Snakemake has to say

    due = finished_work.snakemake("results/tiny_map.json", "--dry-run")
    assert sorted(due.jobs) == sorted(
        ["patches train", "extract train", "fit_head fca", "score val fca", "evaluate fca", "map"]
    )
    assert "\nextract tiny train: Updated input files: tiny train: there is no patch table " in due.output


@pytest.mark.parametrize(
    ("lost", "room", "expected"),
    [
        ("cache/receipts/tiny-train-*.json", "trunk", "extract train"),
        ("results/heads/*.safetensors", "head", "fit_head fca"),
    ],
)
def test_output_that_a_failed_stage_lost_is_due_again(finished_work, lost, room, expected):
    # What a job leaves that was started for a raised version and failed: neither output nor record.
    output = next(finished_work.path.glob(lost))
    output.unlink()
    record = base64.b64encode(str(output.relative_to(finished_work.path)).encode()).decode()
    (finished_work.path / ".snakemake/metadata" / record).unlink()
    raised = f"import pipeline.{room}\npipeline.{room}.VERSION = 99\n"
    due = finished_work.snakemake("results/tiny_map.json", "--dry-run", sitecustomize=raised)
    assert expected in due.jobs
    assert "map" in due.jobs


# --- what Snakemake forgets, the workflow finds out from the files


def test_a_result_of_other_settings_is_replaced_though_snakemake_remembers_nothing(finished_work):
    """After ``rm -rf .snakemake`` times of files are all that Snakemake compares."""
    shutil.rmtree(finished_work.path / ".snakemake")
    finished_work.settings.append("seed=7")

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs == ["fit_head fca", "score val fca", "evaluate fca", "map"]
    assert finished_work.result()["seed"] == 7
    finished_work.settings.pop()
    assert finished_work.snakemake().jobs == ["map"]
    assert finished_work.result()["seed"] == 0


def test_a_result_that_was_put_there_by_hand_is_replaced(finished_work):
    named = finished_work.path / "results/tiny_map.json"
    ours = named.read_text()
    named.write_text(ours.replace('"seed": 0', '"seed": 1'))  # as pipeline evaluate --output would leave it
    assert finished_work.snakemake().jobs == ["map"]
    assert named.read_text() == ours


def test_a_copied_folder_with_a_changed_annotation_runs_what_follows_from_it(finished_work, tmp_path):
    copied = type(finished_work)(tmp_path / "copied", finished_work.programs)
    shutil.copytree(finished_work.path, copied.path, symlinks=True, copy_function=shutil.copyfile)
    shutil.rmtree(copied.path / ".snakemake")
    write_annotation(copied.annotations / "q1.xml", ["ball"])

    again = copied.snakemake()

    assert again.code == 0, again.output
    assert {"patches val", "score val fca", "evaluate fca", "map"} <= set(again.jobs)
    assert copied.trunk_runs("val") == 1, "labels changed, rows did not"
    expected, _ = mean_average_precision(copied.scores().by(5.0), LABELS_OF_ALL_BALLS, "voc12")
    assert copied.result()["mAP"] == pytest.approx(expected, abs=1e-6)


def test_touching_a_picture_runs_nothing(finished_work):
    (finished_work.pictures / "q1.png").touch()
    assert finished_work.snakemake().jobs == []


def test_a_head_of_another_fit_split_is_fitted_again(finished_work):
    """Head and scores of ``fit: few``, made by hand, have the names of those of ``fit: train``."""
    manifest = finished_work.path / "data_manifests/tiny.yaml"
    ours = manifest.read_text()
    (finished_work.path / "data/tiny/ImageSets/Main/few.txt").write_text("p0\np1\np2\n")
    content = yaml.safe_load(ours)
    content["splits"]["few"] = {}
    manifest.write_text(yaml.safe_dump({**content, "fit": "few"}))
    assert finished_work.snakemake().code == 0
    assert finished_work.result()["fit_split"] == "few"
    manifest.write_text(ours)
    shutil.rmtree(finished_work.path / ".snakemake")

    assert finished_work.snakemake().jobs == ["fit_head fca", "score val fca", "evaluate fca", "map"]
    assert finished_work.result()["fit_split"] == "train"


def test_a_broken_list_stops_the_run_though_the_table_is_there(finished_work):
    ids = finished_work.path / "data/tiny/ImageSets/Main/val.txt"
    ids.write_text(ids.read_text() + ids.read_text().splitlines()[0] + "\n")
    ended = finished_work.snakemake("results/tiny_map.json")
    assert ended.code != 0
    assert "listed twice" in ended.output
