"""Cutting the windows of a picture, rescaled once a scale."""

from __future__ import annotations

import numpy as np
from PIL import Image


def cut_windows(pixels: np.ndarray, box_xyxy: np.ndarray, px: int) -> np.ndarray:
    """Windows of equal size, cut from the picture rescaled so that they are `px` wide.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (height, width, 3), RGB
    box_xyxy : float ndarray of shape (n, 4), squares of one size, inside the picture
    px : side of the result in pixels

    Returns
    -------
    uint8 ndarray of shape (n, px, px, 3), in the order of `box_xyxy`
    """
    height, width = pixels.shape[:2]
    factor = px / float(box_xyxy[0, 2] - box_xyxy[0, 0])
    size = (max(px, round(width * factor)), max(px, round(height * factor)))
    scaled = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    x = np.clip(np.rint(box_xyxy[:, 0] * factor).astype(int), 0, size[0] - px)
    y = np.clip(np.rint(box_xyxy[:, 1] * factor).astype(int), 0, size[1] - px)
    # A view of every window, without copying; one gather then copies just the wanted ones.
    views = np.lib.stride_tricks.sliding_window_view(scaled, (px, px), axis=(0, 1))
    return views[y, x].transpose(0, 2, 3, 1)


def squash_windows(pixels: np.ndarray, box_xyxy: np.ndarray, px: int) -> np.ndarray:
    """Windows of any shape, each resized to ``px`` by ``px``; otherwise as `cut_windows`."""
    image = Image.fromarray(pixels)
    cut = [image.resize((px, px), Image.Resampling.BILINEAR, box=tuple(map(float, box))) for box in box_xyxy]
    return np.stack([np.asarray(item) for item in cut])


def cut_patches(pixels: np.ndarray, box_xyxy: np.ndarray, scale: np.ndarray, source: str, px: int) -> np.ndarray:
    """All patches of a picture: uint8 ndarray of shape (n, px, px, 3), in the order of the rows."""
    if source != "grid":
        return squash_windows(pixels, box_xyxy, px)
    starts = np.flatnonzero(np.diff(scale.astype(int), prepend=-1))
    groups = [cut_windows(pixels, box_xyxy[rows], px) for rows in np.split(np.arange(len(scale)), starts[1:])]
    return np.concatenate(groups)
