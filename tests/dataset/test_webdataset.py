"""Tar archives with labels beside the pictures: the same as class folders, and clear where labels are none."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw
from support.cli import run_command
from support.dataset import CONFIG

from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import check, read_split, state_of_split
from pipeline.io.errors import DatasetError, PipelineError
from pipeline.stages import patches
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.workspace import Workspace

CLASSES = ("ball", "hot dog")


def draw(kind: str, n: int) -> bytes:
    image = Image.new("RGB", (48, 48), (20 * n, 90, 160))
    pen = ImageDraw.Draw(image)
    (pen.ellipse if kind == "ball" else pen.rectangle)((4 + n, 6, 30 + n, 32), fill=(220, 40 + n, 10))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


PICTURES = {(kind, n): draw(kind, n) for kind in CLASSES for n in range(6)}


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))
    return path


def write_shards(folder: Path, label=lambda kind: {"cls": kind.encode()}, names=("shard-000", "shard-001")) -> str:
    """One archive per class; beside each picture what `label` gives by its ending, and a caption."""
    for name, kind in zip(names, CLASSES, strict=True):
        files: dict[str, bytes] = {}
        for n in range(6):
            beside = {**label(kind), "txt": b"a caption"}
            files |= {f"./{n:04d}.png": PICTURES[kind, n], **{f"./{n:04d}.{end}": data for end, data in beside.items()}}
        write_tar(folder / f"{name}.tar", files)
    return f"{folder}/*.tar"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))


def new(place: str, name: str, *options: str, code: int = 0) -> str:
    ended = run_command(Path.cwd(), "data", "new", "--root", place, "--name", name, *options)
    assert ended.code == code, ended.err
    return ended.err


def test_tables_labels_and_ap_are_those_of_class_folders(tmp_path):
    for (kind, n), data in PICTURES.items():
        path = tmp_path / "folders" / kind / f"{n:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    new("folders", "folders")
    said = new(write_shards(tmp_path / "set", names=CLASSES), "shards")  # so that ids are those of the folders
    assert "left out, 12, next to pictures in archives, not read (12 .txt)" in said and "ball.tar#./0000.txt" in said

    settings = parse_run_settings({**CONFIG, "source": "whole"})
    tables, results = {}, {}
    for name in ("folders", "shards"):
        run = RunContext(Workspace(settings), name)
        tables[name] = [patches.current_table(run, split) for split in ("train", "val")]
        for line in ("extract --split train", "extract --split val", "fit-head", "score", "evaluate --output r.json"):
            head = () if line.startswith("extract") else ("--head", "svm")
            ended = run_command(
                tmp_path, *line.split(), *head, "--dataset", name, "--config", "config.yaml", "--source", "whole"
            )
            assert ended.code == 0, ended.err
        results[name] = json.loads(Path("r.json").read_text())
    for of_folders, of_shards in zip(tables["folders"], tables["shards"], strict=True):
        assert of_folders.classes == of_shards.classes == CLASSES
        assert of_folders.rows_digest == of_shards.rows_digest
        assert of_folders.pictures_digest() == of_shards.pictures_digest()
        assert of_folders.labels_digest(settings.labels) == of_shards.labels_digest(settings.labels)
        assert (of_folders.picture_labels == of_shards.picture_labels).all()
    for field in ("mAP", "AP", "fingerprints", "accuracy", "k_sweep"):
        assert results["folders"][field] == results["shards"][field]


@pytest.mark.parametrize(
    ("label", "options", "classes"),
    [
        (lambda kind: {"cls": f"{CLASSES.index(kind)}\n".encode()}, (), ("0", "1")),
        (lambda kind: {"json": json.dumps({"label": kind, "id": 7}).encode()}, ("--label", "json:label"), CLASSES),
        (lambda kind: {"json": json.dumps({"n": CLASSES.index(kind)}).encode()}, ("--label", "json:n"), ("0", "1")),
        (lambda kind: {"json": json.dumps({"a": [kind, "any"]}).encode()}, ("--label", "json:a"), ("any", *CLASSES)),
        # A .cls beside a .json that is asked for is one of the others.
        (lambda kind: {"cls": b"5", "json": json.dumps({"l": kind}).encode()}, ("--label", "json:l"), CLASSES),
    ],
)
def test_labels_are_read_as_they_are_stated(tmp_path, label, options, classes):
    new(write_shards(tmp_path / "set", label), "shards", *options)
    manifest = load_manifest("shards")
    assert manifest.classes == classes and manifest.layout == "webdataset" and not manifest.has_boxes
    for split in ("train", "val"):
        read = read_split(manifest, split)
        for i, row in zip(read.ids, read.labels, strict=True):
            number = int(i.startswith("shard-001"))
            shown = {name for name, value in zip(classes, row, strict=True) if value == 1}
            assert shown == {classes[-2:][number]} | ({"any"} if len(classes) == 3 else set())
    assert check(manifest).ok


def test_archives_are_named_by_their_splits(tmp_path):
    both = {
        f"{kind}{n}.{end}": data
        for (kind, n), p in PICTURES.items()
        for end, data in (("png", p), ("cls", kind.encode()))
    }
    write_tar(tmp_path / "set/train-000.tar", both)
    write_tar(tmp_path / "set/val-000.tar", {k: v for k, v in both.items() if k[-5] in "01"})
    new("set/*.tar", "shards")
    manifest = load_manifest("shards")
    assert (manifest.fit, manifest.eval) == ("train", "val")
    assert [len(read_split(manifest, split).ids) for split in ("train", "val")] == [12, 4]


def test_without_labels_they_are_pictures_alone_and_other_files_are_counted(tmp_path):
    place = write_shards(tmp_path / "set", lambda kind: {"json": b'{"label": 1}'})
    said = new(place, "shards")
    assert "add --label json:KEY" in said and "12 .json, 12 .txt" in said
    assert load_manifest("shards").layout == "pictures"
    new(write_shards(tmp_path / "more"), "none", "--no-labels")
    assert load_manifest("none").layout == "pictures"


@pytest.mark.parametrize(
    ("label", "options", "words"),
    [
        ({"cls": b""}, (), ["expected the number or name of one class", "0000.cls"]),
        ({"cls": b"a\nb"}, (), ["expected the number or name of one class"]),
        ({"cls": b"\xff\xfe"}, (), ["not UTF-8"]),
        ({"cls": b"a/b"}, (), ["'a/b'"]),
        ({"cls": b"same"}, (), ["a single class, 'same'", "--no-labels"]),
        ({"cls": b"x" * (2**20 + 1)}, (), ["1,048,577 bytes, so it is no label"]),
        ({"json": b'{"label": 1.5}'}, ("--label", "json:label"), ["expected the number or name of a class"]),
        ({"json": b'{"label": true}'}, ("--label", "json:label"), ["expected the number or name of a class"]),
        ({"json": b'{"label": 1}'}, ("--label", "json:lable"), ["no key 'lable'", "it has 'label'"]),
        ({"json": b"[1]"}, ("--label", "json:label"), ["it is no object"]),
        ({"json": b"{"}, ("--label", "json:label"), ["no JSON"]),
        ({"json": b'{"label": 1}'}, ("--label", "json"), ["expected cls or json:NAME"]),
        ({}, ("--label", "cls"), ["there is no 0000.cls", "12 problem(s)"]),
    ],
)
def test_labels_that_are_none_are_named(tmp_path, label, options, words):
    said = new(write_shards(tmp_path / "set", lambda kind: label), "shards", *options, code=2)
    assert all(word in said for word in words), said
    assert not Path("data_manifests/shards.yaml").exists()


def test_two_labels_of_one_picture_are_refused(tmp_path):
    path = tmp_path / "set/shard-000.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name, data in (("a.png", PICTURES["ball", 0]), ("a.cls", b"1"), ("a.cls", b"2")):
            item = tarfile.TarInfo(name)
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))
    assert "has two of this name, and they differ" in new("set/shard-000.tar", "shards", code=2)


def test_a_changed_label_is_noticed_and_a_new_class_refused(tmp_path):
    place = write_shards(tmp_path / "set")
    new(place, "shards")
    manifest = load_manifest("shards")
    before, digest = state_of_split(manifest, "train"), read_split(manifest, "train").annotation_digest
    files = {}
    with tarfile.open(tmp_path / "set/shard-000.tar") as tar:
        files = {item.name: tar.extractfile(item).read() for item in tar}
    for end, words in ((b"hot dog", None), (b"cat", "a label that is no class of the manifest: 'cat'")):
        write_tar(tmp_path / "set/shard-000.tar", {**files, "./0000.cls": end, "./0001.cls": end, "./0005.cls": end})
        assert state_of_split(manifest, "train") != before
        if words is None:
            assert read_split(manifest, "train").annotation_digest != digest
            assert run_command(Path.cwd(), "data", "check", "shards").code == 0
        else:
            with pytest.raises(DatasetError, match=words):
                read_split(manifest, "train")
            assert words in run_command(Path.cwd(), "data", "check", "shards").err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": None}, "label: says where the labels of layout webdataset are"),
        ({"label": "txt"}, "label"),
        ({"folder": "set"}, "needs archives"),
        ({"layout": "folders", "folder": "set"}, "label: says where"),
    ],
)
def test_a_manifest_says_where_archives_and_labels_are(tmp_path, changes, words):
    new(write_shards(tmp_path / "set"), "shards")
    path = Path("data_manifests/shards.yaml")
    content = {k: v for k, v in {**yaml.safe_load(path.read_text()), **changes}.items() if v is not None}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(PipelineError, match=words):
        load_manifest("shards")
