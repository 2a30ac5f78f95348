"""XML files of the VOC devkit: size of the picture, objects, and the actions of persons.

Boxes leave this module continuous and 0-based, ``[x0, y0, x1, y1]`` in pixels of the stored
picture: ``[xmin - 1, ymin - 1, xmax, ymax]`` of the devkit's 1-based, inclusive corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException

from pipeline.dataset.split import Annotation
from pipeline.io.messages import shorten

MAX_SIDE_PX = 1_000_000
# Annotators' boxes sometimes end up to one pixel outside of the picture; more is a mistake.
OUTSIDE_TOLERANCE_PX = 1.0


@dataclass(frozen=True)
class XmlObject:
    """One object of an XML file; `actions` are its flags by name, None where it has no ``<actions>``."""

    name: str
    box_xyxy: np.ndarray
    difficult: bool
    actions: dict[str, bool] | None


def parse_objects(
    data: bytes, classes: tuple[str, ...] | None = None
) -> tuple[tuple[int, int] | None, list[XmlObject]]:
    """Read the picture's size, as far as stated, and all objects of one XML file of the devkit, in its order.

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
    root = _parse_root(data)
    problems: list[str] = []
    size_wh = _parse_size(root, problems)
    objects = []
    for number, entry in enumerate(root.findall("object"), start=1):
        try:
            objects.append(_parse_object(entry, size_wh, classes))
        except ValueError as error:
            name = (entry.findtext("name") or "").strip()
            problems.append(f"object {number} ({shorten(name) or 'no name'}): {error}")
    if problems:
        more = [f"and {len(problems) - 10} more problems"] if len(problems) > 10 else []
        raise ValueError("; ".join([*problems[:10], *more]))
    return size_wh, objects


def _parse_root(data: bytes) -> Element:
    """Parse an XML file whose root is ``<annotation>``; raise ValueError for any other."""
    try:
        root = defusedxml.ElementTree.fromstring(data)
    except DefusedXmlException as error:
        raise ValueError(f"refused: {type(error).__name__} (entities are not allowed)") from error
    except (defusedxml.ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"not valid XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"no annotation: expected <annotation> at the top, got <{shorten(root.tag)}>")
    return root


def _parse_size(root: Element, problems: list[str]) -> tuple[int, int] | None:
    """Read (width, height) of the picture; None if the file states none or one that cannot be used."""
    size = root.find("size")
    if size is None:
        return None
    try:
        size_wh = (int(float(size.findtext("width", ""))), int(float(size.findtext("height", ""))))
    except (ValueError, OverflowError):
        problems.append("size: width and height are not numbers")
        return None
    if min(size_wh) < 1:  # written by tools that did not know the size
        return None
    if max(size_wh) > MAX_SIDE_PX:
        problems.append(f"size: at most {MAX_SIDE_PX:,} pixels, got {max(map(float, size_wh)):g}")
        return None
    return size_wh


def _parse_object(entry: Element, size_wh: tuple[int, int] | None, classes: tuple[str, ...] | None) -> XmlObject:
    """Read one ``<object>``; raise ValueError with the first problem, without the object's number."""
    name = (entry.findtext("name") or "").strip()
    if classes is not None and name not in classes:
        raise ValueError(f"unknown class, expected one of {shorten(', '.join(classes), 400)}")
    try:
        corners = [float(entry.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
        flag = float((entry.findtext("difficult") or "0").strip() or 0)
    except ValueError:
        raise ValueError("bndbox or difficult is missing or not a number") from None
    box = np.array([corners[0] - 1, corners[1] - 1, corners[2], corners[3]])
    if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"box without area, got xmin, ymin, xmax, ymax = {corners}")
    # Without a size the right and lower edge are unknown; the left and upper one are 0 in any picture.
    limit = np.array([*size_wh, *size_wh], float) if size_wh else np.full(4, np.inf)
    clipped = np.clip(box, 0, limit)
    outside = (box < -OUTSIDE_TOLERANCE_PX).any() or (box > limit + OUTSIDE_TOLERANCE_PX).any()
    if outside or clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        of = f" of {size_wh[0]} x {size_wh[1]}" if size_wh else ""
        raise ValueError(f"box {corners} outside of the picture{of}")
    actions = entry.find("actions")
    try:
        flags = None if actions is None else {a.tag: float(a.text or 0) != 0 for a in actions}
    except ValueError:
        raise ValueError("actions are not all numbers") from None
    return XmlObject(name, clipped, flag != 0, flags)


def parse_annotation(data: bytes, classes: tuple[str, ...]) -> Annotation:
    """Read the objects of one XML file of the devkit, all of known classes; raises as `parse_objects`."""
    size_wh, objects = parse_objects(data, classes)
    return Annotation(
        size_wh,
        np.array([item.box_xyxy for item in objects], float).reshape(-1, 4),
        np.array([classes.index(item.name) for item in objects], np.int64),
        np.array([item.difficult for item in objects], bool),
    )
