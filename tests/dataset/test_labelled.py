"""Datasets without boxes: class folders, and tables of pictures and labels."""

import csv
import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.dataset.describe.divide import divide_by_class
from pipeline.dataset.describe.folders import new_folders_manifest
from pipeline.dataset.describe.recognise import has_class_folders
from pipeline.dataset.describe.table import TableOptions, describe_table, new_table_manifest
from pipeline.dataset.describe.tree import read_tree
from pipeline.dataset.fetch import check
from pipeline.dataset.listing import id_of
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split, state_of_split
from pipeline.dataset.split import is_picture_id
from pipeline.io.errors import DatasetError, MissingDataError, SettingsError

QUIET = {"say": lambda message: None}


def draw(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12), "olive").save(root / path)


def write_table(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def manifests(tmp_path) -> Path:
    return tmp_path / "data_manifests"


@pytest.fixture
def scenes(tmp_path) -> Path:
    root = tmp_path / "My scenes"
    draw(root, *(f"hot dog/{n}.jpg" for n in range(5)), *(f"beach/b{n}.PNG" for n in range(10)))
    draw(root, ".cache/x.jpg")
    return root


@pytest.fixture
def attributes(tmp_path) -> Path:
    """Ten pictures; tails on the first five, stripes on every other one, of the last nobody knows."""
    root = tmp_path / "faces"
    draw(root, *(f"img/{n}.jpg" for n in range(10)))
    rows = [f"img/{n}.jpg,{int(n < 5)},{'' if n == 9 else int(n % 2 == 0)}" for n in range(10)]
    return write_table(root / "attributes.csv", "picture,has tail,stripes", *rows)


# ---- ids


@given(st.text(min_size=1, max_size=300).filter(lambda s: "\0" not in s))
@settings(max_examples=300, deadline=None)
def test_any_path_gives_an_id_that_is_a_plain_name(path):
    i = id_of(f"class/{path}.jpg")

    assert is_picture_id(i) and ".." not in i and "/" not in i


def test_long_paths_differ_in_their_ids():
    long = "x" * 300

    assert id_of(f"a/{long}1.jpg") != id_of(f"a/{long}2.jpg")
    assert len(id_of(f"a/{long}1.jpg")) == 200


# ---- class folders


def test_class_folders_are_divided_class_by_class(scenes, manifests):
    said = []
    before = sorted((str(p), p.stat().st_mtime_ns) for p in scenes.rglob("*"))

    new_folders_manifest(scenes, "mine", manifests, say=said.append)

    manifest = load_manifest("mine", manifests)
    assert (manifest.layout, manifest.classes, manifest.has_boxes) == ("folders", ("beach", "hot dog"), False)
    train, val = read_split(manifest, "train"), read_split(manifest, "val")
    # 60 to 40 within each class, exactly.
    assert (train.labels == 1).sum(0).tolist() == [6, 3] and (val.labels == 1).sum(0).tolist() == [4, 2]
    assert set(np.unique(train.labels)) == {-1, 1} and (train.labels == 1).sum(1).tolist() == [1] * 9
    for split in (train, val):
        for i, path, label in zip(split.ids, split.paths, split.labels, strict=True):
            assert path.is_file()
            assert i == f"{path.parent.name.replace(' ', '_')}__{path.stem}"
            assert manifest.classes[int(label.argmax())] == path.parent.name
        assert all(not len(a.box_xyxy) for a in split.annotations)
    assert not set(train.ids) & set(val.ids)
    assert sorted((str(p), p.stat().st_mtime_ns) for p in scenes.rglob("*")) == before
    assert "2 classes: beach, hot dog" in said and any("60 to 40" in line for line in said)


def test_the_seed_decides(scenes, manifests):
    lists = {}
    for name, seed in {"a": 0, "again": 0, "other": 1}.items():
        new_folders_manifest(scenes, name, manifests, seed=seed, **QUIET)
        lists[name] = (manifests / name / "val.txt").read_text()

    assert lists["a"] == lists["again"] != lists["other"]


def test_folders_of_splits_are_the_splits(tmp_path, manifests):
    root, said = tmp_path / "birds", []
    draw(root, "train/wren/1.jpg", "train/robin/1.jpg", "train/robin/2.jpg", "val/wren/1.jpg", "val/kite/1.jpg")
    draw(root, "val/stray.jpg", "train/robin/deeper/3.jpg")

    new_folders_manifest(root, "birds", manifests, say=said.append)

    manifest = load_manifest("birds", manifests)
    assert (manifest.fit, manifest.eval, manifest.classes) == ("train", "val", ("kite", "robin", "wren"))
    assert read_split(manifest, "train").ids == ("robin__1", "robin__2", "wren__1")
    assert read_split(manifest, "val").labels.tolist() == [[1, -1, -1], [-1, -1, 1]]
    assert not (manifests / "birds").exists()  # no list is needed
    assert any("class kite: no picture in train" in line for line in said)
    assert any("stray.jpg" in line for line in said) and any("robin/deeper/" in line for line in said)
    # A further picture belongs to its split, and is noticed.
    before = state_of_split(manifest, "train"), read_split(manifest, "train").annotation_digest
    draw(root, "train/wren/2.jpg")
    assert read_split(manifest, "train").ids[-1] == "wren__2"
    assert before[0] != state_of_split(manifest, "train")
    assert before[1] != read_split(manifest, "train").annotation_digest


def test_a_class_that_is_called_train_must_be_said(tmp_path, manifests):
    root = tmp_path / "vehicles"
    draw(root, *(f"train/{n}.jpg" for n in range(3)), *(f"bus/{n}.jpg" for n in range(3)))

    with pytest.raises(DatasetError, match=r"train/ \(3 pictures\): the name of a split[\s\S]*--folders classes"):
        new_folders_manifest(root, "vehicles", manifests, **QUIET)
    new_folders_manifest(root, "vehicles", manifests, folders="classes", **QUIET)

    assert load_manifest("vehicles", manifests).classes == ("bus", "train")


def test_what_class_folders_are(scenes, tmp_path):
    (tmp_path / "empty").mkdir()
    draw(tmp_path / "flat", "a.jpg")
    found = {name: has_class_folders(read_tree(tmp_path / name)) for name in ("empty", "flat", scenes.name)}

    assert found == {"empty": False, "flat": False, scenes.name: True}


def test_clashes_name_all_files(tmp_path, manifests):
    root = tmp_path / "x"
    draw(root, "a/1.jpg", "a/1.png", "b b/2.jpg", "b_b/2.jpg", "c/3.jpg")

    with pytest.raises(DatasetError) as caught:
        new_folders_manifest(root, "x", manifests, **QUIET)

    assert "2 problem(s)" in str(caught.value)
    assert "a/1.jpg, a/1.png: one id for several pictures (a__1)" in str(caught.value)
    assert "b b/2.jpg, b_b/2.jpg: one id for several pictures (b_b__2)" in str(caught.value)
    assert not manifests.exists()


def test_one_class_is_not_enough(tmp_path, manifests):
    draw(tmp_path / "x", "a/1.jpg", "a/2.jpg")

    with pytest.raises(DatasetError, match="a single class, a"):
        new_folders_manifest(tmp_path / "x", "x", manifests, **QUIET)


# ---- tables


def test_a_table_of_attributes(attributes, manifests):
    said = []
    new_table_manifest(attributes, None, "faces", manifests, say=said.append)

    manifest = load_manifest("faces", manifests)
    assert (manifest.layout, manifest.table, manifest.zero) == ("table", "attributes.csv", "absent")
    assert manifest.classes == ("has tail", "stripes")
    train, val = read_split(manifest, "train"), read_split(manifest, "val")
    labels = dict(zip(train.ids + val.ids, [*train.labels.tolist(), *val.labels.tolist()], strict=True))
    assert labels == {f"img__{n}": [1 if n < 5 else -1, 0 if n == 9 else 1 - 2 * (n % 2)] for n in range(10)}
    assert (train.labels == 1).sum(0).tolist() == [3, 3] and (val.labels == 1).sum(0).tolist() == [2, 2]
    assert all(path.is_file() for path in (*train.paths, *val.paths))
    assert any("0: absent, nothing: unknown" in line for line in said)


def test_where_minus_one_stands_the_user_says_what_is_unknown(attributes, manifests):
    root = attributes.parent
    table = write_table(root / "t.csv", "picture,a,b", *(f"img/{n}.jpg,{n % 3 - 1},{1 - n % 2}" for n in range(10)))

    with pytest.raises(DatasetError, match=r"1, -1 and 0[\s\S]*--zero unknown --minus-one absent"):
        new_table_manifest(table, None, "faces", manifests, **QUIET)
    describe_table(table, None, "faces", manifests, TableOptions(zero="unknown"), **QUIET)

    manifest = load_manifest("faces", manifests)
    assert manifest.zero == "unknown"
    split = read_split(manifest, "train")
    of = {i: row.tolist() for i, row in zip(split.ids, split.labels, strict=True)}
    assert all(of[i] == [int(i[-1]) % 3 - 1, 1 - int(i[-1]) % 2] for i in of)
    # What 0 means can be changed, and everything that depends on it is made again.
    path = manifests / "faces.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "zero": "absent"}))
    changed = load_manifest("faces", manifests)
    assert 0 not in read_split(changed, "train").labels
    assert read_split(changed, "train").annotation_digest != split.annotation_digest
    assert state_of_split(changed, "train") != state_of_split(manifest, "train")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_one_label_and_splits(tmp_path, manifests, delimiter):
    root = tmp_path / "flowers"
    draw(root, *(f"{n}.jpg" for n in range(6)))
    rows = [("picture", "split", "label", "width")]
    rows += [(f"./{n}.jpg", "train" if n < 3 else "test", ("rose", "tulip, red")[n % 2], "16") for n in range(5)]
    rows += [(str(root / "5.jpg"), "server", "", "")]
    table, said = root / "labels.csv", []
    with open(table, "w", newline="", encoding="utf-8-sig") as stream:  # as spreadsheets write it
        csv.writer(stream, delimiter=delimiter).writerows(rows)

    new_table_manifest(table, root, "flowers", manifests, say=said.append)

    manifest = load_manifest("flowers", manifests)
    assert (manifest.fit, manifest.eval, manifest.classes) == ("train", "test", ("rose", "tulip, red"))
    assert read_split(manifest, "train").ids == ("0", "1", "2")
    assert read_split(manifest, "test").labels.tolist() == [[-1, 1], [1, -1]]
    assert not manifest.splits["server"].labelled and read_split(manifest, "server").labels is None
    assert any("not used" in line and "width" in line for line in said)


def test_the_table_may_lie_elsewhere(attributes, tmp_path, manifests):
    table = write_table(tmp_path / "other" / "t.csv", *attributes.read_text().splitlines())

    new_table_manifest(table, attributes.parent, "faces", manifests, **QUIET)

    manifest = load_manifest("faces", manifests)
    assert manifest.table == str(table.resolve())
    assert len(read_split(manifest, "train").ids) == 6


BAD_TABLES = {
    "no picture column": (["file,a", "img/0.jpg,1"], "no column 'picture'"),
    "fields": (["picture,a", "img/0.jpg,1", "img/1.jpg"], "line 3: 1 fields, expected 2"),
    "columns twice": (["picture,a,a", "img/0.jpg,1,0"], "columns named twice: 'a'"),
    "nothing": (["picture,a"], "no row below the header"),
    "no label": (["picture,split", "img/0.jpg,train"], "columns picture and split, and none with labels"),
    "values": (["picture,a", "img/0.jpg,2", "img/1.jpg,yes"], "line 2: column a: .* got '2'(?s:.*)line 3: .*'yes'"),
    "paths": (["picture,a", "../x.jpg,1", "/etc/x.jpg,0"], "line 2: '../x.jpg': expected a path below"),
    "no path": (["picture,a", ",1", "img/0.jpg,0"], "line 2: no picture"),
    "twice": (["picture,a", "img/0.jpg,1", "img/0.jpg,0"], "line 3: img/0.jpg: other values than on line 2"),
    "absent": (["picture,a", "img/0.jpg,1", "img/77.jpg,0"], "img/77.jpg: no such picture in"),
    "one label": (["picture,label", "img/0.jpg,a", "img/1.jpg,a"], "fewer than two labels"),
    "class name": (["picture,label", "img/0.jpg,a\\b", "img/1.jpg,a"], r"column 'a\\\\b': class names become part"),
    "slash": (["picture,label", "img/0.jpg,a/b", "img/1.jpg,a"], "label 'a/b' holds '/'.*(?s:.*)or another name"),
    "encoding": (["picture,label", "img/0.jpg,\0"], "holds NUL, as UTF-16 without its mark does; save it as"),
    "word for nothing": (["picture,label", "img/0.jpg,a", "img/1.jpg,NaN"], r"label 'NaN' \(1 rows\): no label, or"),
    "nothing shared": (["picture,label", "img/0.jpg,1.5", "img/1.jpg,2.5"], "no class has two pictures"),
    "split of words": (
        ["picture,label,split", "img/0.jpg,a,train set", "img/1.jpg,b,train set"],
        r"1 problem\(s\)\s+- line 2: split 'train set' \(2 pictures\)",
    ),
    "elsewhere": (["picture,a", "77/0.jpg,1"], "77/0.jpg: no such picture in .*; there is img/0.jpg"),
    "two renames": (["image,class", "img/0.jpg,a"], "rename 'image' to 'picture'; rename 'class' to 'label'"),
    "no pair": (["picture,label,split", "img/0.jpg,a,train", "img/1.jpg,b,train"], "expected train and val, or"),
    "unlabelled": (
        ["picture,label,split", "img/0.jpg,a,train", "img/1.jpg,,train", "img/2.jpg,b,val"],
        "line 3: no label, others of split train have some",
    ),
    "split name": (["picture,label,split", "img/0.jpg,a,../x", "img/1.jpg,b,val"], "line 2: split '../x'"),
    "not text": (["picture,a", 'img/"0.jpg,1', '"'], "not a CSV file"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(attributes, manifests, name):
    lines, message = BAD_TABLES[name]

    with pytest.raises(DatasetError, match=message):
        new_table_manifest(write_table(attributes.parent / "t.csv", *lines), None, "x", manifests, **QUIET)
    assert not manifests.exists()


def test_no_table_and_no_folder(tmp_path, manifests):
    with pytest.raises(DatasetError, match="no such table"):
        new_table_manifest(tmp_path / "t.csv", None, "x", manifests, **QUIET)
    with pytest.raises(MissingDataError, match="--root names the one"):
        new_table_manifest(tmp_path / "t.csv", tmp_path / "gone", "x", manifests, **QUIET)


# ---- afterwards


def test_what_changes_is_noticed(attributes, manifests):
    new_table_manifest(attributes, None, "faces", manifests, **QUIET)
    manifest = load_manifest("faces", manifests)
    before = state_of_split(manifest, "train")
    assert before == state_of_split(manifest, "train")
    digest = read_split(manifest, "train").annotation_digest

    first = read_split(manifest, "train").paths[0]
    os.utime(first, (1, 1))
    touched = state_of_split(manifest, "train")
    assert touched != before and read_split(manifest, "train").annotation_digest == digest

    attributes.write_text(attributes.read_text().replace(f"img/{first.name},1", f"img/{first.name},0"))
    assert state_of_split(manifest, "train") != touched
    assert read_split(manifest, "train").annotation_digest != digest


def test_check_names_what_is_wrong(attributes, manifests, scenes):
    new_table_manifest(attributes, None, "faces", manifests, **QUIET)
    new_folders_manifest(scenes, "scenes", manifests, **QUIET)
    faces, own = load_manifest("faces", manifests), load_manifest("scenes", manifests)
    assert check(faces, deep=True).ok and check(own, deep=True).ok
    assert str(check(own).splits[0]) == "train: 9 listed (manifest: 9), 9 pictures"

    gone, torn = read_split(faces, "val").paths[0], read_split(own, "val").paths[0]
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:40])
    assert check(own).ok
    assert [str(p) for p in check(faces).problems] == [f"val: img/{gone.name}: no such picture"]
    assert len(check(own, deep=True).problems) == 1 and "cannot be decoded" in check(own, deep=True).problems[0]
    with pytest.raises(DatasetError, match=r"no such picture[\s\S]*pipeline data check faces"):
        read_split(faces, "val")

    torn.unlink()
    assert "listed, and no picture has this id" in check(own).problems[0]


def test_folders_that_move(scenes, tmp_path, manifests):
    new_folders_manifest(scenes, "mine", manifests, **QUIET)
    manifest = load_manifest("mine", manifests)
    ids = read_split(manifest, "val").ids
    scenes.rename(tmp_path / "elsewhere")
    with pytest.raises(MissingDataError, match="pictures not found"):
        read_split(manifest, "val")
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "root" / scenes.name)

    assert read_split(manifest, "val", tmp_path / "root").ids == ids


@pytest.mark.parametrize(
    "change",
    [{"table": "t.csv"}, {"layout": "table"}, {"layout": "table", "table": "../t.csv"}, {"layout": "voc"}],
)
def test_manifests_that_do_not_fit_together(tmp_path, manifests, change):
    draw(tmp_path / "x", "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/2.jpg")
    path = new_folders_manifest(tmp_path / "x", "x", manifests, **QUIET)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))

    with pytest.raises(SettingsError):
        load_manifest("x", manifests)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 60), st.integers(1, 5), st.integers(0, 99))
def test_division_of_several_labels(n, n_classes, seed):
    positive = np.random.default_rng(seed).random((n, n_classes)) < 0.3

    in_val = divide_by_class(positive, seed)

    assert (in_val == divide_by_class(positive, seed)).all()
    assert 0 < in_val.sum() < n
    rarest = positive.sum(0).argmin()
    total = positive[:, rarest].sum()
    if total > 1:
        assert 0 < in_val[positive[:, rarest]].sum() < total


def test_large_tables_take_seconds(tmp_path, manifests):
    """Names alone: pictures are not opened, so empty files do."""
    root, n = tmp_path / "many", 10_000
    for k in range(100):
        (root / f"{k:02d}").mkdir(parents=True)
    for k in range(n):
        os.close(os.open(root / f"{k % 100:02d}" / f"{k:06d}.jpg", os.O_CREAT | os.O_WRONLY))
    values = np.random.default_rng(0).integers(0, 2, (n, 20)).astype(str).tolist()
    lines = [f"{k % 100:02d}/{k:06d}.jpg,{','.join(row)}" for k, row in enumerate(values)]
    table = write_table(root / "t.csv", "picture," + ",".join(f"a{c}" for c in range(20)), *lines)

    started = time.process_time()
    new_table_manifest(table, None, "many", manifests, **QUIET)
    split = read_split(load_manifest("many", manifests), "train")
    elapsed = time.process_time() - started

    assert len(split.ids) == pytest.approx(6000, rel=0.01)
    assert elapsed < 5  # a second or so; what is not linear in rows would show
