"""Each record belongs to the picture that it names, and to no other; a picture that is not there is named."""

from __future__ import annotations

import json

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
