"""``pipeline cache``: what is there, whether it is sound, what may go, and what settings ask for."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.activations import SEAL
from pipeline.activations.store import Store
from pipeline.activations.writer import StoreWriter
from pipeline.trunk.runner import cpu_has_bf16


def stores(work: Path) -> dict[str, Path]:
    """The stores of the split names."""
    return {split: next((work / "cache").glob(f"tiny-{split}-*.zarr")) for split in ("train", "val")}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def age(folder: Path, hours: float) -> None:
    for path in [folder, *folder.rglob("*")]:
        when = path.stat().st_mtime - hours * 3600
        os.utime(path, (when, when))


def test_ls_says_from_what_how_large_and_used_by_what(work, run):
    ended = run("cache ls --config config.yaml")
    assert ended.code == 0
    for text in ("tiny train", "random0 fc7", "sealed", "7 heads", "cache: 2 stores"):
        assert text in ended.out, ended.out

    rows = json.loads(run("cache ls --json --config config.yaml").out)
    assert [row["made_from"]["split"] for row in rows] == ["train", "val"]
    for row in rows:
        size = sum(len(data) for data in bytes_of(work / row["store"]).values())
        assert (row["state"], row["bytes"]) == ("sealed", size)
        assert row["results"], "the evaluated heads name both stores"

    (stores(work)["val"] / SEAL).unlink()
    assert "1/1 parts" in run("cache ls --config config.yaml").out


def test_ls_of_nothing_says_how_to_begin(run):
    assert "make one with: pipeline extract" in run("cache ls --cache elsewhere").out


def test_verify_tells_kinds_of_damage_apart_and_repair_mends_just_them(work, run):
    before = {split: bytes_of(path) for split, path in stores(work).items()}
    assert run("cache verify --config config.yaml").code == 0
    train, val = stores(work)["train"], stores(work)["val"]
    rows = train / "activations/c/0/0"
    data = bytearray(rows.read_bytes())
    data[100] ^= 1
    rows.write_bytes(data)
    os.truncate(val / "box_xyxy/c/0/0", 10)
    (val / "picture/c/0").unlink()
    (val / "integrity/notes.txt").write_text("mine")

    ended = run("cache verify --config config.yaml")
    assert ended.code == 2
    assert "activations/c/0/0: flipped" in ended.out
    assert "box_xyxy/c/0/0: torn (10 bytes," in ended.out
    assert "picture/c/0: missing" in ended.out
    assert "integrity/notes.txt: unexpected" in ended.out
    assert "2 of 2 stores are damaged: 1 flipped, 1 missing, 1 torn, 1 unexpected" in ended.err
    assert "pipeline cache repair" in ended.err

    one = run(f"cache repair {train.name} --config config.yaml")
    assert one.code == 0 and "parts 0 made again; sealed" in one.out
    assert bytes_of(train) == before["train"]
    assert bytes_of(val) != before["val"]
    every = run("cache repair --config config.yaml")
    assert f"{train.name}: sound, nothing to repair" in every.out
    assert "removed integrity/notes.txt" in every.out
    assert bytes_of(val) == before["val"]
    assert run("cache verify --config config.yaml").code == 0


def test_lost_record_is_written_again_without_the_trunk(work, run):
    train = stores(work)["train"]
    before = bytes_of(train)
    (train / "integrity/part-00000.json").unlink()
    ended = run("cache repair --config config.yaml")
    assert "no part had to be made again" in ended.out
    assert "rows to extract" not in ended.err
    assert bytes_of(train) == before


def test_verify_notices_that_the_sources_changed(work, run):
    picture = next((work / "data/tiny/JPEGImages").glob("p0*"))
    picture.write_bytes(picture.with_name(picture.name.replace("p0", "p1")).read_bytes())
    ended = run("cache verify --config config.yaml")
    assert ended.code == 2
    assert "stale: tiny train: pictures changed: p0" in ended.out
    assert "1 of 2 stores are stale" in ended.err
    # Its sources would give another store: this one stays as it is.
    (stores(work)["train"] / "scale/c/0").unlink()
    ended = run("cache repair --config config.yaml")
    assert ended.code == 2
    assert "seen.pictures" in ended.err and "nothing was touched" in ended.err
    assert (stores(work)["train"] / SEAL).is_file()


def test_verify_and_repair_give_one_answer_on_a_store_whose_split_is_gone(work, run):
    manifest = work / "data_manifests/tiny.yaml"
    content = yaml.safe_load(manifest.read_text())
    content["splits"]["other"] = content["splits"].pop("train")
    (work / "data/tiny/ImageSets/Main/train.txt").rename(work / "data/tiny/ImageSets/Main/other.txt")
    manifest.write_text(yaml.safe_dump({**content, "fit": "other"}))

    verified, repaired = (run(f"cache {command} --config config.yaml") for command in ("verify", "repair"))

    assert verified.code == 2 and "1 of 2 stores are stale" in verified.err
    assert "pipeline cache repair" not in verified.err, "there is nothing that it could repair"
    train = stores(work)["train"].name
    assert re.search(rf"{train}: sound, nothing to repair, but stale: .*no split 'train'", repaired.out)


def test_an_interrupted_extraction_is_nothing_to_repair(work, run):
    val = stores(work)["val"]
    (val / SEAL).unlink()
    for receipt in (work / "cache/receipts").glob("tiny-val-*"):
        receipt.unlink()
    repaired = run("cache repair --config config.yaml")
    assert repaired.code == 0, repaired.err
    assert f"{val.name}: incomplete, nothing to repair; resume it with the same pipeline extract" in repaired.out


def test_recompute_agrees_with_an_honest_store(run):
    ended = run("cache verify --recompute 20 --config config.yaml")
    assert ended.code == 0, ended.err
    assert ended.out.count("20 rows recomputed in cpu-fp32: 20 equal bit for bit") == 2


def test_recompute_in_other_arithmetic_has_a_wider_tolerance(run):
    ended = run("cache verify --recompute 20 --precision bf16 --config config.yaml")
    assert ended.code == 0, ended.err
    assert ended.out.count("20 rows recomputed in cpu-bf16 (stored: cpu-fp32): 0 equal bit for bit") == 2
    assert ended.out.count("tolerance 0.04") == 2


@pytest.mark.skipif(not cpu_has_bf16(), reason="auto takes OpenVINO for bfloat16 alone")
def test_rows_are_recomputed_and_repaired_by_the_backend_that_made_them(work, run, monkeypatch):
    with monkeypatch.context() as patched:  # afterwards, auto is torch
        patched.setattr("pipeline.trunk.backends.FASTER", ("alexnet64",))
        assert run("extract --dataset tiny --split val --precision bf16 --config config.yaml").code == 0
    made = {Store(path).identity.precision: path for path in (work / "cache").glob("tiny-val-*.zarr")}
    store = made["cpu-bf16-openvino"]
    before = bytes_of(store)

    ended = run("cache verify --recompute 20 --config config.yaml")
    assert ended.code == 0, ended.err
    assert ended.out.count("20 rows recomputed in cpu-bf16-openvino: 20 equal bit for bit") == 1
    assert ended.out.count("20 rows recomputed in cpu-fp32: 20 equal bit for bit") == 2

    (store / "activations/c/0/0").write_bytes(b"torn")
    assert run("cache repair --config config.yaml").code == 0
    assert bytes_of(store) == before


def test_recompute_finds_rows_that_only_the_trunk_can_refute(work, run):
    # All digests are right: somebody, or a bug, kept other activations.
    path = stores(work)["val"]
    kept = Store(path)
    (part,) = kept.parts
    columns = {name: kept.read_geometry(name) for name in ("picture", "box_xyxy", "scale")}
    rows = kept.read_part(part).copy()
    rows[7] = rows[7] * np.float16(1.01)
    writer = StoreWriter(path)
    writer.write_part(part, {"activations": rows, **columns})
    writer.seal()
    assert run("cache verify --config config.yaml").code == 0
    ended = run(f"cache verify --recompute {len(rows)} --config config.yaml")
    assert ended.code == 2
    assert "rows [7] are not what the trunk says now" in ended.err


def test_gc_shows_first_and_frees_only_what_nothing_uses(work, run):
    run("extract --dataset tiny --split train --config config.yaml --trunk-seed 7")
    (unused,) = (work / "cache").glob("tiny-train-random7-*.zarr")
    assert "nothing to free" in run("cache gc --config config.yaml").out  # too young
    age(work / "cache", 30)

    shown = run("cache gc --config config.yaml").out
    assert f"{unused.name}: " in shown and "no head and no result was made from it" in shown
    assert "could be freed by: pipeline cache gc --yes" in shown
    assert shown.count(".zarr") == 1
    assert unused.is_dir()

    assert "freed" in run("cache gc --yes --config config.yaml").out
    assert not unused.exists()
    assert set(stores(work)) == {"train", "val"}
    assert run("cache verify --config config.yaml").code == 0
    assert run("score --dataset tiny --head fca --config config.yaml").code == 0


def test_gc_takes_old_incomplete_stores_and_receipts_without_a_store(work, run):
    (stores(work)["val"] / SEAL).unlink()
    for path in (work / "results").rglob("map.json"):
        path.unlink()
    age(work / "cache", 30)
    shown = run("cache gc --config config.yaml").out
    assert "tiny-val-random0" in shown and "incomplete (1/1 parts)" in shown


def test_gc_takes_shares_of_works_of_which_all_are_old(work, run):
    for share in ("1/2", "2/2"):
        assert run(f"score --dataset tiny --head fca --share {share} --config config.yaml").code == 0
        assert run(f"patches --dataset tiny --split val --share {share} --config config.yaml").code == 0
    assert run("extract --dataset tiny --split train --share 1/2 --trunk-seed 7 --config config.yaml").code == 0
    left = {path.name for path in (work / "cache/shares").iterdir()}
    assert len(left) == 5
    assert "nothing to free" in run("cache gc --config config.yaml").out  # too young
    age(work / "cache", 30)
    (second,) = (work / "cache/shares").glob("*-2of2.h5")
    os.utime(second)  # its scoring is still at work, the other share of it included

    shown = run("cache gc --config config.yaml").out
    found = {line.split(":")[0].rpartition("/")[2] for line in shown.splitlines() if "a share that nothing" in line}
    assert found == {name for name in left if not name.endswith(".h5")} and len(found) == 3

    assert run("cache gc --yes --config config.yaml").code == 0
    assert {path.suffix for path in (work / "cache/shares").iterdir()} == {".h5"}
    joined = run("score --dataset tiny --head fca --config config.yaml")
    assert joined.code == 0 and "2 of them scored already" in joined.err
    assert not list((work / "cache/shares").iterdir())


def test_explain_says_what_is_there_and_what_would_be_made(work, run):
    ended = run("cache explain --dataset tiny --split train --config config.yaml")
    assert ended.code == 0, ended.err
    assert ended.out.count("there") >= 3 and "would be made" not in ended.out

    other = run("cache explain --dataset tiny --split train --config config.yaml --batch 7 --layer fc6")
    assert " pictures through the trunk" in other.out
    assert "how.layer: holds 'fc7', asked for 'fc6'" in other.out
    assert "how.batch: holds" in other.out
    assert "how.weights" not in other.out

    (stores(work)["train"] / "integrity/part-00000.json").unlink()
    (stores(work)["train"] / SEAL).unlink()
    unfinished = run("cache explain --dataset tiny --split train --config config.yaml")
    assert "would resume: 1 of 1 parts" in unfinished.out
    assert sorted(p.name for p in (work / "cache").glob("*.zarr")) == sorted(p.name for p in stores(work).values())


def test_explain_before_anything_is_there(run):
    ended = run("cache explain --dataset tiny --split test --config config.yaml")
    assert "would be made: there is no patch table cache/patches/tiny-test-" in ended.out
    assert "after the patch table" in ended.out


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_unknown_store_names_those_that_there_are(work, run, command):
    ended = run(f"cache {command} nothing.zarr --config config.yaml")
    assert ended.code == 2
    assert "no store nothing.zarr" in ended.err and stores(work)["val"].name in ended.err
