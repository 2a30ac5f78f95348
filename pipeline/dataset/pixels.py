"""Pixels of an opened file, and of any mode as 8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.io.messages import brief

STRIP_ROWS = 256


class _FirstFrame:
    """Pillow's decoder of a WebP file, dropped once it has returned a frame.

    It holds two canvases of 4 bytes per pixel for the frames of an animation: 384 MiB of a picture of 48 megapixels.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def get_next(self) -> Any:
        frame = self._decoder.get_next()
        if frame is not None:
            self._decoder = None
        return frame

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


def load_first_frame(image: Image.Image) -> None:
    """Decode the pixels of an opened file; of several frames, the first."""
    if isinstance(image, WebPImageFile) and hasattr(image, "_decoder"):
        image._decoder = _FirstFrame(image._decoder)
        image.load()
        image.fp = None  # the decoder's bytes, of which the image is a copy
    image.load()


def holds_numbers(image: Image.Image) -> bool:
    """Whether a file holds floating-point or 32-bit values. Some versions of Pillow open 16-bit PNG files as those."""
    return image.mode in ("F", "I") and image.format != "PNG"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded picture of any mode to 8-bit RGB; transparency is put on white."""
    if holds_numbers(image):
        image = _grey(image, _find_scale(image))
    elif image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # 16-bit grey spans 0..65535; Pillow's own conversion would clip it to white.
        image = _grey(image, 1 / 257)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """Cut a picture into strips: each step of a conversion makes a copy, and one of 48 megapixels takes 192 MiB."""
    for top in range(0, image.height, STRIP_ROWS):
        yield image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))


def _on_white(image: Image.Image) -> Image.Image:
    """Return a picture with transparency as it is seen on a white page; mode RGB."""
    opaque = Image.new("RGB", image.size)
    for index, part in enumerate(_strips(image)):
        strip = part.convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        opaque.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, index * STRIP_ROWS))
    return opaque


def _grey(image: Image.Image, factor: float) -> Image.Image:
    """Multiply grey values by a factor and round them to 8 bits; mode L."""
    strips = (np.asarray(strip).astype(np.float64) * factor + 0.5 for strip in _strips(image))
    return Image.fromarray(np.concatenate([np.clip(values, 0, 255).astype(np.uint8) for values in strips]))


def _find_scale(image: Image.Image) -> float:
    """Return the factor by which floating-point or 32-bit grey values become 8 bits.

    Floating-point values in 0..1 are multiplied by 255. Other values in 0..255 are taken as they are.

    Raises
    ------
    ValueError
        Values of another range: what is black and what is white cannot be told.
    """
    strips = [(values.min(), values.max(), np.isfinite(values).all()) for values in map(np.asarray, _strips(image))]
    lows, highs, are_finite = zip(*strips, strict=True)
    low, high, is_float = float(min(lows)), float(max(highs)), image.mode == "F"
    if not all(are_finite):
        raise ValueError(
            "floating-point grey values that are not finite: replace NaN and infinity by numbers, and save 8 bits"
        )
    if not (low >= 0 and high <= 255):
        kind = "floating-point" if is_float else "32-bit"
        raise ValueError(
            f"{kind} grey values from {brief(low)} to {brief(high)}: which is black and which is white cannot be told; "
            f"expected {'0..1 or ' if is_float else ''}0..255; rescale them and save 8 bits, in Python: "
            "Image.fromarray(((v - low) / (high - low) * 255).astype('uint8')).save('NAME.png')"
        )
    return 255.0 if is_float and high <= 1 else 1.0


def is_nearly_constant(pixels: np.ndarray) -> bool:
    """Whether a decoded picture shows next to nothing: all but black, or less contrast than one step of 255.

    >>> is_nearly_constant(np.full((8, 8, 3), 7, np.uint8)), is_nearly_constant(np.eye(8, dtype=np.uint8) * 255)
    (True, False)
    """
    step = max(1, min(pixels.shape[:2]) // 64)
    sample = pixels[::step, ::step]  # of most pictures it tells, at no cost
    if sample.max() >= 8 and sample.std() >= 1:
        return False
    counts = sum(np.bincount(rows.ravel(), minlength=256) for rows in pixels)  # a deviation of all at once takes GiB
    values = np.arange(256)
    mean = (counts * values).sum() / pixels.size
    return bool(pixels.max() < 8 or (counts * (values - mean) ** 2).sum() < pixels.size)
