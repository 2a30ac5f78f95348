"""YOLO's text files: a line per object with the number of its class and shares of the picture's sides.

Source: https://docs.ultralytics.com/datasets/detect and .../segment. Five numbers are class, centre x, centre y, width
and height; seven or more are class and the corners of a polygon, taken by the box around it. With ``kpt_shape`` in
``data.yaml``, key points behind the box are passed over. Shares refer to the picture as it is shown, turned by EXIF,
since the tools draw and train on it so. A picture without a file, or with an empty one, has no objects.

The file of ``images/a.jpg`` is ``labels/a.txt`` (the last folder ``images`` of the path is replaced), else ``a.txt``
beside the picture.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.dataset.formats.records import (
    Box,
    ObjectRecord,
    PictureRecord,
    Source,
    class_name,
    decimals_of,
    notes_on_names,
    size_for_shares,
    to_pixels,
)
from pipeline.io.errors import DatasetError
from pipeline.io.lfs import UNFETCHED, is_lfs_pointer
from pipeline.io.messages import brief, enumerate_problems, shorten
from pipeline.io.yaml import read_mapping

TITLE = "YOLO (a text file of boxes per picture)"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
MAX_SHARE = 2.0
"""Shares beyond are pixels."""


@dataclass
class LabelFiles:
    """Finds the text file of a picture; each folder is listed once."""

    names: dict[Path, frozenset[str]] = field(default_factory=dict)

    def find(self, picture: Path) -> Path | None:
        """Return the file with a picture's objects; None if it has none."""
        return next((path for path in label_paths(picture) if path.name in self._listing(path.parent)), None)

    def without_picture(self, pictures: Sequence[Path]) -> list[Path]:
        """Return the text files in folders ``labels`` of these pictures that belong to none of them."""
        own = {places[0] for picture in pictures if len(places := label_paths(picture)) > 1}
        files = {folder / name for folder in {path.parent for path in own} for name in self._listing(folder)}
        return sorted(f for f in files - own if f.suffix == ".txt" and f.stem not in ("classes", "predefined_classes"))

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self.names:
            try:
                self.names[folder] = frozenset(os.listdir(folder))
            except OSError:
                self.names[folder] = frozenset()
        return self.names[folder]


def label_paths(picture: Path) -> list[Path]:
    """List the places where the text file of a picture may be, the first that exists counts.

    >>> [path.as_posix() for path in label_paths(Path("train/images/a.b.jpg"))]
    ['train/labels/a.b.txt', 'train/images/a.b.txt']
    """
    name = f"{picture.stem}.txt"
    parts = list(picture.parent.parts)
    beside = [picture.parent / name]
    if "images" not in parts:
        return beside
    last = len(parts) - 1 - parts[::-1].index("images")
    return [Path(*parts[:last], "labels", *parts[last + 1 :]) / name, *beside]


def read(source: Source, ids: Sequence[str] | None = None) -> Iterator[PictureRecord]:
    """Read the record of each picture, in the order of `ids`; all of the folder by default."""
    names, n_key_points = read_names(source.class_names) if source.class_names is not None else ({}, 0)
    labels = LabelFiles()
    for i in source.pictures.by_id if ids is None else ids:
        for name in source.pictures.names_of(i):
            path = source.pictures.folder / name
            yield _read_picture(source, path, labels.find(path), name, names, n_key_points)


def class_names(source: Source) -> list[str]:
    """Return the names of all classes."""
    return [] if source.class_names is None else list(read_names(source.class_names)[0].values())


def notes(source: Source) -> list[str]:
    """Say how many pictures have no text file, which files have no picture, and which numbers are one class."""
    labels, names = LabelFiles(), {} if source.class_names is None else read_names(source.class_names)[0]
    paths = [source.pictures.folder / name for names in source.pictures.by_id.values() for name in names]
    without = [source.shown(path) for path in paths if labels.find(path) is None]
    said = f"{len(without)} pictures without a text file are taken as pictures without objects"
    lines = [f"{said}:\n{enumerate_problems(without)}"] if without else []
    alone = [source.shown(path) for path in labels.without_picture(paths)]
    said = f"left out, {len(alone)} text files whose picture is not there"
    lines += [f"{said}:\n{enumerate_problems(alone)}"] if alone else []
    return [*lines, *notes_on_names(names)]


def files(source: Source, ids: Sequence[str]) -> list[Path]:
    """List the files that `read` reads."""
    labels = LabelFiles()
    paths = [source.pictures.folder / name for i in ids for name in source.pictures.names_of(i)]
    found = [file for path in paths if (file := labels.find(path)) is not None]
    return found if source.class_names is None else [source.class_names, *found]


def _read_picture(
    source: Source, picture: Path, file: Path | None, name: str, names: dict[int, str], n_key_points: int
) -> PictureRecord:
    if file is None:
        return PictureRecord(name, f"{name} (no text file)")
    where = source.shown(file)
    try:
        data = file.read_bytes()
        if is_lfs_pointer(data):
            return PictureRecord(name, where, problems=(UNFETCHED,))
        lines = [(k, line.split()) for k, line in enumerate(data.decode("utf-8-sig").splitlines(), 1)]
    except (OSError, UnicodeDecodeError) as error:
        return PictureRecord(name, where, problems=(f"cannot be read: {error}",))
    lines = [(k, words) for k, words in lines if words]
    if not lines:
        return PictureRecord(name, where)
    try:
        size_wh = size_for_shares(picture, source.exif)
    except ValueError as error:
        return PictureRecord(name, where, problems=(str(error),))
    decimals = max((decimals_of(w) for _, words in lines for w in words[1:] if NUMBER.fullmatch(w)), default=0)
    objects = [_read_line(k, words, names, n_key_points, size_wh, decimals) for k, words in lines]
    return PictureRecord(name, where, size_wh, objects)


def _read_line(
    number: int, words: list[str], names: dict[int, str], n_key_points: int, size_wh: tuple[int, int], decimals: int
) -> ObjectRecord:
    where = f"line {number}"
    name = names.get(int(words[0]), "") if words[0].isdecimal() and len(words[0]) < 10 else ""
    try:
        if not name:
            known = shorten(", ".join(map(str, names)), 100) or "none"
            raise ValueError(f"class {brief(words[0])}: expected the number of a class with a name ({known})")
        shares = _shares_of(words, n_key_points)
    except ValueError as error:
        return ObjectRecord(where, name, None, problem=str(error))
    return ObjectRecord(where, name, to_pixels(shares, size_wh, decimals))


def _shares_of(words: list[str], n_key_points: int) -> Box:
    """Return the corners of a line's box, in shares of the sides."""
    if wrong := [word for word in words[1:] if not NUMBER.fullmatch(word)]:
        raise ValueError(f"expected numbers, got {brief(wrong[0])}")
    values = [float(word) for word in words[1:]]
    if n_key_points and len(values) == 4 + n_key_points:
        values = values[:4]
    elif n_key_points and len(values) != 4:
        raise ValueError(f"expected a class, 4 numbers of a box and {n_key_points} of key points, got {len(words)}")
    if len(values) == 5:
        raise ValueError("6 numbers: a box with a confidence is a prediction, not a label")
    if len(values) < 4 or len(values) % 2:
        raise ValueError(f"expected a class and 4 numbers, or corners x y of a polygon, got {len(words)} numbers")
    if max(map(abs, values)) > MAX_SHARE:
        raise ValueError(f"expected shares of the sides in 0..1, got {max(values, key=abs):g} (pixels?)")
    if len(values) > 4:
        x, y = values[::2], values[1::2]
        return min(x), min(y), max(x), max(y)
    x0, y0, width, height = values
    return x0 - width / 2, y0 - height / 2, x0 + width / 2, y0 + height / 2


def read_names(path: Path) -> tuple[dict[int, str], int]:
    """Read the names of classes by number, of ``data.yaml`` or of a text file with a line per class.

    Returns
    -------
    names
    n_key_points : numbers per object behind its box, by ``kpt_shape`` in ``data.yaml``

    Raises
    ------
    DatasetError
        No names, or such that are none.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        try:
            lines = [class_name(line) for line in path.read_text("utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: names of classes, a line each, cannot be read: {error}") from error
        while lines and not lines[-1]:
            lines.pop()
        return _checked(path, dict(enumerate(lines))), 0
    content = read_mapping(path, DatasetError)
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DatasetError(f"{path}: names: expected a list, or a mapping of numbers to names, got {brief(names)}")
    by_number: dict[int, str] = {}
    for key, value in names.items():
        if not str(key).isdecimal():
            raise DatasetError(f"{path}: names: expected numbers of classes as keys, got {brief(key)}")
        by_number[int(key)] = class_name(str(value) if isinstance(value, (bool, float)) else value)
    shape = content.get("kpt_shape")
    is_pair = isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape)
    return _checked(path, by_number), shape[0] * shape[1] if is_pair and shape else 0


def _checked(path: Path, names: dict[int, str]) -> dict[int, str]:
    if empty := [number for number, name in names.items() if not name]:
        raise DatasetError(f"{path}: class {empty[0]} has no name")
    if not names:
        raise DatasetError(f"{path}: no names of classes")
    return names
