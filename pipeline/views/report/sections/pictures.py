"""Pictures of splits, made small for a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from pipeline.stages.context import RunContext
from pipeline.stages.patches import open_pictures
from pipeline.views.figures.style import jpeg_uri
from pipeline.views.ranking import read_thumbnail

SHOWN_PX = 240
WHITE, BLACK, RIGHT, WRONG = (255, 255, 255), (0, 0, 0), (0, 114, 178), (213, 94, 0)
"""Of lines; blue and orange are told apart by colour-blind eyes too (Okabe and Ito)."""


@dataclass(frozen=True)
class Thumbnail:
    """A picture on the page: its bytes as a data URI, its size, and what it is, in words."""

    source: str
    width: int
    height: int
    alt: str


class Thumbnails:
    """Pictures of splits by split and id, made small.

    Raises
    ------
    MissingDataError
        The pictures are not available.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._places: dict[str, dict[str, int]] = {}
        self._plain: dict[tuple[str, str], Thumbnail] = {}

    def of(self, split: str, i: str) -> Thumbnail:
        """Return a picture as it is."""
        if (split, i) not in self._plain:
            self._plain[split, i] = _finish(self._read(split, i)[0], f"{i} of {split}")
        return self._plain[split, i]

    def with_objects(self, split: str, i: str, name: str) -> Thumbnail:
        """Return a picture with the boxes of the objects of a class."""
        pixels, objects = self._read(split, i, name)
        alt = f"{i} of {split}" + (f", with the boxes of {name}" if len(objects) else "")
        return _finish(_draw(pixels, objects, WHITE, 2), alt)

    def with_box(self, split: str, i: str, name: str, box_xyxy: np.ndarray, right: bool) -> Thumbnail:
        """Return a picture with the boxes of the objects of a class, and one that was drawn from its map.

        Parameters
        ----------
        box_xyxy : float ndarray (4,), in pixels of the picture itself
        right : whether the box is that of an object
        """
        pixels, objects, factor = self._scaled(split, i, name)
        drawn = _draw(_draw(pixels, box_xyxy[None] * factor, RIGHT if right else WRONG, 5), objects, WHITE, 2)
        return _finish(drawn, f"{i} of {split} with a {'right' if right else 'wrong'} box of {name}")

    def _read(self, split: str, i: str, name: str = "") -> tuple[np.ndarray, np.ndarray]:
        return self._scaled(split, i, name)[:2]

    def _scaled(self, split: str, i: str, name: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Return pixels, the boxes (n, 4) of a class in them, and by how much their sides were multiplied."""
        table, paths = open_pictures(self._run, split)
        places = self._places.setdefault(split, {known: place for place, known in enumerate(table.ids)})
        pixels, factor = read_thumbnail(paths[i], bool(table.apply_exif[places[i]]), i)
        boxes, classes, _ = table.objects.of_picture(places[i])
        own = classes == table.classes.index(name) if name else np.zeros(len(boxes), bool)
        return pixels, boxes[own] * factor, factor


def _draw(pixels: np.ndarray, box_xyxy: np.ndarray, color: tuple[int, int, int], width: int) -> np.ndarray:
    """Draw boxes (n, 4) with a black edge onto a copy of pixels, uint8 (height, width, 3)."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in box_xyxy.tolist():
        corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        draw.rectangle(corners, outline=BLACK, width=width + 2)
        inner = (
            corners[0] + 1,
            corners[1] + 1,
            max(corners[0] + 1, corners[2] - 1),
            max(corners[1] + 1, corners[3] - 1),
        )
        draw.rectangle(inner, outline=color, width=width)
    return np.asarray(image)


def _finish(pixels: np.ndarray, alt: str) -> Thumbnail:
    image = Image.fromarray(pixels)
    image.thumbnail((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
    return Thumbnail(jpeg_uri(np.asarray(image)), image.width, image.height, alt)
