"""Each record belongs to the picture that it names, and to no other; a picture that is not there is named."""

from __future__ import annotations

import json

import pytest
from support.cli import run_command
from support.own_pictures import draw, write

from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split


def new(folder, *options: str):
    return run_command(folder, "data", "new", "--root", "own", "--name", "own", "--overwrite", *options)


def described(folder, *options: str):
    """Run ``data new``; return what it said and the manifest."""
    ended = new(folder, *options)
    assert ended.code == 0, ended.err
    return ended.err, load_manifest("own", folder / "data_manifests")


def test_a_class_that_is_present_nowhere_is_no_class(tmp_path):
    for split in ("train", "val"):
        draw(tmp_path / "own" / split, *(f"{split}{k}.jpg" for k in range(2)))
        rows = [f"{split}{k},{name},{value}" for k in range(2) for name, value in (("cat", 1 - k), ("dog", 0))]
        rows.append(f"{split}1,fox,0.5")
        write(tmp_path, f"own/{split}-labels.csv", "\n".join(["ImageID,LabelName,Confidence", *rows]))
    said, manifest = described(tmp_path)
    assert "classes without any object are no classes here: 'dog', 'fox'" in said
    assert manifest.classes == ("cat",)
    assert read_split(manifest, "val").labels.tolist() == [[1], [-1]]


def test_a_key_of_coco_that_is_there_twice_goes_on(tmp_path):
    draw(tmp_path / "own", *(f"{k}.jpg" for k in range(4)))
    parts = []
    for first in (0, 2):
        of_part = range(first, first + 2)
        images = [{"id": k, "file_name": f"{k}.jpg", "width": 16, "height": 12} for k in of_part]
        boxes = [{"image_id": k, "category_id": 7 + k % 2, "bbox": [k, 2, 5, 6]} for k in of_part]
        parts.append(f'"images": {json.dumps(images)}, "annotations": {json.dumps(boxes)}')
    names = [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}]
    write(tmp_path, "own/labels.json", f'{{{", ".join(parts)}, "categories": {json.dumps(names)}}}')
    _, manifest = described(tmp_path)
    found = {k: v for s in ("train", "val") for k, v in read_split(manifest, s).annotations_by_id.items()}
    assert {i: item.box_xyxy.tolist() for i, item in found.items()} == {str(k): [[k, 2, k + 5, 8]] for k in range(4)}
    assert {i: item.class_index.tolist() for i, item in found.items()} == {str(k): [k % 2] for k in range(4)}


def write_coco(folder, path: str, pictures: list[str], classes: list[int]) -> None:
    """Write a COCO file with one object per picture, whose corner tells its number in the file."""
    write(
        folder,
        path,
        json.dumps(
            {
                "images": [{"id": k, "file_name": name} for k, name in enumerate(pictures)],
                "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
                "annotations": [
                    {"image_id": k, "category_id": classes[k], "bbox": [k, 1, 4, 5]} for k in range(len(pictures))
                ],
            }
        ),
    )


def places(manifest) -> dict[str, list[str]]:
    """Return the files of each split, below the dataset's folder."""
    splits = {name: read_split(manifest, name) for name in manifest.splits}
    return {name: [path.relative_to(split.folder).as_posix() for path in split.paths] for name, split in splits.items()}


def test_the_split_of_a_file_tells_its_folder_where_names_repeat(tmp_path):
    names = [f"{k:04}.jpg" for k in range(5)]
    draw(tmp_path / "own/train", *names)
    draw(tmp_path / "own/val", *names[1:])
    for split in ("train", "val"):
        write_coco(tmp_path, f"own/annotations/instances_{split}.json", names, [0, 1, 0, 1, 0])
    said, manifest = described(tmp_path)
    assert places(manifest) == {"train": [f"train/{n}" for n in names], "val": [f"val/{n}" for n in names[1:]]}
    assert "left out, 1 records whose picture is not below val/:" in said and "images[0]: '0000.jpg'" in said


def test_a_stated_folder_goes_before_the_name_of_the_split(tmp_path):
    draw(tmp_path / "own", *(f"{split}/{k}.jpg" for split in ("train", "val") for k in range(4)))
    write_coco(tmp_path, "own/train.json", [f"val/{k}.jpg" for k in range(4)], [0, 1, 0, 1])
    assert {path.split("/")[0] for paths in places(described(tmp_path)[1]).values() for path in paths} == {"val"}


def test_annotations_of_an_absent_folder_are_given_to_no_other(tmp_path):
    draw(tmp_path / "own", *(f"cam1/{k:04}.jpg" for k in range(8)))
    for above in ("", "/home/ann/", "C:\\data\\"):
        stated = [f"{above}cam{1 + k // 4}/{k:04}.jpg" for k in range(8)]
        write_coco(tmp_path, "own/labels.json", stated, [0, 1] * 4)
        said, manifest = described(tmp_path)
        found = sorted(path for paths in places(manifest).values() for path in paths)
        assert found == [f"cam1/{k:04}.jpg" for k in range(4)]
        assert "left out, 4 records whose picture is not below cam1/" in said and "cam2/0007.jpg" in said.replace(
            "\\\\", "/"
        ).replace("\\", "/")


def test_a_folder_that_was_renamed_is_found_by_the_names(tmp_path):
    draw(tmp_path / "own", *(f"photos/{k}.jpg" for k in range(4)))
    write_coco(tmp_path, "own/labels.json", [f"/home/ann/images/{k}.jpg" for k in range(4)], [0, 1, 0, 1])
    said, manifest = described(tmp_path)
    assert "left out" not in said and sum(map(len, places(manifest).values())) == 4


def write_labelme(folder, file: str, image_path: str, x: int, name: str) -> None:
    shape = {"label": name, "points": [[x, 1], [x + 4, 6]], "shape_type": "rectangle"}
    content = {"imagePath": image_path, "imageWidth": 16, "imageHeight": 12, "shapes": [shape]}
    write(folder, f"own/{file}.json", json.dumps(content))


def corners(manifest) -> dict[str, float]:
    """Return the first box's left corner of each picture."""
    splits = [read_split(manifest, name) for name in ("train", "val")]
    return {
        path.relative_to(split.folder).with_suffix("").as_posix(): float(item.box_xyxy[0, 0])
        for split in splits
        for path, item in zip(split.paths, split.annotations, strict=True)
    }


@pytest.mark.parametrize(
    ("cam1", "cam2"),
    [(range(4), range(4, 8)), (range(8), range(8)), (range(8), range(0))],
    ids=["half of each", "all", "one"],
)
def test_files_of_labelme_in_several_folders_name_pictures_of_their_own(tmp_path, cam1, cam2):
    draw(tmp_path / "own", *(f"{cam}/{k}.jpg" for cam in ("cam1", "cam2") for k in range(8)))
    expected = {f"cam1/{k}": float(k) for k in cam1} | {f"cam2/{k}": 11.0 - k for k in cam2}
    for i, x in expected.items():
        write_labelme(tmp_path, i, f"{i[-1]}.jpg", int(x), ("cat", "dog")[int(i[-1]) % 2])
    assert corners(described(tmp_path)[1]) == expected


def test_a_file_of_labelme_without_its_picture_takes_none_of_another_folder(tmp_path):
    draw(tmp_path / "own", *(f"cam1/{k}.jpg" for k in range(8)))
    for k in range(4):
        write_labelme(tmp_path, f"cam1/{k}", f"{k}.jpg", k, ("cat", "dog")[k % 2])
        write_labelme(tmp_path, f"cam2/{k + 4}", f"{k + 4}.jpg", k, "cat")
    write_labelme(tmp_path, "7", "7.jpg", 7, "cat")
    said, manifest = described(tmp_path)
    assert corners(manifest) == {f"cam1/{k}": float(k) for k in range(4)}
    assert "left out, 5 records whose picture is not below cam1/" in said


def test_files_of_labelme_apart_mirror_the_folders_of_pictures(tmp_path):
    draw(tmp_path / "own", *(f"images/{cam}/{k}.jpg" for cam in ("a", "b") for k in range(3)))
    for cam in ("a", "b"):
        for k in range(3):
            write_labelme(tmp_path, f"json/{cam}/{k}", f"{k}.jpg", k, cam)
    said, manifest = described(tmp_path)
    assert corners(manifest) == {f"images/{cam}/{k}": float(k) for cam in ("a", "b") for k in range(3)}, said


def test_names_alone_of_another_machines_pictures_are_not_taken_where_there_are_several_folders(tmp_path):
    draw(tmp_path / "own", *(f"images/a/{k}.jpg" for k in range(8)))
    for k in range(4):
        write_labelme(tmp_path, f"json/a/{k}", f"/old/place/{k}.jpg", k, ("cat", "dog")[k % 2])
        write_labelme(tmp_path, f"json/b/{k + 4}", f"/old/place/{k + 4}.jpg", k, "cat")
    said, manifest = described(tmp_path)
    assert corners(manifest) == {f"images/a/{k}": float(k) for k in range(4)}
    assert "left out, 4 records whose picture is not below images/a/" in said


def test_splits_of_labelme_in_several_folders_stay_apart(tmp_path):
    expected = {f"{cam}/{split}/{k}": float(k) for cam in "ab" for split in ("train", "val") for k in range(2)}
    draw(tmp_path / "own", *(f"{i}.jpg" for i in expected))
    for i, x in expected.items():
        write_labelme(tmp_path, i, f"{i[-1]}.jpg", int(x), ("cat", "dog")[int(i[-1])])
    said, manifest = described(tmp_path)
    assert places(manifest) == {s: [f"{cam}/{s}/{k}.jpg" for cam in "ab" for k in range(2)] for s in ("train", "val")}
    assert corners(manifest) == expected and "left out" not in said


def test_pictures_that_are_fitted_and_scored_are_said_loudly(tmp_path):
    draw(tmp_path / "own", *(f"images/{k}.jpg" for k in range(4)))
    for k in range(4):
        write(tmp_path, f"own/labels/{k}.txt", f"{k % 2} 0.5 0.5 0.25 0.5\n")
    write(tmp_path, "own/data.yaml", "names: [cat, dog]\ntrain: images\nval: images\n")
    said, manifest = described(tmp_path)
    assert "4 pictures are both in train and in val: the score will flatter" in said
    assert sorted(map(len, places(manifest).values())) == [4, 4]


def yolo(folder, *pictures: str) -> None:
    """Write pictures with a text file each, and the names of the classes, but no data.yaml."""
    draw(folder / "own", *(f"images/{path}.jpg" for path in pictures))
    for k, path in enumerate(pictures):
        write(folder, f"own/labels/{path}.txt", f"{k % 2} 0.5 0.5 0.25 0.5\n")
    write(folder, "own/classes.txt", "cat\ndog\n")


@pytest.mark.parametrize("yaml", [None, "names: [cat, dog]\ntrain: images/train\nval: images/val\n"])
def test_a_folder_of_yolo_in_no_split_is_named(tmp_path, yaml):
    yolo(tmp_path, *(f"{split}/{k}" for split in ("train", "val", "extra") for k in range(2)))
    if yaml is not None:
        write(tmp_path, "own/data.yaml", yaml)
    said, manifest = described(tmp_path)
    assert places(manifest) == {s: [f"images/{s}/{k}.jpg" for k in range(2)] for s in ("train", "val")}
    assert "left out, 1, folders with pictures in no split:\n  - images/extra/: 2 pictures" in said


def test_lists_of_yolo_go_before_the_names_of_folders(tmp_path):
    yolo(tmp_path, *(f"train/{k}" for k in range(6)), "val/6", "val/7")
    lists = {"train": ["train/0", "train/1", "val/6"], "val": ["train/2", "train/3", "val/7"]}
    for split, paths in lists.items():
        write(tmp_path, f"own/{split}.txt", "".join(f"./images/{path}.jpg\n" for path in paths))
    said, manifest = described(tmp_path)
    assert places(manifest) == {split: [f"images/{path}.jpg" for path in paths] for split, paths in lists.items()}
    assert "images/train/: 2 pictures" in said
