"""The first bytes of files next to pictures: enough to name their format, without reading them in full."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from pipeline.dataset.describe.tree import Folder

HEAD_BYTES = 200_000
PEEKED = 3
"""Files per folder and kind whose first bytes are read."""


def head_of(path: Path) -> str:
    """Read the first bytes of a file as text; empty if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(HEAD_BYTES)
    except OSError:
        return ""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def json_kind(text: str) -> str | None:
    """Name the format of a JSON file by its keys; ``json`` for any other, None for other text.

    >>> json_kind('{"images": [], "annotations": []}'), json_kind('{"shapes": [], "imagePath": "a.jpg"}')
    ('coco', 'labelme')
    """
    if not text.lstrip().startswith(("{", "[")):
        return None
    keys = set(re.findall(r'"(\w+)"\s*:', text))
    if text.lstrip().startswith("[") and {"annotations", "data"} <= keys:
        return "label-studio"
    if "shapes" in keys and keys & {"imagePath", "imageData", "shape_type"}:
        return "labelme"
    if "images" in keys and keys & {"annotations", "categories", "licenses", "file_name"}:
        return "coco"
    if {"image_id", "category_id"} <= keys and keys & {"annotations", "images", "categories"}:
        return "coco"
    return "caption" if keys & {"url", "caption", "key"} else "json"


def xml_root(text: str) -> str | None:
    """Return the name of the first element of an XML file; None for other text.

    >>> xml_root('<?xml version="1.0"?><!-- made --><annotation verified="yes">'), xml_root("0 0.5 0.5 0.1 0.1")
    ('annotation', None)
    """
    found = re.match(
        r"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>\s*)*<([\w:.-]+)", text, re.DOTALL
    )
    return found[1] if found else None


def is_yolo_text(text: str) -> bool:
    """Whether each line is a number of a class and four or more numbers: boxes or polygons of YOLO.

    >>> is_yolo_text("0 0.5 0.5 0.1 0.2"), is_yolo_text("a cat"), is_yolo_text("")
    (True, False, False)
    """
    lines = [line.split() for line in text.splitlines()[:20] if line.strip()]
    return bool(lines) and all(
        len(line) >= 5 and line[0].isdigit() and all(re.fullmatch(r"-?\d*\.?\d+([eE]-?\d+)?", v) for v in line[1:])
        for line in lines
    )


def csv_header(text: str) -> list[str]:
    """Return the names of the columns of a CSV file, in lower case; a line ``sep=;`` is passed over."""
    lines = text.splitlines()
    if lines and re.fullmatch(r'"?sep=.?"?', lines[0].strip().lower()):
        lines = lines[1:]
    if not lines:
        return []
    delimiter = max(",;\t", key=lines[0].count)
    return [name.strip().lower() for name in next(csv.reader(lines[:1], delimiter=delimiter), [])]


BOX_COLUMNS = (
    {"xmin", "ymin"},
    {"x_min", "y_min"},
    {"x1", "y1", "x2"},
    {"bbox"},
    {"bbox_x"},
    {"region_shape_attributes"},
)


def csv_kind(header: list[str]) -> str | None:
    """Name the kind of a table by its columns: ``open images``, ``boxes``, ``imagefolder``; None for any other."""
    names = {name.lstrip("#") for name in header}
    if {"imageid", "labelname"} <= names:
        return "open images"
    if any(columns <= names for columns in BOX_COLUMNS):
        return "boxes"
    return "imagefolder" if "file_name" in names else None


def beside_pictures(pictures: Folder, notes: Folder, suffix: str) -> list[Path]:
    """List the files with a suffix whose names are, up to it, those of pictures.

    Parameters
    ----------
    pictures, notes : folders of the pictures and of the files; both may be the same
    """
    stems = {os.path.splitext(name)[0] for name in pictures.pictures}
    return [
        notes.path / name
        for name in notes.others
        if name.lower().endswith(suffix) and (name[: -len(suffix)] in stems or name in stems)
    ]


def voc_files(pictures: Folder, notes: Folder) -> int:
    """Count the XML files of the VOC devkit's form that belong to pictures; 0 if the first ones have another form."""
    files = beside_pictures(pictures, notes, ".xml")
    if any(xml_root(head_of(path)) == "annotation" for path in files[:PEEKED]):
        return len(files)
    return 0
