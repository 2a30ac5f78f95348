"""Pixels of any mode as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline.io.messages import brief

STRIP_ROWS = 256


def holds_numbers(image: Image.Image) -> bool:
    """Whether a file holds floating-point or 32-bit values. Some versions of Pillow open 16-bit PNG files as those."""
    return image.mode in ("F", "I") and image.format != "PNG"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded picture of any mode to 8-bit RGB; transparency is put on white."""
    if holds_numbers(image):
        image = Image.fromarray(_scale_numbers(np.asarray(image)))
    elif image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.asarray(image).astype(np.float64)
        # 16-bit grey spans 0..65535; Pillow's own conversion would clip it to white.
        image = Image.fromarray(np.clip(values / 257.0 + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Return a picture with transparency as it is seen on a white page; mode RGB."""
    opaque = Image.new("RGB", image.size)
    # In strips: each step makes a copy, and of a photo of 48 megapixels one takes 192 MiB.
    for top in range(0, image.height, STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        opaque.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return opaque


def _scale_numbers(values: np.ndarray) -> np.ndarray:
    """Scale floating-point or 32-bit grey values to 8 bits; uint8 ndarray of the same shape.

    Floating-point values in 0..1 are multiplied by 255. Other values in 0..255 are taken as they are.

    Raises
    ------
    ValueError
        Values of another range: what is black and what is white cannot be told.
    """
    low, high = float(values.min()), float(values.max())
    is_float = np.issubdtype(values.dtype, np.floating)
    if not np.isfinite(values).all():
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
    factor = 255.0 if is_float and high <= 1 else 1.0
    return np.clip(values.astype(np.float64) * factor + 0.5, 0, 255).astype(np.uint8)


def is_nearly_constant(pixels: np.ndarray) -> bool:
    """Whether a decoded picture shows next to nothing: all but black, or less contrast than one step of 255.

    >>> is_nearly_constant(np.full((8, 8, 3), 7, np.uint8)), is_nearly_constant(np.eye(8, dtype=np.uint8) * 255)
    (True, False)
    """
    step = max(1, min(pixels.shape[:2]) // 64)
    sample = pixels[::step, ::step]  # of most pictures it tells, at no cost
    if sample.max() >= 8 and sample.std() >= 1:
        return False
    return bool(pixels.max() < 8 or pixels.std() < 1)
