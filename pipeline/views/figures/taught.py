"""What a head is taught by a picture: its patches by scale, with their labels. Source: Oquab et al. figure 4."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from pipeline.activations.cutting import cut_windows
from pipeline.patches.labels import BACKGROUND, UNUSED
from pipeline.views.figures.style import INK, QUIET, bare, class_colors, new_figure

MOSAIC_PX = 560
"""Width of the patches of a scale, side by side."""
FRAME_SHARE, GAP_SHARE = 0.06, 0.12
"""Of a patch's side."""
BACKGROUND_COLOR = np.array([0.45, 0.45, 0.45])
UNUSED_SHARE = 0.25
"""Of a patch that is not used: the rest is white."""


def framed(patch: np.ndarray, label: int, colors: np.ndarray) -> np.ndarray:
    """A patch in a frame of its label's colour; one that is not used is faint and has none.

    Parameters
    ----------
    patch : uint8 ndarray of shape (px, px, 3)
    label : index of a class, `BACKGROUND` or `UNUSED`

    Returns
    -------
    float ndarray of shape (px + 2 frame, px + 2 frame, 3), 0..1
    """
    pixels, frame = patch / 255, frame_px(len(patch))
    if label == UNUSED:
        return np.pad(1 - UNUSED_SHARE * (1 - pixels), ((frame, frame), (frame, frame), (0, 0)), constant_values=1.0)
    out = np.empty((len(patch) + 2 * frame, len(patch) + 2 * frame, 3))
    out[:] = BACKGROUND_COLOR if label == BACKGROUND else colors[label]
    out[frame:-frame, frame:-frame] = pixels
    return out


def frame_px(px: int) -> int:
    """Width of the frame of a patch of `px` pixels."""
    return max(1, round(FRAME_SHARE * px))


def mosaic(patches: np.ndarray, labels: np.ndarray, n_columns: int, colors: np.ndarray) -> np.ndarray:
    """Framed patches row by row on white: float ndarray (height, width, 3), 0..1."""
    px = patches.shape[1]
    tile, gap = px + 2 * frame_px(px), max(1, round(GAP_SHARE * px))
    step = tile + gap
    n_rows = math.ceil(len(patches) / n_columns)
    sheet = np.ones((n_rows * step - gap, n_columns * step - gap, 3))
    for index, (patch, label) in enumerate(zip(patches, labels.tolist(), strict=True)):
        row, column = divmod(index, n_columns)
        sheet[row * step : row * step + tile, column * step : column * step + tile] = framed(patch, label, colors)
    return sheet


def taught_sheet(
    pixels: np.ndarray,
    title: str,
    box_xyxy: np.ndarray,
    scale: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    object_xyxy: np.ndarray,
    object_class: np.ndarray,
) -> Figure:
    """The picture with its objects, and its patches scale by scale, each where it lies in the picture.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (height, width, 3)
    box_xyxy, scale, labels : of each patch of its grid, as in the patch table
    object_xyxy, object_class : of each object
    """
    colors = class_colors(len(classes))
    scales = np.unique(scale)
    n_columns = 5
    n_rows = math.ceil((len(scales) + 1) / n_columns)
    ratio = min(2.0, max(0.5, pixels.shape[0] / pixels.shape[1]))
    figure = new_figure(15, n_rows * (2.8 * ratio + 0.35) + 0.8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for place in axes:
        bare(place)
    axes[0].imshow(pixels)
    axes[0].set_anchor("N")
    axes[0].set_title("its objects", loc="left", fontsize=10, color=INK)
    for (x0, y0, x1, y1), index in zip(object_xyxy, object_class.tolist(), strict=True):
        axes[0].add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colors[index], linewidth=2.5))
    for place, one in zip(axes[1:], scales, strict=False):
        rows = np.flatnonzero(scale == one)
        across = len(np.unique(box_xyxy[rows, 0]))
        px = max(16, round(MOSAIC_PX / (across * (1 + 2 * FRAME_SHARE + GAP_SHARE))))
        place.imshow(mosaic(cut_windows(pixels, box_xyxy[rows], px), labels[rows], across, colors))
        place.set_anchor("N")
        n_positive, n_background = int((labels[rows] >= 0).sum()), int((labels[rows] == BACKGROUND).sum())
        side = box_xyxy[rows[0], 2] - box_xyxy[rows[0], 0]
        place.set_title(f"{side:.0f} px", loc="left", fontsize=10, color=INK)
        place.set_title(
            f"{n_positive} positive, {n_background} background of {len(rows)}", loc="right", fontsize=8, color=QUIET
        )
    _explain(figure, classes, np.union1d(object_class, labels[labels >= 0]).astype(int), colors)
    return figure


def _explain(figure: Figure, classes: Sequence[str], shown: np.ndarray, colors: np.ndarray) -> None:
    entries = [Patch(facecolor=colors[index], label=classes[index]) for index in shown.tolist()]
    entries.append(Patch(facecolor=tuple(BACKGROUND_COLOR), label="background"))
    entries.append(Patch(facecolor="white", edgecolor=QUIET, label="not used (faint)"))
    figure.legend(handles=entries, loc="upper right", ncols=min(len(entries), 8), frameon=False, fontsize=10)


def positives_sheet(
    pixels: np.ndarray, title: str, box_xyxy: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Figure:
    """The patches of a picture that are positive, a class after the other, largest first."""
    colors = class_colors(len(classes))
    shown = [index for index in range(len(classes)) if (labels == index).any()]
    n_columns, px = 16, 72
    sheets = {}
    for index in shown:
        rows = np.flatnonzero(labels == index)
        # Windows of one size at a time, as cutting wants them; the grid has the largest first.
        sides = np.round(box_xyxy[rows, 2] - box_xyxy[rows, 0], 2)
        cut = [cut_windows(pixels, box_xyxy[rows[sides == side]], px) for side in sorted(set(sides), reverse=True)]
        sheets[index] = mosaic(np.concatenate(cut), np.full(len(rows), index), n_columns, colors)
    heights = [sheet.shape[0] for sheet in sheets.values()]
    figure = new_figure(13, max(1.2, 13 * sum(heights) / (n_columns * 90) + 0.4 * len(shown) + 0.5))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK)
    if not shown:
        figure.text(0.5, 0.3, "no patch of this picture is a positive", ha="center", color=QUIET)
        return figure
    axes = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for place, index in zip(axes, shown, strict=True):
        bare(place)
        place.imshow(sheets[index])
        place.set_anchor("NW")
        place.set_title(f"{classes[index]}: {(labels == index).sum()}", loc="left", fontsize=10, color=INK)
    return figure
