"""Manifests: what they may say, where they and their folders are found, and the shipped ones."""

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml

from pipeline.dataset.manifest import data_root, dataset_folder, load_manifest
from pipeline.dataset.manifest_places import known_datasets
from pipeline.io.errors import MissingDataError, SettingsError

SHIPPED = Path(__file__).resolve().parents[2] / "data_manifests"
GOOD = {
    "name": "own",
    "title": "Own pictures",
    "folder": "VOCown",
    "metric": "voc12",
    "fit": "train",
    "eval": "val",
    "splits": {"train": {}, "val": {"ids": "own/val.txt", "pictures": 3}},
    "classes": ["cat", "dog"],
}


def write(folder: Path, content: object, name: str = "own") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_manifest_is_read(tmp_path):
    path = write(tmp_path, GOOD)

    manifest = load_manifest("own", tmp_path)

    assert manifest.path == path
    assert manifest.classes == ("cat", "dog")
    assert manifest.splits["train"].ids is None
    assert (manifest.splits["val"].ids, manifest.splits["val"].pictures) == ("own/val.txt", 3)
    assert not manifest.official


ARCHIVE = {"url": "https://x", "md5": "0" * 32, "filename": "a.tar"}
MISTAKES = {
    "unknown key": ({"colour": "red"}, "colour: Extra inputs are not permitted, got 'red'"),
    "misspelt key of a split": (
        {"splits": {"train": {"picture": 3}, "val": {}}},
        "splits.train.picture: Extra",
    ),
    "no classes": ({"classes": []}, "classes: name at least one; pictures without labels are of layout pictures"),
    "class twice": ({"classes": ["cat", "dog", "cat"]}, "classes: named twice: cat"),
    "class that YAML reads as a truth": (
        {"classes": ["cat", True]},
        "classes.1: Input should be a valid string",
    ),
    "no such split": ({"eval": "test"}, "eval: no split 'test', there are train, val"),
    "fit without labels": (
        {"splits": {"train": {"labelled": False}, "val": {}}},
        "split 'train' has no labels",
    ),
    "unknown metric": ({"metric": "coco"}, "metric: Input should be 'voc07' or 'voc12', got 'coco'"),
    "folder upwards": ({"folder": "../secret"}, r"folder: must not contain '\.\.'"),
    "other name than the file": ({"name": "other"}, "name: got 'other', expected 'own' as the file's name"),
    "name with a path": ({"name": "../own"}, "name: must be lower case letters"),
    "no pictures": ({"splits": {"train": {"pictures": 0}, "val": {}}}, "splits.train.pictures: .* greater"),
    "digest too short": ({"archives": [{**ARCHIVE, "md5": "0"}]}, "archives.0.md5: String should match"),
    "file name with a path": ({"archives": [{**ARCHIVE, "filename": "../a"}]}, "archives.0.filename: String"),
    "labels of pictures without": ({"layout": "pictures"}, "classes and labelled: layout pictures has none"),
    "key that is no text": ({1: 2}, "1: "),
}


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_named(tmp_path, change, message):
    path = write(tmp_path, {**GOOD, **change})

    with pytest.raises(SettingsError, match=message) as caught:
        load_manifest("own", tmp_path)

    assert str(caught.value).startswith(str(path))


def test_all_mistakes_are_told_at_once(tmp_path):
    write(tmp_path, {**GOOD, "metric": "coco", "classes": [], "colour": "red"})

    with pytest.raises(SettingsError, match=r"classes: (?s:.*)metric: (?s:.*)colour: "):
        load_manifest("own", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- a", "expected a mapping"), ("", "classes: Field required"),
     ("!!python/object/apply:os.getcwd []", "not valid YAML")],
    ids=["broken", "a list", "empty", "code"],
)  # fmt: skip
def test_files_that_are_no_manifest(tmp_path, text, message):
    write(tmp_path, text)

    with pytest.raises(SettingsError, match=message):
        load_manifest("own", tmp_path)


@pytest.mark.parametrize("name", ["../voc12", "VOC12", "", "a b", "/etc/passwd"])
def test_a_dataset_name_is_no_path(name):
    with pytest.raises(SettingsError, match="expected lower case letters, digits and _"):
        load_manifest(name)


def test_an_unknown_dataset_names_the_known_ones_and_the_way_on():
    with pytest.raises(
        SettingsError, match=r"known: .*voc07, voc12, voc12_action, .*voc12_test\n(?s:.*)data new .*--name birds"
    ):
        load_manifest("birds")


# ---- where the folder is -------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["VOCown", "VOCdevkit/VOCown"])
def test_the_folder_is_found_below_the_root(tmp_path, below, monkeypatch):
    write(tmp_path, GOOD)
    (tmp_path / "data" / below / "JPEGImages").mkdir(parents=True)
    manifest = load_manifest("own", tmp_path)

    assert dataset_folder(manifest, tmp_path / "data") == tmp_path / "data" / below
    monkeypatch.setenv("PIPELINE_DATA", str(tmp_path / "data"))
    assert dataset_folder(manifest) == tmp_path / "data" / below


def test_the_root_may_be_the_folder_itself_but_not_another_datasets(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "VOCown" / "JPEGImages").mkdir(parents=True)
    (tmp_path / "VOC2012" / "JPEGImages").mkdir(parents=True)
    manifest = load_manifest("own", tmp_path)

    assert dataset_folder(manifest, tmp_path / "VOCown") == tmp_path / "VOCown"
    with pytest.raises(MissingDataError, match="pictures not found"):
        dataset_folder(manifest, tmp_path / "VOC2012")


def test_an_absolute_folder_needs_no_root(tmp_path):
    write(tmp_path, {**GOOD, "folder": str(tmp_path / "mine")})
    (tmp_path / "mine" / "JPEGImages").mkdir(parents=True)
    manifest = load_manifest("own", tmp_path)

    assert dataset_folder(manifest) == tmp_path / "mine"
    assert dataset_folder(manifest, tmp_path / "elsewhere") == tmp_path / "mine"


@pytest.mark.parametrize(
    ("change", "way"),
    [
        ({"archives": [ARCHIVE]}, "pipeline data fetch own"),
        ({"drawn": {"train": 2, "val": 2, "seed": 0}}, "pipeline data fetch own"),
        ({"where": "ask Ada for the disk"}, "ask Ada for the disk"),
        ({}, "--data-root DIR"),
    ],
    ids=["archive", "drawn", "a person", "nothing"],
)
def test_a_missing_folder_names_the_ways_on(tmp_path, change, way):
    write(tmp_path, {**GOOD, **change})

    with pytest.raises(MissingDataError, match=way) as caught:
        dataset_folder(load_manifest("own", tmp_path), tmp_path)

    assert f"looked in {tmp_path / 'VOCown'}" in str(caught.value)


def test_the_data_root_is_given_or_from_the_environment_or_data(monkeypatch):
    monkeypatch.delenv("PIPELINE_DATA", raising=False)
    assert data_root(None) == Path("data")
    monkeypatch.setenv("PIPELINE_DATA", "/mnt/sets")
    assert data_root(None) == Path("/mnt/sets")
    assert data_root("here") == Path("here")


# ---- shipped manifests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(p for p in SHIPPED.glob("*.yaml") if p.stem != "published"), ids=lambda p: p.stem
)
def test_shipped_manifests_can_be_read(path):
    assert load_manifest(path.stem, SHIPPED).name in known_datasets()


@pytest.mark.parametrize(
    ("name", "fit", "scored", "metric", "counts"),
    [
        ("voc07", "trainval", "test", "voc07", {"train": 2501, "val": 2510, "trainval": 5011, "test": 4952}),
        ("voc12", "train", "val", "voc12", {"train": 5717, "val": 5823, "trainval": 11540}),
        ("voc12_test", "trainval", "test", "voc12", {"trainval": 11540, "test": 10991}),
    ],
)
def test_official_splits_and_counts(name, fit, scored, metric, counts):
    manifest = load_manifest(name, SHIPPED)

    assert (manifest.fit, manifest.eval, manifest.metric, manifest.official) == (fit, scored, metric, True)
    assert {split: entry.pictures for split, entry in manifest.splits.items()} == counts
    assert len(manifest.classes) == 20
    assert list(manifest.classes) == sorted(manifest.classes)


def test_the_hidden_test_pictures_say_where_to_register():
    manifest = load_manifest("voc12_test", SHIPPED)

    assert not manifest.splits["test"].labelled
    assert "register" in manifest.where and "evaluation server" in manifest.where


def torchvision_table() -> dict[str, dict[str, str]]:
    """Its table of VOC archives, read as text: importing torchvision needs operators of its CUDA build."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("torchvision is not installed")
    source = Path(spec.submodule_search_locations[0], "datasets", "voc.py").read_text()
    table = next(
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DATASET_YEAR_DICT"
    )
    return {
        year.value: {k.value: v.value for k, v in zip(row.keys, row.values, strict=True) if isinstance(v, ast.Constant)}
        for year, row in zip(table.keys, table.values, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "entries"), [("voc07", ["2007", "2007-test"]), ("voc12", ["2012"]), ("voc12_test", ["2012"])]
)
def test_archives_are_those_of_torchvision(name, entries):
    table = torchvision_table()
    archives = load_manifest(name, SHIPPED).archives

    assert [{"url": a.url, "filename": a.filename, "md5": a.md5} for a in archives] == [table[e] for e in entries]
    assert {a.strip for a in archives} == {"VOCdevkit"}
