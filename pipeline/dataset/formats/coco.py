"""COCO's instances: one JSON file with ``images``, ``annotations`` and ``categories``.

Source: https://cocodataset.org/#format-data. ``bbox`` is x, y, width and height in pixels, from 0; an annotation
without one has the box around its ``segmentation``. ``iscrowd`` makes an object difficult, and so do ``ignore`` and
``difficult``, which converters from VOC write. A picture without annotations has no objects. Other keys are not used.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.formats.records import (
    Box,
    ObjectRecord,
    PictureRecord,
    Source,
    class_name,
    notes_on_names,
    stated_size,
)
from pipeline.io.errors import DatasetError
from pipeline.io.json_stream import stream_elements
from pipeline.io.messages import brief, enumerate_problems

TITLE = "COCO (one JSON file)"
DIFFICULT = ("iscrowd", "ignore", "difficult")


def read(source: Source, ids: Sequence[str] | None = None) -> Iterator[PictureRecord]:
    """Read the record of each picture in the file, in its order."""
    yield from _content_of(source).records(source.shown(source.annotations))


def class_names(source: Source) -> list[str]:
    """Return the names of all categories."""
    return list(dict.fromkeys(_content_of(source).names.values()))


def notes(source: Source) -> list[str]:
    """Say what is in the file and belongs to no picture, and which categories are one class."""
    content = _content_of(source)
    known = np.array([i in content.rows_of for i in content.image_ids], bool)
    n_orphans = int((~known[np.asarray(content.image, np.int64)]).sum()) if len(known) else 0
    said = [f"left out, {n_orphans} annotations whose image_id is that of no image"] if n_orphans else []
    return said + notes_on_names(content.names)


def _content_of(source: Source) -> _Content:
    try:
        stat = os.stat(source.annotations)
    except OSError as error:
        raise DatasetError(f"{source.annotations}: cannot be read: {error.strerror}") from error
    return _parse(source.annotations, stat.st_size, stat.st_mtime_ns)


def files(source: Source, ids: Sequence[str]) -> list[Path]:
    """List the files that `read` reads."""
    return [source.annotations]


@dataclass
class _Content:
    """A parsed file; objects as columns: COCO has 860,000 of them.

    Attributes
    ----------
    paths, sizes, problems : of pictures, in the order of the file
    rows_of : number of the picture by its id
    names : of classes, by id of the category
    image_ids, categories : values of image_id and category_id in the annotations, each once
    image, category, number, difficult, box : of objects: the first two number those values, `box` has four numbers
    wrong : why an object has no box, by its number
    """

    paths: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int] | None] = field(default_factory=list)
    problems: dict[int, list[str]] = field(default_factory=dict)
    rows_of: dict[Any, int] = field(default_factory=dict)
    names: dict[Any, str] = field(default_factory=dict)
    image_ids: list[Any] = field(default_factory=list)
    categories: list[Any] = field(default_factory=list)
    image: array[int] = field(default_factory=lambda: array("q"))
    category: array[int] = field(default_factory=lambda: array("q"))
    number: array[int] = field(default_factory=lambda: array("q"))
    difficult: array[int] = field(default_factory=lambda: array("b"))
    box: array[float] = field(default_factory=lambda: array("d"))
    wrong: dict[int, str] = field(default_factory=dict)

    def records(self, file: str) -> Iterator[PictureRecord]:
        rows = np.array([self.rows_of.get(i, -1) for i in self.image_ids], np.int64)
        picture = rows[np.asarray(self.image, np.int64)] if len(rows) else np.zeros(0, np.int64)
        order = np.argsort(picture, kind="stable")
        ends = np.searchsorted(picture[order], np.arange(len(self.paths) + 1))
        boxes = np.asarray(self.box, float).reshape(-1, 4)
        names = [self.names.get(i, "") for i in self.categories]
        for row, (path, size_wh) in enumerate(zip(self.paths, self.sizes, strict=True)):
            objects = []
            for k in order[ends[row] : ends[row + 1]].tolist():
                wrong = self.wrong.get(self.number[k], "")
                if not names[self.category[k]]:
                    wrong = f"category_id {brief(self.categories[self.category[k]])} is in no category"
                box = boxes[k].tolist()
                objects.append(
                    ObjectRecord(
                        f"annotations[{self.number[k]}]",
                        names[self.category[k]],
                        None if wrong else (box[0], box[1], box[2], box[3]),
                        bool(self.difficult[k]),
                        wrong,
                    )
                )
            where = f"{file}: images[{row}]"
            yield PictureRecord(path, where, size_wh, objects, problems=tuple(self.problems.get(row, ())))


@lru_cache(maxsize=2)
def _parse(path: Path, size: int, mtime_ns: int) -> _Content:
    """Parse a file; size and time are there so that a changed file is parsed again.

    Raises
    ------
    DatasetError
        No COCO file: not JSON, without pictures or categories, or categories that are named twice.
    """
    content, problems = _Content(), list[str]()
    slots: tuple[dict[Any, int], dict[Any, int]] = ({}, {})
    for key, number, item in stream_elements(path, ("images", "annotations", "categories")):
        where = f"{key}[{number}]"
        if not isinstance(item, dict):
            problems.append(f"{where}: expected an object {{...}}, got {brief(item)}")
        elif key == "images":
            problems += _add_image(content, item)
        elif key == "categories":
            problems += _add_category(content, where, item)
        else:
            problems += _add_object(content, slots, item)
    if not content.paths and not problems:
        problems.append("no 'images': expected COCO's keys images, annotations, categories")
    if len(content.image) and not content.names and not problems:
        problems.append("no 'categories', so annotations have no classes")
    if problems:
        raise DatasetError(f"{path}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    return content


def _add_image(content: _Content, item: dict[str, Any]) -> list[str]:
    row = len(content.paths)  # not the number in its array: joined files may have the key twice
    i, path = item.get("id"), item.get("file_name")
    if not isinstance(i, (int, str)) or not isinstance(path, str) or not path.strip():
        content.paths.append("")  # so that the next one has its own number
        content.sizes.append(None)
        return [f"images[{row}]: expected id and file_name, got {brief({k: item.get(k) for k in ('id', 'file_name')})}"]
    problems = []
    first = content.rows_of.setdefault(i, row)
    if first != row:
        problems.append(f"id {brief(i)} is that of images[{first}], too: whose annotations are whose cannot be told")
        content.problems.setdefault(first, []).append(f"images[{row}] has the same id, {brief(i)}")
    size_wh = None
    try:
        size_wh = stated_size(item.get("width"), item.get("height"))
    except ValueError as error:
        problems.append(str(error))
    content.paths.append(path)
    content.sizes.append(size_wh)
    if problems:
        content.problems.setdefault(row, []).extend(problems)
    return []


def _add_category(content: _Content, where: str, item: dict[str, Any]) -> list[str]:
    i, name = item.get("id"), class_name(item.get("name"))
    if not isinstance(i, (int, str)) or not name:
        return [f"{where}: expected id and name, got {brief({k: item.get(k) for k in ('id', 'name')})}"]
    if content.names.setdefault(i, name) != name:
        return [f"{where}: id {brief(i)} is {brief(name)} here and {brief(content.names[i])} before"]
    return []


def _add_object(content: _Content, slots: tuple[dict[Any, int], dict[Any, int]], item: dict[str, Any]) -> list[str]:
    number = len(content.number)
    image, category = item.get("image_id"), item.get("category_id")
    if not isinstance(image, (int, str)) or not isinstance(category, (int, str)):
        content.number.append(number)  # so that the next one has its own
        got = brief({k: item.get(k) for k in ("image_id", "category_id")})
        return [f"annotations[{number}]: expected image_id and category_id (of COCO's instances), got {got}"]
    images, categories = slots
    content.image.append(images.setdefault(image, len(images)))
    content.category.append(categories.setdefault(category, len(categories)))
    if len(images) > len(content.image_ids):
        content.image_ids.append(image)
    if len(categories) > len(content.categories):
        content.categories.append(category)
    content.number.append(number)
    try:
        box, difficult = _box_of(item), any(_flag(item, key) for key in DIFFICULT)
    except ValueError as error:
        box, difficult = (0.0,) * 4, False
        content.wrong[number] = str(error)
    content.box.extend(box)
    content.difficult.append(difficult)
    return []


def _flag(item: dict[str, Any], key: str) -> bool:
    """Return a flag of an annotation; raise ValueError if it is none."""
    value = item.get(key)
    if value not in (None, 0, 1, "", "0", "1"):
        raise ValueError(f"{key}: expected 0 or 1, got {brief(value)}")
    return value in (1, "1")


def _box_of(item: dict[str, Any]) -> Box:
    """Return the box of an annotation; raise ValueError if it has none."""
    box = item.get("bbox")
    if not box:
        return box_of_segmentation(item.get("segmentation"))
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"bbox: expected [x, y, width, height], got {brief(box)}")
    x, y, width, height = map(float, box)
    if width <= 0 or height <= 0:
        raise ValueError(f"bbox without area: [x, y, width, height] = {brief(box)}")
    return x, y, x + width, y + height


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def box_of_segmentation(shape: object) -> Box:
    """Return the box around polygons or a mask of run lengths (plain or packed).

    >>> box_of_segmentation([[2, 1, 5, 1, 5, 4]])
    (2.0, 1.0, 5.0, 4.0)
    >>> box_of_segmentation({"size": [3, 4], "counts": [4, 2, 6]})
    (1.0, 1.0, 2.0, 3.0)

    Raises
    ------
    ValueError
        Anything else, or nothing.
    """
    if isinstance(shape, dict):
        return _box_of_mask(shape)
    if not shape:
        raise ValueError("neither bbox nor segmentation")
    parts = shape if isinstance(shape, list) and all(isinstance(part, list) for part in shape) else None
    if parts is None or any(len(p) < 4 or len(p) % 2 or not all(map(_is_number, p)) for p in parts):
        raise ValueError(f"segmentation: expected polygons [[x, y, x, y, ...]], got {brief(shape)}")
    x, y = [v for p in parts for v in p[::2]], [v for p in parts for v in p[1::2]]
    return float(min(x)), float(min(y)), float(max(x)), float(max(y))


def _box_of_mask(mask: dict[str, Any]) -> Box:
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"segmentation: expected size [height, width], got {brief(size)}")
    runs = _unpack_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(n, int) and n >= 0 for n in runs) or not runs:
        raise ValueError(f"segmentation: expected counts of runs, got {brief(counts)}")
    height, width = size
    if sum(runs) != height * width:
        raise ValueError(f"segmentation: runs of {sum(runs):,} pixels in all, expected {height} x {width}")
    ends = np.cumsum(runs)
    # Columns come first, and runs without and with the object in turn.
    first, last = ends[:-1][::2], ends[1::2] - 1
    filled = first <= last
    first, last = first[filled], last[filled]
    if not len(first):
        raise ValueError("segmentation: an empty mask")
    whole = first // height < last // height  # a run that goes on in the next column touches both edges
    y0 = 0 if whole.any() else int((first % height).min())
    y1 = height if whole.any() else int((last % height).max()) + 1
    return float(first.min() // height), float(y0), float(last.max() // height + 1), float(y1)


def _unpack_runs(text: str) -> list[int]:
    """Read run lengths as pycocotools packs them: six bits per character, differences to the last but one.

    Source: rleFrString of https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c.
    """
    runs: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        while True:
            if at >= len(text) or not 48 <= ord(text[at]) < 112:
                raise ValueError(f"segmentation: packed counts that cannot be read, {brief(text)}")
            code = ord(text[at]) - 48
            value |= (code & 31) << shift
            at, shift = at + 1, shift + 5
            if not code & 32:
                if code & 16:
                    value -= 1 << shift
                break
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
