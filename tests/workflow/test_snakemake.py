"""Whole runs of the workflow: what is made, what is made again after a change, and nothing else.

`Finished.jobs` lists what Snakemake ran; a wrong list is either a stale result or lost hours.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.dataset import draw_scene, write_annotation
from support.small_parts import code_to_bind

from pipeline.activations.store import Store
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.table_file import read_table
from pipeline.scoring.scores_file import load_scores

CHECKOUT = Path(__file__).parents[2]
NOTHING = "Nothing to be done"
VAL_PICTURES = ("q0", "q1", "q2", "q3")


def read_result(work, name="results/tiny_map.json"):
    return json.loads((work.path / name).read_text())


def scores_of(work):
    return load_scores(work.path / read_result(work)["paths"]["scores"])


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Balls (first column) are in q0, q2 and q3, crates in q1 and q2.
VAL_LABELS = np.array([[1, -1], [-1, 1], [1, 1], [1, -1]])
LABELS_OF_ALL_BALLS = np.array([[0, -1], [0, -1], [0, 1], [0, -1]])
"""If picture 1 shows a ball as well: balls have no negative picture, so no AP."""


# --- from nothing to a result


def test_first_run_makes_every_stage_once(first_run):
    work, finished = first_run

    assert sorted(finished.jobs) == [
        "evaluate fca", "extract train", "extract val", "fit_head fca",
        "map", "patches train", "patches val", "score val fca",
    ]  # fmt: skip
    assert (work.trunk_runs("train"), work.trunk_runs("val")) == (1, 1)


def test_first_result_is_the_average_precision_of_its_scores(first_run):
    work, _ = first_run
    result = read_result(work)

    expected, each = mean_average_precision(scores_of(work).by(5.0), VAL_LABELS, "voc12")
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
    before, old_store = scores_of(finished_work), finished_work.stores("val")
    draw_scene(finished_work.pictures / "q2.png", ["ball", "crate"], 255)

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs == ["patches val", "extract val", "score val fca", "evaluate fca", "map"]
    assert len(finished_work.stores("val")) == 2  # the old one is another fingerprint, and stays
    after = scores_of(finished_work)
    differs = (before.scores != after.scores).any(axis=(0, 2))
    assert dict(zip(VAL_PICTURES, differs, strict=True)) == {"q0": False, "q1": False, "q2": True, "q3": False}
    new_store = next(s for s in finished_work.stores("val") if s not in old_store)
    assert read_result(finished_work)["fingerprints"]["eval"] == Store(new_store).fingerprint


def test_changed_annotation_does_not_run_the_trunk(finished_work):
    store = finished_work.stores("val")[0]
    stored = finished_work.touched(store)
    old = read_result(finished_work)
    write_annotation(finished_work.annotations / "q1.xml", ["ball"])  # it was a crate

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs[0] == "patches val"
    assert {"fit_head fca", "patches train", "extract train"}.isdisjoint(again.jobs)
    assert (finished_work.stores("val"), finished_work.touched(store)) == ([store], stored)
    assert finished_work.trunk_runs("val") == 1
    new = read_result(finished_work)
    expected, _ = mean_average_precision(scores_of(finished_work).by(5.0), LABELS_OF_ALL_BALLS, "voc12")
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
    old, old_map = bytes_of(store), read_result(finished_work)["mAP"]
    shutil.rmtree(store)

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs[0] == "extract val"
    assert {"patches val", "extract train", "fit_head fca"}.isdisjoint(again.jobs)
    assert bytes_of(store) == old
    assert finished_work.trunk_runs("val") == 2
    assert read_result(finished_work)["mAP"] == old_map
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
    old = read_result(finished_work)
    finished_work.settings.append("aggregation=1")

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs == ["evaluate fca", "map"]
    new = read_result(finished_work)
    assert (new["k"], new["mAP"]) == (1.0, old["k_sweep"]["1"])
    finished_work.settings.remove("aggregation=1")
    assert finished_work.snakemake().jobs == ["map"]
    assert read_result(finished_work) == old


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


# --- one extraction as several jobs


def shares(split, count):
    return [f"extract_share {split}"] * count


def patch_shares(split, count):
    return [f"patches_share {split}"] * count


def test_scattered_run_makes_the_same_stores_and_result(new_work, first_run):
    new_work.settings.append("scatter=2")

    finished = new_work.snakemake()

    assert finished.code == 0, finished.output
    scattered = ["score_share val fca"] * 2
    for split in ("train", "val"):
        scattered += [*patch_shares(split, 2), *shares(split, 2)]
    assert sorted(finished.jobs) == sorted([*first_run[1].jobs, *scattered])
    assert not list((new_work.path / "cache/shares").glob("*"))  # of use only to those that seal and join
    assert "tiny val: 2 shares, 2 of them scored already" in finished.output
    for split in ("train", "val"):
        (store,), (expected,) = new_work.stores(split), first_run[0].stores(split)
        assert store.name == expected.name
        assert bytes_of(store) == bytes_of(expected)
        assert new_work.trunk_runs(split) == 1  # all rows are one part: one share makes it
    assert read_result(new_work)["AP"] == read_result(first_run[0])["AP"]
    scores = [work.path / read_result(work)["paths"]["scores"] for work in (new_work, first_run[0])]
    assert scores[0].read_bytes() == scores[1].read_bytes()
    again = new_work.snakemake()
    assert (again.code, again.jobs) == (0, [])
    assert NOTHING in again.output


def test_each_share_makes_parts_of_its_own(finished_work, tmp_path):
    (receipt,) = (finished_work.path / "cache/receipts").glob("tiny-val-*.json")
    target, old_stores = str(receipt.relative_to(finished_work.path)), finished_work.stores("val")
    receipt.unlink()  # so that the extraction is due; the size of the parts makes it another store
    together = finished_work.snakemake(target, sitecustomize=SMALL_PARTS)
    assert together.code == 0, together.output
    (expected,) = set(finished_work.stores("val")) - set(old_stores)
    expected = expected.rename(tmp_path / expected.name)
    receipt.unlink()
    finished_work.settings.append("scatter=3")

    finished = finished_work.snakemake(target, sitecustomize=SMALL_PARTS)

    assert finished.code == 0, finished.output
    # The table that is there has the bytes of one from shares, and nothing else follows from its making.
    assert finished.jobs == [*patch_shares("val", 3), "patches val", *shares("val", 3), "extract val"]
    (store,) = set(finished_work.stores("val")) - set(old_stores)
    assert bytes_of(store) == bytes_of(expected)
    (log,) = (finished_work.path / "cache").glob(f"{store.stem}.log.jsonl")
    made = [json.loads(line)["rows"] for line in log.read_text().splitlines()]
    assert made[0] == 68 and sorted(made[1:]) == [4, 32, 32]
    assert f"{store.name}: sealed" in finished.output


# --- several heads


def test_several_heads_share_one_store_and_need_no_pictures(finished_work):
    shutil.rmtree(finished_work.path / "data")
    assert NOTHING in finished_work.snakemake().output
    finished_work.settings.append("compare=[fca, fcb]")

    finished = finished_work.snakemake("results/tiny_heads.json")

    assert finished.code == 0, finished.output
    # The two run side by side: either may be first.
    assert sorted(finished.jobs[:-1]) == ["recipe fca", "recipe fcb"] and finished.jobs[-1] == "heads"
    joined = read_result(finished_work, "results/tiny_heads.json")
    assert [recipe["name"] for recipe in joined["recipes"]] == ["fca", "fcb"]
    assert joined["recipes"][0]["mAP"] == read_result(finished_work)["mAP"]
    assert len({json.dumps(recipe["fingerprints"]) for recipe in joined["recipes"]}) == 1
    for split in ("train", "val"):
        assert (len(finished_work.stores(split)), finished_work.trunk_runs(split)) == (1, 1)


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
    assert "unknown head fcz; known: fca, fcb, fca2" in finished.output


def test_failing_stage_shows_its_message_and_is_not_forgotten(finished_work):
    # The table of the failed stage is deleted, all after it is still there: that must not pass for done.
    (finished_work.pictures / "p3.png").write_bytes(b"no picture")
    finished = finished_work.snakemake()
    assert finished.code != 0
    assert "p3" in finished.output and "cannot be decoded" in finished.output
    assert "Traceback" not in finished.output
    assert finished.jobs == ["patches train"]

    due = finished_work.snakemake("results/tiny_map.json", "--dry-run")
    assert sorted(due.jobs) == sorted(
        ["patches train", "extract train", "fit_head fca", "score val fca", "evaluate fca", "map"]
    )


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


# --- killed in the middle

SMALL_PARTS = f"""
import sys
if "extract" in sys.orig_argv:
    import pathlib, time
    from pipeline.activations import writer
    {code_to_bind(32)}
    if pathlib.Path("slow").exists():
        write_part = writer.StoreWriter.write_part
        def write_then_wait(self, *arguments):
            write_part(self, *arguments)
            time.sleep(60)
        writer.StoreWriter.write_part = write_then_wait
"""


def test_a_run_killed_in_the_middle_of_extraction_goes_on(finished_work):
    (receipt,) = (finished_work.path / "cache/receipts").glob("tiny-val-*.json")
    target, old_stores = str(receipt.relative_to(finished_work.path)), finished_work.stores("val")
    receipt.unlink()  # so that the extraction is due; the size of the parts makes it another store
    (finished_work.path / "slow").touch()
    process = finished_work.start(target, sitecustomize=SMALL_PARTS)
    deadline = time.monotonic() + 60
    try:
        while len(list(finished_work.path.glob("cache/tiny-val-*.zarr/integrity/part-00000.json"))) < 2:
            assert time.monotonic() < deadline, (finished_work.path / "output.txt").read_text()
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (finished_work.path / "slow").unlink()
    (store,) = set(finished_work.stores("val")) - set(old_stores)
    written = finished_work.touched(store)
    assert [name for name in written if "part-" in name] == ["integrity/part-00000.json"]

    locked = finished_work.snakemake(target, sitecustomize=SMALL_PARTS)
    assert locked.code != 0
    assert "--unlock" in locked.output
    assert finished_work.snakemake("--unlock").code == 0
    finished = finished_work.snakemake(target, sitecustomize=SMALL_PARTS)

    assert finished.code == 0, finished.output
    assert finished.jobs == ["extract val"]
    assert f"{store.name}: resuming, 1 of 3 parts are recorded" in finished.output
    assert written.items() <= finished_work.touched(store).items()
    complete = Store(store)
    (table,) = (finished_work.path / "cache/patches").glob("tiny-val-*.h5")
    assert np.array_equal(complete.read_geometry("picture"), read_table(table).picture_of(slice(None)))
    assert [len(rows) for _, rows in complete.iter_parts()] == [32, 32, 4]


# --- the manifest is part of what a result depends on


def test_a_changed_metric_in_the_manifest_measures_again(finished_work):
    manifest = finished_work.path / "data_manifests/tiny.yaml"
    manifest.write_text(manifest.read_text().replace("metric: voc12", "metric: voc07"))
    due = finished_work.snakemake("results/tiny_map.json", "--dry-run")
    assert due.jobs == ["evaluate fca", "map"]


# --- what Snakemake forgets, the workflow finds out from the files


def test_a_result_of_other_settings_is_replaced_though_snakemake_remembers_nothing(finished_work):
    """After ``rm -rf .snakemake`` times of files are all that Snakemake compares."""
    shutil.rmtree(finished_work.path / ".snakemake")
    finished_work.settings.append("seed=7")

    again = finished_work.snakemake()

    assert again.code == 0, again.output
    assert again.jobs == ["fit_head fca", "score val fca", "evaluate fca", "map"]
    assert read_result(finished_work)["seed"] == 7
    finished_work.settings.pop()
    assert finished_work.snakemake().jobs == ["map"]
    assert read_result(finished_work)["seed"] == 0


def test_a_result_that_was_put_there_by_hand_is_replaced(finished_work):
    named = finished_work.path / "results/tiny_map.json"
    ours = named.read_text()
    named.write_text(ours.replace('"seed": 0', '"seed": 1'))  # as pipeline evaluate --output would leave it
    assert finished_work.snakemake().jobs == ["map"]
    assert named.read_text() == ours


def test_a_copied_folder_with_a_changed_annotation_runs_what_follows_from_it(finished_work, tmp_path):
    copied = type(finished_work)(tmp_path / "copied")
    shutil.copytree(finished_work.path, copied.path, symlinks=True, copy_function=shutil.copyfile)
    shutil.rmtree(copied.path / ".snakemake")
    write_annotation(copied.annotations / "q1.xml", ["ball"])

    again = copied.snakemake()

    assert again.code == 0, again.output
    assert {"patches val", "score val fca", "evaluate fca", "map"} <= set(again.jobs)
    assert copied.trunk_runs("val") == 1, "labels changed, rows did not"
    expected, _ = mean_average_precision(scores_of(copied).by(5.0), LABELS_OF_ALL_BALLS, "voc12")
    assert read_result(copied)["mAP"] == pytest.approx(expected, abs=1e-6)


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
    assert read_result(finished_work)["fit_split"] == "few"
    manifest.write_text(ours)
    shutil.rmtree(finished_work.path / ".snakemake")

    assert finished_work.snakemake().jobs == ["fit_head fca", "score val fca", "evaluate fca", "map"]
    assert read_result(finished_work)["fit_split"] == "train"


def test_a_broken_list_stops_the_run_though_the_table_is_there(finished_work):
    ids = finished_work.path / "data/tiny/ImageSets/Main/val.txt"
    ids.write_text(ids.read_text() + ids.read_text().splitlines()[0] + "\n")
    ended = finished_work.snakemake("results/tiny_map.json")
    assert ended.code != 0
    assert "listed twice" in ended.output


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
