"""Heat maps of a picture, one per class, beside it. Source: Oquab et al. (CVPR 2014) figures 1 and 5."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.views.figures.style import INK, MAP_COLORS, QUIET, bare, new_figure, over_grey

MAP_SHARE = 0.75
"""Of the map's colour in a pixel; the rest is the picture, in grey and faint."""
COLUMNS = 3
MAP_WIDTH_IN = 2.7


def faint_grey(pixels: np.ndarray) -> np.ndarray:
    """The picture in faint grey around the middle, which changes a map's colours little: (height, width, 3), 0..1."""
    grey = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    return np.repeat(0.5 + 0.6 * (grey - 0.5)[..., None], 3, axis=2)


def blend(pixels: np.ndarray, values: np.ndarray, scale: Normalize) -> np.ndarray:
    """A heat map over its picture: float ndarray (height, width, 3), 0..1; where the map is NaN, the picture alone."""
    colors = MAP_COLORS(scale(np.nan_to_num(values)))[..., :3]
    under = faint_grey(pixels)
    return np.where(np.isnan(values)[..., None], under, MAP_SHARE * colors + (1 - MAP_SHARE) * under)


def common_scale(maps: np.ndarray, highest: float | None = None) -> Normalize:
    """One scale for all heat maps: from 0, or the lowest value below it, to `highest` or the highest value of any."""
    low = min(0.0, float(np.nanmin(maps, initial=0.0)))
    high = highest if highest is not None else float(np.nanmax(maps, initial=0.0))
    return Normalize(low, high if high > low else low + 1, clip=True)


def heat_map_sheet(
    pixels: np.ndarray,
    title: str,
    names: Sequence[str],
    notes: Sequence[str],
    maps: np.ndarray,
    highest: float | None = None,
) -> Figure:
    """The picture, and a heat map per class over it, all by one scale.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (height, width, 3)
    names : of the classes that are drawn
    notes : what stands behind each name, such as the class's score for the whole picture
    maps : float ndarray of shape (n_classes, height, width)
    highest : value of the scale's upper end; None for the highest of these maps
    """
    n_rows = max(1, math.ceil(len(names) / COLUMNS))
    n_columns = min(COLUMNS, max(1, len(names)))
    height, width = pixels.shape[:2]
    map_height = MAP_WIDTH_IN * min(2.0, height / width)
    figure = new_figure(MAP_WIDTH_IN * (n_columns + n_rows) + 0.9, n_rows * (map_height + 0.35) + 0.3)
    # The picture is as high as all rows of maps.
    parts = figure.subfigures(1, 2, width_ratios=[n_rows, n_columns + 0.33])
    assert isinstance(parts, np.ndarray)  # of more than one
    left = parts[0].subplots()
    left.imshow(pixels)
    left.set_anchor("N")
    left.set_title(title, loc="left", fontsize=11, color=INK)
    bare(left)
    scale = common_scale(maps, highest)
    axes = parts[1].subplots(n_rows, n_columns, squeeze=False)
    for place in axes.ravel():
        bare(place)
    for place, name, note, values in zip(axes.ravel(), names, notes, maps, strict=False):
        place.imshow(blend(pixels, values, scale))
        place.set_title(name, loc="left", fontsize=11, color=INK)
        place.set_title(note, loc="right", fontsize=9, color=QUIET)
    bar = parts[1].colorbar(
        ScalarMappable(scale, over_grey(MAP_COLORS, MAP_SHARE)), ax=axes, aspect=22 * n_rows, pad=0.02
    )
    bar.set_label("mean score of the patches over a pixel", fontsize=9, color=QUIET)
    bar.ax.tick_params(labelsize=8, colors=QUIET)
    bar.outline.set_visible(False)
    return figure
