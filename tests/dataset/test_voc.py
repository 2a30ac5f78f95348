"""The VOC layout: boxes, flags, labels and id lists as the devkit writes them, and its traps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.read import check, is_official, read_split, state_of_split
from pipeline.dataset.split import read_ids
from pipeline.dataset.voc import labels_from_objects
from pipeline.dataset.voc_xml import parse_annotation
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError, MissingDataError

CLASSES = ("cat", "dog")
BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
SIZE = "<size><width>100</width><height>80</height></size>"


def thing(name="cat", corners=(11, 21, 50, 60), extra="<difficult>0</difficult>") -> str:
    return f"<object><name>{name}</name>{extra}{BOX.format(*corners)}</object>"


def xml(*things: str, size: str = SIZE) -> bytes:
    return f"<annotation>{size}{''.join(things)}</annotation>".encode()


# ---- annotations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("corners", "expect"),
    [
        pytest.param((11, 21, 50, 60), (10, 20, 50, 60), id="1-based, inclusive"),
        pytest.param((1, 1, 100, 80), (0, 0, 100, 80), id="the whole picture"),
        pytest.param((5, 5, 5, 5), (4, 4, 5, 5), id="one pixel"),
        pytest.param((45.70, 21.25, 50.5, 60), (44.70, 20.25, 50.5, 60), id="fractions"),
        pytest.param((0, 0, 101, 81), (0, 0, 100, 80), id="one pixel outside is cut off"),
        pytest.param((-3, 21, 105, 84), (0, 20, 100, 80), id="a little outside is cut off"),
    ],
)
def test_boxes_are_converted_exactly_once(corners, expect):
    annotation = parse_annotation(xml(thing(corners=corners)), CLASSES)

    np.testing.assert_allclose(annotation.box_xyxy, [expect])
    assert annotation.box_xyxy.dtype == np.float64
    assert annotation.size_wh == (100, 80)


@pytest.mark.parametrize(
    ("extra", "expect"),
    [
        ("", False),
        ("<difficult></difficult>", False),
        ("<difficult>0</difficult>", False),
        ("<difficult>1</difficult>", True),
        ("<difficult> 1 </difficult>", True),
        ("<difficult>True</difficult>", True),
        ("<difficult>yes</difficult>", True),
        ("<difficult>1.0</difficult>", True),
        ("<difficult>False</difficult>", False),
        ("<difficult>no</difficult>", False),
        ("<difficult>Unspecified</difficult>", False),
        ("<truncated>perhaps</truncated><occluded>2</occluded><pose>Left</pose>", False),
    ],
)
def test_difficult_may_be_absent(extra, expect):
    assert parse_annotation(xml(thing(extra=extra)), CLASSES).difficult.tolist() == [expect]


def test_parts_are_no_objects():
    part = f"<part><name>head</name>{BOX.format(12, 22, 20, 30)}</part>"

    annotation = parse_annotation(xml(thing(extra=part), thing("dog", (1, 1, 9, 9))), CLASSES)

    assert annotation.class_index.tolist() == [0, 1]
    assert annotation.box_xyxy.tolist() == [[10, 20, 50, 60], [0, 0, 9, 9]]


def test_an_object_that_is_listed_again_counts_once():
    other_box, other_class = thing(corners=(11, 21, 50, 61)), thing("dog")

    annotation = parse_annotation(xml(thing(), other_box, thing(), other_class, thing()), CLASSES)

    assert annotation.class_index.tolist() == [0, 0, 1] and annotation.n_repeated == 2
    assert annotation.box_xyxy.tolist() == [[10, 20, 50, 60], [10, 20, 50, 61], [10, 20, 50, 60]]
    assert parse_annotation(xml(thing(), other_box, other_class), CLASSES).n_repeated == 0


def test_an_object_is_difficult_or_not():
    data = xml(thing(), thing(extra="<difficult>1</difficult>"))

    message = r"cat in box \[11, 21, 50, 60\] is listed both as difficult and as not; keep one"
    with pytest.raises(ValueError, match=message):
        parse_annotation(data, CLASSES)


def test_a_picture_without_objects_has_empty_arrays_of_the_right_shape():
    annotation = parse_annotation(xml(), CLASSES)

    assert annotation.box_xyxy.shape == (0, 4)
    assert annotation.class_index.shape == annotation.difficult.shape == (0,)


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>0</height></size>"])
def test_a_size_may_be_unknown(size):
    annotation = parse_annotation(xml(thing(corners=(900, 900, 950, 950)), size=size), CLASSES)

    assert annotation.size_wh is None
    assert annotation.box_xyxy.tolist() == [[899, 899, 950, 950]]


BOMB = """<!DOCTYPE bomb [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>
<annotation><object><name>&c;</name></object></annotation>"""
FILE_READER = """<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><annotation>&f;</annotation>"""
REFUSED = {
    "billion laughs": (BOMB.encode(), "refused: EntitiesForbidden"),
    "external entity": (FILE_READER.encode(), "refused: EntitiesForbidden"),
    "not closed": (b"<annotation><object>", "not valid XML: no element found"),
    "empty file": (b"", "not valid XML"),
    "a picture": (b"\xff\xd8\xff\xe0\x00", "not valid XML"),
    "unknown encoding": (b"<?xml version='1.0' encoding='klingon'?><annotation/>", "not valid XML"),
    "unknown class": (xml(thing("cow")), r"object 1 \(cow\): unknown class, expected one of cat, dog"),
    "class of other case": (xml(thing("Cat")), r"object 1 \(Cat\): unknown class"),
    "no name": (xml(thing("")), r"object 1 \(no name\): no <name>, so no class"),
    "two names": (xml("<object><name>cat</name><name>dog</name></object>"), "2 times <name>, expected one"),
    "two boxes": (xml(thing(extra=BOX.format(1, 1, 9, 9))), "2 times <bndbox>, expected one"),
    "spelt otherwise": (xml(thing(extra="<Difficult>1</Difficult>")), "<Difficult>: expected <difficult>"),
    "objects deeper": (xml(f"<objects>{thing()}</objects>"), "1 objects at another place or spelt otherwise"),
    "objects in capitals": (xml(thing().replace("object>", "Object>")), "1 objects at another place or spelt"),
    "shares of the sides": (
        xml(thing(corners=(0.1, 0.1, 1, 1))),
        r"box \[0.1, 0.1, 1, 1\] within 0..1: corners are in",
    ),
    "underscores": (xml(thing(corners=("1_0", 1, 20, 30))), "bndbox/xmin is missing or not a number, got '1_0'"),
    "not its encoding": (b"<annotation><name>caf\xe9</name></annotation>", "not in the encoding utf-8: save it as"),
    "no box": (xml("<object><name>cat</name></object>"), r"object 1 \(cat\): no <bndbox>, so no box"),
    "turned box": (
        xml("<object><name>cat</name><robndbox><cx>5</cx></robndbox></object>"),
        r"object 1 \(cat\): no <bndbox>, but <robndbox>: only upright boxes are read",
    ),
    "box of words": (xml(thing(corners=("left", 1, 2, 3))), "bndbox/xmin is missing or not a number, got 'left'"),
    "corner missing": (
        xml("<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>"),
        "bndbox/ymin is missing or not a number, got ''",
    ),
    "difficult of words": (xml(thing(extra="<difficult>very</difficult>")), "difficult: expected 0 or 1, got 'very'"),
    "not finite": (xml(thing(corners=("nan", 1, 20, 30))), "box without area"),
    "infinite": (xml(thing(corners=(1, 1, "inf", 30))), "box without area"),
    "no width": (
        xml(thing(corners=(20, 20, 19.5, 40))),
        "the corners of its box are inverted: xmin 20 > xmax 19.5",
    ),
    "corners exchanged": (
        xml(thing(corners=(50, 60, 11, 21))),
        "the corners of its box are inverted: xmin 50 > xmax 11, ymin 60 > ymax 21",
    ),
    "outside": (
        xml(thing(corners=(11, 21, 150, 60))),
        r"box \[11, 21, 150, 60\] outside .* 100 x 80",
    ),
    "left of the picture": (xml(thing(corners=(-20, 21, 50, 60))), "outside of the picture of 100 x 80"),
    "only in the tolerance": (xml(thing(corners=(101, 21, 101, 60))), "outside of the picture"),
    "left, size unknown": (xml(thing(corners=(-20, 21, 50, 60)), size=""), "outside of the picture by 21 pixels$"),
    "size of words": (xml(size="<size><width>wide</width></size>"), "size: width and height are not numbers"),
    "endless size": (xml(size="<size><width>inf</width><height>1</height></size>"), "size: width and height"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_annotations_that_cannot_be_used(data, message):
    with pytest.raises(ValueError, match=message):
        parse_annotation(data, CLASSES)


@pytest.mark.parametrize(
    ("encoding", "name"), [("gbk", "猫"), ("windows-1251", "кот"), ("utf-16", "猫"), ("latin-1", "é")]
)
def test_any_encoding_that_a_file_states_is_read(encoding, name):
    text = f"<?xml version='1.0' encoding='{encoding}'?>{xml(thing(name)).decode()}"

    annotation = parse_annotation(text.encode(encoding), (name,))

    assert annotation.class_index.tolist() == [0] and annotation.box_xyxy.tolist() == [[10, 20, 50, 60]]


def test_all_problems_of_a_file_are_told_at_once():
    with pytest.raises(ValueError, match=r"object 1 \(cow\): unknown class.*; object 3 \(dog\): the corners"):
        parse_annotation(xml(thing("cow"), thing("cat"), thing("dog", (9, 9, 1, 1))), CLASSES)


def test_labels_of_a_picture_come_from_its_objects():
    hidden = thing("cat", corners=(60, 21, 70, 60), extra="<difficult>1</difficult>")
    both = parse_annotation(xml(thing("cat"), hidden), CLASSES)
    difficult = parse_annotation(xml(thing("dog", extra="<difficult>1</difficult>")), CLASSES)

    assert labels_from_objects([both, difficult], 2).tolist() == [[1, -1], [-1, 0]]


# ---- id lists --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        pytest.param("b\na\n", ("b", "a"), id="order kept"),
        pytest.param("\n a \r\n\r\nb", ("a", "b"), id="blank lines, other line ends"),
        pytest.param("\ufeffa\nb\n", ("a", "b"), id="byte order mark"),
        pytest.param("a -1\nb  1\nc 0\n", ("a", "b", "c"), id="labels behind"),
        pytest.param("2007_000027\n2008.x-1@b\nübung\n", ("2007_000027", "2008.x-1@b", "übung"), id="odd names"),
        pytest.param(
            "cam1/a\nIMG 12\na (1)\na..b\nकि\n", ("cam1/a", "IMG 12", "a (1)", "a..b", "कि"), id="other names"
        ),
    ],
)
def test_ids_are_read(tmp_path, text, expect):
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")

    assert read_ids(tmp_path / "train.txt") == expect


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "the list is empty", id="empty"),
        pytest.param(" \n\n", "the list is empty", id="blank"),
        pytest.param("a\nb\na\n", "'a': listed twice", id="twice"),
        pytest.param("../../etc/passwd\n", "'../../etc/passwd': not the name of a picture", id="path upwards"),
        pytest.param("/etc/passwd\n", "'/etc/passwd': not the name of a picture", id="absolute path"),
        pytest.param("sub//a\n", "'sub//a': not the name of a picture", id="no folder"),
        pytest.param("sub/.a\n", "'sub/.a': not the name of a picture", id="hidden in a folder"),
        pytest.param("sub/../a\n", "'sub/../a': not the name of a picture", id="upwards inside"),
        pytest.param("a\\b\n", "not the name of a picture", id="backslash"),
        pytest.param("..\n", "'..': not the name of a picture", id="dots"),
        pytest.param(".hidden\n", "'.hidden': not the name of a picture", id="hidden"),
        pytest.param("-rf\n", "'-rf': not the name of a picture", id="an option"),
        pytest.param("a\x00b\n", "not the name of a picture", id="NUL"),
    ],
)
def test_id_lists_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)

    with pytest.raises(DatasetError, match=message) as caught:
        read_ids(tmp_path / "train.txt")

    assert str(caught.value).startswith(str(tmp_path / "train.txt"))


def test_id_list_problems_are_told_at_once_the_first_ten_in_full(tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"/sub/{n}\n" for n in range(12)))

    with pytest.raises(DatasetError, match=r"12 problem\(s\)\n(?s:.*)'/sub/9'(?s:.*)\.\.\. and 2 more"):
        read_ids(tmp_path / "train.txt")


@pytest.mark.parametrize(
    ("text", "known", "own", "expect"),
    [
        pytest.param("photo 1\n", {"photo"}, False, ("photo",), id="a label"),
        pytest.param("photo 1\n", {"photo 1"}, False, ("photo 1",), id="an id"),
        pytest.param("photo 1\nphoto 0\n", {"photo 1", "photo 0"}, False, ("photo 1", "photo 0"), id="ids alone"),
        pytest.param("photo 1\nb 1\n", {"photo", "photo 1", "b"}, False, ("photo", "b"), id="all lines have labels"),
        pytest.param(
            "photo 1\nb\n", {"photo", "photo 1", "b"}, False, ("photo 1", "b"), id="not all lines have labels"
        ),
        pytest.param("photo 1\n", {"photo", "photo 1"}, True, ("photo 1",), id="a list of our own has no labels"),
    ],
)
def test_a_number_after_a_space_is_a_label_or_part_of_the_id(tmp_path, text, known, own, expect):
    (tmp_path / "train.txt").write_text(text)

    assert read_ids(tmp_path / "train.txt", known, prefer_whole=own) == expect


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00a"], ids=["missing", "not a text"])
def test_a_list_that_is_no_list(tmp_path, content):
    if content is not None:
        (tmp_path / "train.txt").write_bytes(content)

    with pytest.raises(DatasetError, match="id list not found|not a text file"):
        read_ids(tmp_path / "train.txt")


# ---- splits ----------------------------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path) -> Path:
    """Three pictures of 100 x 80: a has a cat, b a difficult dog, c nothing."""
    folder = tmp_path / "VOC"
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True)
    contents = {"a": [thing("cat")], "b": [thing("dog", extra="<difficult>1</difficult>")], "c": []}
    for i, things in contents.items():
        Image.new("RGB", (100, 80), "teal").save(folder / "JPEGImages" / f"{i}.jpg")
        (folder / "Annotations" / f"{i}.xml").write_bytes(xml(*things))
    (folder / "ImageSets" / "Main" / "train.txt").write_text("c\na\nb\n")
    return folder


def manifest(labelled: bool = True, official: bool = False, pictures: int | None = None) -> Manifest:
    split = {"labelled": labelled, "pictures": pictures}
    return Manifest.model_validate(
        {"name": "own", "title": "own", "folder": "VOC", "classes": CLASSES, "metric": "voc12",
         "fit": "train", "eval": "test" if not labelled else "train", "official": official,
         "splits": {"train": {"pictures": pictures}, "test": split}}
    )  # fmt: skip


def write_lists(folder: Path, **lines: str) -> None:
    for name, text in lines.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text)


def test_a_dataset_with_xml_files_only(voc, tmp_path):
    split = read_split(manifest(), "train", tmp_path)

    assert split.ids == ("c", "a", "b")
    assert [path.name for path in split.paths] == ["c.jpg", "a.jpg", "b.jpg"]
    assert split.folder == voc
    assert split.labels.tolist() == [[-1, -1], [1, -1], [-1, 0]]
    assert split.labels.dtype == np.int8


def test_tables_that_counted_a_repeated_object_twice_are_stale(voc, tmp_path):
    data = {"ids": digest_of(("c", "a", "b"))}
    (voc / "Annotations/a.xml").write_bytes(xml(thing(), thing()))
    data |= {i: sha256_bytes((voc / f"Annotations/{i}.xml").read_bytes()) for i in ("c", "a", "b")}

    split = read_split(manifest(), "train", tmp_path)

    assert len(split.annotations_by_id["a"].class_index) == 1
    assert split.annotation_digest != digest_of(list(data.items()))  # which earlier versions wrote


def test_the_check_finds_an_object_that_is_difficult_and_not(voc, tmp_path):
    (voc / "Annotations/a.xml").write_bytes(xml(thing(), thing(extra="<difficult>1</difficult>")))

    (problem,) = check(manifest(), tmp_path).splits[0].faults

    assert problem.startswith("a: Annotations/a.xml: cat in box") and "listed both as difficult and as not" in problem


def test_list_files_win_over_objects(voc, tmp_path):
    # The devkit's lists know of objects that the XML does not, and have lines for other pictures.
    write_lists(voc, cat_train="a  1\nb -1\nc  0\nother 1\n", dog_train="\ufeffa -1\nb  0\nc  1\n")

    assert read_split(manifest(), "train", tmp_path).labels.tolist() == [[0, 1], [1, -1], [-1, 0]]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"cat_train": "a 1\nb -1\nc 0\n"}, "dog_train.txt: missing, other classes have theirs"),
        ({"cat_train": "a 1\nc 0\n", "dog_train": "a 1\nb 1\nc 1\n"}, "cat_train.txt: no line for b"),
        (
            {"cat_train": "a 2\nb -1\nc\n", "dog_train": "a 1\nb 1\nc 1\n"},
            r"cat_train.txt line 1: expected 'id -1\|0\|1', got 'a 2'(?s:.*)line 3: (?s:.*)got 'c'",
        ),
    ],
    ids=["one class without", "one picture without", "other values"],
)
def test_list_files_that_are_wrong(voc, tmp_path, lists, message):
    write_lists(voc, **lists)

    with pytest.raises(DatasetError, match=message):
        read_split(manifest(), "train", tmp_path)


def test_a_list_may_repeat_a_picture_and_not_contradict_itself(voc, tmp_path):
    write_lists(voc, cat_train="c -1\na 1\nb -1\na 1\n", dog_train="c -1\na 1\nb -1\n")
    assert read_split(manifest(), "train", tmp_path).labels.tolist() == [[-1, -1], [1, 1], [-1, -1]]

    write_lists(voc, cat_train="c -1\na 1\nb -1\na -1\n")
    with pytest.raises(DatasetError, match="cat_train.txt line 4: 'a -1' contradicts a line above"):
        read_split(manifest(), "train", tmp_path)


def test_everything_wrong_with_a_split_is_told_at_once(voc, tmp_path):
    write_lists(voc, train="a\nb\nc\nd\n")
    (voc / "JPEGImages" / "a.jpg").unlink()
    (voc / "Annotations" / "b.xml").write_bytes(BOMB.encode())
    (voc / "Annotations" / "c.xml").write_bytes(xml(thing("cow")))

    with pytest.raises(DatasetError) as caught:
        read_split(manifest(), "train", tmp_path)

    message = str(caught.value)
    assert f"own train in {voc}: 5 problem(s)" in message
    for part in (
        "a: no picture JPEGImages/a.jpg",
        "d: no picture JPEGImages/d.jpg",
        "d: no annotation Annotations/d.xml",
        "b: Annotations/b.xml: refused: EntitiesForbidden",
        "c: Annotations/c.xml: object 1 (cow): unknown class",
        "check with: pipeline data check own",
    ):
        assert part in message


def test_a_split_without_labels_needs_no_annotations(voc, tmp_path):
    write_lists(voc, test="c\na\n")
    (voc / "Annotations" / "c.xml").unlink()

    split = read_split(manifest(labelled=False), "test", tmp_path)

    assert split.labels is None
    assert [len(a.box_xyxy) for a in split.annotations] == [0, 1]


def test_pictures_may_have_other_suffixes_and_several_of_one_name_are_refused(voc, tmp_path):
    (voc / "JPEGImages" / "a.jpg").rename(voc / "JPEGImages" / "a.PNG")
    (voc / "JPEGImages" / "b.jpg").rename(voc / "JPEGImages" / "b.jfif")
    (voc / "JPEGImages" / "._b.jpg").write_text("of a Mac")
    (voc / "JPEGImages" / "c.txt").write_text("no picture")

    assert [p.name for p in read_split(manifest(), "train", tmp_path).paths] == ["c.jpg", "a.PNG", "b.jfif"]
    Image.new("RGB", (100, 80)).save(voc / "JPEGImages" / "b.gif")
    with pytest.raises(DatasetError, match="b: several files of one name: JPEGImages/b.gif, JPEGImages/b.jfif; rename"):
        read_split(manifest(), "train", tmp_path)
    assert "several files of one name" in " ".join(check(manifest(), tmp_path).problems)


def test_unknown_splits_and_folders_are_named(voc, tmp_path):
    with pytest.raises(DatasetError, match="own: no split 'val'; there are train, test"):
        read_split(manifest(), "val", tmp_path)
    with pytest.raises(MissingDataError, match="pictures not found"):
        read_split(manifest(), "train", tmp_path / "elsewhere")


CHANGES = {
    "an annotation": ("Annotations/a.xml", xml(thing("dog"))),
    "the id list": ("ImageSets/Main/train.txt", b"a\nb\n"),
}


@pytest.mark.parametrize(("name", "data"), CHANGES.values(), ids=CHANGES.keys())
def test_digest_and_state_see_a_change(voc, tmp_path, name, data):
    before = read_split(manifest(), "train", tmp_path).annotation_digest
    state = state_of_split(manifest(), "train", tmp_path)
    assert before == read_split(manifest(), "train", tmp_path).annotation_digest
    assert state == state_of_split(manifest(), "train", tmp_path)

    (voc / name).write_bytes(data)

    assert before != read_split(manifest(), "train", tmp_path).annotation_digest
    assert state != state_of_split(manifest(), "train", tmp_path)


def test_state_sees_a_changed_picture_and_no_foreign_one(voc, tmp_path):
    state = state_of_split(manifest(), "train", tmp_path)
    Image.new("RGB", (100, 80)).save(voc / "JPEGImages" / "foreign.jpg")
    assert state == state_of_split(manifest(), "train", tmp_path)

    Image.new("RGB", (90, 80)).save(voc / "JPEGImages" / "a.jpg")

    assert state != state_of_split(manifest(), "train", tmp_path)


@pytest.mark.parametrize(
    ("official", "stated", "n", "expect"),
    [(True, 3, 3, True), (True, 5717, 3, False), (False, 3, 3, False)],
)
def test_official_means_the_published_count(official, stated, n, expect):
    assert is_official(manifest(official=official, pictures=stated), "train", n) is expect


def test_an_official_manifest_states_its_counts():
    with pytest.raises(ValueError, match="official: needs the count 'pictures' of train"):
        manifest(official=True, pictures=None)
