"""Exports: each format holds the rows of the store, bit by bit, with their columns and where they come from."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from support.cli import run_command
from support.processes import end, start_command
from support.stores import draw_rows, seal_store
from support.tables import table_of_two_to_five
from support.threads import one_thread  # noqa: F401

from pipeline.activations.features import Features
from pipeline.activations.identity import which_rows
from pipeline.exchange import arrow
from pipeline.exchange.contents import Block, Contents
from pipeline.exchange.export import export
from pipeline.exchange.formats import FORMATS
from pipeline.io.errors import MissingDataError, PipelineError, SettingsError, StoreError

WIDTH = 6
ENDINGS = [item.ending for item in FORMATS if item.ending != ".lance"]


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Features:
    """Pictures of two to five patches in parts of 16 rows, so that pictures straddle parts; names that need quotes."""
    table = table_of_two_to_five("train", 36)
    odd = {0: 'a,"{}\n', 1: "{}\rb", 2: "{}\nb", 3: "é {}"}
    ids = tuple(odd.get(i % 5, "{}").format(name) for i, name in enumerate(table.ids))
    labels = table.picture_labels.copy()
    labels[3, 1] = 0
    table = replace(table, ids=ids, picture_labels=labels, classes=("cat", "a dog", "fish,x"))
    table = replace(table, rows_digest=table.compute_rows_digest())
    rows = draw_rows(table, WIDTH)
    # Everything that a careless writer changes: zeros with a sign, the smallest and the largest numbers.
    rows[0] = np.array([-0.0, 5.96e-8, 65504, -65504, 0.1, 1e-5], np.float16)
    return Features(seal_store(tmp_path_factory.mktemp("store") / "s.zarr", table, rows, part_rows=16), table)


def pooled_slowly(features: Features, pool: str) -> np.ndarray:
    """Mean and maximum, one picture at a time."""
    rows, out = features[:], []
    for i in range(len(features.picture_ids)):
        mine = rows[features.picture == i].astype(np.float64)
        out.append(np.concatenate([{"mean": mine.mean(0), "max": mine.max(0)}[name] for name in pool.split("+")]))
    return np.array(out).astype(np.float32)


# ---- reading back, as others would


def read_parquet(path: Path) -> dict[str, Any]:
    table = pq.read_table(path)
    values = table["features"].combine_chunks()
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "features"}
    flat = values.flatten().to_numpy(zero_copy_only=False)
    return {**columns, "features": flat.reshape(len(table), -1), "provenance": table.schema.metadata[b"pipeline"]}


def read_shards(path: Path) -> dict[str, Any]:
    plan = json.loads((path / "pipeline.json").read_text())
    shards = [read_parquet(file) for file in sorted((path / "data").iterdir())]
    assert len(shards) == plan["shards"] and "data/train-*.parquet" in (path / "README.md").read_text()
    joined = {name: np.concatenate([s[name] for s in shards]) for name in shards[0] if name != "provenance"}
    return {**joined, "provenance": shards[0]["provenance"]}


def read_csv(path: Path) -> dict[str, Any]:
    with open(path, newline="", encoding="utf-8") as stream:
        header, *lines = csv.reader(stream)
    columns: dict[str, Any] = dict(zip(header, map(np.array, zip(*lines, strict=True)), strict=True))
    names = [name for name in columns if name[0] == "f" and name[1:].isdigit()]
    if names:
        exact = np.stack([columns.pop(name).astype(np.float64) for name in names], axis=1)
        columns["features"] = exact
    return {**columns, "provenance": Path(f"{path}.json").read_bytes()}


def read_npy(path: Path) -> dict[str, Any]:
    rows_file = Path(f"{path}.rows.csv")
    columns = read_csv(rows_file) if Path(f"{rows_file}.json").exists() else _rows_of(rows_file)
    return {**columns, "features": np.load(path), "provenance": Path(f"{path}.json").read_bytes()}


def _rows_of(path: Path) -> dict[str, Any]:
    with open(path, newline="", encoding="utf-8") as stream:
        header, *lines = csv.reader(stream)
    return dict(zip(header, map(np.array, zip(*lines, strict=True)), strict=True))


def read_npz(path: Path) -> dict[str, Any]:
    with np.load(path) as archive:
        content = dict(archive)
    return {**content, "provenance": str(content["provenance"])}


def read_h5(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        content = {name: file[name][()] for name in file}
        assert file.attrs["fingerprint"] == content["fingerprint"].decode()
    content["picture_ids"] = np.array([text.decode() for text in content["picture_ids"]])
    return content


def read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {
        **content,
        "picture_ids": np.array(json.loads(metadata["picture_ids"])),
        **{"provenance": metadata["provenance"]},
    }


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".parquet": read_parquet,
    "/": read_shards,
    ".csv": read_csv,
    ".npy": read_npy,
    ".npz": read_npz,
    ".h5": read_h5,
    ".safetensors": read_safetensors,
}


def same_bits(got: np.ndarray, expected: np.ndarray) -> bool:
    got = np.asarray(got)
    return got.dtype == expected.dtype and got.shape == expected.shape and got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("per", "pool"), [("patch", "mean"), ("picture", "mean"), ("picture", "max"), ("picture", "mean+max")]
)
def test_each_format_holds_the_rows_bit_by_bit(features, tmp_path, monkeypatch, ending, per, pool):
    monkeypatch.setattr(arrow, "SHARD_BYTES", 400)
    expected = features[:] if per == "patch" else pooled_slowly(features, pool)

    export(Contents(features, per, pool), f"{tmp_path}/out{ending}", command="as here")

    got = READERS[ending](tmp_path / f"out{ending}".rstrip("/"))
    values = got["features"]
    if ending == ".csv":  # read as float64, it is the very number, and so it is at any precision
        assert np.array_equal(values, expected.astype(np.float64)) and np.signbit(values[0, 0]) == np.signbit(
            expected[0, 0]
        )
        values = values.astype(expected.dtype)
    assert same_bits(values, expected)
    provenance = json.loads(got["provenance"])
    assert provenance["fingerprint"] == features.store.fingerprint and provenance["identity"] == features.identity
    assert (provenance["rows"], provenance["width"]) == expected.shape and provenance["dtype"] == expected.dtype.name
    assert provenance["per"] == per and provenance["command"] == "as here"
    assert provenance["classes"] == list(features.classes)
    _check_columns(got, features, per)


def _check_columns(got: dict[str, Any], features: Features, per: str) -> None:
    ids, is_patch = np.array(features.picture_ids), per == "patch"
    picture = features.picture if is_patch else np.arange(len(ids))
    if "picture_ids" in got:  # a file of arrays
        assert got["picture_ids"].tolist() == ids.tolist() and np.array_equal(got["picture"], picture)
        assert np.array_equal(got["picture_labels"], features.picture_labels)
    else:
        assert got["picture"].tolist() == ids[picture].tolist()
    if is_patch:
        boxes = got["box_xyxy"] if "box_xyxy" in got else np.stack([got[c] for c in ("x0", "y0", "x1", "y1")], axis=1)
        assert np.array_equal(boxes.astype(np.float32), features.box_xyxy)
        assert np.array_equal(got["scale"].astype(int), features.scale)
        assert np.array_equal(got["label"].astype(int), features.labels) and (features.labels >= 0).any()
        if "class" in got:
            assert got["class"].tolist() == ["" if i < 0 else features.classes[i] for i in features.labels]
    elif "class" in got:
        for column, name in enumerate(features.classes):
            assert np.array_equal(got[f"label_{name}"].astype(int), features.picture_labels[:, column])
        single = got["class"].tolist()
        assert single[3] == "" and single[4] == features.classes[features.picture_labels[4].argmax()]


@pytest.mark.parametrize("ending", [".parquet", ".npz", ".safetensors"])
def test_float32_has_the_same_values(features, tmp_path, ending):
    export(Contents(features, as_float32=True), f"{tmp_path}/out{ending}")

    assert same_bits(READERS[ending](tmp_path / f"out{ending}")["features"], features[:].astype(np.float32))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_store_alone_and_a_split_without_labels_have_no_label_columns(features, tmp_path, ending):
    table = replace(features.table, picture_labels=np.zeros((36, 0), np.int8))
    said: list[str] = []

    export(Contents(Features(features.store, table)), f"{tmp_path}/out{ending}", say=said.append)

    got = READERS[ending](tmp_path / f"out{ending}".rstrip("/"))
    assert not {"label", "class", "picture_labels"} & set(got) and "no labels are in it" in said[-1]


def test_mirrored_patches_are_marked(features, tmp_path):
    flip = np.arange(features.table.n_rows) % 2 == 1
    flipped = Features(features.store, replace(features.table, flip=flip))
    for ending in (".parquet", ".csv", ".h5", ".safetensors"):
        export(Contents(flipped), f"{tmp_path}/out{ending}")
        assert np.array_equal(READERS[ending](tmp_path / f"out{ending}")["flip"].astype(int), flip)


def test_equal_rows_give_equal_bytes(features, tmp_path):
    for ending in (".parquet", ".npy", ".npz", ".csv", ".h5", ".safetensors"):
        for name in ("one", "two"):
            export(Contents(features), f"{tmp_path}/{name}{ending}")
        assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes(), ending


# ---- interrupted


class Stop(Exception):
    """Stands for whatever ends an export early."""


def stop_after(contents: Contents, n: int, monkeypatch) -> None:
    """Let the rows end in an error after `n` blocks."""
    blocks = contents.blocks

    def stopping(first_part: int = 0):
        for i, block in enumerate(blocks(first_part)):
            if i == n:
                raise Stop
            yield block

    monkeypatch.setattr(type(contents), "blocks", lambda self, first_part=0: stopping(first_part))


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != "/"])
def test_a_file_appears_complete_or_not_at_all(features, tmp_path, monkeypatch, ending):
    contents, target = Contents(features), tmp_path / f"out{ending}"
    export(contents, str(target))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        stop_after(contents, 2, patch)
        with pytest.raises(Stop):
            export(replace(contents, as_float32=True), str(target), overwrite=True)
        with pytest.raises(Stop):
            export(contents, f"{tmp_path}/new{ending}")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("per", ["patch", "picture"])
def test_a_folder_resumes_at_the_first_missing_shard(features, tmp_path, monkeypatch, per):
    monkeypatch.setattr(arrow, "SHARD_BYTES", 400)
    contents = Contents(features, per)
    export(contents, f"{tmp_path}/whole/")
    for n in range(1, len(features.store.parts)):
        with monkeypatch.context() as patch:
            stop_after(contents, n, patch)
            with pytest.raises(Stop):
                export(contents, f"{tmp_path}/{n}/")
        kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / f"{n}/data").glob("*.parquet")}
        assert not (tmp_path / f"{n}/README.md").exists()

        export(contents, f"{tmp_path}/{n}/")

        for path in (tmp_path / "whole/data").iterdir():
            got = tmp_path / f"{n}/data" / path.name
            assert got.read_bytes() == path.read_bytes()
            assert kept.get(path.name, got.stat().st_mtime_ns) == got.stat().st_mtime_ns
        assert (tmp_path / f"{n}/README.md").read_bytes() == (tmp_path / "whole/README.md").read_bytes()


def test_a_folder_of_something_else_is_refused(features, tmp_path):
    export(Contents(features), f"{tmp_path}/rows/")
    with pytest.raises(PipelineError, match=r"holds another export \(.*per.* differ\); remove it"):
        export(Contents(features, "picture"), f"{tmp_path}/rows/")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(PipelineError, match="mine: not an export, and not empty"):
        export(Contents(features), f"{tmp_path}/mine/")
    with pytest.raises(SettingsError, match="never overwritten"):
        export(Contents(features), f"{tmp_path}/rows/", overwrite=True)


KILL = """
import os, signal
from pipeline.exchange.contents import Contents
blocks = Contents.blocks
def killed(self, first_part=0):
    for i, block in enumerate(blocks(self, first_part)):
        if i == {n}:
            os.kill(os.getpid(), signal.SIGKILL)
        yield block
Contents.blocks = killed
"""


def test_a_killed_process_leaves_nothing_that_passes_for_an_export(stepped, tmp_path):
    folder = stepped[0]
    line = f"export --dataset tiny --split val --config config.yaml --to {tmp_path}/out.csv"
    code, err = end(start_command(folder, line, before=KILL.format(n=0)))
    assert code == -signal.SIGKILL, err
    assert not (tmp_path / "out.csv").exists() and list(tmp_path.glob(".*.partial"))

    ended = run_command(folder, *line.split())

    assert ended.code == 0 and sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.csv.json"]


# ---- memory


MEMORY = """
import sys
import numpy as np
from pipeline.activations.features import Features
from pipeline.activations.store import Store
from pipeline.exchange.contents import Contents
from pipeline.exchange.export import export
from pipeline.io.memory import peak_memory
small, large, folder = sys.argv[1:]
for store in (small, large):
    for ending in (".parquet", ".npz", ".h5", "/"):
        export(Contents(Features(Store(store))), f"{folder}/{store[-10:-5]}{ending}")
    export(Contents(Features(Store(store)), "picture"), f"{folder}/{store[-10:-5]}.npy")
    print(peak_memory())
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_store(tmp_path):
    """Forty times the rows, 80 MiB of them, cost less than a quarter of their size."""
    width, part_rows, paths = 256, 4096, []
    for name, n_parts in (("small", 1), ("large", 40)):
        table = table_of_two_to_five("train", n_parts * part_rows // 14 * 4)
        rows = np.tile(np.arange(width, dtype=np.float16), (table.n_rows, 1))  # quickly compressed
        paths.append(str(seal_store(tmp_path / f"{name}.zarr", table, rows, part_rows).folder.path))
        n_bytes = rows.nbytes
    code = MEMORY.replace("sys.argv[1:]", repr([*paths, str(tmp_path)]))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    small, large = map(int, ended.stdout.split())
    assert large - small < n_bytes / 4, f"{(large - small) / 2**20:.0f} of {n_bytes / 2**20:.0f} MiB"


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.hdf5", r"unknown ending '.hdf5'; known: .parquet, .npy, .* did you mean .h5\?"),
        ("out.parqet", r"did you mean .parquet\?"),
        ("out.PQ", r"did you mean .parquet\?"),
        ("out", "no ending; known"),
    ],
)
def test_an_unknown_ending_is_refused_with_those_that_there_are(features, tmp_path, name, words):
    with pytest.raises(SettingsError, match=words):
        export(Contents(features), f"{tmp_path}/{name}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "ending", "package"), [("pyarrow", ".parquet", "pyarrow"), ("lance", ".lance", "pylance")]
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    features, tmp_path, monkeypatch, module, ending, package
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingDataError, match=f"^{package} is not installed; install it with: python -m pip install {package}$"
    ):
        export(Contents(features), f"{tmp_path}/out{ending}")


def test_an_existing_file_stays_unless_it_shall_be_replaced(features, tmp_path):
    (tmp_path / "out.csv.json").write_text("mine")
    with pytest.raises(PipelineError, match=r"out.csv.json: exists already; give --overwrite"):
        export(Contents(features), f"{tmp_path}/out.csv")
    assert (tmp_path / "out.csv.json").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    export(Contents(features), f"{tmp_path}/out.csv", overwrite=True)
    assert (tmp_path / "out.csv").is_file()


def test_a_disk_without_room_is_refused_before_anything_is_read(features, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(PipelineError, match="may be needed and 10 B are free"):
        export(Contents(features), f"{tmp_path}/out.npy")
    assert not list(tmp_path.iterdir())


def test_some_rows_of_a_picture_are_not_pooled(features, tmp_path):
    rows = np.flatnonzero(features.labels >= 0)
    changes = {"seen.which": which_rows(rows)}
    store = seal_store(tmp_path / "some.zarr", features.table, features[:], **changes)
    with pytest.raises(StoreError, match="needs all rows of a picture; extract them with"):
        Contents(Features(store, features.table), "picture")
    with pytest.raises(SettingsError, match=r"pool: unknown 'mena'; known: mean, max, mean\+max; did you mean mean"):
        Contents(features, "picture", "mena")


# ---- in Python


@pytest.mark.parametrize("pool", ["mean", "max", "mean+max"])
def test_pooled_vectors_and_frames(features, pool):
    expected = pooled_slowly(features, pool)
    assert same_bits(features.pooled(pool), expected)
    frame = features.to_frame(per="picture", pool=pool)
    assert same_bits(frame.filter(regex=r"^f\d").to_numpy(), expected)
    assert frame["picture"].tolist() == list(features.picture_ids)
    assert frame["label_fish,x"].tolist() == features.picture_labels[:, 2].tolist()
    lengths = np.linalg.norm(features.pooled("max", normalise=True).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_a_frame_of_patches(features):
    frame = features.to_frame()
    assert isinstance(frame, pandas.DataFrame) and same_bits(frame.filter(regex=r"^f\d").to_numpy(), features[:])
    assert np.array_equal(frame[["x0", "y0", "x1", "y1"]].to_numpy(), features.box_xyxy)
    assert np.array_equal(frame["label"], features.labels)
    some = features.to_frame(features.labels == 0, activations=False)
    assert some.index.tolist() == np.flatnonzero(features.labels == 0).tolist() and set(some["class"]) == {"cat"}
    assert features.to_frame(5)["picture"].tolist() == [features.picture_ids[features.picture[5]]]
    with pytest.raises(ValueError, match="per: expected patch or picture"):
        features.to_frame(per="row")
    with pytest.raises(ValueError, match="chooses patches"):
        features.to_frame([1], per="picture")


def test_blocks_from_any_part_on_are_the_last_ones_of_all(features):
    for per in ("patch", "picture"):
        contents = Contents(features, per, "mean+max")
        whole = list(contents.blocks())
        assert len(whole) == len(contents.parts) and sum(len(b.features) for b in whole) == contents.n_rows
        for first in range(len(whole)):
            rest = list(contents.blocks(first))
            assert all(map(equal_blocks, rest, whole[first:])) and len(rest) == len(whole) - first


def equal_blocks(one: Block, other: Block) -> bool:
    return same_bits(one.features, other.features) and all(
        same_bits(one.arrays[name], other.arrays[name]) for name in other.arrays
    )
