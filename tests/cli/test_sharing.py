"""Rows that are there already, from the command line: foreseen, taken over, listed and freed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support.dataset import draw_scene

TRAINVAL = "--dataset tiny --split trainval --config config.yaml"


@pytest.fixture
def union(work, run) -> Path:
    """The work folder, with train and val of other pictures extracted, and a further split of all their pictures."""
    shutil.rmtree(store_of(work, "val"))
    for number, path in enumerate(sorted((work / "data/tiny/JPEGImages").glob("q*"))):
        draw_scene(path, ["ball"], 200 + number)
    assert run("extract --dataset tiny --split val --config config.yaml").code == 0
    path = work / "data_manifests/tiny.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["splits"]["trainval"] = {}
    path.write_text(yaml.safe_dump(manifest))
    lists = work / "data/tiny/ImageSets/Main"
    ids = [i for split in ("train", "val") for i in (lists / f"{split}.txt").read_text().split()]
    (lists / "trainval.txt").write_text("\n".join(ids) + "\n")
    return work


def store_of(work: Path, split: str) -> Path:
    (path,) = (work / "cache").glob(f"tiny-{split}-*.zarr")
    return path


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_union_of_splits_is_foreseen_and_sends_nothing_through_the_trunk(union, run):
    assert run(f"patches {TRAINVAL}").code == 0
    foreseen = run(f"cache explain {TRAINVAL}").out
    assert "0 rows of 0 pictures through the trunk" in foreseen
    for split in ("train", "val"):
        assert f"rows taken over from {store_of(union, split).name}" in foreseen

    ended = run(f"extract {TRAINVAL}")
    assert ended.code == 0, ended.err
    assert "0 rows to extract" in ended.err and "in a trial batch" not in ended.err
    (path,) = (union / "cache/receipts").glob("tiny-trainval-*.json")
    receipt = json.loads(path.read_text())
    assert set(receipt["adopted"]) == {store_of(union, split).name for split in ("train", "val")}
    assert sum(receipt["adopted"].values()) == receipt["rows"]

    taken = bytes_of(store_of(union, "trainval"))
    assert run(f"extract {TRAINVAL} --no-adopt --cache fresh").code == 0
    (fresh,) = (union / "fresh").glob("tiny-trainval-*.zarr")
    assert bytes_of(fresh) == taken


def test_what_another_store_holds_is_listed_freed_and_comes_back(union, run):
    before = bytes_of(store_of(union, "train"))
    assert "are in tiny-" not in run("cache ls --config config.yaml").out
    assert run(f"extract {TRAINVAL}").code == 0

    whole = store_of(union, "trainval").name
    listed = run("cache ls --config config.yaml").out
    assert f"all 6 pictures are in {whole}" in listed and "pipeline cache gc --shared" in listed
    shares = {
        Path(row["store"]).name: row["shares"] for row in json.loads(run("cache ls --json --config config.yaml").out)
    }
    assert shares[store_of(union, "train").name] == {"holder": whole, "n_pictures": 6, "of": 6}

    assert "pictures are in" not in run("cache gc --older-than 0 --config config.yaml").out
    assert "nothing to free" in run("cache gc --shared --config config.yaml").out, "all stores are young"
    shown = run("cache gc --shared --older-than 0 --config config.yaml").out
    assert "all 6 pictures are in" in shown and "all 4 pictures are in" in shown and f"{whole}:" not in shown
    assert run("cache gc --shared --older-than 0 --yes --config config.yaml").code == 0
    assert [path.name for path in (union / "cache").glob("*.zarr")] == [whole]

    again = run("extract --dataset tiny --split train --config config.yaml")
    assert again.code == 0 and "0 rows to extract" in again.err
    assert bytes_of(store_of(union, "train")) == before
    assert run("cache verify --config config.yaml").code == 0


def test_stores_of_other_rows_share_nothing(union, run):
    for options in ("--precision bf16", "--layer fc6", "--batch 32"):
        assert run(f"extract --dataset tiny --split train --config config.yaml {options}").code == 0
    assert "pictures are in" not in run("cache ls --config config.yaml").out
