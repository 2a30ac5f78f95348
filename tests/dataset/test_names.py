"""Names of files, classes and splits: as file systems, XML and tables hold them, through to ids and back."""

import os
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.dataset.describe.folders import new_folders_manifest
from pipeline.dataset.describe.table import new_table_manifest
from pipeline.dataset.describe.voc import new_manifest
from pipeline.dataset.listing import id_of
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import check, read_split, state_of_split
from pipeline.io.errors import DatasetError, SettingsError
from pipeline.io.names import expand_home, find_alike, make_distinct_part
from pipeline.patches.build import make_table
from pipeline.patches.settings import SourceSettings
from pipeline.patches.table_file import read_table, write_table

SOURCES = SourceSettings(source="whole")
OBJECT = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((48, 40)).save(path, "PNG")


def draw_voc(root: Path, ids, classes=("cat", "dog")) -> None:
    for n, i in enumerate(ids):
        draw(root / "JPEGImages" / f"{i}.png")
        xml = root / "Annotations" / f"{i}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(f"<annotation>{OBJECT.format(escape(classes[n % len(classes)]))}</annotation>", "utf-8")


def ids_through(manifest, folder: Path) -> list[str]:
    """All ids, after patch tables that were written and read again."""
    ids: list[str] = []
    for split in ("train", "val"):
        write_table(make_table(read_split(manifest, split), SOURCES), folder / f"{split}.h5")
        table = read_table(folder / f"{split}.h5")
        assert state_of_split(manifest, split)
        ids += table.ids
    assert check(manifest).ok
    return ids


NAMES = st.text(
    st.characters(categories=("L", "M", "N", "P", "S", "Zs"), exclude_characters="/\\"), min_size=1, max_size=30
).filter(lambda text: text == text.strip() and text[0] not in ".-~" and len(text.encode()) < 200)


@given(st.lists(NAMES, min_size=4, max_size=6, unique_by=lambda i: unicodedata.normalize("NFC", i)))
@settings(max_examples=40, deadline=None)
def test_any_name_goes_from_the_folder_to_the_ids_of_the_tables(names):
    folder = Path(tempfile.mkdtemp())
    try:
        draw_voc(folder / "own", names)
        new_manifest(folder / "own", "own", folder / "manifests", say=lambda line: None)

        assert sorted(ids_through(load_manifest("own", folder / "manifests"), folder)) == sorted(names)
    finally:
        shutil.rmtree(folder)


@given(st.lists(NAMES, min_size=2, max_size=6, unique=True))
@settings(max_examples=200, deadline=None)
def test_names_of_files_to_write_are_safe_and_differ(names):
    parts = [make_distinct_part(name) for name in names]

    assert len(set(parts)) == len(parts)
    assert all(Path(part).name == part and len(part.encode()) <= 220 for part in parts)


def test_parts_of_odd_names():
    assert make_distinct_part("2008_000123") == "2008_000123"
    assert make_distinct_part("cam1/x") != make_distinct_part("cam1-x") == "cam1-x"
    assert "/" not in make_distinct_part("../x") and not make_distinct_part(".x").startswith(".")
    assert len(make_distinct_part("कि" * 200).encode()) < 255
    assert make_distinct_part("caf\udce9").isascii()


SETS = {
    "spaces": ["Screenshot 2024-01-01 at 10.00.01", "Screenshot 2024-01-01 at 10.00.02", "a 1", "a", "a 0", "b -1"],
    "parentheses and quotes": ["IMG_1 (1)", "IMG_1", "it's", 'so "called"', "a,b"],
    "marks": ["cafe\u0301", "चित्र0", "चित्र1", "கா", "கி"],
    "emoji": ["😀", "😂", "👍🏽", "x"],
    "folders": ["cam1/x", "cam2/x", "cam1/deep/x", "x"],
}


@pytest.mark.parametrize("ids", SETS.values(), ids=SETS)
def test_names_that_tools_write(tmp_path, ids):
    draw_voc(tmp_path / "own", ids)

    new_manifest(tmp_path / "own", "own", tmp_path / "manifests", say=lambda line: None)

    assert sorted(ids_through(load_manifest("own", tmp_path / "manifests"), tmp_path)) == sorted(ids)


def test_files_of_a_mac_are_passed_over(tmp_path):
    draw_voc(tmp_path / "own", ["a", "b", "c", "d"])
    for sub, suffix in (("JPEGImages", "png"), ("Annotations", "xml")):
        (tmp_path / "own" / sub / f"._a.{suffix}").write_bytes(b"\0\5\26\7")
    said: list[str] = []

    new_manifest(tmp_path / "own", "own", tmp_path / "manifests", say=said.append)

    assert sorted(ids_through(load_manifest("own", tmp_path / "manifests"), tmp_path)) == list("abcd")
    assert not any("left out" in line for line in said)


def test_a_list_in_composed_form_names_files_in_decomposed_form(tmp_path):
    decomposed = [unicodedata.normalize("NFD", f"Müller{n}") for n in range(4)]
    draw_voc(tmp_path / "own", decomposed)
    composed = [unicodedata.normalize("NFC", i) for i in decomposed]
    (tmp_path / "own/ImageSets/Main").mkdir(parents=True)
    for split, part in (("train", composed[:2]), ("val", composed[2:])):
        (tmp_path / f"own/ImageSets/Main/{split}.txt").write_text("\n".join(part), "utf-8")

    new_manifest(tmp_path / "own", "own", tmp_path / "manifests", say=lambda line: None)

    assert ids_through(load_manifest("own", tmp_path / "manifests"), tmp_path) == composed


def test_a_table_in_composed_form_names_files_in_decomposed_form(tmp_path):
    names = [f"Jürgen/Müller{n}.png" for n in range(6)]
    for name in names:
        draw(tmp_path / "own" / unicodedata.normalize("NFD", name))
    rows = [f"{unicodedata.normalize('NFC', name)},{'ab'[n % 2]}" for n, name in enumerate(names)]
    (tmp_path / "own/t.csv").write_text("\n".join(["picture,label", *rows]), "utf-8")

    new_table_manifest(tmp_path / "own/t.csv", None, "own", tmp_path / "manifests", say=lambda line: None)

    assert len(ids_through(load_manifest("own", tmp_path / "manifests"), tmp_path)) == 6


def draw_folders(root: Path, *names: str) -> None:
    for name in names:
        for n in range(3):
            draw(root / name / f"{n}.png")


@pytest.mark.parametrize("names", [("கா", "கி"), ("😀", "😂"), ("cafe\u0301", "cafe")])
def test_class_folders_whose_names_differ_in_marks_have_different_ids(tmp_path, names):
    draw_folders(tmp_path / "own", *names)

    new_folders_manifest(tmp_path / "own", "own", tmp_path / "manifests", say=lambda line: None)

    assert len(set(ids_through(load_manifest("own", tmp_path / "manifests"), tmp_path))) == 6


def test_lists_with_the_ids_of_earlier_versions_are_read(tmp_path):
    draw_folders(tmp_path / "own", "என்", "dog")
    path = new_folders_manifest(tmp_path / "own", "own", tmp_path / "manifests", say=lambda line: None)
    lists = [path.with_suffix("") / f"{split}.txt" for split in ("train", "val")]
    for file in lists:
        file.write_text(file.read_text("utf-8").replace("என்", "என_"), "utf-8")

    ids = ids_through(load_manifest("own", tmp_path / "manifests"), tmp_path)

    assert "என___0" in ids and id_of("என்/0.png") == "என்__0"


def test_classes_that_look_alike_are_noted(tmp_path):
    draw_folders(tmp_path / "own", "Dog", "dog", "cat")
    said: list[str] = []

    new_folders_manifest(tmp_path / "own", "own", tmp_path / "manifests", say=said.append)

    assert any("NOTE: classes that look alike are told apart: 'Dog', 'dog'" in line for line in said)
    assert find_alike(["a  b", "A b", "c", "c\u200b"]) == [["a  b", "A b"], ["c", "c\u200b"]]


def test_folders_of_one_name_in_two_forms_are_refused(tmp_path):
    draw_folders(tmp_path / "own", "café", "cafe\u0301", "dog")

    with pytest.raises(DatasetError, match="another folder has the same name in another of Unicode's forms|one id"):
        new_folders_manifest(tmp_path / "own", "own", tmp_path / "manifests", say=lambda line: None)


def test_class_names_of_annotations_are_stripped_and_composed(tmp_path):
    draw_voc(tmp_path / "own", list("abcd"), (" dog ", "cafe\u0301"))
    said: list[str] = []

    new_manifest(tmp_path / "own", "own", tmp_path / "manifests", say=said.append)

    assert load_manifest("own", tmp_path / "manifests").classes == ("café", "dog")
    assert any("spaces around class names are dropped: ' dog '" in line for line in said)


@pytest.mark.parametrize("place", ["class", "root"])
def test_names_that_are_not_utf8_are_refused(tmp_path, place):
    bad = os.fsdecode(b"caf\xe9")
    root = tmp_path / (bad if place == "root" else "own")
    draw_folders(root, "cat", bad if place == "class" else "dog")

    with pytest.raises(DatasetError, match="UTF-8.*rename it"):
        new_folders_manifest(root, "own", tmp_path / "manifests", say=lambda line: None)


def test_pictures_of_one_name_with_several_suffixes_are_named(tmp_path):
    draw_folders(tmp_path / "own", "cat", "dog")
    draw(tmp_path / "own/cat/0.gif")

    with pytest.raises(DatasetError, match="cat/0.gif, cat/0.png: one id for several pictures"):
        new_folders_manifest(tmp_path / "own", "own", tmp_path / "manifests", say=lambda line: None)


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert expand_home("~/x") == f"{tmp_path}/x" and expand_home("a/~") == "a/~"
    with pytest.raises(
        ValueError, match="no home folder ~nobody-here; a folder of this name is written ./~nobody-here/x"
    ):
        expand_home("~nobody-here/x")


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_names_are_read_as_utf8_whatever_the_locale(tmp_path, locale):
    for name in ("Ölberg", "é"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for n in range(2):
            Image.new("RGB", (16, 12), (90 * n, 0, 0)).save(tmp_path / f"pictures/{name}/{n}.png")
    env = {k: v for k, v in os.environ.items() if not k.startswith("LC_")}
    env |= {"LANG": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "pipeline.cli.main", "data", "new", "--root", "pictures", "--name", "own"]

    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60)

    assert ended.returncode == 0, ended.stderr
    assert load_manifest("own", tmp_path / "data_manifests").classes == ("Ölberg", "é")


def test_names_that_python_would_read_otherwise_are_refused_with_the_remedy(tmp_path, monkeypatch):
    content = {"name": "own", "title": "own", "folder": "Bilder", "classes": ["a", "\u00d6lberg"], "metric": "voc12",
               "fit": "train", "eval": "train", "splits": {"train": {}}}  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    assert load_manifest("own", tmp_path).classes == ("a", "\u00d6lberg")

    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "iso8859-1")

    with pytest.raises(SettingsError, match="reads names of files as iso8859-1 here.*PYTHONUTF8=1"):
        load_manifest("own", tmp_path)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**content, "classes": ["a", "b"]}))
    assert load_manifest("own", tmp_path).classes == ("a", "b")
