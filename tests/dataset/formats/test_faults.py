"""Annotations that are wrong are named: what, in which file and record, and what was expected; nothing is guessed."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.cli import run_command
from support.layouts import CLASSES, LAYOUTS, coco_of, draw_scenes, of_split
from support.own_pictures import draw, write

from pipeline.dataset.formats.coco import box_of_segmentation
from pipeline.dataset.formats.records import to_pixels
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import check, read_split, state_of_split
from pipeline.io.errors import DatasetError
from pipeline.io.json_stream import stream_elements


def new(folder, *options: str):
    return run_command(folder, "data", "new", "--root", "own", "--name", "own", "--overwrite", *options)


def coco(folder, change, pictures: int = 4) -> None:
    """Write four pictures and a COCO file after a change of its content."""
    draw(folder / "own", *(f"images/{k}.jpg" for k in range(pictures)))
    content = {
        "images": [{"id": 10 * k, "file_name": f"{k}.jpg", "width": 16, "height": 12} for k in range(4)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [
            {"id": k, "image_id": 10 * k, "category_id": 7 if k % 2 else 90, "bbox": [1, 2, 5.5, 6]} for k in range(4)
        ],
    }
    change(content)
    write(folder, "own/labels.json", json.dumps(content))


def edit(key: str, number: int, **values):
    return lambda content: content[key][number].update(values)


FAULTS = {
    "far outside": (
        edit("annotations", 1, bbox=[1, 2, 90, 6]),
        r"annotations\[1\] \(cat\): box .* far out of .*16 x 12",
    ),
    "no area": (edit("annotations", 1, bbox=[1, 2, 0, 6]), r"images\[1\]: annotations\[1\] \(cat\): bbox without area"),
    "not finite": (edit("annotations", 1, bbox=[1, 2, float("nan"), 6]), r"annotations\[1\].*without area"),
    "no box": (lambda c: c["annotations"][1].pop("bbox"), r"annotations\[1\].*neither bbox nor segmentation"),
    "400 digits": (edit("annotations", 1, bbox=[1, 2, 10**400, 6]), r"bbox: expected \[x, y, width, height\], got"),
    "a flag in words": (
        edit("annotations", 1, iscrowd="false"),
        r"annotations\[1\].*iscrowd: expected 0 or 1, got 'fal",
    ),
    "words": (edit("annotations", 1, bbox=["a", 2, 3, 4]), r"bbox: expected \[x, y, width, height\], got"),
    "unknown category": (edit("annotations", 1, category_id=8), r"annotations\[1\].*category_id 8 is in no category"),
    "category twice": (edit("categories", 1, id=7), r"categories\[1\]: id 7 is 'dog' here and 'cat' before"),
    "image id twice": (edit("images", 1, id=0), r"images\[0\]: images\[1\] has the same id, 0"),
    "picture twice": (
        edit("images", 1, file_name="0.jpg"),
        r"two records of one picture: .*\[0\] and .*images\[1\]",
    ),
    "captions": (
        lambda c: c["annotations"][0].pop("category_id"),
        r"expected image_id and category_id \(of COCO",
    ),
    "no name": (edit("images", 2, file_name=None), r"images\[2\]: expected id and file_name"),
    "ids that are no whole numbers": (
        lambda c: [item.update(id=float(item["id"])) for item in c["images"]],
        r"4 problem[\s\S]*images\[3\]: expected id and file_name, got .*30.0",
    ),
    "class with a slash": (edit("categories", 0, name="a/b"), r"class 'a/b': part of file names, so no '/'"),
    "size in words": (edit("images", 0, width="wide"), r"images\[0\]: width and height: expected whole numbers"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_coco_are_named_by_file_and_record(tmp_path, name):
    change, message = FAULTS[name]
    coco(tmp_path, change)
    ended = new(tmp_path)
    assert ended.code == 2
    assert re.search(r"labels.json[\s\S]*" + message, ended.err), ended.err


def test_an_object_that_is_listed_again_counts_once(tmp_path):
    def repeat(content):
        content["annotations"] += [{**content["annotations"][1], "id": 77}]

    coco(tmp_path, repeat)
    ended = new(tmp_path)
    assert ended.code == 0 and "1 repetition(s) are dropped" in ended.err
    manifest = load_manifest("own", tmp_path / "data_manifests")
    found = [len(item.box_xyxy) for split in ("train", "val") for item in read_split(manifest, split).annotations]
    assert found == [1, 1, 1, 1]

    coco(tmp_path, lambda content: content["annotations"].append({**content["annotations"][1], "iscrowd": 1}))
    assert "the same box as annotations[1], both difficult and not; keep one" in new(tmp_path).err


def test_a_picture_with_a_bad_record_is_left_out_on_request(tmp_path):
    coco(tmp_path, edit("annotations", 1, bbox=[1, 2, 90, 6]))
    ended = new(tmp_path, "--on-error", "skip")
    assert ended.code == 0 and "left out, 1 of 4 pictures whose annotations cannot be used" in ended.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (
            "version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer without its file; get it with",
        ),
        ('{"images": [{"id": 1, "file_', "not valid JSON at character 13: images.0.: .*ends here|Unterminated"),
        ('{"images": {}}', "expected an array .* under 'images'"),
        ('{"images": [1], "annotations": []}', r"images\[0\]: expected an object"),
        ('{"images": [' + "[" * 100_000, "nested too deeply"),
        ("\udcff", "not JSON in UTF-8"),
    ],
)
def test_files_that_are_no_coco_file(tmp_path, text, message):
    draw(tmp_path / "own", "images/0.jpg")
    (tmp_path / "own/a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    ended = new(tmp_path, "--layout", "coco", "--annotations", str(tmp_path / "own/a.json"))
    assert ended.code == 2
    with pytest.raises(DatasetError, match=message):
        raise DatasetError(ended.err)


def test_missing_and_extra_pictures_and_orphans_are_counted_and_named(tmp_path):
    def change(content):
        content["images"].append({"id": 99, "file_name": "gone.jpg"})
        content["annotations"].append({"id": 99, "image_id": 1234, "category_id": 7, "bbox": [1, 1, 2, 2]})

    coco(tmp_path, change, pictures=5)
    ended = new(tmp_path)
    assert ended.code == 0, ended.err
    assert "COCO (one JSON file): labels.json: 4 pictures, 4 objects of 2 classes" in ended.err
    assert (
        "left out, 1 records whose picture is not below images/:\n  - labels.json: images[4]: 'gone.jpg'" in ended.err
    )
    assert "left out, 1 pictures in images/ without a record:\n  - 4" in ended.err
    assert "left out, 1 annotations whose image_id is that of no image" in ended.err


def test_a_size_that_is_not_the_pictures_is_found_by_a_deep_check(tmp_path):
    coco(tmp_path, edit("images", 1, width=640, height=480))
    assert "the picture is 16 x 12, its annotation says 640 x 480" in new(tmp_path).err
    report = check(load_manifest("own", tmp_path / "data_manifests"), deep=True)
    assert any("its annotation says 640 x 480" in problem for problem in report.problems)


def test_a_changed_record_changes_the_digest_and_nothing_but_its_own_labels(tmp_path):
    scenes = draw_scenes()
    LAYOUTS["coco"].write(tmp_path / "own", scenes)
    assert new(tmp_path).code == 0
    manifest = load_manifest("own", tmp_path / "data_manifests")
    file = tmp_path / "own/annotations/instances_train2017.json"
    before, state, text = read_split(manifest, "train"), state_of_split(manifest, "train"), file.read_text()

    file.write_text(json.dumps(json.loads(text), indent=1))  # other bytes, the same content
    assert state_of_split(manifest, "train") != state
    assert read_split(manifest, "train").annotation_digest == before.annotation_digest

    content = json.loads(text)
    changed = next(item for item in content["annotations"] if "bbox" in item)
    changed["bbox"][2] -= 1
    file.write_text(json.dumps(content))
    after = read_split(manifest, "train")
    assert after.annotation_digest != before.annotation_digest
    pairs = zip(before.annotations, after.annotations, strict=True)
    assert sum(a.box_xyxy.tolist() != b.box_xyxy.tolist() for a, b in pairs) == 1

    content["categories"] = [{"id": item["id"], "name": item["name"].upper()} for item in content["categories"]]
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"annotations\[\d\] \(BALL\): unknown class, expected one of ball"):
        read_split(manifest, "train")


def yolo(folder, text: str = "0 0.5 0.5 0.25 0.5\n", yaml: str = "names: [cat, dog]\ntrain: images\n") -> None:
    draw(folder / "own", *(f"images/{k}.jpg" for k in range(4)))
    for k in range(4):
        write(folder, f"own/labels/{k}.txt", text if k == 1 else f"{k % 2} 0.5 0.5 0.25 0.5\n")
    write(folder, "own/data.yaml", yaml)


def test_classes_called_no_and_yes_keep_their_names(tmp_path):
    yolo(tmp_path, yaml="names: [no, yes]\ntrain: images\n")
    assert new(tmp_path).code == 0
    assert load_manifest("own", tmp_path / "data_manifests").classes == ("no", "yes")


def test_what_yolo_leaves_out_or_joins_is_said(tmp_path):
    yolo(tmp_path, "2 0.5 0.5 0.25 0.5\n", "names: [cat, dog, cat]\ntrain: images\n")
    write(tmp_path, "own/labels/classes.txt", "dog\ncat\n")
    write(tmp_path, "own/labels/gone.txt", "0 0.5 0.5 0.25 0.5\n")
    ended = new(tmp_path)
    assert ended.code == 0 and "left out, 1 text files whose picture is not there:\n  - labels/gone.txt\n" in ended.err
    assert "NOTE: the numbers 0, 2 have one name, cat, and are one class" in ended.err
    said = (
        "NOTE: labels/classes.txt has other names of classes, dog, cat, than data.yaml, which counts: cat, dog, cat; "
    )
    assert said in ended.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "2 0.5 0.5 0.2 0.2",
            r"labels/1.txt: line 1 \(no name\): class '2': expected the number of a class",
        ),
        (
            "\n0 0.5 0.5 0.2",
            r"line 2 \(cat\): expected a class and 4 numbers, or corners x y of a polygon, got 4",
        ),
        ("0 0.5 0.5 0.2 0.2 0.9", "a box with a confidence is a prediction"),
        ("0 12 8 4 5", r"expected shares of the sides in 0..1, got 12 \(pixels\?\)"),
        ("0 0.5 0.5 nan 0.2", "expected numbers, got 'nan'"),
        ("0 0.5 0.5 0 0.2", "box without area"),
        ("0 0.9 0.5 0.9 0.2", "reaches far out of the picture of 16 x 12"),
        ("version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
    ],
)
def test_faults_of_yolo_are_named_by_file_and_line(tmp_path, text, message):
    yolo(tmp_path, text)
    with pytest.raises(DatasetError, match=message):
        raise DatasetError(new(tmp_path).err)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\n", "hold numbers of classes, and no file tells their names"),
        ("names: [cat, dog]\ntrain: nowhere/pictures\n", "train: 'nowhere/pictures' is not there: expected a folder"),
        ("names: [cat, '']\ntrain: images\n", "class 1 has no name"),
        ("names: cat\ntrain: images\n", "names: expected a list, or a mapping of numbers to names"),
    ],
)
def test_faults_of_data_yaml(tmp_path, yaml, message):
    yolo(tmp_path, yaml=yaml)
    with pytest.raises(DatasetError, match=message):
        raise DatasetError(new(tmp_path).err)


def test_open_images_ask_for_the_names_of_their_classes(tmp_path):
    LAYOUTS["open images"].write(tmp_path / "own", draw_scenes())
    (tmp_path / "own/class-descriptions-boxable.csv").unlink()
    assert "put Open Images' class-descriptions CSV file" in new(tmp_path).err


def test_two_files_of_one_split_are_to_be_told_apart(tmp_path):
    scenes = draw_scenes()
    LAYOUTS["coco with paths"].write(tmp_path / "own", scenes)
    write(tmp_path, "own/train_new.json", coco_of(of_split(scenes, "train")))
    ended = new(tmp_path)
    assert ended.code == 2 and "train_new.json: train" in ended.err and "--annotations FILE --layout coco" in ended.err
    files = [f"--annotations={tmp_path / 'own' / name}" for name in ("train_new.json", "val.json")]
    ended = new(tmp_path, "--layout", "coco", *files)
    assert ended.code == 0 and "train_new.json is the split train" in ended.err


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_imagefolder_of_labels_has_no_boxes(tmp_path, suffix):
    rows = [(f"{split}{k}.jpg", CLASSES[k % 3]) for split in ("train", "test") for k in range(4)]
    for split in ("train", "test"):
        mine = [row for row in rows if row[0].startswith(split)]
        draw(tmp_path / "own" / split, *(path for path, _ in mine))
        lines = [json.dumps({"file_name": path, "labels": [label]}) for path, label in mine]
        lines = lines if suffix == "jsonl" else ["file_name,label", *map(",".join, mine)]
        write(tmp_path, f"own/{split}/metadata.{suffix}", "\n".join(lines))
    ended = new(tmp_path)
    assert ended.code == 0 and "recipe" in ended.err, ended.err
    manifest = load_manifest("own", tmp_path / "data_manifests")
    split = read_split(manifest, "test")
    assert not manifest.has_boxes
    assert split.labels.tolist() == [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, -1, -1]]


def test_labels_of_open_images_are_present_absent_or_unknown(tmp_path):
    for name, split in (("train", "train"), ("val", "validation")):
        draw(tmp_path / "own" / split, *(f"{name}{k}.jpg" for k in range(2)))
        rows = [f"{name}0,verification,/m/1,1", f"{name}0,verification,/m/2,0", f"{name}1,machine,/m/1,0.7"]
        rows.append(f"{name}1,verification,/m/2,1")
        write(tmp_path, f"own/{split}-labels.csv", "\n".join(["ImageID,Source,LabelName,Confidence", *rows]))
    write(tmp_path, "own/oidv7-class-descriptions.csv", "LabelName,DisplayName\n/m/1,Cat\n/m/2,Dog\n")
    assert new(tmp_path).code == 0
    assert read_split(load_manifest("own", tmp_path / "data_manifests"), "val").labels.tolist() == [[1, -1], [0, 1]]


@given(
    side=st.integers(2, 20_000),
    corners=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    decimals=st.sampled_from([6, 8, 16]),
)
def test_boxes_on_whole_pixels_come_back_from_rounded_shares(side, corners, decimals):
    x0, x1 = sorted(round(share * side) for share in corners)
    centre, wide = (round(value, decimals) for value in ((x0 + x1) / 2 / side, (x1 - x0) / side))
    box = to_pixels((centre - wide / 2, 0.0, centre + wide / 2, 1.0), (side, side), decimals)
    assert box == (x0, 0, x1, side)


def pack_runs(runs: list[int]) -> str:
    """Write run lengths as rleToString of cocoapi's maskApi.c does."""
    text = ""
    for k, run in enumerate(runs):
        value, goes_on = run - (runs[k - 2] if k > 2 else 0), True
        while goes_on:
            bits = value & 31
            value >>= 5
            goes_on = value != -1 if bits & 16 else value != 0
            text += chr(48 + bits + 32 * goes_on)
    return text


@settings(max_examples=50)
@given(st.lists(st.lists(st.booleans(), min_size=40, max_size=40), min_size=2, max_size=5), st.booleans())
def test_the_box_of_a_mask_is_that_of_its_pixels(columns, packed):
    flat = [bit for column in columns for bit in column]
    runs, last = [0], False
    for bit in flat:
        if bit != last:
            runs.append(0)
            last = bit
        runs[-1] += 1
    mask = {"size": [40, len(columns)], "counts": pack_runs(runs) if packed else runs}
    if not any(flat):
        with pytest.raises(ValueError, match="an empty mask"):
            box_of_segmentation(mask)
        return
    x = [k for k, column in enumerate(columns) if any(column)]
    y = [row for row in range(40) if any(column[row] for column in columns)]
    assert box_of_segmentation(mask) == (x[0], y[0], x[-1] + 1, y[-1] + 1)


@settings(max_examples=30)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20), st.integers(1, 40))
def test_a_stream_has_the_elements_of_the_whole(tmp_path_factory, value, chunk):
    path = tmp_path_factory.mktemp("json") / "a.json"
    content = {"other": value, "images": [value, {"a": value}, 12], "n": 7}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=chunk % 3 or None), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.io.json_stream.CHUNK", chunk)
        got = [element for _, _, element in stream_elements(path, ("images",))]
    assert got == content["images"]


def test_boxes_of_shares_lie_on_the_picture_as_it_is_shown(tmp_path):
    yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 12), "olive").save(tmp_path / "own/images/1.jpg", exif=exif)
    assert new(tmp_path).code == 0
    manifest = load_manifest("own", tmp_path / "data_manifests")
    shown = {**read_split(manifest, "train").annotations_by_id, **read_split(manifest, "val").annotations_by_id}
    assert (shown["1"].size_wh, shown["1"].box_xyxy.tolist()) == ((12, 16), [[4.5, 4, 7.5, 12]])
    assert check(manifest, deep=True).ok
    stored = manifest.model_copy(update={"exif": "ignore"})
    ignored = {**read_split(stored, "train").annotations_by_id, **read_split(stored, "val").annotations_by_id}
    assert (ignored["1"].size_wh, ignored["1"].box_xyxy.tolist()) == ((16, 12), [[6, 3, 10, 9]])


def test_names_in_another_of_unicodes_forms_are_the_same(tmp_path):
    coco(tmp_path, edit("images", 1, file_name="cafe\u0301 (2).jpg"))
    (tmp_path / "own/images/1.jpg").rename(tmp_path / "own/images/caf\u00e9 (2).jpg")
    ended = new(tmp_path)
    assert ended.code == 0 and "left out" not in ended.err


def test_an_export_with_one_split_is_divided_and_one_without_labels_stays(tmp_path):
    scenes = draw_scenes()
    LAYOUTS["yolo of roboflow"].write(tmp_path / "own", of_split(scenes, "train"))
    draw(tmp_path / "own", "test/images/t0.jpg")
    write(tmp_path, "own/README.roboflow.txt", "my project - v1\n")
    text = (tmp_path / "own/data.yaml").read_text().replace("val: ../valid/images", "val: ../train/images")
    write(tmp_path, "own/data.yaml", text.replace("val: ../train/images", "test: ../test/images"))
    ended = new(tmp_path)
    assert ended.code == 0, ended.err
    assert "train is the only split, and is divided" in ended.err
    manifest = load_manifest("own", tmp_path / "data_manifests")
    assert {name: (entry.pictures, entry.labelled) for name, entry in manifest.splits.items()} == {
        "train": (5, True),
        "val": (3, True),
        "test": (1, False),
    }


def labelme(folder, **changes) -> None:
    draw(folder / "own", "0.jpg", "1.jpg", "2.jpg")
    for k in range(3):
        shape = {"label": ("cat", "dog")[k % 2], "points": [[1, 2], [9, 8]], "shape_type": "rectangle"}
        content = {"imagePath": f"{k}.jpg", "imageWidth": 16, "imageHeight": 12, "shapes": [shape]}
        write(folder, f"own/{k}.json", json.dumps({**content, **changes} if k == 1 else content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": [{"label": "cat", "points": [[1, 2]], "shape_type": "point"}]}, r"1.json: shapes\[0\] .*no box"),
        ({"shapes": [{"label": "cat", "points": [1, 2]}]}, r"points: expected \[\[x, y\], ...\], got \[1, 2\]"),
        ({"shapes": [{"label": "cat", "points": [[1, 2], [9, 10**400]]}]}, r"points: expected \[\[x, y\], ...\], got"),
        ({"shapes": [{"label": "", "points": [[1, 2], [9, 8]]}]}, r"shapes\[0\] \(no name\): label: expected a name"),
        ({"shapes": None}, "expected an object with a list 'shapes'"),
        ({"imageWidth": 7.5}, "1.json: width and height: expected whole numbers"),
    ],
)
def test_faults_of_labelme_are_named_by_file_and_shape(tmp_path, changes, message):
    labelme(tmp_path, **changes)
    with pytest.raises(DatasetError, match=message):
        raise DatasetError(new(tmp_path).err)


def test_a_circle_has_the_box_around_it(tmp_path):
    labelme(tmp_path, shapes=[{"label": "cat", "points": [[8, 6], [8, 9]], "shape_type": "circle"}])
    assert new(tmp_path).code == 0
    manifest = load_manifest("own", tmp_path / "data_manifests")
    found = {**read_split(manifest, "train").annotations_by_id, **read_split(manifest, "val").annotations_by_id}
    assert found["1"].box_xyxy.tolist() == [[5, 3, 11, 9]]


def box_of_task(names, width=10):
    """Change the second task: in place of its choice, a box."""
    size = {"original_width": 16, "original_height": 12}
    value = {"x": 10, "y": 10, "width": width, "height": 20, "rectanglelabels": names}
    mark = {"type": "rectanglelabels", **size, "value": value}
    return lambda tasks: tasks[1]["annotations"][0].update(result=[mark])


def tasks(folder, change=lambda tasks: None, kind: str = "choices") -> None:
    draw(folder / "own", *(f"media/{k}.jpg" for k in range(4)))
    content = []
    for k in range(4):
        value = {"choices": ["cat" if k % 2 else "dog"]}
        content.append(
            {
                "annotations": [{"result": [{"type": kind, "value": value}]}],
                "data": {"image": f"/data/local-files/?d=media/{k}.jpg"},
            }
        )
    change(content)
    write(folder, "own/export.json", json.dumps(content))


def test_choices_of_label_studio_are_labels_of_pictures(tmp_path):
    tasks(tmp_path)
    assert new(tmp_path).code == 0
    manifest = load_manifest("own", tmp_path / "data_manifests")
    assert (manifest.has_boxes, manifest.classes) == (False, ("cat", "dog"))
    assert sorted(read_split(manifest, "train").labels.tolist()) == [[-1, 1], [1, -1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[1]["annotations"].append(t[0]["annotations"][0]), r"export.json: \[1\]: several annotations"),
        (lambda t: t[1].update(annotations=[]), r"export.json: \[1\]: not annotated yet"),
        (lambda t: t[1]["annotations"][0]["result"][0].update(type="brushlabels"), "'brushlabels' has no box"),
        (box_of_task("cat"), r"\[1\]: result\[0\] .*no label: expected rectanglelabels, got"),
        (box_of_task(["cat"], 10**400), r"\[1\]: result\[0\] .*expected numbers x, y, width, height"),
        (lambda t: t[1].pop("data"), r"\[1\]: expected a task with data.image and annotations \(export 'JSON'"),
    ],
)
def test_faults_of_label_studio_are_named_by_task(tmp_path, change, message):
    tasks(tmp_path, change)
    with pytest.raises(DatasetError, match=message):
        raise DatasetError(new(tmp_path).err)
