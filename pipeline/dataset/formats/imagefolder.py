"""Hugging Face imagefolder: pictures with ``metadata.csv`` or ``metadata.jsonl``, a row per picture.

Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder. ``file_name`` is the path of the picture below
the metadata's folder; ``label`` (or ``labels``, a list) names its classes; or ``objects`` holds ``bbox``, a list of x,
y, width and height in pixels, and ``categories`` (or ``category``), a list of as many names or numbers. Numbers are
names of classes as they stand. Other columns are not used.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.dataset.formats.records import Box, ObjectRecord, PictureRecord, Source, class_name
from pipeline.io.errors import DatasetError
from pipeline.io.lfs import UNFETCHED, is_lfs_pointer
from pipeline.io.messages import brief

TITLE = "Hugging Face imagefolder (pictures and metadata)"
LABELS = ("label", "labels")
CATEGORIES = ("categories", "category")


def read(source: Source, ids: Sequence[str] | None = None) -> Iterator[PictureRecord]:
    """Read the record of each picture, in the order of the file."""
    file = source.shown(source.annotations)
    for line, row in read_rows(source.annotations):
        where = f"{file} line {line}"
        path = row.get("file_name")
        if not isinstance(path, str) or not path.strip():
            raise DatasetError(f"{source.annotations}: line {line}: expected file_name, got {brief(row)}")
        if "objects" in row:
            try:
                yield PictureRecord(path, where, objects=_objects_of(row["objects"]))
            except ValueError as error:
                yield PictureRecord(path, where, problems=(str(error),))
        else:
            yield _record_of_labels(path, where, row)


def files(source: Source, ids: Sequence[str]) -> list[Path]:
    """List the files that `read` reads."""
    return [source.annotations]


def class_names(source: Source) -> list[str]:
    """Return nothing: the file lists no classes."""
    return []


def notes(source: Source) -> list[str]:
    """Return nothing."""
    return []


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number of the line and columns of each row.

    Raises
    ------
    DatasetError
        It cannot be read.
    """
    try:
        with open(path, "rb") as start:
            if is_lfs_pointer(start.read(100)):
                raise DatasetError(f"{path}: {UNFETCHED}")
        with open(path, encoding="utf-8-sig", newline="") as stream:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(stream, strict=True)
                for row in reader:
                    if None in row or None in row.values():
                        raise DatasetError(
                            f"{path}: line {reader.line_num}: expected {len(reader.fieldnames or ())} fields"
                        )
                    yield reader.line_num, dict(row)
                return
            for number, text in enumerate(stream, 1):
                if not text.strip():
                    continue
                content = json.loads(text)
                if not isinstance(content, dict):
                    raise DatasetError(f"{path}: line {number}: expected an object {{...}}, got {brief(content)}")
                yield number, content
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error


def _record_of_labels(path: str, where: str, row: dict[str, Any]) -> PictureRecord:
    column = next((name for name in LABELS if name in row), None)
    if column is None:
        expected = f"expected {', '.join(LABELS)} or objects"
        return PictureRecord(path, where, problems=(f"no column of labels: {expected}, got {brief(list(row))}",))
    value = row[column]
    if isinstance(value, str) and column == "labels" and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return PictureRecord(path, where, problems=(f"labels: expected a list in JSON, got {brief(value)}",))
    values = value if isinstance(value, list) else [] if value in (None, "") else [value]
    names = [class_name(item) for item in values]
    if "" in names:
        return PictureRecord(path, where, problems=(f"{column}: expected names or numbers, got {brief(value)}",))
    # A picture without any label is unknown, as in a table.
    return PictureRecord(path, where, labels=dict.fromkeys(names, 1), unstated=-1 if names else 0)


def _objects_of(objects: Any) -> list[ObjectRecord]:
    if isinstance(objects, str):
        try:
            objects = json.loads(objects)
        except ValueError:
            raise ValueError(f"objects: expected JSON, got {brief(objects)}") from None
    if not isinstance(objects, dict):
        raise ValueError(f"objects: expected {{bbox: [...], categories: [...]}}, got {brief(objects)}")
    boxes = objects.get("bbox")
    names = next((objects[key] for key in CATEGORIES if key in objects), None)
    if not isinstance(boxes, list) or not isinstance(names, list) or len(boxes) != len(names):
        raise ValueError(f"objects: expected as many categories as bbox, got {brief(objects)}")
    records = []
    for number, (box, value) in enumerate(zip(boxes, names, strict=True)):
        where, name = f"objects.bbox[{number}]", class_name(value)
        try:
            if not name:
                raise ValueError(f"categories: expected names or numbers, got {brief(value)}")
            records.append(ObjectRecord(where, name, _box_of(box)))
        except ValueError as error:
            records.append(ObjectRecord(where, name, None, problem=str(error)))
    return records


def _box_of(box: Any) -> Box:
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"expected [x, y, width, height], got {brief(box)}") from None
    return x, y, x + width, y + height
