"""`pipeline data new`: a manifest for anyone's own pictures."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.dataset.describe.divide import make_lists, photo_of, split_pictures
from pipeline.dataset.describe.voc import new_manifest
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.errors import DatasetError, MissingDataError, SettingsError

BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"


def write_pair(root: Path, i: str, *classes: str, picture: bool = True, annotation: bool = True) -> None:
    if picture:
        Image.new("RGB", (16, 12), "olive").save(root / "JPEGImages" / f"{i}.jpg")
    if annotation:
        things = "".join(f"<object><name>{c}</name>{BOX}</object>" for c in classes)
        (root / "Annotations" / f"{i}.xml").write_text(f"<annotation>{things}</annotation>")


@pytest.fixture
def own(tmp_path) -> Path:
    """Ten pictures: cats in all, dogs in two, one fish."""
    root = tmp_path / "My pictures"
    for sub in ("JPEGImages", "Annotations"):
        (root / sub).mkdir(parents=True)
    for n in range(10):
        write_pair(root, f"p{n}", "cat", *(["dog"] if n in (3, 4) else []), *(["fish"] if n == 5 else []))
    return root


@pytest.fixture
def manifests(tmp_path) -> Path:
    return tmp_path / "data_manifests"


def write_list(root: Path, name: str, text: str) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(text)


def listing(root: Path) -> list[tuple[str, int]]:
    return sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))


def test_pictures_without_lists_are_divided_and_can_be_read(own, manifests):
    before, said = listing(own), []

    path = new_manifest(own, "mine", manifests, say=said.append)

    manifest = load_manifest("mine", manifests)
    train, val = read_split(manifest, "train"), read_split(manifest, "val")
    assert path == manifests / "mine.yaml"
    assert (manifest.folder, manifest.classes) == (str(own), ("cat", "dog", "fish"))
    assert (manifest.fit, manifest.eval, manifest.metric, manifest.official) == (
        "train",
        "val",
        "voc12",
        False,
    )
    assert (len(train.ids), len(val.ids)) == (6, 4)
    assert sorted(train.ids + val.ids) == [f"p{n}" for n in range(10)]
    assert len({"p3", "p4"} & set(val.ids)) == 1  # one dog on each side
    assert (manifests / "mine" / "val.txt").read_text().split() == list(val.ids)
    assert listing(own) == before  # nothing was written there
    assert "train: 6 pictures" in said and "3 classes: cat, dog, fish" in said


def test_the_seed_decides_and_the_same_seed_gives_the_same(own, manifests):
    lists = {}
    for name, seed in {"a": 0, "again": 0, "other": 1}.items():
        new_manifest(own, name, manifests, seed=seed, metric="voc07", say=lambda message: None)
        lists[name] = (manifests / name / "train.txt").read_text()

    assert lists["a"] == lists["again"] != lists["other"]
    assert load_manifest("a", manifests).metric == "voc07"


@pytest.mark.parametrize(
    ("lists", "fit", "scored"),
    [
        ({"train": "p0 p1 p2", "val": "p3 p4"}, "train", "val"),
        ({"trainval": "p0 p1 p2", "test": "p3 p4"}, "trainval", "test"),
        ({"train": "p0 p1", "val": "p2", "trainval": "p0 p1 p2", "test": "p3 p4"}, "train", "val"),
        ({"train": "p0 p1", "test": "p3 p4", "odd": "p5"}, "train", "test"),
    ],
    ids=["train and val", "trainval and test", "all four", "train and test"],
)
def test_lists_that_are_there_are_used_in_place(own, manifests, lists, fit, scored):
    for name, ids in lists.items():
        write_list(own, name, ids.replace(" ", "\n") + "\n")
    write_list(own, f"cat_{fit}", "".join(f"{i} 1\n" for i in lists[fit].split()))
    write_list(own, f"dog_{fit}", "".join(f"{i} -1\n" for i in lists[fit].split()))
    write_list(own, f"fish_{fit}", "".join(f"{i} 0\n" for i in lists[fit].split()))
    write_list(own, f"zebra_{fit}", "p0 -1\n")  # of a class without a picture here

    new_manifest(own, "mine", manifests, say=lambda message: None)

    manifest = load_manifest("mine", manifests)
    assert (manifest.fit, manifest.eval) == (fit, scored)
    assert set(manifest.splits) == set(lists)
    assert read_split(manifest, fit).ids == tuple(lists[fit].split())
    assert read_split(manifest, fit).labels[0].tolist() == [1, -1, 0]
    assert not (manifests / "mine").exists()


def test_what_has_no_partner_is_left_out_and_said(own, manifests):
    write_pair(own, "q1", annotation=False)
    write_pair(own, "q2", "cat", picture=False)
    write_list(own, "train", "p0\nq1\np1\nq2\n")
    write_list(own, "val", "p2\n")
    said = []

    new_manifest(own, "mine", manifests, say=said.append)

    manifest = load_manifest("mine", manifests)
    assert read_split(manifest, "train").ids == ("p0", "p1")
    assert manifest.splits["train"].ids == "mine/train.txt" and manifest.splits["val"].ids is None
    assert "left out, 1 pictures without an annotation:\n  - q1" in said
    assert "left out, 1 annotations without a picture:\n  - q2" in said
    assert "left out of train.txt, 2 of 4 ids:\n  - q1\n  - q2" in said


def test_a_test_list_without_annotations_is_a_split_without_labels(own, manifests):
    write_pair(own, "t1", annotation=False)
    write_list(own, "trainval", "p0\np1\n")
    write_list(own, "test", "t1\n")
    said = []

    new_manifest(own, "mine", manifests, say=said.append)

    manifest = load_manifest("mine", manifests)
    assert (manifest.fit, manifest.eval) == ("train", "val")  # made: test cannot be scored here
    assert not manifest.splits["test"].labelled
    assert read_split(manifest, "test").labels is None
    assert "test: 1 pictures, no annotations" in said


def test_lists_that_share_pictures_are_said_loudly(own, manifests):
    write_list(own, "train", "p0\np1\np2\n")
    write_list(own, "val", "p2\np3\n")
    said = []

    new_manifest(own, "mine", manifests, say=said.append)

    assert "1 pictures are both in train and in val: the score will flatter" in said


def test_an_empty_or_foreign_list_is_passed_over(own, manifests):
    write_list(own, "val", "")
    write_list(own, "notes", "these pictures are mine\n")
    said = []

    new_manifest(own, "mine", manifests, say=said.append)

    assert set(load_manifest("mine", manifests).splits) == {"train", "val"}
    assert any("not used" in line and "val.txt" in line and "empty" in line for line in said)
    assert any("not used" in line and "notes.txt" in line for line in said)


@pytest.mark.parametrize("ids", ["p0\np1\np0\n", "../p0\np1\n"], ids=["twice", "path"])
def test_a_broken_train_list_stops(own, manifests, ids):
    write_list(own, "train", ids)

    with pytest.raises(DatasetError, match="train.txt: 1 problem"):
        new_manifest(own, "mine", manifests)
    assert not manifests.exists()


@pytest.mark.parametrize("name", ["Mine", "a b", "../up", "", "published", "voc12"])
def test_names_that_cannot_be_used(own, manifests, name):
    with pytest.raises(SettingsError, match=f"name: (got )?'{name}'"):
        new_manifest(own, name, manifests)
    assert not manifests.exists()


def test_an_existing_manifest_is_kept_unless_asked(own, manifests):
    new_manifest(own, "mine", manifests, say=lambda message: None)
    (manifests / "mine.yaml").write_text("edited by hand")

    with pytest.raises(SettingsError, match=r"mine.yaml: exists already; .* --overwrite"):
        new_manifest(own, "mine", manifests)
    assert (manifests / "mine.yaml").read_text() == "edited by hand"

    new_manifest(own, "mine", manifests, overwrite=True, say=lambda message: None)
    assert load_manifest("mine", manifests).classes == ("cat", "dog", "fish")


def test_an_unknown_metric_is_refused(own, manifests):
    with pytest.raises(SettingsError, match="metric: got 'coco', expected voc07 or voc12"):
        new_manifest(own, "mine", manifests, metric="coco")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (None, "no JPEGImages and no Annotations; expected JPEGImages/ID.jpg .* got no such folder"),
        ([], "got an empty folder"),
        (["images", "labels"], "no JPEGImages and no Annotations; .* got images, labels"),
        (["JPEGImages"], "no Annotations; expected"),
    ],
    ids=["nothing", "empty", "other layout", "no annotations"],
)
def test_a_folder_of_another_layout_says_what_was_expected_and_got(tmp_path, manifests, folders, message):
    root = tmp_path / "own"
    for sub in folders or []:
        (root / sub).mkdir(parents=True)
    if folders == []:
        root.mkdir()

    with pytest.raises(MissingDataError, match=message):
        new_manifest(root, "mine", manifests)


def test_at_least_two_annotated_pictures_are_needed(own, manifests):
    for path in sorted((own / "Annotations").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DatasetError, match=r"1 annotated picture\(s\), at least 2 .*got 10 pictures, 1 annotations"):
        new_manifest(own, "mine", manifests, say=lambda message: None)

    (own / "Annotations" / "p0.xml").unlink()
    with pytest.raises(DatasetError, match=r"0 annotated picture\(s\)"):
        new_manifest(own, "mine", manifests, say=lambda message: None)


def test_annotations_without_any_object_are_refused(own, manifests):
    for path in (own / "Annotations").iterdir():
        path.write_text("<annotation/>")

    with pytest.raises(DatasetError, match="no <object> in any of 10 annotations"):
        new_manifest(own, "mine", manifests)


def test_all_broken_annotations_are_told_at_once_and_nothing_is_written(own, manifests):
    (own / "Annotations" / "p0.xml").write_text("<annotation>")
    (own / "Annotations" / "p1.xml").write_text(f"<annotation><object>{BOX}</object></annotation>")
    (own / "Annotations" / "p2.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')

    with pytest.raises(DatasetError) as caught:
        new_manifest(own, "mine", manifests)

    message = str(caught.value)
    assert "3 problem(s)" in message
    assert "Annotations/p0.xml: not valid XML" in message
    assert "Annotations/p1.xml: object 1 (no name)" in message
    assert "Annotations/p2.xml: refused: EntitiesForbidden" in message
    assert not manifests.exists()


def test_pictures_names_that_cannot_stand_in_a_list_are_told(own, manifests):
    write_pair(own, "-rf", "cat")
    Image.new("RGB", (16, 12)).save(own / "JPEGImages" / "p1.png")

    with pytest.raises(DatasetError, match=r"2 problem(?s:.*)p1.jpg, p1.png: one name(?s:.*)'-rf': rename"):
        new_manifest(own, "mine", manifests)


def test_lists_that_do_not_fit_the_classes_leave_nothing_behind(own, manifests):
    write_list(own, "train", "p0\np1\np9x\n")
    write_list(own, "val", "p2\n")
    write_list(own, "cat_train", "p0 1\np1 1\n")  # dog and fish have none

    with pytest.raises(DatasetError, match="dog_train.txt: missing, other classes have theirs"):
        new_manifest(own, "mine", manifests, say=lambda message: None)
    assert not list(manifests.rglob("*"))


def test_classes_that_yaml_would_read_as_something_else_survive(own, manifests):
    for n, name in enumerate(["yes", "1", "null", "traffic light", "größe"]):
        write_pair(own, f"y{n}", name)

    new_manifest(own, "mine", manifests, say=lambda message: None)

    assert {"yes", "1", "null", "traffic light", "größe"} < set(load_manifest("mine", manifests).classes)
    assert yaml.safe_load((manifests / "mine.yaml").read_text())["folder"] == str(own)


# ---- dividing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_rare_classes_are_on_both_sides(seed):
    # 200 pictures, ten classes with two pictures each, chained: picture k holds classes k and k + 1.
    names_of = {f"p{n:03d}": {"common"} for n in range(200)}
    for k in range(11):
        names_of[f"p{k * 17:03d}"] |= {f"rare{k - 1}" if k else "common", f"rare{k}" if k < 10 else "common"}

    train, val = split_pictures(names_of, seed)

    assert (len(train), len(val)) == (120, 80)
    for side in (train, val):
        assert set().union(*(names_of[i] for i in side)) == set().union(*names_of.values())


def test_versions_of_a_photo_stay_on_one_side():
    """As Roboflow names what it augments; 150 photos of two or three versions each."""
    names_of = {
        f"street/{n:03d}_jpg.rf.{version}{n:031x}": {"cat" if n % 3 else "dog"}
        for n in range(150)
        for version in ("a", "b", "c")[: 2 + n % 2]
    }

    train, val = split_pictures(names_of, seed=1)
    positive = np.array([[label in names_of[i] for label in ("cat", "dog")] for i in names_of])
    said: list[str] = []
    lists = make_lists(list(names_of), positive, ("cat", "dog"), 1, said.append)

    for one, other in ((train, val), (lists["train"].ids, lists["val"].ids)):
        assert sorted([*one, *other]) == sorted(names_of)
        assert not {photo_of(i) for i in one} & {photo_of(i) for i in other}
        assert len({photo_of(i) for i in other}) == 60
    assert "375 pictures are versions of 150 photos" in said[-1]


def test_versions_of_one_photo_cannot_be_divided():
    names = [f"street_jpg.rf.{n:032x}" for n in range(4)]
    with pytest.raises(DatasetError, match="all 4 pictures are versions of one photo, street_jpg"):
        make_lists(names, np.ones((4, 1), bool), ("cat",), 0, lambda line: None)


def test_what_cannot_be_on_both_sides_is_still_divided():
    triangle = {"a": {"x", "y"}, "b": {"y", "z"}, "c": {"z", "x"}}

    train, val = split_pictures(triangle, seed=0)

    assert (len(train), len(val)) == (2, 1)
    assert sorted(train + val) == ["a", "b", "c"]


@pytest.mark.parametrize(("n", "sizes"), [(2, (1, 1)), (3, (2, 1)), (5, (3, 2)), (100, (60, 40))])
def test_sixty_to_forty(n, sizes):
    train, val = split_pictures({f"p{k}": {"cat"} for k in range(n)}, seed=3)

    assert (len(train), len(val)) == sizes
    assert not set(train) & set(val)
