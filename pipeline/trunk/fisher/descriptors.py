"""Dense local descriptors by hand: gradient orientations and colour, in 4 x 4 cells, at several scales.

What object classifiers saw before they learned features: each descriptor describes one small square of
the picture, and thousands of squares overlap. Nothing here is learned.

Source: Lowe (IJCV 2004) for orientations in cells; Arandjelovic and Zisserman (CVPR 2012) for the
square root; Perronnin et al. (ECCV 2010) section 4 for colour statistics beside them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 4
"""Cells along each side of a descriptor's square."""
CELL_PX = 4
STEP_PX = 4
"""Distance of neighbouring descriptors; a divisor of `CELL_PX`."""
ORIENTATIONS = 8
SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Sizes at which a picture is described, as shares of its own."""
CHANNELS = {"shape": CELLS**2 * ORIENTATIONS, "colour": CELLS**2 * 6}
"""Columns of each kind of descriptor."""
SPAN_PX = (CELLS + 1) * CELL_PX - 1
"""Pixels of one descriptor along each side: cells overlap by half."""
GREY = (0.299, 0.587, 0.114)
# Gradients of one or two grey levels per cell are noise of the file: such squares fade out, they are not scaled up.
FAINT = 0.5


def orientation_maps(grey: Tensor) -> Tensor:
    """Measure the gradient in each of `ORIENTATIONS` directions, split between the two nearest.

    Parameters
    ----------
    grey : float Tensor of shape (height, width), 0..1

    Returns
    -------
    Tensor of shape (ORIENTATIONS, height, width), non-negative; the sum over the first axis is the
    gradient's length
    """
    padded = functional.pad(grey[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    dx = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    dy = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    turns = torch.atan2(dy, dx) * (ORIENTATIONS / (2 * math.pi))
    bins = torch.arange(ORIENTATIONS, device=grey.device, dtype=grey.dtype)[:, None, None]
    # Distance on the circle of directions, 0..ORIENTATIONS / 2.
    away = (turns - bins + ORIENTATIONS / 2).remainder(ORIENTATIONS) - ORIENTATIONS / 2
    return torch.hypot(dx, dy) * (1 - away.abs()).clamp(min=0)


def _cells(maps: Tensor) -> Tensor:
    """Average over cells `STEP_PX` apart; a cell's weights are a tent of width ``2 * CELL_PX - 1``.

    The tent shares each pixel between neighbouring cells, so that small shifts change little.
    """
    return functional.avg_pool2d(functional.avg_pool2d(maps[None], CELL_PX, 1), CELL_PX, STEP_PX)


def _squares(cells: Tensor) -> Tensor:
    """Join descriptors of 4 x 4 cells: Tensor (1, c, rows, columns) -> (n, c * 16)."""
    return functional.unfold(cells, CELLS, dilation=CELL_PX // STEP_PX)[0].T


def shape_descriptors(picture: Tensor) -> Tensor:
    """Describe gradient orientations by histograms: Tensor (3, height, width) of 0..1 -> (n, 128), length at most 1."""
    weights = torch.tensor(GREY, device=picture.device, dtype=picture.dtype)
    rows = _squares(_cells(orientation_maps(torch.einsum("c,chw->hw", weights, picture))))
    return (rows / (rows.sum(1, keepdim=True) + FAINT / 255 * CELLS**2)).sqrt()


def colour_descriptors(picture: Tensor) -> Tensor:
    """Describe red, green and blue in each cell by mean and deviation: Tensor (3, height, width) of 0..1 -> (n, 96)."""
    means = _cells(picture)
    deviations = (_cells(picture.square()) - means.square()).clamp(min=0).sqrt()
    return _squares(torch.cat([means, deviations], 1))


def _places(height: int, width: int, like: Tensor) -> Tensor:
    """List the centres of all descriptors of a picture, each coordinate in -0.5..0.5: Tensor (n, 2) of x, y."""
    axes = []
    for side in (height, width):
        starts = torch.arange(0, side - SPAN_PX + 1, STEP_PX, device=like.device, dtype=like.dtype)
        axes.append((starts + SPAN_PX / 2) / side - 0.5)
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def describe(picture: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Compute all descriptors of one picture.

    Parameters
    ----------
    picture : float Tensor of shape (3, height, width), RGB, 0..1

    Returns
    -------
    rows : by the names of `CHANNELS`, float Tensor of shape (n, columns)
    places : Tensor of shape (n, 2), centres x and y in -0.5..0.5 of the picture
    """
    rows: dict[str, list[Tensor]] = {"shape": [], "colour": []}
    places = []
    for scale in SCALES:
        size = [max(SPAN_PX, round(side * scale)) for side in picture.shape[1:]]
        scaled = picture
        if size != list(picture.shape[1:]):
            scaled = functional.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]
        rows["shape"].append(shape_descriptors(scaled))
        rows["colour"].append(colour_descriptors(scaled))
        places.append(_places(size[0], size[1], like=picture))
    return {name: torch.cat(parts) for name, parts in rows.items()}, torch.cat(places)
