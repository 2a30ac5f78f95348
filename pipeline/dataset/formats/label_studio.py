"""Label Studio's export "JSON": an array of tasks with the annotations of a picture each.

Source: https://labelstud.io/guide/export and .../tags/rectanglelabels. Boxes are in percent of the sides: x and y of
the upper left corner, width, height. Polygons have the box around their points; turned rectangles are refused.
``choices`` are labels of the picture. Cancelled annotations and predictions are not used, and a task with
several annotations needs one marked as ground truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipeline.dataset.formats.records import (
    Box,
    ObjectRecord,
    PictureRecord,
    Source,
    class_name,
    decimals_of,
    stated_size,
    to_pixels,
)
from pipeline.dataset.split import PICTURE_SUFFIXES
from pipeline.io.errors import DatasetError
from pipeline.io.json_stream import stream_elements
from pipeline.io.messages import brief

TITLE = "Label Studio (JSON)"
BOXED = {"rectanglelabels": "rectanglelabels", "polygonlabels": "polygonlabels"}
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=[^/]+$)")
"""What Label Studio writes before the names of uploaded files."""


def read(source: Source, ids: Sequence[str] | None = None) -> Iterator[PictureRecord]:
    """Read the record of each task, in the order of the file."""
    file = source.shown(source.annotations)
    for _, number, task in stream_elements(source.annotations, ("",)):
        where = f"{file}: [{number}]"
        path = _picture_of(task)
        if path is None:
            raise DatasetError(
                f"{source.annotations}: [{number}]: expected a task with data.image and annotations (export 'JSON', "
                f"not 'JSON-MIN'), got {brief(task)}"
            )
        if source.finder.find(path) is None and UPLOADED.search(path):
            path = UPLOADED.sub("", path)
        yield _record_of(source, path, where, task)


def files(source: Source, ids: Sequence[str]) -> list[Path]:
    """List the files that `read` reads."""
    return [source.annotations]


def class_names(source: Source) -> list[str]:
    """Return nothing: the file lists no classes."""
    return []


def notes(source: Source) -> list[str]:
    """Return nothing."""
    return []


def has_boxes(path: Path) -> bool:
    """Whether a file has boxes; if not, it has labels of pictures."""
    for _, _, task in stream_elements(path, ("",)):
        annotations = task.get("annotations") if isinstance(task, dict) else None
        for item in annotations if isinstance(annotations, list) else ():
            result = item.get("result") if isinstance(item, dict) else None
            if any(
                isinstance(m, dict) and m.get("type") in BOXED for m in (result if isinstance(result, list) else ())
            ):
                return True
    return False


def _picture_of(task: Any) -> str | None:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict) or "annotations" not in task:
        return None
    values = [value for value in task["data"].values() if isinstance(value, str)]
    # Files of a local storage are written /data/local-files/?d=FOLDER/PICTURE.
    paths = [unquote(value.partition("?d=")[2] or value.partition("?")[0]) for value in values]
    return next((path for path in paths if path.lower().endswith(PICTURE_SUFFIXES)), None)


def _marks(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the marks of the annotation that counts; raise ValueError if there is none, or if several could."""
    annotations = task.get("annotations")
    done = [
        item
        for item in (annotations if isinstance(annotations, list) else ())
        if isinstance(item, dict) and not item.get("was_cancelled") and isinstance(item.get("result"), list)
    ]
    truth = [item for item in done if item.get("ground_truth")]
    chosen = truth if len(truth) == 1 else done
    if len(chosen) != 1:
        raise ValueError(
            "several annotations, and not one alone is marked as ground truth" if chosen else "not annotated yet"
        )
    return [mark for mark in chosen[0]["result"] if isinstance(mark, dict)]


def _record_of(source: Source, path: str, where: str, task: dict[str, Any]) -> PictureRecord:
    try:
        marks = _marks(task)
    except ValueError as error:
        return PictureRecord(path, where, problems=(str(error),))
    sizes, objects, labels, problems = set(), [], dict[str, int](), []
    for number, mark in enumerate(marks):
        kind, value = mark.get("type"), mark.get("value")
        if kind == "choices" and isinstance(value, dict) and isinstance(value.get("choices"), list):
            labels.update(dict.fromkeys(map(class_name, value["choices"]), 1))
        elif kind in BOXED and isinstance(value, dict):
            try:
                size_wh = stated_size(mark.get("original_width"), mark.get("original_height"))
                if size_wh is None:
                    raise ValueError("no original_width and original_height")
                sizes.add(size_wh)
                objects += _objects_of(number, kind, value, size_wh, mark.get("image_rotation"))
            except ValueError as error:
                objects.append(ObjectRecord(f"result[{number}]", "", None, problem=str(error)))
        elif kind is not None and str(kind).endswith("labels"):
            problems.append(f"result[{number}]: {brief(kind)} has no box: expected {', '.join(BOXED)}")
    if len(sizes) > 1:
        problems.append(f"several sizes of one picture: {', '.join(f'{w} x {h}' for w, h in sorted(sizes))}")
    if source.boxes:
        return PictureRecord(path, where, sizes.pop() if len(sizes) == 1 else None, objects, problems=tuple(problems))
    # A task without any choice is unknown, as in a table.
    why = () if labels else tuple(problems)
    return PictureRecord(path, where, labels=labels, unstated=-1 if labels else 0, problems=why)


def _objects_of(
    number: int, kind: str, value: dict[str, Any], size_wh: tuple[int, int], rotation: Any
) -> list[ObjectRecord]:
    stated = value.get(BOXED[kind])
    names = [class_name(name) for name in stated] if isinstance(stated, list) else []  # a text has letters, not names
    if not names or "" in names:
        raise ValueError(f"no label: expected {BOXED[kind]}, got {brief(value)}")
    if value.get("rotation") or rotation:
        raise ValueError("a turned rectangle or picture: only upright boxes are read")
    if kind == "polygonlabels":
        points = value.get("points")
        try:
            x, y = zip(*[(float(px), float(py)) for px, py in points], strict=True)  # type: ignore[union-attr]
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"points: expected [[x, y], ...], got {brief(points)}") from None
        percent = [min(x), min(y), max(x), max(y)]
        numbers = [*x, *y]
    else:
        try:
            x0, y0, width, height = numbers = [float(value[key]) for key in ("x", "y", "width", "height")]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError(f"expected numbers x, y, width, height, got {brief(value)}") from None
        percent = [x0, y0, x0 + width, y0 + height]
    decimals = max(decimals_of(repr(item)) for item in numbers) + 2
    box: Box = to_pixels([item / 100 for item in percent], size_wh, decimals)
    return [ObjectRecord(f"result[{number}]", name, box) for name in names]
