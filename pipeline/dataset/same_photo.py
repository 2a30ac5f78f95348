"""Whether two pictures are one photo, resized, cropped, mirrored or compressed again: from small grey pictures alone.

What is compared is their detail: grey levels less those of a blurred copy, since a bright sky over a dark field is the
same in many photos. The smaller content is laid over the larger one at several sizes and all places, and the highest
correlation counts (normalised cross-correlation, as in template matching: Lewis, *Fast normalized cross-correlation*,
Vision Interface 1995). It tells copies from pictures of the same kind of thing, whose features are as similar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

GREY_PX = 40
"""Longer side of the grey pictures that are compared: fine enough to tell scenes apart, too coarse for grain."""
SMALLEST_CROP = 0.6
"""The smallest crop that is found, as a share of the sides of the whole picture."""
CROPS = tuple(np.geomspace(1.0, SMALLEST_CROP, 24).round(3).tolist())
"""Sizes that are tried, so near to one another that no edge is off by more than half a pixel."""
BLUR_PX = 2.0
"""Deviation of the Gaussian whose blur is taken away."""
FLAT = 1.0
"""Deviation of the detail, in grey levels of 255, below which there is nothing that could be correlated."""


@dataclass(frozen=True)
class Match:
    """How well two pictures agree.

    Attributes
    ----------
    correlation : -1 to 1, of their detail where they lie over one another best
    mirrored : whether one of them was mirrored for that
    """

    correlation: float
    mirrored: bool


def grey_picture(image: Image.Image) -> np.ndarray:
    """Make the small grey picture that is compared: uint8 ndarray (height, width), `GREY_PX` at the longer side."""
    factor = GREY_PX / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    return np.asarray(image.convert("L").resize((width, height), Image.Resampling.BOX, reducing_gap=None))


def match_pictures(first: np.ndarray, second: np.ndarray) -> Match:
    """Find how well two pictures agree, as they are or with one of them mirrored.

    Two pictures without detail (`FLAT`) agree, by 1, if they have one shape and no grey level differs by more than 4.

    Parameters
    ----------
    first, second : uint8 ndarrays (height, width), from `grey_picture`
    """
    is_flat = [_detail(grey).std() < FLAT for grey in (first, second)]
    if any(is_flat):
        same = all(is_flat) and first.shape == second.shape
        return Match(float(same and bool((np.abs(first.astype(float) - second) <= 4).all())), False)
    plain, mirrored = np.maximum(_best_places(first, second), _best_places(second, first)).tolist()
    return Match(max(plain, mirrored), mirrored > plain)


def _best_places(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return the highest correlations of `part` with a piece of `whole`, at all sizes of `CROPS`.

    Returns
    -------
    float64 ndarray (2,), -1 to 1: as it is, and mirrored
    """
    largest = min(whole.shape[0] / part.shape[0], whole.shape[1] / part.shape[1])
    image, detail, best, tried = Image.fromarray(part), _detail(whole), np.full(2, -1.0), set()
    for crop in CROPS:
        h, w = (
            max(1, min(limit, round(side * largest * crop)))
            for side, limit in zip(part.shape, whole.shape, strict=True)
        )
        if (h, w) in tried:
            continue
        tried.add((h, w))
        template = _detail(np.asarray(image.resize((w, h), Image.Resampling.BICUBIC)))
        best = np.maximum(best, _correlate(detail, template))
    return best


def _detail(grey: np.ndarray) -> np.ndarray:
    """Take the blurred picture away: float32 ndarray of the same shape."""
    from scipy import ndimage  # the import takes time, and most commands do without

    values = grey.astype(np.float32)
    return values - ndimage.gaussian_filter(values, BLUR_PX, mode="nearest")


def _correlate(whole: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Return the highest correlations of a template, and of the mirrored one, with the pieces of its size: (2,)."""
    size = template.size
    pieces = np.lib.stride_tricks.sliding_window_view(whole, template.shape).reshape(-1, size)
    centred = template - template.mean()
    length = float(np.sqrt(np.square(centred).sum()))
    mean = pieces.mean(1, dtype=np.float64)
    deviation = np.sqrt(np.maximum(np.einsum("ij,ij->i", pieces, pieces, dtype=np.float64) / size - mean**2, 0))
    # A piece without structure correlates with nothing; rounding would make it correlate with anything.
    clear = deviation >= FLAT / 2
    if length < FLAT / 2 * np.sqrt(size) or not clear.any():
        return np.full(2, -1.0)
    both = np.stack([centred.ravel(), centred[:, ::-1].ravel()], axis=1)
    values = (pieces @ both)[clear] / (length * np.sqrt(size) * deviation[clear, None])
    return np.clip(values.max(0), -1, 1).astype(np.float64)
