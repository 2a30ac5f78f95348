"""The VOC devkit's layout: ``JPEGImages``, ``Annotations``, ``ImageSets/Main``.

Boxes leave this module continuous and 0-based, ``[x0, y0, x1, y1]`` in pixels of the stored
picture: ``[xmin - 1, ymin - 1, xmax, ymax]`` of the devkit's 1-based, inclusive corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.split import LABELS, Annotation
from pipeline.io.messages import brief, shorten

MAX_SIDE_PX = 1_000_000
# Annotators' boxes end up to one pixel outside of the picture now and then; more is a mistake.
OUTSIDE_TOLERANCE_PX = 1.0


@dataclass(frozen=True)
class FoundObject:
    """One object of an XML file; `actions` are its flags by name, None where it has no ``<actions>``."""

    name: str
    box_xyxy: np.ndarray
    difficult: bool
    actions: dict[str, bool] | None


def parse_objects(
    data: bytes, classes: tuple[str, ...] | None = None
) -> tuple[tuple[int, int] | None, list[FoundObject]]:
    """Size of the picture, as far as stated, and all objects of one XML file of the devkit, in its order.

    Coordinates may have fractions, ``difficult`` may be absent, ``<part>`` boxes are no objects.

    Parameters
    ----------
    classes : names that objects may have; None for any

    Raises
    ------
    ValueError
        Malformed or hostile XML, an unknown class, a box outside of the picture or without area;
        the message joins all problems with "; ".
    """
    try:
        root = defusedxml.ElementTree.fromstring(data)
    except DefusedXmlException as error:
        raise ValueError(f"refused: {type(error).__name__} (entities are not allowed)") from error
    except (defusedxml.ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"not valid XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"no annotation: expected <annotation> at the top, got <{shorten(root.tag)}>")
    problems: list[str] = []
    size = root.find("size")
    size_wh = None
    if size is not None:
        try:
            size_wh = (int(float(size.findtext("width", ""))), int(float(size.findtext("height", ""))))
        except (ValueError, OverflowError):
            problems.append("size: width and height are not numbers")
        else:
            if min(size_wh) < 1:  # written by tools that did not know the size
                size_wh = None
            elif max(size_wh) > MAX_SIDE_PX:
                problems.append(f"size: at most {MAX_SIDE_PX:,} pixels, got {max(map(float, size_wh)):g}")
                size_wh = None
    found = []
    for number, entry in enumerate(root.findall("object"), start=1):
        name = (entry.findtext("name") or "").strip()
        where = f"object {number} ({shorten(name) or 'no name'})"
        if classes is not None and name not in classes:
            problems.append(f"{where}: unknown class, expected one of {shorten(', '.join(classes), 400)}")
            continue
        try:
            corners = [float(entry.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
            flag = float((entry.findtext("difficult") or "0").strip() or 0)
        except ValueError:
            problems.append(f"{where}: bndbox or difficult is missing or not a number")
            continue
        box = np.array([corners[0] - 1, corners[1] - 1, corners[2], corners[3]])
        if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            problems.append(f"{where}: box without area, got xmin, ymin, xmax, ymax = {corners}")
            continue
        # Without a size the right and lower edge are unknown; the left and upper one are 0 in any picture.
        limit = np.array([*size_wh, *size_wh], float) if size_wh else np.full(4, np.inf)
        clipped = np.clip(box, 0, limit)
        outside = (box < -OUTSIDE_TOLERANCE_PX).any() or (box > limit + OUTSIDE_TOLERANCE_PX).any()
        if outside or clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            of = f" of {size_wh[0]} x {size_wh[1]}" if size_wh else ""
            problems.append(f"{where}: box {corners} outside of the picture{of}")
            continue
        actions = entry.find("actions")
        try:
            flags = None if actions is None else {a.tag: float(a.text or 0) != 0 for a in actions}
        except ValueError:
            problems.append(f"{where}: actions are not all numbers")
            continue
        found.append(FoundObject(name, clipped, flag != 0, flags))
    if problems:
        more = [f"and {len(problems) - 10} more problems"] if len(problems) > 10 else []
        raise ValueError("; ".join([*problems[:10], *more]))
    return size_wh, found


def parse_annotation(data: bytes, classes: tuple[str, ...]) -> Annotation:
    """Objects of one XML file of the devkit, all of known classes; raises as `parse_objects`."""
    size_wh, found = parse_objects(data, classes)
    return Annotation(
        size_wh,
        np.array([item.box_xyxy for item in found], float).reshape(-1, 4),
        np.array([classes.index(item.name) for item in found], np.int64),
        np.array([item.difficult for item in found], bool),
    )


def labels_from_objects(annotations: list[Annotation], n_classes: int) -> np.ndarray:
    """Per-picture labels: 1 an object, 0 only difficult objects, -1 none. int8, (n_pictures, n_classes)."""
    labels = np.full((len(annotations), n_classes), -1, np.int8)
    for row, annotation in zip(labels, annotations, strict=True):
        row[annotation.class_index[annotation.difficult]] = 0
        row[annotation.class_index[~annotation.difficult]] = 1
    return labels


def labels_from_lists(
    manifest: Manifest, split: str, folder: Path, ids: tuple[str, ...]
) -> tuple[np.ndarray | None, list[bytes], list[str]]:
    """Labels from ``<class>_<split>.txt`` (id, then -1, 0 or 1), or None where no class has a list."""
    lists = [folder / "ImageSets" / "Main" / f"{name}_{split}.txt" for name in manifest.classes]
    present = [path.is_file() for path in lists]
    if not any(present):
        return None, [], []
    problems = [
        f"{p.name}: missing, other classes have theirs" for p, there in zip(lists, present, strict=True) if not there
    ]
    labels = np.full((len(ids), len(lists)), -2, np.int8)
    row_of = {i: row for row, i in enumerate(ids)}
    contents = []
    for column, path in enumerate(lists):
        if not present[column]:
            continue
        contents.append(path.read_bytes())
        for number, line in enumerate(contents[-1].decode("utf-8-sig", "replace").splitlines(), start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 2 or fields[1] not in LABELS:
                problems.append(f"{path.name} line {number}: expected 'id -1|0|1', got {brief(line.strip())}")
            elif fields[0] in row_of:
                labels[row_of[fields[0]], column] = int(fields[1])
        for row in np.flatnonzero(labels[:, column] == -2):
            problems.append(f"{path.name}: no line for {ids[row]}")
    return labels, contents, problems
