"""Cutting the windows of a picture, which is rescaled once per scale."""

from __future__ import annotations

import itertools
import math

import numpy as np
from PIL import Image

from pipeline.trunk.windows import PlacedWindows

REACH = {"nearest": 1, "bilinear": 1, "bicubic": 2, "lanczos": 3}
"""Pixels that a resize filter reads to each side."""
LARGEST_TURNED = 8
"""Long side of a picture that is turned, as a multiple of the patch's side: a larger one is shrunk first."""


def _filter(interpolation: str) -> Image.Resampling:
    return Image.Resampling[interpolation.upper()]


def rescale(
    picture: np.ndarray | Image.Image, box_xyxy: np.ndarray, px: int, interpolation: str = "bilinear"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rescale a picture so that windows of one size are `px` wide, and locate them in it.

    Parameters
    ----------
    picture : uint8 ndarray of shape (height, width, 3), RGB, or an image of mode RGB; of several scales, pass the
        image, since each call with an array copies it
    box_xyxy : float ndarray of shape (n, 4), squares of one size, inside the picture
    interpolation : Pillow's filter, such as ``bilinear`` or ``bicubic``

    Returns
    -------
    scaled : uint8 ndarray of shape (height, width, 3)
    x, y : int ndarrays of shape (n,), upper left corners, to the nearest pixel
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    placed = place_windows(image.size, box_xyxy, px)
    return np.array(image.resize(placed.size_wh, _filter(interpolation))), placed.x, placed.y


def place_windows(size_wh: tuple[int, int], box_xyxy: np.ndarray, px: int) -> PlacedWindows:
    """Find the size of a rescaled picture whose windows are `px` wide, and their corners in it; see `rescale`.

    Parameters
    ----------
    size_wh : (width, height) of the picture
    """
    width, height = size_wh
    factor = px / float(box_xyxy[0, 2] - box_xyxy[0, 0])
    size = (max(px, round(width * factor)), max(px, round(height * factor)))
    x = np.clip(np.rint(box_xyxy[:, 0] * factor).astype(int), 0, size[0] - px)
    y = np.clip(np.rint(box_xyxy[:, 1] * factor).astype(int), 0, size[1] - px)
    return PlacedWindows(size, x, y)


def cut_windows(pixels: np.ndarray, box_xyxy: np.ndarray, px: int, interpolation: str = "bilinear") -> np.ndarray:
    """Cut windows of equal size from the picture, rescaled so that they are `px` wide; see `rescale`.

    Returns
    -------
    uint8 ndarray of shape (n, px, px, 3), in the order of `box_xyxy`
    """
    scaled, x, y = rescale(pixels, box_xyxy, px, interpolation)
    # A view of every window, without a copy; one gather then copies only the wanted windows.
    views = np.lib.stride_tricks.sliding_window_view(scaled, (px, px), axis=(0, 1))
    return views[y, x].transpose(0, 2, 3, 1)


def split_scales(scale: np.ndarray) -> list[slice]:
    """Split rows into runs of one scale, in order.

    >>> split_scales(np.array([0, 0, 1, 2, 2]))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 5, None)]
    """
    starts = np.flatnonzero(np.diff(scale.astype(int), prepend=-1)).tolist()
    return [slice(*ends) for ends in itertools.pairwise([*starts, len(scale)])]


def mirror_index(start: int, stop: int, size: int) -> np.ndarray:
    """Return the pixels at positions ``start..stop`` of a row of `size` pixels, mirrored at both ends without limit.

    The last pixel occurs twice, as in a mirror on the picture's edge.

    >>> mirror_index(-4, 8, 3).tolist()
    [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1]
    """
    index = np.arange(start, stop) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def mirror_windows(pixels: np.ndarray, box_xyxy: np.ndarray, px: int, interpolation: str = "bilinear") -> np.ndarray:
    """Cut windows that may leave the picture by any distance: outside of it, it is mirrored at its edge.

    Source: Oquab et al. (CVPR 2014) section 4, action recognition. Otherwise as `squash_windows`.
    """
    height, width = pixels.shape[:2]
    cut = []
    for x0, y0, x1, y1 in box_xyxy.astype(float):
        # The filter reads beyond the window: a few pixels of the picture, or of the result if those are larger.
        border = math.ceil(REACH[interpolation] * max(1.0, (x1 - x0) / px, (y1 - y0) / px)) + 1
        left, top = math.floor(x0) - border, math.floor(y0) - border
        columns = mirror_index(left, math.ceil(x1) + border, width)
        rows = mirror_index(top, math.ceil(y1) + border, height)
        image = Image.fromarray(pixels[rows[:, None], columns])
        box = (x0 - left, y0 - top, x1 - left, y1 - top)
        cut.append(np.asarray(image.resize((px, px), _filter(interpolation), box=box)))
    return np.stack(cut)


def squash_windows(pixels: np.ndarray, box_xyxy: np.ndarray, px: int, interpolation: str = "bilinear") -> np.ndarray:
    """Cut windows of any shape, each resized to ``px`` by ``px``; otherwise as `cut_windows`."""
    image = Image.fromarray(pixels)
    boxes = [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in box_xyxy]
    cut = [image.resize((px, px), _filter(interpolation), box=box) for box in boxes]
    return np.stack([np.asarray(item) for item in cut])


def squash_turned(pixels: np.ndarray, degrees: float, px: int, interpolation: str = "bilinear") -> np.ndarray:
    """Turn a whole picture about its middle, and resize it to ``px`` by ``px``: uint8 ndarray (px, px, 3).

    Parameters
    ----------
    degrees : counter-clockwise; beyond its edges the picture is mirrored, so that there are no blank corners
    """
    height, width = pixels.shape[:2]
    # A long and narrow picture, turned at its full size, would take the square of its length.
    shrink = max(1.0, max(height, width) / (LARGEST_TURNED * px))
    if shrink > 1:
        width, height = max(1, round(width / shrink)), max(1, round(height / shrink))
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), _filter(interpolation)))
    border = math.ceil((math.hypot(width, height) - min(width, height)) / 2) + 2
    columns, rows = mirror_index(-border, width + border, width), mirror_index(-border, height + border, height)
    turned = Image.fromarray(pixels[rows[:, None], columns]).rotate(degrees, Image.Resampling.BICUBIC)
    box = (border, border, border + width, border + height)
    return np.asarray(turned.resize((px, px), _filter(interpolation), box=box))


def cut_patches(
    pixels: np.ndarray,
    box_xyxy: np.ndarray,
    scale: np.ndarray,
    source: str,
    px: int,
    flip: np.ndarray | None = None,
    interpolation: str = "bilinear",
    turn: np.ndarray | None = None,
) -> np.ndarray:
    """Cut all patches of a picture: uint8 ndarray of shape (n, px, px, 3), in the order of the rows.

    Parameters
    ----------
    flip : bool ndarray of shape (n,), patches to mirror left to right after cutting; None for none
    interpolation : Pillow's filter, such as ``bilinear`` or ``bicubic``
    turn : float32 ndarray of shape (n,), degrees by which the picture is turned first; None for no patch. A turned
        patch is of the whole picture
    """
    if source != "grid":
        cut = mirror_windows if source == "boxes" else squash_windows
        patches = cut(pixels, box_xyxy, px, interpolation)
        for row, degrees in enumerate([] if turn is None else turn.tolist()):
            if degrees:
                patches[row] = squash_turned(pixels, degrees, px, interpolation)
        if flip is not None:
            patches[flip] = patches[flip, :, ::-1]
        return patches
    return np.concatenate([cut_windows(pixels, box_xyxy[rows], px, interpolation) for rows in split_scales(scale)])
