"""The pictures that a head ranks highest for a class, right and wrong ones: the paper's failure modes (section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.views.figures.style import INK, QUIET, RIGHT, WRONG, bare, new_figure

PICTURE_IN = 1.75
AROUND = 243
"""Grey of a square where its picture ends: white would be taken for the sheet."""


@dataclass(frozen=True)
class Ranked:
    """A picture in the order of a class's scores.

    Attributes
    ----------
    rank : from 1, among all pictures that count for the class
    shows : names of the classes that it does show
    pixels : uint8 ndarray of shape (height, width, 3)
    box_xyxy : float ndarray of shape (n, 4), objects of the class in it
    """

    rank: int
    id: str
    score: float
    shows: tuple[str, ...]
    pixels: np.ndarray
    box_xyxy: np.ndarray


def ranking_sheet(name: str, measured: str, right: Sequence[Ranked], wrong: Sequence[Ranked]) -> Figure:
    """Draw the highest right pictures above the highest wrong ones, with rank, score and what they show.

    Parameters
    ----------
    name, measured : of the class, and what its AP is
    """
    n_columns = max(len(right), len(wrong), 1)
    figure = new_figure(PICTURE_IN * n_columns + 0.4, 2 * (PICTURE_IN + 0.35) + 0.7)
    figure.suptitle(f"{name}   {measured}", x=0.01, ha="left", fontsize=13, color=INK)
    axes = figure.subplots(2, n_columns, squeeze=False)
    for row, pictures, color, word in ((axes[0], right, RIGHT, "right"), (axes[1], wrong, WRONG, "wrong")):
        for place in row:
            bare(place)
        # Said in words, too: colours alone do not reach everyone.
        row[0].set_ylabel(f"highest {word}", color=color, fontsize=10)
        for place, picture in zip(row, pictures, strict=False):
            _draw(place, picture, color)
    return figure


def _draw(place, picture: Ranked, color: str) -> None:  # noqa: ANN001
    place.imshow(_squared(picture.pixels))
    side = max(picture.pixels.shape[:2])
    place.set_title(f"{picture.rank}   {picture.score:.3g}", loc="left", fontsize=9, color=INK)
    shown = ", ".join(picture.shows) or "none of the classes"
    place.set_xlabel(f"{picture.id}\n{shown if len(shown) < 30 else shown[:27] + '...'}", fontsize=7, color=QUIET)
    top = (side - picture.pixels.shape[0]) / 2
    left = (side - picture.pixels.shape[1]) / 2
    for x0, y0, x1, y1 in picture.box_xyxy:
        place.add_patch(Rectangle((left + x0, top + y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=1.2))
    for spine in place.spines.values():
        spine.set_visible(True)
        spine.set_color(color)
        spine.set_linewidth(2)


def _squared(pixels: np.ndarray) -> np.ndarray:
    """A picture in the middle of a light square, so that a sheet's rows are even."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), AROUND, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square
