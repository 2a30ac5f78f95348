"""One extraction as several jobs, several heads over one store, and a run that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
from support.small_parts import code_to_bind
from support.workflow import NOTHING, bytes_of

from pipeline.activations.store import Store
from pipeline.patches.table_file import read_table

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
    assert new_work.result()["AP"] == first_run[0].result()["AP"]
    scores = [work.path / work.result()["paths"]["scores"] for work in (new_work, first_run[0])]
    assert scores[0].read_bytes() == scores[1].read_bytes()
    again = new_work.snakemake()
    assert (again.code, again.jobs) == (0, [])
    assert NOTHING in again.output


@pytest.mark.long
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
    joined = finished_work.result("results/tiny_heads.json")
    assert [recipe["name"] for recipe in joined["recipes"]] == ["fca", "fcb"]
    assert joined["recipes"][0]["mAP"] == finished_work.result()["mAP"]
    assert len({json.dumps(recipe["fingerprints"]) for recipe in joined["recipes"]}) == 1
    for split in ("train", "val"):
        assert (len(finished_work.stores(split)), finished_work.trunk_runs(split)) == (1, 1)


# --- killed in the middle


@pytest.mark.long
def test_a_run_killed_in_the_middle_of_extraction_goes_on(cold_work, warm):
    (receipt,) = (cold_work.path / "cache/receipts").glob("tiny-val-*.json")
    target, old_stores = str(receipt.relative_to(cold_work.path)), cold_work.stores("val")
    receipt.unlink()  # so that the extraction is due; the size of the parts makes it another store
    (cold_work.path / "slow").touch()
    process = cold_work.start(target, sitecustomize=SMALL_PARTS)
    deadline = time.monotonic() + 60
    try:
        while len(list(cold_work.path.glob("cache/tiny-val-*.zarr/integrity/part-00000.json"))) < 2:
            assert time.monotonic() < deadline, (cold_work.path / "output.txt").read_text()
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (cold_work.path / "slow").unlink()
    cold_work.programs = warm
    (store,) = set(cold_work.stores("val")) - set(old_stores)
    written = cold_work.touched(store)
    assert [name for name in written if "part-" in name] == ["integrity/part-00000.json"]

    locked = cold_work.snakemake(target, sitecustomize=SMALL_PARTS)
    assert locked.code != 0
    assert "--unlock" in locked.output
    assert cold_work.snakemake("--unlock").code == 0
    finished = cold_work.snakemake(target, sitecustomize=SMALL_PARTS)

    assert finished.code == 0, finished.output
    assert finished.jobs == ["extract val"]
    assert f"{store.name}: resuming, 1 of 3 parts are recorded" in finished.output
    assert written.items() <= cold_work.touched(store).items()
    complete = Store(store)
    (table,) = (cold_work.path / "cache/patches").glob("tiny-val-*.h5")
    assert np.array_equal(complete.read_geometry("picture"), read_table(table).picture_of(slice(None)))
    assert [len(rows) for _, rows in complete.iter_parts()] == [32, 32, 4]
