"""One drawn dataset in every layout that ``pipeline data new`` reads, each as its own tools write it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("ball", "crate", "traffic light")
NUMBERS = {name: number for number, name in enumerate(("unused", *reversed(CLASSES)))}
"""Numbers of classes as files have them: in another order than that of the names, with one that has no object."""
SIZES_WH = ((64, 48), (47, 63), (50, 41))
N = {"train": 8, "val": 6}
Corners = tuple[int, int, int, int]


@dataclass(frozen=True)
class Thing:
    """An object; corners are VOC's: numbers of pixels from 1, both inclusive."""

    name: str
    corners: Corners
    difficult: bool = False

    @property
    def xywh(self) -> tuple[int, int, int, int]:
        """Corner from 0, width and height, as COCO writes them."""
        x0, y0, x1, y1 = self.corners
        return x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1

    def shares(self, size_wh: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return x, y, width and height in shares of the sides."""
        (x, y, w, h), (width, height) = self.xywh, size_wh
        return x / width, y / height, w / width, h / height


@dataclass(frozen=True)
class Scene:
    """A picture and its objects."""

    split: str
    id: str
    picture: Image.Image
    things: tuple[Thing, ...]

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.picture.size


def draw_scenes(difficult: bool = False) -> list[Scene]:
    """Draw pictures with none to three objects on whole pixels; every fourth object is difficult if asked for."""
    rng, scenes, n_things = np.random.default_rng(5), [], 0
    for split, n in N.items():
        for k in range(n):
            width, height = SIZES_WH[k % len(SIZES_WH)]
            picture = Image.new("RGB", (width, height), (90 + 10 * k,) * 3)
            pen, things = ImageDraw.Draw(picture), []
            for name in CLASSES[: k % 4]:
                wide, tall = (int(v) for v in rng.integers(8, 30, 2))
                x, y = int(rng.integers(1, width - wide + 1)), int(rng.integers(1, height - tall + 1))
                corners = (x, y, x + wide - 1, y + tall - 1)
                (pen.ellipse if name == "ball" else pen.rectangle)([v - 1 for v in corners], fill="red")
                n_things += 1
                things.append(Thing(name, corners, difficult and n_things % 4 == 0))
            scenes.append(Scene(split, f"{split[0]}{k}", picture, tuple(things)))
    return scenes


def enlarged(scene: Scene, times: int) -> Scene:
    """Return the same scene in a larger picture."""
    things = []
    for thing in scene.things:
        x0, y0, x1, y1 = (times * corner for corner in thing.corners)
        things.append(replace(thing, corners=(x0 - times + 1, y0 - times + 1, x1, y1)))
    width, height = scene.size_wh
    picture = scene.picture.resize((times * width, times * height), Image.Resampling.NEAREST)
    return replace(scene, picture=picture, things=tuple(things))


def _save(root: Path, path: str, scene: Scene) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    scene.picture.save(root / path, quality=95)
    return root / path


def _write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def _table(root: Path, path: str, rows: Iterable[Iterable[object]]) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    with open(root / path, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def xml_of(scene: Scene) -> str:
    """An XML file of VOC."""
    width, height = scene.size_wh
    text = f"<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    for thing in scene.things:
        box = "".join(
            f"<{side}>{v}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), thing.corners, strict=True)
        )
        text += f"<object><name>{thing.name}</name><difficult>{int(thing.difficult)}</difficult>"
        text += f"<bndbox>{box}</bndbox></object>"
    return f"{text}</annotation>"


def coco_of(scenes: list[Scene], prefix: str = "", difficult: str = "iscrowd") -> str:
    """COCO's JSON file; ids have gaps and are in no order, the annotations of a picture in that of its objects."""
    images, annotations = [], []
    for k, scene in enumerate(scenes):
        width, height = scene.size_wh
        i = 1000 - 7 * k
        images.append({"id": i, "file_name": f"{prefix}{scene.id}.jpg", "width": width, "height": height})
        for thing in scene.things:
            x, y, w, h = thing.xywh
            shape = {"bbox": thing.xywh} if len(annotations) % 3 else {"segmentation": [[x, y, x + w, y, x + w, y + h]]}
            new = {
                "id": 5 * len(annotations),
                "image_id": i,
                "category_id": 10 + 3 * NUMBERS[thing.name],
                "area": w * h,
            }
            annotations.append({**new, **shape, difficult: int(thing.difficult)})
    categories = [{"id": 10 + 3 * number, "name": name} for name, number in NUMBERS.items()]
    return json.dumps({"info": {}, "annotations": annotations, "images": images, "categories": categories})


def yolo_of(scene: Scene) -> str:
    """Lines of YOLO with six decimals; every other object as a polygon."""
    lines = []
    for k, thing in enumerate(scene.things):
        x, y, w, h = thing.shares(scene.size_wh)
        values = (x + w / 2, y + h / 2, w, h) if k % 2 == 0 else (x, y, x + w, y, x + w, y + h, x, y + h)
        lines.append(" ".join([str(NUMBERS[thing.name]), *(f"{v:.6f}" for v in values)]))
    return "\n".join(lines)


def labelme_of(scene: Scene, image_path: str) -> str:
    """LabelMe's JSON file: rectangles by two corners in any order, and polygons."""
    shapes = []
    for k, thing in enumerate(scene.things):
        x, y, w, h = map(float, thing.xywh)
        points = [[x + w, y + h], [x, y]] if k % 2 else [[x, y], [x + w, y], [x + w, y + h]]
        kind = "rectangle" if k % 2 else "polygon"
        flags = {"difficult": thing.difficult}
        shapes.append({"label": thing.name, "points": points, "shape_type": kind, "flags": flags, "group_id": None})
    width, height = scene.size_wh
    about = {"version": "5.4.1", "imagePath": image_path, "imageData": None}
    return json.dumps({**about, "imageWidth": width, "imageHeight": height, "shapes": shapes})


def of_split(scenes: list[Scene], split: str) -> list[Scene]:
    return [scene for scene in scenes if scene.split == split]


def voc(root: Path, scenes: list[Scene], lists: bool = True) -> None:
    """The devkit's layout."""
    for scene in scenes:
        _save(root, f"JPEGImages/{scene.id}.jpg", scene)
        _write(root, f"Annotations/{scene.id}.xml", xml_of(scene))
    for split in N if lists else ():
        _write(root, f"ImageSets/Main/{split}.txt", "\n".join(scene.id for scene in of_split(scenes, split)))


def voc_of_roboflow(root: Path, scenes: list[Scene]) -> None:
    for scene in scenes:
        folder = {"train": "train", "val": "valid"}[scene.split]
        _save(root, f"{folder}/{scene.id}.jpg", scene)
        _write(root, f"{folder}/{scene.id}.xml", xml_of(scene))


def voc_of_labelimg(root: Path, scenes: list[Scene]) -> None:
    for scene in scenes:
        _save(root, f"{scene.id}.jpg", scene)
        _write(root, f"{scene.id}.xml", xml_of(scene))


def voc_of_kaggle(root: Path, scenes: list[Scene]) -> None:
    for scene in scenes:
        _save(root, f"images/{scene.id}.jpg", scene)
        _write(root, f"annotations/{scene.id}.xml", xml_of(scene))


def coco(root: Path, scenes: list[Scene]) -> None:
    for split in N:
        for scene in of_split(scenes, split):
            _save(root, f"{split}2017/{scene.id}.jpg", scene)
        _write(root, f"annotations/instances_{split}2017.json", coco_of(of_split(scenes, split)))
        _write(root, f"annotations/captions_{split}2017.json", '{"images": [], "annotations": []}')


def coco_of_roboflow(root: Path, scenes: list[Scene]) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        for scene in of_split(scenes, split):
            _save(root, f"{folder}/{scene.id}.jpg", scene)
        _write(root, f"{folder}/_annotations.coco.json", coco_of(of_split(scenes, split), difficult="ignore"))


def coco_with_paths(root: Path, scenes: list[Scene]) -> None:
    """One folder of pictures for both splits, and paths of another machine."""
    for scene in scenes:
        _save(root, f"images/{scene.id}.jpg", scene)
    for split in N:
        text = coco_of(of_split(scenes, split), prefix="C:\\data\\images\\")
        _write(root, f"{split}.json", text)


def coco_in_one_file(root: Path, scenes: list[Scene]) -> None:
    for scene in scenes:
        _save(root, f"images/{scene.id}.jpg", scene)
    _write(root, "annotations/instances_default.json", coco_of(scenes))


def _data_yaml(root: Path, train: str, val: str, as_list: bool = True) -> None:
    names = json.dumps(list(NUMBERS) if as_list else {number: name for name, number in NUMBERS.items()})
    if not as_list:
        names = "{" + ", ".join(f"{number}: {name}" for name, number in NUMBERS.items()) + "}"
    _write(root, "data.yaml", f"train: {train}\nval: {val}\nnc: {len(NUMBERS)}\nnames: {names}\n")


def yolo(root: Path, scenes: list[Scene]) -> None:
    for scene in scenes:
        _save(root, f"images/{scene.split}/{scene.id}.jpg", scene)
        if scene.things:
            _write(root, f"labels/{scene.split}/{scene.id}.txt", yolo_of(scene))
    _data_yaml(root, "images/train", "images/val", as_list=False)


def yolo_of_roboflow(root: Path, scenes: list[Scene]) -> None:
    for scene in scenes:
        folder = {"train": "train", "val": "valid"}[scene.split]
        _save(root, f"{folder}/images/{scene.id}.jpg", scene)
        _write(root, f"{folder}/labels/{scene.id}.txt", yolo_of(scene))
    _data_yaml(root, "../train/images", "../valid/images")


def yolo_with_lists(root: Path, scenes: list[Scene]) -> None:
    for scene in scenes:
        _save(root, f"images/{scene.id}.jpg", scene)
        _write(root, f"labels/{scene.id}.txt", yolo_of(scene))
    for split in N:
        _write(root, f"{split}.txt", "\n".join(f"/elsewhere/images/{s.id}.jpg" for s in of_split(scenes, split)))
    _data_yaml(root, "train.txt", "val.txt")


def yolo_of_darknet(root: Path, scenes: list[Scene]) -> None:
    for scene in scenes:
        _save(root, f"obj_train_data/{scene.id}.jpg", scene)
        _write(root, f"obj_train_data/{scene.id}.txt", yolo_of(scene))
    _write(root, "obj.names", "\n".join(NUMBERS))
    _write(root, "obj.data", "classes = 4\nnames = data/obj.names\n")


def labelme(root: Path, scenes: list[Scene]) -> None:
    for scene in scenes:
        _save(root, f"{scene.split}/{scene.id}.jpg", scene)
        _write(root, f"{scene.split}/{scene.id}.json", labelme_of(scene, f"{scene.id}.jpg"))


def labelme_apart(root: Path, scenes: list[Scene]) -> None:
    """Files in a folder of their own, with paths of Windows, and names that differ from the pictures'."""
    for scene in scenes:
        _save(root, f"images/{scene.id}.jpg", scene)
        _write(root, f"json/label_{scene.id}.json", labelme_of(scene, f"..\\images\\{scene.id}.jpg"))


def open_images(root: Path, scenes: list[Scene]) -> None:
    mids = {name: f"/m/0{number}x" for name, number in NUMBERS.items()}
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction"
    for split, name in (("train", "train"), ("val", "validation")):
        rows: list[list[object]] = [[*header.split(",")]]
        for scene in of_split(scenes, split):
            _save(root, f"{name}/{scene.id}.jpg", scene)
            for thing in scene.things:
                x, y, w, h = thing.shares(scene.size_wh)
                corners = [f"{v:.6f}" for v in (x, x + w, y, y + h)]
                rows.append([scene.id, "xclick", mids[thing.name], 1, *corners, 0, 0, int(thing.difficult), 0])
        _table(root, f"{name}-annotations-bbox.csv", rows)
    _table(root, "class-descriptions-boxable.csv", ((mid, name) for name, mid in mids.items()))


def imagefolder(root: Path, scenes: list[Scene], suffix: str = "jsonl") -> None:
    for split, folder in (("train", "train"), ("val", "validation")):
        rows = []
        for scene in of_split(scenes, split):
            _save(root, f"{folder}/{scene.id}.jpg", scene)
            objects = {"bbox": [t.xywh for t in scene.things], "categories": [t.name for t in scene.things]}
            rows.append({"file_name": f"{scene.id}.jpg", "objects": objects})
        if suffix == "jsonl":
            _write(root, f"{folder}/metadata.jsonl", "\n".join(map(json.dumps, rows)))
        else:
            cells = ([row["file_name"], json.dumps(row["objects"])] for row in rows)
            _table(root, f"{folder}/metadata.csv", [["file_name", "objects"], *cells])


def imagefolder_csv(root: Path, scenes: list[Scene]) -> None:
    imagefolder(root, scenes, "csv")


def label_studio(root: Path, scenes: list[Scene]) -> None:
    tasks = []
    for k, scene in enumerate(scenes):
        _save(root, f"upload/{scene.id}.jpg", scene)
        width, height = scene.size_wh
        marks = []
        for thing in scene.things:
            x, y, w, h = (100 * v for v in thing.shares(scene.size_wh))
            value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [thing.name]}
            size = {"original_width": width, "original_height": height, "image_rotation": 0}
            marks.append({**size, "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value})
        image = f"/data/upload/3/{k:08x}-{scene.id}.jpg"
        tasks.append({"id": k, "annotations": [{"id": k, "result": marks}], "data": {"image": image}})
    _write(root, "project-3-at-2026-01-05.json", json.dumps(tasks))


@dataclass(frozen=True)
class Layout:
    """How a layout is written, and what it can say.

    Attributes
    ----------
    splits : whether it names splits
    difficult : whether objects can be difficult
    empty : whether it can say that a picture has no objects
    """

    write: Callable[[Path, list[Scene]], None]
    splits: bool = True
    difficult: bool = False
    empty: bool = True

    def scenes(self) -> list[Scene]:
        """Draw the scenes that the layout can tell."""
        return [scene for scene in draw_scenes(self.difficult) if self.empty or scene.things]

    def reference(self) -> Layout:
        """Return VOC's layout of the same scenes."""
        return replace(self, write=lambda root, scenes: voc(root, scenes, self.splits))


LAYOUTS = {
    "voc of roboflow": Layout(voc_of_roboflow, difficult=True),
    "voc of labelImg": Layout(voc_of_labelimg, splits=False, difficult=True),
    "voc of kaggle": Layout(voc_of_kaggle, splits=False, difficult=True),
    "coco": Layout(coco, difficult=True),
    "coco of roboflow": Layout(coco_of_roboflow, difficult=True),
    "coco with paths": Layout(coco_with_paths, difficult=True),
    "coco in one file": Layout(coco_in_one_file, splits=False, difficult=True),
    "yolo": Layout(yolo),
    "yolo of roboflow": Layout(yolo_of_roboflow),
    "yolo with lists": Layout(yolo_with_lists),
    "yolo of darknet": Layout(yolo_of_darknet, splits=False),
    "labelme": Layout(labelme, difficult=True),
    "labelme apart": Layout(labelme_apart, splits=False, difficult=True),
    "open images": Layout(open_images, difficult=True, empty=False),
    "imagefolder": Layout(imagefolder),
    "imagefolder csv": Layout(imagefolder_csv),
    "label studio": Layout(label_studio, splits=False),
}
