"""XML files of the VOC devkit: size of the picture, objects, and the actions of persons.

Boxes leave this module continuous and 0-based, ``[x0, y0, x1, y1]`` in pixels of the stored
picture: ``[xmin - 1, ymin - 1, xmax, ymax]`` of the devkit's 1-based, inclusive corners.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException

from pipeline.dataset.split import Annotation
from pipeline.io.lfs import UNFETCHED, is_lfs_pointer
from pipeline.io.messages import brief, shorten
from pipeline.io.names import normalise

Element = Any
"""An element of a parsed file. The standard library's module is not imported: it reads hostile files."""
MAX_SIDE_PX = 1_000_000
OUTSIDE_PX = 5.0
OUTSIDE_SHARE = 0.05
"""How far a box may reach out of the picture: pixels, or share of the picture's side, whichever is more."""
COUNTED_PX = 1.0
"""Boxes that reach out by more are counted as clipped; tools that count pixels from 0 write the others."""
MIN_INSIDE = 0.5
"""Smallest share of a box's area that is inside of the picture."""
OTHER_SHAPES = ("robndbox", "polygon", "segmentation", "mask", "cube", "ellipse", "points", "polyline")
"""Elements that tools write instead of ``<bndbox>``."""
FLAGS = {
    **dict.fromkeys(("", "false", "no", "n", "f", "off", "unspecified", "none"), False),
    **dict.fromkeys(("true", "yes", "y", "t", "on"), True),
}
"""Spellings of a flag that are no numbers."""
ONCE = ("name", "difficult", "bndbox")
"""Elements that an object has at most once, spelt so."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.IGNORECASE)


@dataclass(frozen=True)
class XmlObject:
    """One object of an XML file.

    Attributes
    ----------
    actions : flags by name; None where it has no ``<actions>``
    is_clipped : whether the box reached out of the picture and was clipped
    """

    name: str
    box_xyxy: np.ndarray
    difficult: bool
    actions: dict[str, bool] | None
    is_clipped: bool = False


def parse_objects(
    data: bytes, classes: tuple[str, ...] | None = None
) -> tuple[tuple[int, int] | None, list[XmlObject]]:
    """Read the picture's size, as far as stated, and all objects of one XML file of the devkit, in its order.

    Coordinates may have fractions, ``difficult`` may be absent or any spelling of `FLAGS`, ``<part>`` boxes are no
    objects. A box that reaches a little out of the picture is clipped, see `clip_box`.

    Parameters
    ----------
    classes : names that objects may have; None for any

    Raises
    ------
    ValueError
        Malformed or hostile XML, objects at another place, an unknown class, no box, several, one far outside of the
        picture, without area or in shares of its sides;
        the message joins all problems with "; ".
    """
    root = parse_root(data)
    problems: list[str] = []
    size_wh = _parse_size(root, problems)
    objects, entries = [], root.findall("object")
    # A picture without objects is one of the background, so none may be passed over.
    if n_elsewhere := sum(entry.tag.lower() == "object" for entry in root.iter()) - len(entries):
        problems.append(f"{n_elsewhere} objects at another place or spelt otherwise: expected <annotation><object>")
    for number, entry in enumerate(entries, start=1):
        try:
            objects.append(_parse_object(entry, size_wh, classes))
        except ValueError as error:
            name = object_name(entry)
            problems.append(f"object {number} ({shorten(name) or 'no name'}): {error}")
    if problems:
        more = [f"and {len(problems) - 10} more problems"] if len(problems) > 10 else []
        raise ValueError("; ".join([*problems[:10], *more]))
    return size_wh, objects


def parse_root(data: bytes) -> Element:
    """Parse an XML file whose root is ``<annotation>``; raise ValueError for any other."""
    if is_lfs_pointer(data):
        raise ValueError(UNFETCHED)
    try:
        root = _parse_xml(data)
    except DefusedXmlException as error:
        raise ValueError(f"refused: {type(error).__name__} (entities are not allowed)") from error
    except (defusedxml.ElementTree.ParseError, ValueError, LookupError) as error:
        stated = _stated_encoding(data)
        try:
            data.decode(stated)
            why = ""
        except (ValueError, LookupError):
            why = f"; its bytes are not in the encoding {stated}: save it as UTF-8"
        raise ValueError(f"not valid XML: {error}{why}") from error
    if root.tag != "annotation":
        raise ValueError(f"no annotation: expected <annotation> at the top, got <{shorten(root.tag)}>")
    return root


def _parse_xml(data: bytes) -> Element:
    """Parse XML in any encoding that Python knows; the parser itself knows a few."""
    try:
        return defusedxml.ElementTree.fromstring(data)
    except DefusedXmlException:
        raise
    except (defusedxml.ElementTree.ParseError, ValueError, LookupError):
        if (stated := _stated_encoding(data)) == "utf-8":
            raise
        try:
            text = data.decode(stated)
        except (ValueError, LookupError):
            text = ""
        if not text:
            raise
        return defusedxml.ElementTree.fromstring(text)


def _stated_encoding(data: bytes) -> str:
    """Return the encoding that an XML file states, in lower case; UTF-8 where it states none."""
    found = re.match(rb"""\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""", data)
    return found[1].decode("ascii", "replace").lower() if found else "utf-8"


def _parse_size(root: Element, problems: list[str]) -> tuple[int, int] | None:
    """Read (width, height) of the picture; None if the file states none or one that cannot be used."""
    size = root.find("size")
    if size is None:
        return None
    texts = [(size.findtext(side) or "").strip() for side in ("width", "height")]
    if not any(texts):
        return None
    try:
        width, height = (int(_parse_number(text)) for text in texts)
        size_wh = (width, height)
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
    for tag in ONCE:
        found = [child.tag for child in entry if child.tag.lower() == tag]
        if len(found) > 1:
            raise ValueError(f"{len(found)} times <{tag}>, expected one")
        if found and found[0] != tag:
            raise ValueError(f"<{found[0]}>: expected <{tag}>")
    name = object_name(entry)
    if not name:
        raise ValueError("no <name>, so no class")
    if classes is not None and name not in classes:
        raise ValueError(f"unknown class, expected one of {shorten(', '.join(classes), 400)}")
    difficult = _parse_flag(entry.findtext("difficult"), "difficult")
    box, is_clipped = clip_box(_parse_box(entry), size_wh)
    actions = entry.find("actions")
    flags = None if actions is None else {a.tag: _parse_flag(a.text, f"actions/{shorten(a.tag)}") for a in actions}
    return XmlObject(name, box, difficult, flags, is_clipped)


def object_name(entry: Element) -> str:
    """Read the class of an ``<object>``: without surrounding spaces, in Unicode's composed form (NFC)."""
    return normalise((entry.findtext("name") or "").strip())


def _parse_box(entry: Element) -> np.ndarray:
    """Read the corners of an object: float64 ndarray (4,), continuous, 0-based."""
    if entry.find("bndbox") is None:
        shapes = [name for name in OTHER_SHAPES if entry.find(name) is not None]
        raise ValueError(
            f"no <bndbox>, but <{shapes[0]}>: only upright boxes are read" if shapes else "no <bndbox>, so no box"
        )
    corners = []
    for key in ("xmin", "ymin", "xmax", "ymax"):
        text = (entry.findtext(f"bndbox/{key}") or "").strip()
        try:
            corners.append(_parse_number(text))
        except ValueError:
            raise ValueError(f"bndbox/{key} is missing or not a number, got {brief(text)}") from None
    x0, y0, x1, y1 = corners
    inverted = [
        f"{axis}min {low:g} > {axis}max {high:g}" for axis, low, high in (("x", x0, x1), ("y", y0, y1)) if low > high
    ]
    if inverted:
        raise ValueError(f"the corners of its box are inverted: {', '.join(inverted)}")
    if min(corners) >= 0 and max(corners) <= 1 and any(corner % 1 for corner in corners):
        raise ValueError(f"box {_written(corners)} within 0..1: corners are in pixels here, not in shares of the sides")
    box = np.array([x0 - 1, y0 - 1, x1, y1])
    if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"box without area, got xmin, ymin, xmax, ymax = {_written(corners)}")
    return box


def _parse_number(text: str) -> float:
    """Read a decimal number; raise ValueError for other text, also for ``1_0``, which Python reads as 10."""
    if not NUMBER.fullmatch(text.strip()):
        raise ValueError(text)
    return float(text)


def _written(corners: Sequence[float]) -> str:
    """Write corners without the digits that only rounding made."""
    return f"[{', '.join(f'{corner:.10g}' for corner in corners)}]"


def _parse_flag(text: str | None, what: str) -> bool:
    """Read a flag in one of the spellings that tools write; nothing is False."""
    plain = (text or "").strip()
    if plain.casefold() in FLAGS:
        return FLAGS[plain.casefold()]
    try:
        value = float(plain)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{what}: expected 0 or 1, got {brief(plain)}")
    return value != 0


def clip_box(box_xyxy: np.ndarray, size_wh: tuple[int, int] | None) -> tuple[np.ndarray, bool]:
    """Clip a box that reaches a little out of the picture.

    Up to `OUTSIDE_PX` pixels or `OUTSIDE_SHARE` of the picture's side are a little, if `MIN_INSIDE` of the box stays.
    Without a size the right and lower edge are unknown; the left and upper one are 0 in any picture.

    Returns
    -------
    box_xyxy : float64 ndarray (4,)
    is_clipped : whether it reached out by more than `COUNTED_PX`

    Raises
    ------
    ValueError
        The box is outside by more.
    """
    limit = np.array([*size_wh, *size_wh], float) if size_wh else np.full(4, np.inf)
    clipped = np.clip(box_xyxy, 0, limit)
    outside = np.abs(box_xyxy - clipped)
    allowed = np.maximum(OUTSIDE_PX, OUTSIDE_SHARE * limit if size_wh else 0)
    sides, sides_inside = box_xyxy[2:] - box_xyxy[:2], clipped[2:] - clipped[:2]
    if (outside > allowed).any() or (sides_inside <= 0).any() or sides_inside.prod() < MIN_INSIDE * sides.prod():
        corners = _written([float(value) for value in box_xyxy + np.array([1, 1, 0, 0])])
        of = f" of {size_wh[0]} x {size_wh[1]}" if size_wh else ""
        raise ValueError(f"box {corners} outside of the picture{of} by {outside.max():g} pixels")
    return clipped, bool(outside.max() > COUNTED_PX)


def parse_annotation(data: bytes, classes: tuple[str, ...]) -> Annotation:
    """Read the objects of one XML file of the devkit, all of known classes.

    An object that is listed again, with the same class and box, is one object: labelling tools write such entries.

    Raises
    ------
    ValueError
        As `parse_objects`; or an object is listed both as difficult and as not.
    """
    size_wh, listed = parse_objects(data, classes)
    objects = drop_repeated(listed)
    return Annotation(
        size_wh,
        np.array([item.box_xyxy for item in objects], float).reshape(-1, 4),
        np.array([classes.index(item.name) for item in objects], np.int64),
        np.array([item.difficult for item in objects], bool),
        n_clipped=sum(item.is_clipped for item in objects),
        n_repeated=len(listed) - len(objects),
    )


def drop_repeated(objects: Sequence[XmlObject]) -> list[XmlObject]:
    """Return the objects without those that repeat the class and the box of one before.

    Raises
    ------
    ValueError
        A repeated object is difficult, and the one before is not, or the other way round.
    """
    first: dict[tuple[str, bytes], XmlObject] = {}
    for item in objects:
        known = first.setdefault((item.name, item.box_xyxy.tobytes()), item)
        if known.difficult != item.difficult:
            corners = _written([float(value) for value in item.box_xyxy + np.array([1, 1, 0, 0])])
            raise ValueError(f"{shorten(item.name)} in box {corners} is listed both as difficult and as not; keep one")
    return list(first.values())
