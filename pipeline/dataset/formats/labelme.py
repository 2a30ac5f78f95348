"""LabelMe: one JSON file per picture with ``shapes``, ``imagePath``, ``imageWidth`` and ``imageHeight``.

Source: https://github.com/wkentaro/labelme (labelme/label_file.py, labelme/shape.py). Points are in pixels, from 0,
with fractions. Polygons and rectangles have the box around their points, circles (centre, point on the edge) the box
around the circle. Points and lines have no box. A flag ``difficult`` of a shape makes it difficult. Shapes of one
``group_id`` are objects of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pipeline.dataset.formats.records import Box, ObjectRecord, PictureRecord, Source, class_name, stated_size
from pipeline.dataset.voc_folder import index_files
from pipeline.io.lfs import UNFETCHED, is_lfs_pointer
from pipeline.io.messages import brief, enumerate_problems

TITLE = "LabelMe (a JSON file of shapes per picture)"
BOXED = ("polygon", "rectangle", "circle", "mask", "oriented_rectangle")


def read(source: Source, ids: Sequence[str] | None = None) -> Iterator[PictureRecord]:
    """Read the record of each picture: of the JSON file with the picture's name, else of the one that names it."""
    for file in _json_files(source):
        record = _read_file(source, file)
        if record is not None:
            yield record


def files(source: Source, ids: Sequence[str]) -> list[Path]:
    """List the files that `read` reads."""
    return _json_files(source)


def class_names(source: Source) -> list[str]:
    """Return nothing: the files list no classes."""
    return []


def notes(source: Source) -> list[str]:
    """Say which files name another picture than that of their own name."""
    strange = []
    for file in _json_files(source):
        stem = file.relative_to(source.annotations).with_suffix("").as_posix()
        record = _read_file(source, file)
        stated = None if record is None else source.finder.find(record.path)
        if stem in source.pictures and stated not in (None, stem):
            strange.append(f"{source.shown(file)}: imagePath {stated}")
    said = f"{len(strange)} JSON files name another picture than that of their own name; the named one is taken"
    return [f"NOTE: {said}:\n{enumerate_problems(strange)}"] if strange else []


def _json_files(source: Source) -> list[Path]:
    index = index_files(source.annotations, (".json",))
    return [index.folder / name for names in index.by_id.values() for name in names]


def _read_file(source: Source, file: Path) -> PictureRecord | None:
    """Read one file; None for a JSON file of another kind, such as settings beside the pictures."""
    where = source.shown(file)
    stem = file.relative_to(source.annotations).with_suffix("").as_posix()
    try:
        data = file.read_bytes()
        if is_lfs_pointer(data):
            return PictureRecord(stem, where, problems=(UNFETCHED,))
        content = json.loads(data.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return PictureRecord(stem, where, problems=(f"no JSON that can be read: {error}",))
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        if stem in source.pictures:
            return PictureRecord(stem, where, problems=("expected an object with a list 'shapes'",))
        return None
    try:
        size_wh = stated_size(content.get("imageWidth"), content.get("imageHeight"))
    except ValueError as error:
        return PictureRecord(stem, where, problems=(str(error),))
    objects = [_read_shape(k, shape) for k, shape in enumerate(content["shapes"])]
    return PictureRecord(_picture_of(source, file, stem, content.get("imagePath")), where, size_wh, objects)


def _picture_of(source: Source, file: Path, stem: str, stated: object) -> str:
    """Return the path of the picture: as stated, below the folder of the pictures; else the file's own name.

    Of a picture that is not there, the stated path is returned below the file's folder: a name alone may be that of
    another picture.
    """
    if not isinstance(stated, str) or not stated.strip():
        return stem
    text = stated.strip().replace("\\", "/")
    inside = _below_pictures(source, os.path.join(file.parent, text))
    if inside in source.finder:
        return inside
    near = _below_pictures(source, file.parent / PurePosixPath(text).name)
    if near in source.finder:
        return near
    # A picture that was renamed with its file still has the old name in it.
    own = _below_pictures(source, file.with_suffix(""))
    if own in source.pictures:
        return own
    if not PureWindowsPath(text).anchor:
        return inside
    # Of a path on another machine, the name alone tells nothing where there are several folders.
    found = source.finder.find(text)
    return text if found is None or "/" in found or file.parent == source.annotations else near


def _below_pictures(source: Source, path: str | os.PathLike[str]) -> str:
    """Return a path below the folder of the pictures, whose folders those of the files may mirror elsewhere.

    Where the pictures lie in a folder of the files, or both are one, a path of the files is one of the pictures.
    """
    folder = source.pictures.folder
    path = PurePosixPath(os.path.normpath(path))
    one_tree = folder.is_relative_to(source.annotations) or path.is_relative_to(folder)
    return PurePosixPath(os.path.relpath(path, folder if one_tree else source.annotations)).as_posix()


def _read_shape(number: int, shape: Any) -> ObjectRecord:
    where = f"shapes[{number}]"
    if not isinstance(shape, dict):
        return ObjectRecord(where, "", None, problem=f"expected an object {{...}}, got {brief(shape)}")
    name, flags = class_name(shape.get("label")), shape.get("flags")
    difficult = isinstance(flags, dict) and bool(flags.get("difficult"))
    try:
        if not name:
            raise ValueError(f"label: expected a name, got {brief(shape.get('label'))}")
        return ObjectRecord(where, name, _box_of(shape), difficult)
    except ValueError as error:
        return ObjectRecord(where, name, None, difficult, str(error))


def _box_of(shape: dict[str, Any]) -> Box:
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if kind not in BOXED:
        raise ValueError(f"shape_type {brief(kind)} has no box: expected {', '.join(BOXED)}")
    try:
        x, y = zip(*[(float(px), float(py)) for px, py in points], strict=True)  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"points: expected [[x, y], ...], got {brief(points)}") from None
    if kind == "circle":
        if len(x) != 2:
            raise ValueError(f"a circle has a centre and a point on its edge, got {len(x)} points")
        radius = ((x[1] - x[0]) ** 2 + (y[1] - y[0]) ** 2) ** 0.5
        return x[0] - radius, y[0] - radius, x[0] + radius, y[0] + radius
    return min(x), min(y), max(x), max(y)
