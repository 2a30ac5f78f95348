"""The multi-scale grid of square windows.

Source: Oquab et al. (CVPR 2014) section 3.2: square windows of side ``min(w, h) / scale`` at nine
scales, neighbours overlapping by at least half, around 500 per picture.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.io.errors import BadPictureError
from pipeline.patches.settings import GridSettings


def count_along(side: float, window: float, overlap: float) -> int:
    """Count the windows that cover `side` with at least `overlap` between neighbours.

    >>> count_along(500, 375, 0.65), count_along(375, 375, 0.65)
    (2, 1)
    """
    # 1e-9 is subtracted before the ceiling, so that an exact fit in real numbers gains no window by rounding.
    return max(0, math.ceil((side - window) / ((1 - overlap) * window) - 1e-9)) + 1


def grid_windows(width: int, height: int, grid: GridSettings) -> tuple[np.ndarray, np.ndarray]:
    """List all windows of a picture.

    Parameters
    ----------
    width, height : size of the picture in pixels

    Returns
    -------
    box_xyxy : float64 ndarray of shape (n, 4), continuous, in pixels of the picture
        Ordered by scale, row, column; evenly spaced from edge to edge.
    scale : uint8 ndarray of shape (n,), index into ``grid.scales``

    Raises
    ------
    BadPictureError
        The smallest window is under ``grid.min_side_px``, or there are over ``grid.max_patches``.

    Examples
    --------
    >>> len(grid_windows(500, 375, GridSettings())[0])
    488
    >>> grid_windows(500, 50, GridSettings())
    Traceback (most recent call last):
    ...
    pipeline.io.errors.BadPictureError: 500 x 50 pixels give 4102 patches, at most 2000 are allowed
    """
    short = min(width, height)
    smallest = short / grid.scales[-1]
    if smallest < grid.min_side_px:
        raise BadPictureError(
            f"{width} x {height} pixels: the smallest window is {smallest:.1f} px, "
            f"at least {grid.min_side_px:g} are needed",
            ("grid.min_side_px", smallest),
        )
    counts = []
    for factor in grid.scales:
        side = short / factor
        counts.append((count_along(width, side, grid.overlap), count_along(height, side, grid.overlap)))
    total = sum(columns * rows for columns, rows in counts)
    if total > grid.max_patches:
        raise BadPictureError(
            f"{width} x {height} pixels give {total} patches, at most {grid.max_patches} are allowed",
            ("grid.max_patches", total),
        )
    boxes = []
    for factor, (n_columns, n_rows) in zip(grid.scales, counts, strict=True):
        side = short / factor
        x0 = np.linspace(0.0, width - side, n_columns)
        y0 = np.linspace(0.0, height - side, n_rows)
        left, top = np.meshgrid(x0, y0)  # rows outer, columns inner
        corner = np.stack([left.ravel(), top.ravel()], axis=1)
        boxes.append(np.concatenate([corner, corner + side], axis=1))
    scale = np.repeat(np.arange(len(grid.scales)), [c * r for c, r in counts])
    return np.concatenate(boxes), scale.astype(np.uint8)
