"""Heat maps of a picture, one per class, next to it. Source: Oquab et al. (CVPR 2014) figures 1 and 5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from pipeline.views.figures.style import INK, MAP_COLORS, QUIET, bare, new_figure

COLUMNS = 3
MAP_WIDTH_IN = 2.7
MOST_OPAQUE = 0.65
"""Of the colour where a map is highest; it is transparent where the map is lowest."""
CONTOURS = (0.5, 0.75)
"""Lines are drawn so far from the lowest value of a map to its highest: they are seen in print without colour, too."""
LEAST_RANGE = 0.1
"""Of the scale: a map whose values differ by less has no lines, which would follow noise."""
COLOR_LEFT = 0.35
"""Of the picture's own colour below a map: enough to know things by, too little to be taken for the map's."""
CONTOUR_PX, BOX_PX = 1.2, 2.0
"""Widths of lines on a picture whose longer side is `LINES_AT_PX`."""
LINES_AT_PX = 400
NO_BOXES = np.zeros((0, 4))


def common_scale(maps: np.ndarray, highest: float | None = None) -> Normalize:
    """One scale for all heat maps: from 0 to `highest` or the highest value of any; below 0 the picture is bare.

    Where no value is above 0, as of log-odds of classes that are nowhere, from the lowest value to the highest.
    """
    top = float(np.nanmax(maps, initial=-np.inf))
    high = highest if highest is not None else top if np.isfinite(top) else 1.0
    low = 0.0 if high > 0 else float(np.nanmin(maps, initial=np.inf))
    return Normalize(low, high if high > low else low + 1, clip=True)


def smooth(maps: np.ndarray, sigma_px: float) -> np.ndarray:
    """Smooth maps (k, height, width) by a Gaussian, over the pixels that have a value; NaN stays NaN."""
    known = ~np.isnan(maps)
    sigma = (0, sigma_px, sigma_px)
    if known.all():
        return gaussian_filter(maps, sigma, mode="nearest")
    weight = gaussian_filter(known.astype(np.float32), sigma, mode="nearest")
    total = gaussian_filter(np.where(known, maps, 0), sigma, mode="nearest")
    return np.divide(total, weight, out=np.full_like(maps, np.nan), where=known)


def _muted(pixels: np.ndarray) -> np.ndarray:
    """The picture with less of its colour: float ndarray (height, width, 3), 0..1."""
    values = pixels / 255
    grey = values @ np.array([0.299, 0.587, 0.114])
    return COLOR_LEFT * values + (1 - COLOR_LEFT) * grey[..., None]


def _line(image: np.ndarray, cover: np.ndarray, color: float) -> None:
    image += cover[..., None] * (color - image)


def _add_contours(image: np.ndarray, share: np.ndarray, width_px: float) -> None:
    """Draw lines of equal value, white in a dark edge, into an image (height, width, 3), 0..1."""
    low, high = float(np.nanmin(share, initial=1)), float(np.nanmax(share, initial=0))
    if min(share.shape) < 2 or high - low < LEAST_RANGE:
        return
    slope = np.hypot(*np.gradient(share))
    for level in (low + (high - low) * part for part in CONTOURS):
        # The distance to the line in pixels, to first order; where the map is flat there is no line.
        away = np.abs(share - level) / np.maximum(slope, 1e-4)
        for width, color in ((width_px + 1.5, 0.1), (width_px, 1.0)):
            _line(image, np.nan_to_num(np.clip((width + 1) / 2 - away, 0, 1)), color)


def _add_boxes(image: np.ndarray, box_xyxy: np.ndarray, dashed: np.ndarray, width_px: float) -> np.ndarray:
    """Draw frames, black in white, on an image (height, width, 3), 0..1: uint8 ndarray of the same shape."""
    drawn = Image.fromarray((255 * image).round().astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    thin = max(1, round(width_px))
    for (x0, y0, x1, y1), is_dashed in zip(box_xyxy.tolist(), dashed.tolist(), strict=True):
        corners = [(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1), (x0, y0)]
        for line, color in ((thin + 2, "white"), (thin, "black")):
            for (ax, ay), (bx, by) in pairwise(corners):
                for start, end in _dashes(math.hypot(bx - ax, by - ay), 6 * thin if is_dashed else 0):
                    draw.line([(ax + (bx - ax) * t, ay + (by - ay) * t) for t in (start, end)], color, line)
    return np.asarray(drawn)


def _dashes(length: float, dash: float) -> list[tuple[float, float]]:
    """Beginnings and ends of the dashes of a line, as shares of it; one for a whole line."""
    n = max(1, round(length / (2 * dash))) if dash and length else 1
    return [(i / n, (i + (0.5 if dash else 1)) / n) for i in range(n)]


def share_of(values: np.ndarray, scale: Normalize) -> np.ndarray:
    """Return where values lie between the ends of a scale: float64 ndarray, 0..1; NaN where they are NaN."""
    assert scale.vmin is not None and scale.vmax is not None
    return np.clip((values - scale.vmin) / (scale.vmax - scale.vmin), 0, 1).astype(float)


def overlay(
    pixels: np.ndarray,
    values: np.ndarray,
    scale: Normalize,
    box_xyxy: np.ndarray = NO_BOXES,
    dashed: np.ndarray | None = None,
) -> np.ndarray:
    """A heat map over its picture: the higher the value, the less transparent its colour.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (height, width, 3)
    values : float ndarray of shape (height, width); where it is NaN, there is the picture alone
    box_xyxy : float ndarray of shape (n, 4), objects that are framed, in pixels of `pixels`
    dashed : bool ndarray of shape (n,), whether a frame is dashed; None for no such frame

    Returns
    -------
    uint8 ndarray of shape (height, width, 3)
    """
    share = share_of(values, scale)
    image = _muted(pixels)
    known = np.nan_to_num(share)
    image += (MOST_OPAQUE * known)[..., None] * (MAP_COLORS(known)[..., :3] - image)
    thicker = max(1.0, max(share.shape) / LINES_AT_PX)
    _add_contours(image, share, CONTOUR_PX * thicker)
    dashed = np.zeros(len(box_xyxy), bool) if dashed is None else dashed
    return _add_boxes(image, box_xyxy, dashed, BOX_PX * thicker)


def bar_colors() -> ListedColormap:
    """The colours as they look over middle grey: what a colour bar must show."""
    share = np.linspace(0, 1, 256)
    table = MAP_COLORS(share)
    table[:, :3] = 0.5 + (MOST_OPAQUE * share)[:, None] * (table[:, :3] - 0.5)
    return ListedColormap(table)


@dataclass(frozen=True)
class Tile:
    """One heat map of a sheet.

    Attributes
    ----------
    name, note : above it; of the class, and its score for the whole picture
    values : float ndarray of shape (height, width)
    box_xyxy, dashed : as of `overlay`
    """

    name: str
    note: str
    values: np.ndarray
    box_xyxy: np.ndarray
    dashed: np.ndarray


def heat_map_sheet(pixels: np.ndarray, title: str, tiles: Sequence[Tile], highest: float | None = None) -> Figure:
    """The picture, and a heat map per class over it, all by one scale.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (height, width, 3)
    highest : value of the scale's upper end; None for the highest of these maps
    """
    n_rows = max(1, math.ceil(len(tiles) / COLUMNS))
    n_columns = min(COLUMNS, max(1, len(tiles)))
    height, width = pixels.shape[:2]
    map_height = MAP_WIDTH_IN * min(2.0, height / width)
    figure = new_figure(MAP_WIDTH_IN * (n_columns + n_rows) + 0.9, n_rows * (map_height + 0.3))
    # The picture is as wide as it has rows of maps next to it; their tops are one line.
    grid = figure.add_gridspec(n_rows, n_columns + 1, width_ratios=[n_rows, *[1] * n_columns])
    left = figure.add_subplot(grid[:, 0])
    left.imshow(pixels)
    left.set_anchor("N")
    left.set_title(title, loc="left", fontsize=11, color=INK)
    bare(left)
    scale = common_scale(np.stack([tile.values for tile in tiles]), highest)
    axes = [figure.add_subplot(grid[row, column]) for row in range(n_rows) for column in range(1, n_columns + 1)]
    for place in axes:
        place.set_anchor("N")
        bare(place)
    for place, tile in zip(axes, tiles, strict=False):
        place.imshow(overlay(pixels, tile.values, scale, tile.box_xyxy, tile.dashed))
        place.set_title(tile.name, loc="left", fontsize=11, color=INK)
        place.set_title(tile.note, loc="right", fontsize=9, color=QUIET)
    bar = figure.colorbar(ScalarMappable(scale, bar_colors()), ax=axes, aspect=22 * n_rows, pad=0.02, panchor=False)
    bar.set_label("mean patch score", fontsize=9, color=QUIET)
    bar.ax.tick_params(labelsize=8, colors=QUIET)
    bar.outline.set_visible(False)
    return figure
