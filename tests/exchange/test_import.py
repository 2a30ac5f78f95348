"""Rows that were made elsewhere: a sealed store like any other, joined by id or window, or refused by name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet as pq
import pytest
import yaml
from support.cli import Ended, run_command
from support.dataset import CONFIG, copy_work
from support.tables import table_of_strips

import pipeline
from pipeline.activations.store import Store
from pipeline.activations.writer import StoreWriter
from pipeline.exchange.match import match_rows
from pipeline.exchange.read import GivenRows
from pipeline.io.errors import DatasetError
from pipeline.patches.settings import CropSettings

TRAIN, VAL = [f"p{i}" for i in range(6)], [f"q{i}" for i in range(4)]
CLASSES = np.arange(6) % 3  # ball, crate, both: as the pictures are drawn


def draw_vectors(ids: list[str], dtype: type = np.float32) -> np.ndarray:
    """Vectors that tell what a picture shows: the first column is high with a ball, the second with a crate."""
    kind = np.array([int(name[1:]) % 3 for name in ids])
    rows = np.random.default_rng(len(ids)).normal(0, 0.1, (len(ids), 5))
    rows[:, 0] += kind != 1
    rows[:, 1] += kind != 0
    return rows.astype(dtype)


def write_npy(folder: Path, name: str, ids: list[str], rows: np.ndarray) -> str:
    np.save(folder / f"{name}.npy", rows)
    (folder / f"{name}.txt").write_text("\n".join(ids) + "\n")
    return f"{name}.npy --ids {name}.txt"


def write_parquet(folder: Path, name: str, columns: dict) -> str:
    pq.write_table(pyarrow.table(columns), folder / f"{name}.parquet")
    return f"{name}.parquet"


@dataclass
class Work:
    """A work folder with a dataset in which no stage ran."""

    folder: Path

    def run(self, line: str) -> Ended:
        return run_command(self.folder, *line.split())

    def take(self, file: str, split: str = "train", rest: str = "--name vec --config config.yaml") -> Ended:
        return self.run(f"import-features {file} --dataset tiny --split {split} {rest}")


@pytest.fixture
def empty(begun, tmp_path) -> Work:
    return Work(copy_work(begun, tmp_path / "work"))


@pytest.fixture(scope="module")
def imported(begun, tmp_path_factory) -> Work:
    """Both splits imported, one from each kind of file, in another order than the list's."""
    work = Work(copy_work(begun, tmp_path_factory.mktemp("imported") / "work"))
    (work.folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "seeds": [0], "head": "svm"}))
    backwards = TRAIN[::-1]
    assert work.take(write_npy(work.folder, "train", backwards, draw_vectors(TRAIN)[::-1])).code == 0
    rows = [row.tolist() for row in draw_vectors(VAL)]
    assert work.take(write_parquet(work.folder, "val", {"picture": VAL, "features": rows}), "val").code == 0
    return work


def open_split(work: Work, split: str, name: str = "vec", **values) -> pipeline.Features:
    """Open imported rows as everything else is opened."""
    places = {key: str(work.folder / key) for key in ("cache", "results")}
    settings = yaml.safe_load((work.folder / "config.yaml").read_text())
    return pipeline.open_features("tiny", split, **{**settings, **places, "trunk": f"imported/{name}", **values})


def test_rows_are_those_of_the_file_as_float16_in_the_order_of_the_split(imported, monkeypatch):
    monkeypatch.chdir(imported.folder)
    for split, ids in (("train", TRAIN), ("val", VAL)):
        features = open_split(imported, split)
        assert np.array_equal(features[:], draw_vectors(ids).astype(np.float16))
        assert features.picture_ids == tuple(ids) and np.array_equal(features.picture, np.arange(len(ids)))
        identity = features.identity
        assert identity["how.made"] == "elsewhere" and identity["how.name"] == "vec"
        assert identity["seen.given_dtype"] == ("float32" if split == "train" else "float64")


def test_heads_recipes_reports_and_the_cache_work_on_them(imported):
    common = "--dataset tiny --config config.yaml --trunk imported/vec"
    for line in (
        f"fit-head {common} --head svm",
        f"score {common} --head svm",
        f"evaluate {common} --head svm --output results/tiny_map.json",
        f"recipe run svm-whole {common}",
        f"report {common} --head svm",
        f"export {common} --split val --to back.npy",
        "cache ls --config config.yaml",
        "cache verify --config config.yaml",
        f"cache explain {common} --split train",
        f"extract {common} --split train",
        "doctor --config config.yaml --trunk imported/vec",
    ):
        ended = imported.run(line)
        assert ended.code == 0, f"{line}: {ended.err}"
    result = json.loads((imported.folder / "results/tiny_map.json").read_text())
    assert result["trunk"] == "imported/vec" and result["mAP"] > 0.9  # what is drawn is told
    assert np.array_equal(np.load(imported.folder / "back.npy"), draw_vectors(VAL).astype(np.float16))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cache verify --recompute 5 --config config.yaml", "its rows were made elsewhere, and there is no network"),
        (
            "retrieve --query data/tiny/JPEGImages/p0.png --dataset tiny --config config.yaml --trunk imported/vec",
            "its rows were made elsewhere",
        ),
        (
            "recipe run fc6-retrained --dataset tiny --config config.yaml --trunk imported/vec",
            "trunk 'imported/vec' has no layer pool5",
        ),
    ],
)
def test_what_needs_a_network_says_that_there_is_none(imported, line, words):
    ended = imported.run(line)
    assert ended.code in (1, 2) and words in ended.err + ended.out


def test_a_damaged_store_is_mended_by_importing_again(imported, tmp_path):
    work = Work(copy_work(imported.folder, tmp_path / "copy"))
    store = next((work.folder / "cache").glob("tiny-train-imported-*.zarr"))
    part = store / "activations/c/0/0"
    sound = part.read_bytes()
    data = bytearray(sound)
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    assert work.run("cache verify --config config.yaml").code == 2
    ended = work.run("cache repair --config config.yaml")
    assert ended.code == 2 and "further rows come in with: pipeline import-features" in ended.err + ended.out
    assert work.take("train.npy --ids train.txt").code == 0
    assert part.read_bytes() == sound and work.run("cache verify --config config.yaml").code == 0


def test_the_same_rows_are_the_same_store_and_others_are_another(empty, monkeypatch):
    monkeypatch.chdir(empty.folder)
    file = write_npy(empty.folder, "rows", TRAIN, draw_vectors(TRAIN))
    first, again = empty.take(file), empty.take(file)
    assert first.code == again.code == 0 and first.out == again.out
    before = open_split(empty, "train").identity
    empty.take(write_npy(empty.folder, "other", TRAIN, draw_vectors(TRAIN) + np.float32(0.5)))
    after = open_split(empty, "train").identity
    differing = {key for key in before if before[key] != after[key]}
    assert differing == {"seen.values"} and len(list((empty.folder / "cache").glob("*imported-vec*.zarr"))) == 2


def test_a_head_refuses_rows_that_something_else_made(empty):
    head = "--head svm --dataset tiny --config config.yaml --trunk imported/vec"
    both = "--name vec --config config.yaml --made-by"
    empty.take(write_npy(empty.folder, "train", TRAIN, draw_vectors(TRAIN)), rest=f"{both} v1")
    empty.take(write_npy(empty.folder, "val", VAL, draw_vectors(VAL)), "val", f"{both} v2")
    assert empty.run(f"fit-head {head}").code == 0
    ended = empty.run(f"score {head}")
    assert ended.code == 2 and "how.made_by: got 'v2', expected 'v1'" in ended.err


def test_rows_of_all_splits_in_one_file_are_sorted_out(empty, monkeypatch):
    monkeypatch.chdir(empty.folder)
    ids = [*VAL, *TRAIN]
    file = write_npy(empty.folder, "all", ids, np.concatenate([draw_vectors(VAL), draw_vectors(TRAIN)]))
    (empty.folder / "all.txt").write_bytes("\ufeff{}\r\n".format("\r\n".join(ids)).encode())  # as Windows writes it
    ended = empty.take(file)
    assert ended.code == 0 and "6 rows are of train; 4 of other pictures are left out" in ended.err
    assert np.array_equal(open_split(empty, "train")[:], draw_vectors(TRAIN).astype(np.float16))


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_patches_come_back_as_they_were_exported(stepped, tmp_path, monkeypatch, kind):
    """In another order: each row finds its window."""
    work = Work(copy_work(stepped[0], tmp_path / "work"))
    monkeypatch.chdir(work.folder)
    assert work.run(f"export --dataset tiny --split train --to rows.{kind} --config config.yaml").code == 0
    if kind == "parquet":
        table = pq.read_table("rows.parquet")
        order = np.random.default_rng(0).permutation(len(table))
        pq.write_table(table.take(order), "rows.parquet")
    settings = yaml.safe_load(Path("config.yaml").read_text())
    Path("patches.yaml").write_text(yaml.safe_dump({**settings, "source": "grid"}))

    ended = work.take(f"rows.{kind}", rest="--name back --config patches.yaml")

    assert ended.code == 0, ended.err
    original = open_split(work, "train", trunk="random")
    back = open_split(work, "train", "back", source="grid")
    assert np.array_equal(back[:], original[:]) and np.array_equal(back.labels, original.labels)
    line = "--dataset tiny --config patches.yaml --trunk imported/back --head fca"
    assert work.run(f"fit-head {line}").code == 0


def test_turned_patches_of_one_box_are_told_apart_by_the_turn(tmp_path):
    crops = CropSettings(shares=(), turns=(-30, 30), flips=False)
    table = replace(table_of_strips(2), source="crops", crops=crops, first_row=np.array([0, 3, 6]))
    own = table.rows_at(slice(None))
    order = np.array([5, 3, 1, 0, 4, 2])
    columns = {"box_xyxy": own.box_xyxy[order], "flip": own.flip[order], "turn": own.turn[order]}
    picture = [table.ids[i] for i in own.picture[order]]
    given = GivenRows(tmp_path / "rows.parquet", np.zeros((6, 1)), picture, columns)

    assert order[match_rows(given, table)].tolist() == list(range(6))
    with pytest.raises(DatasetError, match="has turned patches, and the file has no column 'turn'"):
        match_rows(replace(given, windows={name: columns[name] for name in ("box_xyxy", "flip")}), table)


def test_an_import_resumes_at_the_parts_without_a_record(empty, monkeypatch):
    monkeypatch.chdir(empty.folder)
    file = write_npy(empty.folder, "rows", TRAIN, draw_vectors(TRAIN))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.exchange.import_features.rows_per_part", lambda *bounds, **batch: 2)
        write_part, written = StoreWriter.write_part, []

        def stopping(self, part, *rest):
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(part.index)
            write_part(self, part, *rest)

        with patch.context() as stop:
            stop.setattr(StoreWriter, "write_part", stopping)
            assert empty.take(file).code == 130
            assert (
                "no rows 'vec'"
                in empty.run("fit-head --dataset tiny --config config.yaml --trunk imported/vec --head svm").err
            )
        written.clear()
        stop_none = lambda self, part, *rest: (written.append(part.index), write_part(self, part, *rest))  # noqa: E731
        patch.setattr(StoreWriter, "write_part", stop_none)
        assert empty.take(file).code == 0 and written == [2]
    assert np.array_equal(open_split(empty, "train")[:], draw_vectors(TRAIN).astype(np.float16))


def test_wide_numbers_become_float16_and_it_is_said(empty):
    ended = empty.take(write_npy(empty.folder, "rows", TRAIN, draw_vectors(TRAIN, np.float64)))
    assert ended.code == 0 and "float64 became float16; no value changed by more than" in ended.err
    ended = empty.take(write_npy(empty.folder, "half", TRAIN, draw_vectors(TRAIN, np.float16)))
    assert ended.code == 0 and "became float16" not in ended.err


def bad_rows(row: int, value: float) -> np.ndarray:
    rows = draw_vectors(TRAIN)
    rows[row, 2] = value
    return rows


BAD = {
    "an id that is missing": (lambda f: write_npy(f, "r", TRAIN[1:], draw_vectors(TRAIN[1:])), "no rows of 1 of the 6"),
    "ids of another kind": (
        lambda f: write_npy(f, "r", [f"{name}.png" for name in TRAIN], draw_vectors(TRAIN)),
        "ids in the file are like 'p0.png'; those of the split are like 'p0'",
    ),
    "an id twice": (lambda f: write_npy(f, "r", [*TRAIN, "p1"], draw_vectors([*TRAIN, "p1"])), "p1: 2 rows"),
    "no ids": (
        lambda f: write_npy(f, "r", TRAIN, draw_vectors(TRAIN)).split()[0],
        "give a text file of ids: --ids FILE",
    ),
    "a table that is no CSV": (
        lambda f: (
            (f / "r.npy.rows.csv").write_text('picture\n"' + "p" * 200_000)
            and write_npy(f, "r", TRAIN, draw_vectors(TRAIN)).split()[0]
        ),
        "r.npy.rows.csv: cannot be read as the pictures of r.npy: field larger than",
    ),
    "fewer ids than rows": (lambda f: write_npy(f, "r", TRAIN[1:], draw_vectors(TRAIN)), "6 rows, and ids of 5"),
    "not a number": (lambda f: write_npy(f, "r", TRAIN, bad_rows(3, np.nan)), "p3: a value that is no number"),
    "too large": (lambda f: write_npy(f, "r", TRAIN, bad_rows(2, 7e4)), "p2: a value beyond float16"),
    "too small": (lambda f: write_npy(f, "r", TRAIN, draw_vectors(TRAIN) * 1e-7), "p0: values too small for float16"),
    "an empty file": (lambda f: (f / "r.npy").write_bytes(b"") or "r.npy --ids r.txt", "cannot be read as an array"),
    "an archive": (
        lambda f: np.savez(f / "r.npz", draw_vectors(TRAIN)) or (f / "r.npz").rename(f / "r.npy") and "r.npy",
        "got an archive",
    ),
    "a column twice": (
        lambda f: (
            pq.write_table(
                pyarrow.Table.from_arrays([TRAIN, [[0.0]] * 6, [[1.0]] * 6], ["picture", "features", "features"]),
                f / "r.parquet",
            )
            or "r.parquet"
        ),
        "columns named twice: 'features'",
    ),
    "a corner in words": (
        lambda f: write_parquet(
            f, "r", {"picture": TRAIN, "features": [[0.0]] * 6, **{c: ["left"] * 6 for c in ("x0", "y0", "x1", "y1")}}
        ),
        "column 'x0': expected numbers",
    ),
    "a scale that is none": (
        lambda f: write_parquet(
            f,
            "r",
            {"picture": TRAIN, "features": [[0.0]] * 6, **{c: [258.0] * 6 for c in ("x0", "y0", "x1", "y1", "scale")}},
        ),
        "column 'scale': expected whole numbers of 0 to 255",
    ),
    "whole numbers": (lambda f: write_npy(f, "r", TRAIN, np.ones((6, 5), int)), "expected numbers of float16"),
    "a single vector": (lambda f: write_npy(f, "r", TRAIN, np.ones(6, np.float32)), r"got shape (6,)"),
    "objects": (lambda f: write_npy(f, "r", TRAIN, np.array([{}] * 6)), "cannot be read as an array"),
    "another ending": (lambda f: "r.h5", "rows are read from .npy and .parquet"),
    "no file": (lambda f: "r.npy", "r.npy: no such file"),
    "no column": (
        lambda f: write_parquet(f, "r", {"picture": TRAIN, "feature": [[0.0]] * 6}),
        "no column 'features'; known: picture, feature; did you mean feature or picture?",
    ),
    "a column of numbers": (
        lambda f: write_parquet(f, "r", {"picture": TRAIN, "features": [0.0] * 6}),
        "expected a list of numbers per row, got double",
    ),
    "rows of different lengths": (
        lambda f: write_parquet(f, "r", {"picture": TRAIN, "features": [[0.0]] * 5 + [[0.0, 1.0]]}),
        "rows of different lengths: [1, 2]",
    ),
    "a missing value": (
        lambda f: write_parquet(f, "r", {"picture": TRAIN, "features": [[0.0, 1.0]] * 5 + [[None, 1.0]]}),
        "1 values are missing",
    ),
    "no parquet": (lambda f: (f / "r.parquet").write_text("x" * 99) and "r.parquet", "cannot be read as Parquet"),
    "half a box": (
        lambda f: write_parquet(f, "r", {"picture": TRAIN, "features": [[0.0]] * 6, "x0": [0.0] * 6}),
        "of a patch's box it has only x0",
    ),
    "other windows": (
        lambda f: write_parquet(
            f, "r", {"picture": TRAIN, "features": [[0.0]] * 6, **{c: [1.0] * 6 for c in ("x0", "y0", "x1", "y1")}}
        ),
        "its patches are not those of tiny train with source 'whole'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_right_is_refused_and_leaves_nothing(empty, case):
    make, words = BAD[case]
    ended = empty.take(make(empty.folder))
    assert ended.code == 2 and words in ended.err, ended.err
    assert not list((empty.folder / "cache").glob("*.zarr")) and not list((empty.folder / "cache").glob("receipts/*"))


def test_names_and_sources(empty):
    file = write_npy(empty.folder, "rows", TRAIN, draw_vectors(TRAIN))
    assert "imported/NAME" in empty.take(file, rest="--name a/b --config config.yaml").err
    settings = yaml.safe_load((empty.folder / "config.yaml").read_text())
    (empty.folder / "grid.yaml").write_text(yaml.safe_dump({**settings, "source": "grid"}))
    ended = empty.take(file, rest="--name vec --config grid.yaml")
    assert ended.code == 2 and "has a row per picture, and tiny train has 102 patches with source 'grid'" in ended.err
    ended = empty.run("fit-head --dataset tiny --config config.yaml --trunk imported/none --head svm")
    assert ended.code == 2 and "pipeline import-features FILE --dataset tiny --split train --name none" in ended.err
    assert empty.run("extract --dataset tiny --split train --trunk imported/none").code == 2


def test_the_store_is_sealed_and_its_values_are_in_its_identity(imported):
    store = Store(next((imported.folder / "cache").glob("tiny-val-imported-vec-features-*.zarr")))
    rows = draw_vectors(VAL).astype(np.float16)
    assert store.identity["seen.values"] == hashlib.sha256(rows.tobytes()).hexdigest()
    assert pandas.DataFrame(store.read_rows(np.arange(4))).shape == (4, 5)
