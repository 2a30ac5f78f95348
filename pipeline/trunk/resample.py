"""Pillow's resize of 8-bit pictures in torch's integers, bit for bit, for pictures that are on a GPU already.

Source: Pillow's ``src/libImaging/Resample.c`` (13.0). Weights are rounded to 22 bits. One side is resized after the
other, and the picture between the two is rounded to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

WEIGHT_BITS = 22


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _bicubic(x: np.ndarray) -> np.ndarray:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


def _lanczos(x: np.ndarray) -> np.ndarray:
    # The C library's sine: numpy's own may differ in the last bit.
    values = [_sinc(v) * _sinc(v / 3) if -3.0 <= v < 3.0 else 0.0 for v in x.tolist()]
    return np.array(values)


FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1.0, _bilinear),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
}
"""Reach in pixels, and weight by distance, of each filter."""


def resize_weights(size_in: int, size_out: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels each pixel of the result is made of, and their weights.

    Returns
    -------
    index : int64 ndarray (size_out, taps), pixels of the source; any pixel where the weight is 0
    weight : int32 ndarray (size_out, taps), in units of 2**-22
    """
    reach, weigh = FILTERS[interpolation]
    scale = size_in / size_out
    stretch = max(1.0, scale)
    support = reach * stretch
    center = (np.arange(size_out) + 0.5) * scale
    # Truncated towards zero, as by a cast in C.
    first = np.maximum(0, (center - support + 0.5).astype(np.int64))
    n_taps = np.minimum(size_in, (center + support + 0.5).astype(np.int64)) - first
    weights = np.zeros((size_out, int(n_taps.max())))
    total = np.zeros(size_out)
    for tap in range(weights.shape[1]):
        of_tap = np.where(tap < n_taps, weigh((tap + first - center + 0.5) * (1.0 / stretch)), 0.0)
        weights[:, tap] = of_tap
        total += of_tap  # one after the other: the order of a sum decides its last bit
    weights = np.divide(weights, total[:, None], out=weights, where=total[:, None] != 0)
    rounded = np.trunc(np.where(weights < 0, -0.5, 0.5) + weights * (1 << WEIGHT_BITS)).astype(np.int32)
    used = max(1, int(np.flatnonzero(rounded.any(0)).max(initial=0)) + 1)
    index = np.minimum(first[:, None] + np.arange(used), size_in - 1)
    return index, rounded[:, :used]


@lru_cache(maxsize=1024)
def _weights_on(device: torch.device, size_in: int, size_out: int, interpolation: str) -> tuple[Tensor, Tensor]:
    """Return `resize_weights` on a device, the index as one row; pictures of a dataset share few sizes."""
    arrays = resize_weights(size_in, size_out, interpolation)
    index, weight = (torch.from_numpy(array) for array in arrays)
    if device.type == "cuda":
        index, weight = index.pin_memory(), weight.pin_memory()
    return index.flatten().to(device, non_blocking=True), weight.to(device, non_blocking=True)


def _resize_side(pixels: Tensor, dim: int, size: int, interpolation: str) -> Tensor:
    if pixels.shape[dim] == size:
        return pixels
    index, weight = _weights_on(pixels.device, pixels.shape[dim], size, interpolation)
    taps = pixels.index_select(dim, index).unflatten(dim, weight.shape).int()
    shape = [1] * taps.ndim
    shape[dim : dim + 2] = weight.shape
    total = (taps * weight.view(shape)).sum(dim + 1, dtype=torch.int32)
    return ((total + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp_(0, 255).to(torch.uint8)


def height_is_first(size_wh: tuple[int, int], new_wh: tuple[int, int]) -> bool:
    """Return whether Pillow resizes the height first: where it shrinks by more than twice what the width does.

    >>> height_is_first((40, 90), (30, 60)), height_is_first((40, 90), (80, 180))
    (True, False)
    """
    fewer_columns, fewer_lines = size_wh[0] - new_wh[0], size_wh[1] - new_wh[1]
    return fewer_lines > 0 and fewer_lines > 2 * fewer_columns


def resize(pixels: Tensor, size_wh: tuple[int, int], interpolation: str) -> Tensor:
    """Resize a picture as ``Image.resize`` of Pillow does, to the bit.

    Parameters
    ----------
    pixels : uint8 Tensor of shape (height, width, 3)
    size_wh : (width, height) of the result
    interpolation : name out of `FILTERS`

    Returns
    -------
    uint8 Tensor of shape (height, width, 3)
    """
    height, width = pixels.shape[:2]
    dims = (0, 1) if height_is_first((width, height), size_wh) else (1, 0)
    for dim in dims:
        pixels = _resize_side(pixels, dim, size_wh[1 - dim], interpolation)
    return pixels


PROBES = (((40, 30), (64, 48)), ((30, 40), (19, 24)), ((32, 90), (28, 60)))
"""Sizes (width, height) before and after: larger, smaller, and smaller with the height first."""


@lru_cache
def equals_pillow(interpolation: str) -> bool:
    """Return whether `resize` gives the bits of the Pillow that is installed; tries it.

    Other versions of Pillow may take the sides in another order.
    """
    if interpolation not in FILTERS:
        return False
    rng = np.random.default_rng(0)
    for (width, height), size_wh in PROBES:
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        expected = np.asarray(Image.fromarray(pixels).resize(size_wh, Image.Resampling[interpolation.upper()]))
        if not np.array_equal(resize(torch.from_numpy(pixels), size_wh, interpolation).numpy(), expected):
            return False
    return True
