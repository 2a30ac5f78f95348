"""What a file of annotations says of one picture, in one form for all formats, and how it becomes an `Annotation`.

Boxes are continuous and 0-based here and everywhere after: ``[x0, y0, x1, y1]`` in pixels, where the first pixel
covers 0 to 1. VOC's corners are numbers of pixels, from 1, both inclusive, so VOC's ``xmin, ymin, xmax, ymax`` is
``[xmin - 1, ymin - 1, xmax, ymax]``. COCO's ``x, y, w, h`` is ``[x, y, x + w, y + h]``. Both are exact, and a box on
whole pixels is the same in both. Shares of the sides (YOLO, Open Images, Label Studio) are multiplied by the side, see
`to_pixels`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.dataset.formats.picture_paths import PictureFinder
from pipeline.dataset.picture import orientation_of_file, picture_size
from pipeline.dataset.split import Annotation
from pipeline.dataset.voc_folder import FileIndex
from pipeline.dataset.voc_xml import MAX_SIDE_PX, clip_box
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import BadPictureError
from pipeline.io.messages import brief, shorten
from pipeline.io.names import normalise

Box = tuple[float, float, float, float]
SNAP_PX = 0.05
"""Largest move of a corner to a whole pixel, see `to_pixels`."""
SHOWN = 10


class ObjectRecord(NamedTuple):
    """One object of a picture.

    Attributes
    ----------
    where : its place in the file, for messages: ``annotations[3]``, ``line 2``
    name : of its class, as written
    box : continuous and 0-based, not clipped; None where `problem` says why there is none
    difficult : whether it is a crowd, a group or marked as difficult: neither a positive nor a negative example
    problem : why the object cannot be used
    """

    where: str
    name: str
    box: Box | None
    difficult: bool = False
    problem: str = ""


@dataclass(frozen=True)
class PictureRecord:
    """What a file of annotations says of one picture.

    Attributes
    ----------
    path : of the picture, as written, with ``/``
    where : file and place in it, for messages
    size_wh : (width, height) to which the boxes refer, as far as stated
    objects : all objects, in the order of the file
    labels : 1, 0 (unknown) or -1 by class name, of formats without boxes; None where there are boxes
    unstated : of formats without boxes: what it means that a class is not in `labels`, 0 or -1
    problems : what makes the record unusable as a whole
    """

    path: str
    where: str
    size_wh: tuple[int, int] | None = None
    objects: Sequence[ObjectRecord] = ()
    labels: Mapping[str, int] | None = None
    unstated: int = -1
    problems: tuple[str, ...] = ()

    def names(self) -> set[str]:
        """Return the names of all classes that the record mentions."""
        return {item.name for item in self.objects if item.name} | set(self.labels or ())

    def digest(self) -> str:
        """Digest the content: what is said of the picture, not how the file says it."""
        boxes = np.array([item.box or (np.nan,) * 4 for item in self.objects], float)
        said = (
            self.size_wh,
            [(item.name, item.difficult, item.problem) for item in self.objects],
            None if self.labels is None else sorted(self.labels.items()),
            self.unstated,
            self.problems,
        )
        return sha256_bytes(repr(said).encode("utf-8", "surrogatepass") + boxes.tobytes())


def annotation_of(record: PictureRecord, classes: Sequence[str]) -> Annotation:
    """Make the annotation of a picture; boxes that reach a little out of it are clipped, as those of VOC are.

    Raises
    ------
    ValueError
        All that is wrong with the record, joined by "; ": unknown classes that are present, no box, one without area
        or far outside of the picture.
    """
    index = {name: k for k, name in enumerate(classes)}
    problems, indices, difficult, n_clipped = list(record.problems), list[int](), list[bool](), 0
    boxes: list[np.ndarray] = []
    first: dict[tuple[str, bytes], ObjectRecord] = {}  # one that is listed again is one object, as in VOC's files
    for item in record.objects:
        try:
            box, is_clipped = _usable_box(item, record.size_wh)
            if item.name not in index:
                raise ValueError(f"unknown class, expected one of {shorten(', '.join(classes), 400)}")
            known = first.setdefault((item.name, box.tobytes()), item)
            if known.difficult != item.difficult:
                raise ValueError(f"the same box as {known.where}, both difficult and not; keep one")
        except ValueError as error:
            problems.append(f"{item.where} ({shorten(item.name) or 'no name'}): {error}")
            continue
        if known is item:
            boxes.append(box)
            indices.append(index[item.name])
            difficult.append(item.difficult)
            n_clipped += is_clipped
    # A class that is nowhere present is no class of the dataset, and absent or unknown here as everywhere.
    if unknown := sorted({name for name, value in (record.labels or {}).items() if value > 0} - set(index)):
        problems.append(f"unknown class {', '.join(map(brief, unknown[:SHOWN]))}")
    if problems:
        more = [f"and {len(problems) - SHOWN} more problems"] if len(problems) > SHOWN else []
        raise ValueError("; ".join([*problems[:SHOWN], *more]))
    return Annotation(
        record.size_wh,
        np.array(boxes, float).reshape(-1, 4),
        np.array(indices, np.int64),
        np.array(difficult, bool),
        n_clipped=n_clipped,
        n_repeated=len(record.objects) - len(boxes),
    )


def _usable_box(item: ObjectRecord, size_wh: tuple[int, int] | None) -> tuple[np.ndarray, bool]:
    if item.problem or item.box is None:
        raise ValueError(item.problem or "no box")
    x0, y0, x1, y1 = item.box
    if size_wh is not None and 0 <= x0 < x1 <= size_wh[0] and 0 <= y0 < y1 <= size_wh[1]:
        return np.array(item.box, float), False  # nearly all, and there are hundreds of thousands
    box = np.array(item.box, float)
    if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"box without area, got {_written(item.box)}")
    try:
        return clip_box(box, size_wh)
    except ValueError:
        of = f" of {size_wh[0]} x {size_wh[1]}" if size_wh else ""
        raise ValueError(f"box {_written(item.box)} reaches far out of the picture{of}") from None


def _written(box: Box) -> str:
    return f"x0, y0, x1, y1 = [{', '.join(f'{corner:.10g}' for corner in box)}]"


def label_row(record: PictureRecord, classes: Sequence[str]) -> np.ndarray:
    """Return the labels of a picture without boxes, int8 ndarray (n_classes,)."""
    labels = record.labels or {}
    return np.array([labels.get(name, record.unstated) for name in classes], np.int8)


def class_name(value: object) -> str:
    """Return a class's name without surrounding spaces, in composed form; numbers are written out.

    >>> class_name(" dog "), class_name(3), class_name(None)
    ('dog', '3', '')
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return normalise(str(value).strip())


def notes_on_names(names: Mapping[Any, str]) -> list[str]:
    """Say which numbers of a file have one name, and so are one class.

    >>> notes_on_names({0: "cat", 1: "dog", 2: "cat"})
    ['NOTE: the numbers 0, 2 have one name, cat, and are one class']
    """
    numbers: dict[str, list[str]] = {}
    for number, name in names.items():
        numbers.setdefault(name, []).append(str(number))
    return [
        f"NOTE: the numbers {shorten(', '.join(some), 100)} have one name, {name}, and are one class"
        for name, some in numbers.items()
        if len(some) > 1
    ]


def stated_size(width: object, height: object) -> tuple[int, int] | None:
    """Return a stated size; None where there is none, or one written by tools that did not know it.

    Raises
    ------
    ValueError
        Not whole numbers, or too large ones.
    """
    if width in (None, "") or height in (None, ""):
        return None
    sides = []
    for side in (width, height):
        if isinstance(side, bool) or not isinstance(side, (int, float)) or side != side or side % 1:
            raise ValueError(f"width and height: expected whole numbers, got {brief(width)} and {brief(height)}")
        sides.append(int(side))
    if max(sides) > MAX_SIDE_PX:
        raise ValueError(f"width and height: at most {MAX_SIDE_PX:,} pixels, got {sides[0]:,} and {sides[1]:,}")
    return (sides[0], sides[1]) if min(sides) >= 1 else None


def decimals_of(text: str) -> int:
    """Count the digits after the point of a number.

    >>> decimals_of("0.250"), decimals_of("1.5e-05"), decimals_of("1")
    (3, 6, 0)
    """
    mantissa, _, exponent = text.lower().partition("e")
    return max(len(mantissa.partition(".")[2]) - int(exponent or 0), 0)


def to_pixels(shares: Sequence[float], size_wh: tuple[int, int], decimals: int) -> Box:
    """Multiply corners, as shares of the sides, by the sides.

    Files hold rounded shares. A corner that lies within this rounding (and at most `SNAP_PX`) of a whole pixel is that
    pixel: boxes on whole pixels come back exactly from four decimals up to 500 px, from six up to 50,000 px. All
    other corners stay as they are.

    Parameters
    ----------
    shares : x0, y0, x1, y1 of 0..1
    decimals : digits after the point in the file

    >>> to_pixels((0.078, 0.026667, 0.3, 0.5), (500, 375), 6)
    (39.0, 10.0, 150.0, 187.5)
    """
    corners = []
    for share, side in zip(shares, (*size_wh, *size_wh), strict=True):
        value = share * side
        # A corner is a sum of two numbers in the file: centre and half a side, or corner and side.
        rounding = min(side * 10.0**-decimals + 1e-9 * side, SNAP_PX)
        nearest = float(round(value)) if np.isfinite(value) else value
        corners.append(nearest if abs(value - nearest) <= rounding else value)
    return corners[0], corners[1], corners[2], corners[3]


def size_for_shares(path: Path, exif: str | None) -> tuple[int, int]:
    """Read the size that shares refer to: of the picture as it is shown, or stored where the manifest ignores EXIF.

    Raises
    ------
    ValueError
        The picture cannot be read.
    """
    try:
        width, height = picture_size(path, path.name)
        turned = exif != "ignore" and orientation_of_file(path, None)[0] >= 5
    except (BadPictureError, OSError) as error:
        raise ValueError(f"the size of the picture is needed, and {error}") from error
    return (height, width) if turned else (width, height)


@dataclass(frozen=True)
class Source:
    """Where the annotations of a split lie.

    Attributes
    ----------
    root : the dataset's folder
    pictures : all pictures of the split's folder, perhaps more than the split has
    annotations : file or folder of the annotations
    class_names : file with the names of classes, of formats that have one
    exif, boxes : as of the manifest
    """

    root: Path
    pictures: FileIndex
    annotations: Path
    class_names: Path | None = None
    exif: str | None = None
    boxes: bool = True

    def shown(self, path: Path) -> str:
        """Return a path below the dataset's folder, for messages."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    @cached_property
    def finder(self) -> PictureFinder:
        return PictureFinder(self.pictures)


@dataclass
class Matched:
    """Records of the pictures that are there, and what belongs to none.

    Attributes
    ----------
    records : by id of the picture
    absent : places and paths of records whose picture is not there
    """

    records: dict[str, PictureRecord] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


def match(records: Iterable[PictureRecord], finder: PictureFinder, wanted: Container[str] | None = None) -> Matched:
    """Find the picture of each record; a picture with two records is unusable, and both places are named.

    Parameters
    ----------
    wanted : ids of the pictures whose records are kept; None for all
    """
    found = Matched()
    records = list(records)
    for record, i in zip(records, finder.find_all([record.path for record in records]), strict=True):
        if i is None:
            found.absent.append(f"{record.where}: {brief(record.path)}")
        elif wanted is not None and i not in wanted:
            continue
        elif i in found.records:
            first = found.records[i]
            problem = f"two records of one picture: {first.where} and {record.where}"
            found.records[i] = replace(first, problems=(*first.problems, problem))
        else:
            found.records[i] = record
    return found
