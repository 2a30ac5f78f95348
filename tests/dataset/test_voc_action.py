"""The action task's lists: who is a sample, what is known of it, and what is wrong with a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset.fetch import check
from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.dataset.read import read_split, state_of_split
from pipeline.dataset.voc_action import read_action_list, sample_id, split_sample_id
from pipeline.io.errors import DatasetError

CLASSES = ("reading", "running", "other")
BOX = {1: (1, 1, 10, 30), 2: (11, 1, 30, 20), 3: (31, 1, 40, 40)}  # by object number; 1-based, inclusive


class ActionFolder:
    """Pictures of 40 x 40 pixels; each has a dog as its second object of four, the others are persons."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "acts"
        for sub in ("JPEGImages", "Annotations", "ImageSets/Action"):
            (self.folder / sub).mkdir(parents=True)
        for name in ("a", "b", "c"):
            Image.new("RGB", (40, 40), (90, 90, 90)).save(self.folder / "JPEGImages" / f"{name}.jpg")
            self.annotate(name, [("person", None), ("dog", None), ("person", None), ("person", None)])
        self.write("train", "a\nb\nc\n")
        self.write("reading_train", "a 1 1\na 3 -1\nb  1 -1\nb  4 1\nc 3 -1\n")
        self.write("running_train", "a 1 -1\na 3 1\nb  1 -1\nb  4 1\n")

    def annotate(self, name: str, objects: list[tuple[str, dict | None]]) -> None:
        things = ""
        for number, (label, actions) in enumerate(objects, start=1):
            flags = "" if actions is None else "".join(f"<{k}>{v}</{k}>" for k, v in actions.items())
            flags = "" if actions is None else f"<actions>{flags}</actions>"
            corners = zip(("xmin", "ymin", "xmax", "ymax"), BOX.get(number, (5, 5, 9, 9)), strict=True)
            box = "".join(f"<{k}>{v}</{k}>" for k, v in corners)
            things += f"<object><name>{label}</name>{flags}<bndbox>{box}</bndbox></object>"
        text = f"<annotation><size><width>40</width><height>40</height></size>{things}</annotation>"
        (self.folder / "Annotations" / f"{name}.xml").write_text(text)

    def write(self, name: str, text: str) -> None:
        (self.folder / "ImageSets" / "Action" / f"{name}.txt").write_text(text)

    def remove(self, *names: str) -> None:
        for name in names:
            (self.folder / "ImageSets" / "Action" / f"{name}.txt").unlink()

    def manifest(self, samples: str = "persons", **changes) -> Manifest:
        content = {
            "name": "acts",
            "title": "Acts",
            "layout": "voc-action",
            "samples": samples,
            "folder": "acts",
            "classes": CLASSES,
            "unscored": ("other",),
            "metric": "voc12",
            "fit": "train",
            "eval": "train",
            "splits": {"train": {}, "test": {"labelled": False}},
            "competition": "comp10" if samples == "persons" else "comp2",
        }
        return Manifest.model_validate({**content, **changes})

    def read(self, samples: str = "persons", split: str = "train", **changes):
        return read_split(self.manifest(samples, **changes), split, self.root)


@pytest.fixture
def acts(tmp_path) -> ActionFolder:
    return ActionFolder(tmp_path)


def by_id(split) -> dict[str, list[int]]:
    return {i: row.tolist() for i, row in zip(split.ids, split.labels, strict=True)}


# ---- persons -----------------------------------------------------------------------------------------


def test_each_listed_person_is_a_sample(acts):
    split = acts.read()

    assert by_id(split) == {
        "a_1": [1, -1, -1],
        "a_3": [-1, 1, -1],
        "b_1": [-1, -1, 1],  # nothing of the rest: other
        "b_4": [1, 1, -1],
        "c_3": [-1, 0, 0],  # running does not list this person: unknown, and so is other
    }
    assert [path.stem for path in split.paths] == ["a", "a", "b", "b", "c"]


def test_folders_may_have_other_names(acts):
    expected = acts.read()
    state = state_of_split(acts.manifest(), "train", acts.root)
    for name, other in (("JPEGImages", "images"), ("Annotations", "labels")):
        (acts.folder / name).rename(acts.folder / other)
    places = {"pictures_folder": "images", "annotations_folder": "labels"}

    split = acts.read(**places)

    assert by_id(split) == by_id(expected) and split.annotation_digest == expected.annotation_digest
    assert [path.parent.name for path in split.paths] == ["images"] * 5
    assert state_of_split(acts.manifest(**places), "train", acts.root) != state
    acts.write("test", "a\n")
    assert check(acts.manifest(**places), acts.root).ok
    (acts.folder / "labels/a.xml").unlink()
    with pytest.raises(DatasetError, match="no annotation labels/a.xml"):
        acts.read(**places)


def test_an_annotation_is_what_the_person_does_with_its_own_box(acts):
    split = acts.read()
    found = {
        i: ([CLASSES[c] for c in a.class_index], a.difficult.tolist())
        for i, a in zip(split.ids, split.annotations, strict=True)
    }

    assert found == {
        "a_1": (["reading"], [False]),
        "a_3": (["running"], [False]),
        "b_1": (["other"], [False]),
        "b_4": (["reading", "running"], [False, False]),
        "c_3": (["running"], [True]),  # unknown: unused by heads
    }
    assert split.annotations[0].sample_xyxy.tolist() == [0, 0, 10, 30]
    assert split.annotations[1].sample_xyxy.tolist() == [30, 0, 40, 40]
    for annotation in split.annotations:
        assert (annotation.box_xyxy == annotation.sample_xyxy).all()


def test_numbers_in_the_list_choose_the_persons(acts):
    acts.write("train", "b 4\na 3\na 1\n")

    assert acts.read().ids == ("b_4", "a_3", "a_1")


def test_a_picture_without_a_listed_person_gives_no_sample(acts):
    acts.write("reading_train", "a 1 1\n")
    acts.write("running_train", "a 1 -1\n")

    assert acts.read().ids == ("a_1",)


def test_flags_in_the_xml_say_who_does_something_else(acts):
    acts.annotate("b", [("person", {"other": 0}), ("dog", None), ("person", None), ("person", {"other": 1})])
    split = by_id(acts.read())

    assert split["b_1"] == [-1, -1, -1] and split["b_4"] == [1, 1, 1]


def test_without_class_lists_the_xml_says_it_all(acts):
    acts.remove("reading_train", "running_train")
    acts.annotate("a", [("person", {"reading": 1, "running": 0}), ("dog", None), ("person", None), ("person", None)])
    acts.annotate("b", [("person", {"running": 1, "other": 0}), ("person", {"reading": 0, "running": 0})])

    assert by_id(acts.read()) == {"a_1": [1, -1, -1], "b_1": [0, 1, -1], "b_2": [-1, -1, 1]}


def test_a_split_without_labels_has_all_persons(acts):
    acts.write("test", "a\nb 3\n")
    split = acts.read(split="test")

    assert split.ids == ("a_1", "a_3", "a_4", "b_3") and split.labels is None
    assert split.annotations[1].sample_xyxy.tolist() == [30, 0, 40, 40]
    assert all(not len(annotation.class_index) for annotation in split.annotations)


def test_sample_ids_go_there_and_back():
    for picture in ("2011_003285", "a", "x_1_2"):
        assert split_sample_id(sample_id(picture, 12)) == (picture, 12)


# ---- pictures ----------------------------------------------------------------------------------------


def test_a_picture_shows_what_one_of_its_persons_does(acts):
    split = acts.read("pictures")

    assert by_id(split) == {"a": [1, 1, -1], "b": [1, 1, 1], "c": [-1, 0, 0]}
    assert all(annotation.sample_xyxy is None for annotation in split.annotations)


def test_persons_of_whom_nothing_is_known_are_difficult_objects(acts):
    a, b, c = acts.read("pictures").annotations

    # Object 4 of a is listed nowhere; in b two actions are one person's; in c nothing is known of anybody.
    assert list(zip(a.class_index.tolist(), a.difficult.tolist(), strict=True)) == [(0, True), (0, False), (1, False)]
    assert a.box_xyxy[1:].tolist() == [[0, 0, 10, 30], [30, 0, 40, 40]]
    assert sorted(b.class_index[~b.difficult].tolist()) == [0, 1, 2]
    assert c.difficult.all() and len(c.difficult) == 3


# ---- what is wrong -----------------------------------------------------------------------------------

MISTAKES = {
    "no list": (lambda f: f.remove("train"), "train.txt: id list not found"),
    "empty list": (lambda f: f.write("train", "\n"), "the list is empty"),
    "a path as an id": (lambda f: f.write("train", "../a\n"), "'../a': expected 'id' or 'id number'"),
    "object 0": (lambda f: f.write("train", "a 0\n"), "'a 0': expected 'id' or 'id number'"),
    "listed twice": (lambda f: f.write("train", "a 1\na 1\n"), "'a 1': listed twice"),
    "no such object": (lambda f: f.write("train", "a 9\n"), "a: object 9 is listed, .*a.xml has no person of this"),
    "the dog": (lambda f: f.write("reading_train", "a 2 1\n"), "a: object 2 is listed, .*has no person"),
    "a class without list": (lambda f: f.remove("running_train"), "running_train.txt: missing, other classes have"),
    "two words a line": (lambda f: f.write("running_train", "a 1\n"), "running_train.txt line 1: expected 'id object"),
    "a label of 2": (lambda f: f.write("running_train", "a 1 2\n"), "line 1: expected 'id object -1|0|1', got 'a 1 2'"),
    "contradiction": (lambda f: f.write("running_train", "a 1 1\na 1 -1\n"), "line 2: 'a 1 -1' contradicts a line"),
    "no XML": (lambda f: (f.folder / "Annotations/b.xml").unlink(), "b: no annotation Annotations/b.xml"),
    "no picture": (lambda f: (f.folder / "JPEGImages/b.jpg").unlink(), "b: no picture JPEGImages/b.jpg"),
    "flags in words": (
        lambda f: f.annotate("c", [("person", {"reading": "perhaps"})]),
        r"c: Annotations/c.xml: object 1 \(person\): actions/reading: expected 0 or 1, got 'perhaps'",
    ),
}


@pytest.mark.parametrize("samples", ["persons", "pictures"])
@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(acts, change, message, samples):
    change(acts)
    with pytest.raises(DatasetError, match=message.replace("|", r"\|").replace("'id object", "'id object")):
        acts.read(samples)


def test_all_mistakes_are_named_at_once(acts):
    acts.remove("running_train")
    (acts.folder / "JPEGImages/a.jpg").unlink()
    acts.annotate("c", [("dog", None)])

    with pytest.raises(DatasetError, match="3 problem") as caught:
        acts.read()
    for part in ("running_train.txt: missing", "a: no picture", "c: object 3 is listed", "pipeline data check acts"):
        assert part in str(caught.value)


def test_a_list_is_read_in_its_order(acts):
    acts.write("train", "b 4\na\nb 1\n")

    assert read_action_list(acts.folder / "ImageSets/Action/train.txt") == {"b": [4, 1], "a": []}


@pytest.mark.parametrize("samples", ["persons", "pictures"])
def test_ids_may_have_spaces(acts, samples):
    plain = acts.read(samples)
    for old, new in {"a": "my photo", "b": "my photo 1"}.items():  # the second reads as person 1 of the first
        (acts.folder / f"JPEGImages/{old}.jpg").rename(acts.folder / f"JPEGImages/{new}.jpg")
        (acts.folder / f"Annotations/{old}.xml").rename(acts.folder / f"Annotations/{new}.xml")
    acts.write("train", "my photo\nmy photo 1 1\nmy photo 1 4\nc\n")
    acts.write("reading_train", "my photo 1 1\nmy photo 3 -1\nmy photo 1  1 -1\nmy photo 1 4 1\nc 3 -1\n")
    acts.write("running_train", "my photo 1 -1\nmy photo 3 1\nmy photo 1 1 -1\nmy photo 1 4 1\n")
    spaced = acts.read(samples)

    assert np.array_equal(spaced.labels, plain.labels)
    ends = ("_1", "_3", "_1", "_4", "_3") if samples == "persons" else ("", "", "")
    stems = ("my photo", "my photo", "my photo 1", "my photo 1", "c") if ends[0] else ("my photo", "my photo 1", "c")
    assert spaced.ids == tuple(map("".join, zip(stems, ends, strict=True)))
    acts.write("test", "c\n")
    assert check(acts.manifest(samples), acts.root, deep=True).ok
    assert state_of_split(acts.manifest(samples), "train", acts.root)


def test_a_number_after_an_id_is_an_object_unless_only_the_line_is_a_picture(tmp_path):
    (tmp_path / "list.txt").write_text("one 2\ntwo 2\n three  3 \n")

    read = read_action_list(tmp_path / "list.txt", {"one", "one 2", "two 2", "three"})

    assert read == {"one": [2], "two 2": [], "three": [3]}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: f.write("train", "a\nb\n"), id="the id list"),
        pytest.param(lambda f: f.write("reading_train", "a 1 -1\n"), id="a class list"),
        pytest.param(lambda f: f.annotate("a", [("person", None)] * 4), id="an XML file"),
    ],
)
def test_what_changes_a_split_changes_its_digests(acts, change):
    before, seen = acts.read().annotation_digest, state_of_split(acts.manifest(), "train", acts.root)
    change(acts)

    assert acts.read().annotation_digest != before
    assert state_of_split(acts.manifest(), "train", acts.root) != seen


def test_persons_and_pictures_are_told_apart(acts):
    states = {state_of_split(acts.manifest(samples), "train", acts.root) for samples in ("persons", "pictures")}
    assert len(states) == 2
    assert acts.read().annotation_digest != acts.read("pictures").annotation_digest


@pytest.mark.parametrize("samples", ["persons", "pictures"])
def test_check_counts_pictures_and_class_lists(acts, samples):
    acts.write("test", "a\n")
    report = check(acts.manifest(samples), acts.root, deep=True)

    assert report.ok, report.problems
    assert str(report.splits[0]) == "train: 3 listed, 3 pictures, 3 annotations, 2 class lists"

    acts.remove("running_train")
    assert check(acts.manifest(samples), acts.root).problems == [
        "train: running_train.txt: missing, other classes have theirs"
    ]


# ---- manifests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"unscored": ("riding",)}, "unscored: no such class: 'riding'", id="unknown class"),
        pytest.param({"unscored": CLASSES}, "unscored: no class is left", id="nothing scored"),
        pytest.param({"layout": "voc"}, "persons are listed in the layout voc-action only", id="layout"),
        pytest.param({"competition": "comp2"}, "competition: comp2 and samples: persons", id="competition"),
        pytest.param(
            {"samples": "pictures", "competition": "comp10"}, "competition: comp10 and samples: pictures", id="samples"
        ),
    ],
)
def test_what_a_manifest_of_actions_may_not_say(acts, changes, message):
    with pytest.raises(ValueError, match=message):
        acts.manifest(**changes)


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("voc12_action", "persons"),
        ("voc12_action_test", "persons"),
        ("voc12_action_pictures", "pictures"),
        ("demo_action", "persons"),
        ("demo_action_pictures", "pictures"),
    ],
)
def test_shipped_manifests(name, samples):
    manifest = load_manifest(name)

    assert (manifest.layout, manifest.samples, manifest.metric) == ("voc-action", samples, "voc12")
    assert manifest.unscored == ("other",) and not manifest.official
    assert manifest.competition_with(True) == ("comp10" if samples == "persons" else "comp2")
    assert manifest.competition_with(False) == ("comp9" if samples == "persons" else "comp1")
    if name.startswith("voc12"):
        assert len(manifest.classes) == 11


def test_labels_are_small_integers(acts):
    assert acts.read().labels.dtype == np.int8
