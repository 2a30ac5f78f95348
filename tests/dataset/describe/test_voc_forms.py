"""XML files of VOC where annotation tools put them: read as the devkit's layout is."""

from pathlib import Path

import numpy as np
import pytest
from support.own_pictures import annotate, draw, write

from pipeline.dataset.describe.recognise import recognise_folder
from pipeline.dataset.describe.voc import new_manifest
from pipeline.dataset.fetch import check
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split, state_of_split
from pipeline.io.errors import DatasetError

CONTENT = {"train": [("a", "cat"), ("b", "dog"), ("c", "cat")], "val": [("d", "dog"), ("e", "cat")]}
FORMS = {
    "devkit": ("JPEGImages/{i}.jpg", "Annotations/{i}.xml"),
    "next to each other": ("{i}.jpg", "{i}.xml"),
    "kaggle": ("images/{i}.jpg", "annotations/{i}.xml"),
    "imgs": ("img/{i}.jpg", "xmls/{i}.xml"),
    "roboflow": ("{split}/{i}.jpg", "{split}/{i}.xml"),
    "roboflow, two folders": ("{split}/images/{i}.jpg", "{split}/annotations/{i}.xml"),
    "devkit in splits": ("{split}/JPEGImages/{i}.jpg", "{split}/Annotations/{i}.xml"),
}


def make(root: Path, form: str, val: str = "valid") -> None:
    """Draw the same five pictures in one of the forms; without folders of splits, lists name the splits."""
    picture, xml = FORMS[form]
    for split, content in CONTENT.items():
        folder = val if split == "val" else split
        for i, name in content:
            draw(root, picture.format(i=i, split=folder))
            annotate(root, xml.format(i=i, split=folder), name)
        if "{split}" not in picture:
            write(root, f"ImageSets/Main/{split}.txt", "".join(f"{i}\n" for i, _ in content))


def describe(root: Path, name: str = "own") -> tuple[object, list[str]]:
    said: list[str] = []
    shape = recognise_folder(root, name)
    assert shape.has_boxes and shape.write is new_manifest
    new_manifest(root, name, root.parent / "m", say=said.append)
    return load_manifest(name, root.parent / "m"), said


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_as_the_devkits(tmp_path, form):
    make(tmp_path / "kit", "devkit")
    make(tmp_path / "own", form)
    expected, _ = describe(tmp_path / "kit", "kit")

    manifest, said = describe(tmp_path / "own")

    assert (manifest.classes, manifest.fit, manifest.eval) == (("cat", "dog"), "train", "val")
    for split in CONTENT:
        one, other = read_split(manifest, split), read_split(expected, split)
        assert one.ids == other.ids and one.annotation_digest == other.annotation_digest
        assert (one.labels == other.labels).all()
        for a, b in zip(one.annotations, other.annotations, strict=True):
            assert np.array_equal(a.box_xyxy, b.box_xyxy) and np.array_equal(a.class_index, b.class_index)
        assert all(path.is_file() for path in one.paths)
    assert check(manifest, deep=True).ok
    assert any("valid/ is the split val" in line for line in said) == ("roboflow" in form or "splits" in form)


def test_equal_names_in_two_splits_stay_apart(tmp_path):
    root = tmp_path / "own"
    for split, names in {"train": ("cat", "dog"), "valid": ("dog", "cat")}.items():
        for k, name in enumerate(names):
            draw(root, f"{split}/{k}.jpg")
            annotate(root, f"{split}/{k}.xml", name)

    manifest, _ = describe(root)

    assert read_split(manifest, "train").labels.tolist() == [[1, -1], [-1, 1]]
    assert read_split(manifest, "val").labels.tolist() == [[-1, 1], [1, -1]]
    (root / "valid" / "1.xml").write_text("<annotation>")
    assert [p.split(":")[0] for p in check(manifest).problems] == ["val"]


def test_a_changed_file_is_noticed(tmp_path):
    make(tmp_path / "own", "roboflow")
    manifest, _ = describe(tmp_path / "own")
    before = {split: state_of_split(manifest, split) for split in CONTENT}

    annotate(tmp_path / "own", "valid/d.xml", "dog", "cat")

    assert state_of_split(manifest, "train") == before["train"] and state_of_split(manifest, "val") != before["val"]


def test_a_split_without_xml_has_no_labels(tmp_path):
    make(tmp_path / "own", "roboflow")
    draw(tmp_path / "own", "test/x.jpg", "extra/1.jpg", "stray.jpg")

    manifest, said = describe(tmp_path / "own")

    assert not manifest.splits["test"].labelled and read_split(manifest, "test").ids == ("x",)
    text = "\n".join(said)
    assert "no folder of a split" in text and "extra/: 1 pictures" in text and "stray.jpg" in text


def test_folders_of_splits_without_a_pair_are_refused(tmp_path):
    make(tmp_path / "own", "roboflow", val="other")
    with pytest.raises(DatasetError, match=r"expected folders with annotated pictures for train and val.*got train/"):
        describe(tmp_path / "own")


def test_hidden_files_of_a_mac_are_passed_over(tmp_path):
    make(tmp_path / "own", "devkit")
    for name in ("JPEGImages/._a.jpg", "Annotations/._a.xml", "JPEGImages/.DS_Store", "ImageSets/Main/._train.txt"):
        (tmp_path / "own" / name).write_bytes(b"\0\5\26\7")

    manifest, said = describe(tmp_path / "own")

    assert read_split(manifest, "train").ids == ("a", "b", "c") and not any("._a" in line for line in said)


def test_files_that_are_no_pictures_are_named(tmp_path):
    make(tmp_path / "own", "devkit")
    draw(tmp_path / "own", "JPEGImages/f.heic", "JPEGImages/cam1/g.jpg", "JPEGImages/cam1/h.heic")

    _, said = describe(tmp_path / "own")

    text = "\n".join(said)
    assert "2, no pictures of a suffix that is read (2 .heic)" in text and "cam1/h.heic" in text
    assert "left out, 1 pictures without an annotation:\n  - cam1/g" in text


@pytest.mark.parametrize("form", [("JPEGImages", "Annotations"), ("images", "annotations")])
def test_pictures_in_subfolders_are_read(tmp_path, form):
    pictures, notes = form
    for n, i in enumerate(("a", "b", "cam1/a", "cam2/a")):
        draw(tmp_path / "own", f"{pictures}/{i}.jpg")
        annotate(tmp_path / "own", f"{notes}/{i}.xml", ("cat", "dog")[n % 2])

    manifest, said = describe(tmp_path / "own")

    ids = [i for split in ("train", "val") for i in read_split(manifest, split).ids]
    assert sorted(ids) == ["a", "b", "cam1/a", "cam2/a"] and check(manifest, deep=True).ok
    assert not any("left out" in line for line in said)


def test_folders_next_to_pictures_and_their_files_are_named_and_not_read(tmp_path):
    for k in range(4):
        draw(tmp_path / "own", f"{k}.jpg")
        annotate(tmp_path / "own", f"{k}.xml", ("cat", "dog")[k % 2])
    draw(tmp_path / "own", "thumbs/0.jpg")
    annotate(tmp_path / "own", "thumbs/0.xml", "cat")

    manifest, said = describe(tmp_path / "own")

    assert manifest.splits["train"].pictures + manifest.splits["val"].pictures == 4
    assert any("thumbs/: 1 pictures" in line for line in said)


def test_a_single_class_is_said(tmp_path):
    for k in range(4):
        draw(tmp_path / "own", f"{k}.jpg")
        annotate(tmp_path / "own", f"{k}.xml", "cat")

    manifest, said = describe(tmp_path / "own")

    assert manifest.classes == ("cat",) and any("a single class, cat" in line for line in said)


# ---- own id lists


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".xml"])
def test_a_suffix_behind_ids_is_passed_over(tmp_path, suffix):
    root = tmp_path / "own"
    make(root, "devkit")
    write(root, "ImageSets/Main/train.txt", "".join(f"{i}{suffix}\n" for i in "ab"))
    write(root, "ImageSets/Main/val.txt", "".join(f"{i}{suffix}\n" for i in "cde"))

    manifest, said = describe(root)

    assert read_split(manifest, "train").ids == ("a", "b") and read_split(manifest, "val").ids == ("c", "d", "e")
    assert "train.txt: 2 of 2 ids have a file suffix, which is passed over" in said


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": "x1\nx2\n", "val": "d\ne\n"}, "train.txt: none of its 2 ids has a picture"),
        ({"train": "images/a.jpg\nimages/b.jpg\n", "val": "d\n"}, "train.txt: none of its 2 ids has a picture"),
        ({"train": "a.jpg\na\n", "val": "d\n"}, "differ by their suffix alone"),
        ({"train": "a\nb\n"}, "train.txt without a partner"),
        ({"train": "a\nb\n", "val": ""}, "train.txt without a partner"),
        ({"val": "d\ne\n"}, "val.txt without a partner"),
    ],
)
def test_lists_that_cannot_be_used_are_never_replaced(tmp_path, lists, message):
    root = tmp_path / "own"
    make(root, "devkit")
    for file in (root / "ImageSets/Main").iterdir():
        file.unlink()
    for name, text in lists.items():
        write(root, f"ImageSets/Main/{name}.txt", text)

    with pytest.raises(DatasetError, match=message):
        describe(root)
    assert not (tmp_path / "m").exists()


def test_lists_of_other_names_for_val(tmp_path):
    root = tmp_path / "own"
    make(root, "devkit")
    (root / "ImageSets/Main/val.txt").rename(root / "ImageSets/Main/valid.txt")

    manifest, _ = describe(root)

    assert (manifest.fit, manifest.eval) == ("train", "valid")


# ---- what is said of files that contradict each other


def own(root: Path, form: str = "devkit") -> Path:
    make(root, form)
    return root


def test_lists_next_to_the_folders_are_read(tmp_path):
    expected, _ = describe(own(tmp_path / "kit"), "kit")
    for place in (".", "ImageSets"):
        root = own(tmp_path / f"own{len(place)}")
        for split in CONTENT:
            (root / "ImageSets/Main" / f"{split}.txt").rename(root / place / f"{split}.txt")

        manifest, said = describe(root, f"own{len(place)}")

        for split in CONTENT:
            assert read_split(manifest, split).ids == read_split(expected, split).ids
        assert any(line.endswith("train.txt is the list of train") for line in said)


@pytest.mark.parametrize(
    "line", ["JPEGImages/{i}.jpg", "/data/own/JPEGImages/{i}.png", "data\\JPEGImages\\{i}", "{i}.jpg"]
)
def test_lists_of_paths_are_read(tmp_path, line):
    root = own(tmp_path / "own")
    for split, content in CONTENT.items():
        write(root, f"ImageSets/Main/{split}.txt", "".join(f"{line.format(i=i)}\n" for i, _ in content))

    manifest, _ = describe(root)

    assert {split: read_split(manifest, split).ids for split in CONTENT} == {
        "train": ("a", "b", "c"),
        "val": ("d", "e"),
    }


def test_annotations_next_to_images(tmp_path):
    root = own(tmp_path / "own")
    (root / "JPEGImages").rename(root / "images")

    manifest, _ = describe(root)

    assert (manifest.pictures_folder, manifest.annotations_folder) == ("images", "Annotations")
    assert check(manifest, deep=True).ok


def test_contradictions_are_said(tmp_path):
    root = own(tmp_path / "own")
    text = (root / "Annotations/a.xml").read_text()
    twice = text[text.index("<object>") : text.index("</object>") + len("</object>")]
    (root / "Annotations/a.xml").write_text(
        text.replace("</annotation>", f"<filename>d.jpg</filename>{twice}</annotation>")
    )
    for split, content in CONTENT.items():
        for name in ("cat", "dog"):
            lines = [f"{i} {1 if shown == name and i != 'b' else -1}\n" for i, shown in content]
            write(root, f"ImageSets/Main/{name}_{split}.txt", "".join(lines))

    _, said = describe(root)

    notes = "\n".join(said)
    assert "1 annotations state the name of another picture" in notes and "a: <filename> 'd'" in notes
    assert "1 annotations list an object several times" in notes and "1 repetition(s) are dropped" in notes
    assert "of 1 pictures of train the class lists" in notes and "b: none in the lists, dog in the annotation" in notes


def test_pictures_of_another_size_are_said(tmp_path):
    root = own(tmp_path / "own")
    annotate(root, "Annotations/a.xml", "cat", size="<size><width>999</width><height>9</height></size>")

    _, said = describe(root)

    assert any("1 pictures cannot be used as they are" in line and "its annotation says 999 x" in line for line in said)
