"""Pictures without labels: a folder as it is, or a list of pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from support.own_pictures import draw, write

from pipeline.dataset.describe.pictures import manifest_of_folder
from pipeline.dataset.describe.recognise import recognise_folder
from pipeline.dataset.describe.table import TableOptions, describe_table
from pipeline.dataset.manifest import Manifest, load_manifest
from pipeline.dataset.read import check, read_split, state_of_split
from pipeline.io.errors import DatasetError, MissingDataError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "Photos 24", "a.jpg", "b.JPG", "2019/sea/a.png", "2019/sea/deep/er/c.webp", ".trash/x.jpg")
    return tmp_path / "Photos 24"


def describe(root, said=None) -> Manifest:
    path = manifest_of_folder(str(root), Path("data_manifests"), (said if said is not None else []).append)
    return load_manifest(path.stem)


def test_a_folder_is_a_dataset_of_one_split_with_all_pictures_in_it_and_below(root):
    manifest = describe(root)
    split = read_split(manifest, "all")
    assert (manifest.name, manifest.classes, list(manifest.splits)) == ("photos_24", (), ["all"])
    assert not manifest.has_labels and not manifest.has_boxes
    found = {str(path.relative_to(root)): i for i, path in split.paths_by_id.items()}
    assert found == {
        "2019/sea/a.png": "2019__sea__a",
        "2019/sea/deep/er/c.webp": "2019__sea__deep__er__c",
        "a.jpg": "a",
        "b.JPG": "b",
    }
    assert split.labels is None and check(manifest).ok


def test_the_manifest_names_the_folder_alone(root):
    describe(root)
    content = yaml.safe_load((root.parent / "data_manifests/photos_24.yaml").read_text())
    assert content == {
        "name": "photos_24",
        "layout": "pictures",
        "title": "pictures without labels in Photos 24",
        "folder": str(root),
        "splits": {"all": {}},
    }


def test_the_same_folder_has_the_same_manifest_and_another_one_of_the_same_name_its_own(root, tmp_path):
    said: list[str] = []
    first = describe(root, said)
    assert describe(root, said) == first == describe(Path("..") / root.parent.name / root.name)
    assert said[-1].endswith(f"photos_24.yaml: dataset photos_24, the pictures in {root}")
    draw(tmp_path / "other/Photos 24", "z.jpg")
    second = describe(tmp_path / "other/Photos 24")
    assert second.name.startswith("photos_24_") and describe(tmp_path / "other/Photos 24") == second


def test_pictures_that_come_or_go_change_state_and_ids(root):
    manifest = describe(root)
    state, split = state_of_split(manifest, "all"), read_split(manifest, "all")
    draw(root, "2020/new.jpg")
    assert state_of_split(manifest, "all") != state
    now = read_split(manifest, "all")
    assert set(now.ids) - set(split.ids) == {"2020__new"} and now.annotation_digest != split.annotation_digest
    (root / "2020/new.jpg").unlink()
    assert read_split(manifest, "all").annotation_digest == split.annotation_digest
    os.utime(root / "a.jpg", (1, 1))
    assert state_of_split(manifest, "all") != state


def test_links_to_a_folder_above_are_passed_over_and_dangling_ones_are_listed(root):
    (root / "2019/up").symlink_to("..")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    assert "gone" in read_split(describe(root), "all").ids and len(read_split(describe(root), "all").ids) == 5


def test_two_pictures_with_one_id_are_refused(root):
    draw(root, "a.png")
    with pytest.raises(DatasetError, match=r"a\.jpg, a\.png: one id for several pictures \(a\); rename"):
        describe(root)


def test_no_folder_and_no_picture(root):
    with pytest.raises(MissingDataError, match="gone: no such folder; --root names the folder of the pictures"):
        describe(root.parent / "gone")
    write(root.parent, "texts/a.txt", "")
    with pytest.raises(DatasetError, match="no picture in it, nor in a folder below"):
        describe(root.parent / "texts")
    assert not (root.parent / "data_manifests").exists()


def test_a_flat_folder_has_no_labels_and_folders_can_be_said_to_have_none(root, tmp_path):
    draw(tmp_path / "flat", "a.jpg", "b.jpg")
    assert not recognise_folder(tmp_path / "flat", "flat").has_labels
    draw(tmp_path / "nested", "cat/a.jpg", "dog/b.jpg")
    assert recognise_folder(tmp_path / "nested", "nested").has_labels
    assert not recognise_folder(tmp_path / "nested", "nested", no_labels=True).has_labels


def test_a_table_of_pictures_alone_is_a_list(root):
    table = write(root.parent, "some.csv", "picture\nb.JPG\n2019/sea/a.png\n")
    describe_table(table, root, "some", root.parent / "data_manifests", TableOptions(), [].append)
    assert read_split(load_manifest("some"), "all").ids == ("b", "2019__sea__a")
    write(root.parent, "some.csv", "picture\nb.JPG\nno.jpg\n")
    with pytest.raises(DatasetError, match=r"no\.jpg: no such picture in"):
        describe_table(table, root, "more", root.parent / "data_manifests", TableOptions(), [].append)
