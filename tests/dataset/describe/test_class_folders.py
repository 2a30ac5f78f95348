"""Class folders as users have them: which folder is what, and what is left out."""

import os
from pathlib import Path

import pytest
from support.own_pictures import draw, write

from pipeline.dataset.describe.folders import new_folders_manifest
from pipeline.dataset.describe.recognise import recognise_folder
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.errors import DatasetError, MissingDataError

PETS = ("cat", "dog")


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def describe(root: Path, **options: str) -> tuple[object, list[str]]:
    said: list[str] = []
    new_folders_manifest(root, "own", root.parent / "m", overwrite=True, say=said.append, **options)
    return load_manifest("own", root.parent / "m"), said


def draw_classes(root: Path, *places: str, n: int = 2) -> None:
    draw(root, *(f"{place}/{c}/{k}.jpg" for place in places for c in PETS for k in range(n)))


@pytest.mark.parametrize(
    ("folders", "splits", "pair"),
    [
        (["train", "valid"], {"train": "train", "val": "valid"}, ("train", "val")),
        (["train", "valid", "test"], {"train": "train", "val": "valid", "test": "test"}, ("train", "val")),
        (["TRAIN", "dev"], {"train": "TRAIN", "val": "dev"}, ("train", "val")),
        (["training_set", "test_set"], {"train": "training_set", "test": "test_set"}, ("train", "test")),
        (["train2017", "val2017"], {"train": "train2017", "val": "val2017"}, ("train", "val")),
        (["trainval", "testing"], {"trainval": "trainval", "test": "testing"}, ("trainval", "test")),
        (["training", "evaluation"], {"train": "training", "val": "evaluation"}, ("train", "val")),
    ],
)
def test_folders_of_splits_by_other_names(root, folders, splits, pair):
    draw_classes(root, *folders)

    manifest, said = describe(root)

    assert {split: entry.folder for split, entry in manifest.splits.items()} == splits
    assert (manifest.fit, manifest.eval, manifest.classes) == (*pair, PETS)
    assert all(read_split(manifest, split).paths[0].is_file() for split in splits)
    renamed = {f"{folder}/ is the split {split}" for split, folder in splits.items() if split != folder}
    assert renamed == {line for line in said if "is the split" in line}


def test_two_folders_for_one_split_are_refused(root):
    draw_classes(root, "train2014", "train2017", "val")
    with pytest.raises(DatasetError, match="train: train2014/, train2017/"):
        describe(root)


def test_train_alone_is_divided_and_said(root):
    draw_classes(root, "train", n=5)
    draw(root, "test/0.jpg", "test/1.jpg")

    manifest, said = describe(root)

    assert {entry.folder for entry in manifest.splits.values()} == {"train"}
    assert [len(read_split(manifest, split).ids) for split in ("train", "val")] == [6, 4]
    assert any("only split with class folders" in line for line in said)
    assert any("no class folders in it" in line and "test/: 2 pictures" in line for line in said)


@pytest.mark.parametrize("folders", [["val"], ["val", "test"], ["test"]])
def test_splits_without_a_pair_are_refused(root, folders):
    draw_classes(root, *folders)
    with pytest.raises(DatasetError, match=r"expected folders for train and val[\s\S]*--folders classes"):
        describe(root)


@pytest.mark.parametrize(
    "names",
    [
        ["train", "val"],
        ["test1", "train"],
        ["00000", "00001"],
        ["part-0", "part-1"],
        ["images", "masks"],
        ["cat", "img"],
    ],
    ids=" ".join,
)
def test_names_that_could_mean_both_are_asked_about(root, names):
    draw(root, *(f"{name}/{k}.jpg" for name in names for k in range(2)))

    with pytest.raises(DatasetError, match=r"no names of classes[\s\S]*--table labels.csv[\s\S]*--folders classes"):
        describe(root)
    assert describe(root, folders="classes")[0].classes == tuple(sorted(names))


def test_a_split_of_folders_with_images_is_asked_about(root):
    draw(root, *(f"{s}/{c}/{k}.jpg" for s in ("train", "val") for c in ("images", "cat") for k in range(2)))

    with pytest.raises(DatasetError, match=r"train/images/ \(2 pictures\)[\s\S]*--folders splits"):
        describe(root)
    assert describe(root, folders="splits")[0].classes == ("cat", "images")


def test_splits_of_the_users_own_names(root):
    draw_classes(root, "train", "val", "summer")
    assert "summer" not in describe(root)[0].splits
    assert set(describe(root, folders="splits")[0].splits) == {"train", "val", "summer"}


def test_everything_left_out_is_counted_and_named(root):
    draw_classes(root, ".", n=3)
    draw(root, "stray.jpg", "cat/deep/1.jpg", "animals/fish/1.jpg", "animals/fish/2.jpg", "cat/a.heic", "dog/b.HEIC")
    write(root, "README.md", "mine")
    write(root, "cat/._0.jpg", "")
    write(root, "hidden/._0.jpg", "")
    os.symlink(root / "nowhere.jpg", root / "cat" / "9.jpg")
    (root / "empty").mkdir()

    manifest, said = describe(root)
    text = "\n".join(said)

    assert manifest.classes == PETS and sum(len(read_split(manifest, s).ids) for s in ("train", "val")) == 6
    assert "left out, 2, files whose suffix is not read" in text and "(2 .heic)" in text and "dog/b.HEIC" in text
    for line in ("  - stray.jpg", "  - cat/deep/: 1 pictures", "  - animals/: 2 pictures", "  - README.md"):
        assert line in text
    assert "  - cat/9.jpg" in text and "empty/: nothing" in text and "hidden/: hidden files" in text
    assert "._0.jpg" not in text


@pytest.mark.parametrize("place", [".", "train"])
def test_a_class_without_a_readable_picture_is_refused(root, place):
    draw_classes(root, "train", "val") if place == "train" else draw_classes(root, ".")
    draw(root, f"{place}/bird/1.heic", f"{place}/bird/2.heic")

    with pytest.raises(DatasetError, match=r"1 class\(es\) without a picture that can be read[\s\S]*bird/: 2 files"):
        describe(root)


def test_links_alone_are_no_class(root):
    draw_classes(root, ".")
    (root / "bird").mkdir()
    os.symlink(root / "nowhere.jpg", root / "bird" / "1.jpg")
    with pytest.raises(DatasetError, match=r"bird/: 1 files, such as 1.jpg"):
        describe(root)


def test_captions_next_to_pictures_are_said(root):
    draw_classes(root, ".")
    for k in range(2):
        write(root, f"cat/{k}.txt", "a cat on a mat")

    manifest, said = describe(root)

    assert manifest.classes == PETS
    assert any("not used: 2 .txt files next to pictures of the same name" in line for line in said)


def test_a_folder_around_it_is_named(root):
    draw_classes(root, "archive/data")
    with pytest.raises(DatasetError, match=r"class folders lie in archive/data/: give --root .*own/archive/data"):
        describe(root)


def test_classes_over_splits_are_no_classes(root):
    draw(root, *(f"{c}/{s}/{k}.jpg" for c in PETS for s in ("train", "test") for k in range(2)))
    with pytest.raises(DatasetError, match=r"no class folders[\s\S]*cat/: 4 pictures"):
        describe(root)


def test_pictures_next_to_a_table_may_have_labels_in_it(root):
    draw(root, *(f"{k}.jpg" for k in range(5)))
    write(root, "labels.csv", "id,breed\n0,a\n")
    with pytest.raises(
        DatasetError, match=r"it has id,breed\): pipeline data new --table .*labels.csv --root"
    ) as error:
        recognise_folder(root, "own")
    assert f"pipeline data new --no-labels --root {root} --name own" in str(error.value)


def test_no_folder(root):
    with pytest.raises(MissingDataError, match="gone: no such folder; --root names the folder of the pictures"):
        recognise_folder(root / "gone", "own").write(root / "gone", "own", root.parent / "m")


# ---- folders that are no classes, or no folders


def test_links_that_lead_in_a_circle_are_named(root):
    draw_classes(root, ".")
    (root / "cat/up").symlink_to("..")
    (root / "bird").symlink_to("cat")  # another name of a class is a class

    manifest, said = describe(root)

    assert manifest.classes == ("bird", "cat", "dog")
    assert sum("cat/up/" in line and "bird/up/" in line for line in said) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder; --root names the folder"),
        (lambda root: root.write_bytes(b"PK"), "a file, not a folder"),
    ],
)
def test_a_root_that_is_no_folder_is_named(tmp_path, make, message):
    make(tmp_path / "own.zip")

    with pytest.raises(MissingDataError, match=message):
        recognise_folder(tmp_path / "own.zip", "own")


def test_a_split_with_a_folder_of_pictures_alone_has_no_labels(root):
    draw(root, *(f"train/{c}/images/{k}.jpg" for c in PETS for k in range(2)), "val/images/0.jpg")

    with pytest.raises(DatasetError, match=r"no class folders[\s\S]*\(--table\):\s+- train/: 4 pictures") as error:
        describe(root)
    assert "--root" not in str(error.value)


def test_a_single_folder_next_to_a_list_is_no_class(root):
    draw(root, "img_align/0.jpg", "img_align/1.jpg")
    write(root, "list_attr.txt", "0.jpg 1\n")

    with pytest.raises(DatasetError, match=r"a single class, img_align: .*can be given as a table \(--table\)"):
        describe(root)


def test_a_link_that_leads_to_itself_costs_its_folder_nothing(root):
    draw_classes(root, "train", "val")
    (root / "train/cat/loop.txt").symlink_to("loop.txt")
    (root / "loop").symlink_to("loop")
    (root / "train/cat/gone.jpg").symlink_to("nowhere.jpg")
    (root / "train/cat/folder.jpg").mkdir()

    manifest, said = describe(root)

    # A picture that cannot be read is one of the split, so that what reads it names it.
    assert manifest.splits["train"].pictures == 5
    assert read_split(manifest, "train").ids == ("cat__0", "cat__1", "cat__gone", "dog__0", "dog__1")
    assert [line for line in said if "train/cat/gone.jpg" in line and line.startswith("NOTE: 1 pictures are links")]
    assert not any("left out, " in line and "gone.jpg" in line for line in said)
    assert any("links that lead nowhere" in line and "train/cat/loop.txt" in line for line in said)
