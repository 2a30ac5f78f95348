"""A reader of stores from docs/store-format.md alone: zarr, hashlib, json and numpy, nothing of the package."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from support.tables import all_rows


def canonical(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_signed(path: Path) -> dict:
    value = json.loads(path.read_text())
    stated = value.pop("sha256")
    assert stated == hashlib.sha256(canonical(value)).hexdigest(), path
    return value


def check_file(store: Path, name: str, stated: dict) -> None:
    data = (store / name).read_bytes()
    assert {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} == stated, name


def read_store(store: Path) -> dict[str, np.ndarray]:
    """All arrays of a store after every check that the page asks for."""
    attributes = json.loads((store / "zarr.json").read_text())["attributes"]
    identity = attributes["identity"]
    fingerprint = hashlib.sha256(canonical(identity)).hexdigest()
    assert attributes["fingerprint"] == fingerprint
    assert identity["how.format"] == "activations-2"
    assert store.name.endswith(f"{fingerprint[:12]}.zarr")
    seal = read_signed(store / "integrity/seal.json")
    assert seal["fingerprint"] == fingerprint
    assert (seal["rows"], seal["skipped"]) == (identity["seen.n_rows"], identity["seen.skipped"])
    arrays = ("activations", "picture", "box_xyxy", "scale")
    assert set(seal["metadata"]) == {"zarr.json", "integrity/zarr.json", *(f"{a}/zarr.json" for a in arrays)}
    for name, stated in {**seal["metadata"], **seal["records"]}.items():
        check_file(store, name, stated)
    n_rows, part_rows = identity["seen.n_rows"], identity["how.part_rows"]
    starts = range(0, n_rows, part_rows)
    assert set(seal["records"]) == {f"integrity/part-{i:05d}.json" for i in range(len(starts))}
    assert seal["parts"] == len(starts)
    for i, start in enumerate(starts):
        record = read_signed(store / f"integrity/part-{i:05d}.json")
        assert (record["fingerprint"], record["part"]) == (fingerprint, i)
        assert record["rows"] == [start, min(start + part_rows, n_rows)]
        assert set(record["objects"]) == {f"{a}/c/{i}" + "/0" * (a in ("activations", "box_xyxy")) for a in arrays}
        for name, stated in record["objects"].items():
            check_file(store, name, stated)
    group = zarr.open_group(str(store), mode="r")
    values = {name: group[name][:] for name in arrays}
    assert np.isfinite(values["activations"]).all()
    return values


@pytest.fixture
def store(whole_cache) -> Path:
    (path,) = whole_cache.glob("*.zarr")
    return path


def test_page_is_enough_for_a_reader(store, table):
    values = read_store(store)
    assert values["activations"].shape == (table.n_rows, 1024) and values["activations"].dtype == np.float16
    for name in ("picture", "box_xyxy", "scale"):
        assert np.array_equal(values[name], getattr(all_rows(table), name)), name
    ids = json.loads((store / "zarr.json").read_text())["attributes"]["picture_ids"]
    assert [ids[i] for i in np.unique(values["picture"])] == list(table.ids)


def test_page_names_every_file(store):
    seal = read_signed(store / "integrity/seal.json")
    named = {"integrity/seal.json", *seal["metadata"], *seal["records"]}
    for name in seal["records"]:
        named |= set(read_signed(store / name)["objects"])
    assert named == {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["activations/c/1/0", "integrity/part-00000.json", "zarr.json", "integrity/seal.json"])
def test_reader_notices_a_flipped_bit(store, name, tmp_path):
    copy = tmp_path / store.name
    shutil.copytree(store, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises((AssertionError, ValueError, KeyError, UnicodeDecodeError)):
        read_store(copy)
