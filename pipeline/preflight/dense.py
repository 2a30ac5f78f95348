"""Whether dense extraction pays: pixels that convolutions read, patch by patch and over whole pictures."""

from __future__ import annotations

from pipeline.patches.grid import grid_windows
from pipeline.patches.settings import GridSettings
from pipeline.trunk.dense_sizes import extended_size

USUAL_PX = 224
USUAL_STRIDE = 32
"""Pixels of a patch, and from cell to cell of the last map, of most networks for ImageNet."""
PAYS = 1.5
"""Least quotient that pays: preparing each size of a picture, fc layers and pooling are not in it."""


def fewer_pixels(size_wh: tuple[int, int], grid: GridSettings) -> float:
    """Return how many times fewer pixels convolutions read over whole pictures than patch by patch.

    Multiply-adds of convolutions are proportional to pixels. The quotient depends on a picture's aspect, not on its
    size: windows are parts of its short side.

    >>> round(fewer_pixels((500, 375), GridSettings()), 1)
    5.7
    >>> round(fewer_pixels((500, 375), GridSettings(scales=(1.0, 1.3), overlap=0.5)), 1)
    2.0
    """
    scale = grid_windows(*size_wh, grid)[1]
    pixels = 0
    for factor in grid.scales:
        sides = (round(USUAL_PX * factor * side / min(size_wh)) for side in size_wh)
        width, height = (extended_size(max(USUAL_PX, side), USUAL_PX, USUAL_STRIDE) for side in sides)
        pixels += width * height
    return len(scale) * USUAL_PX**2 / pixels


def describe_dense(size_wh: tuple[int, int], grid: GridSettings) -> tuple[str, bool]:
    """Say how many pixels less dense extraction reads, and whether it pays."""
    times = fewer_pixels(size_wh, grid)
    pays = times >= PAYS
    text = (
        f"method dense: over whole pictures of {size_wh[0]} x {size_wh[1]} pixels, convolutions read {times:.1f} times "
        "fewer pixels, and do so many times fewer multiply-adds, than patch by patch; the times here are those of "
        "patches"
    )
    return (text if pays else f"{text}. It does not pay with these scales and overlap: use method: patches"), pays
