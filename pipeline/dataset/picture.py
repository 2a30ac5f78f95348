"""Decode image files: bytes to uint8 RGB, in one way for the whole project."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.io.errors import BadPictureError

DECODER = "pillow-rgb-1"
"""Name of this way of decoding; it is part of a store's identity."""

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
"""Told by the bytes, whatever the file's name. Pillow reads more formats, and hands EPS to an external program."""

# Pillow warns of odd metadata in pictures that decode well. Filtered here, once: setting filters
# around each call would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_picture(
    data: bytes, apply_exif: bool, name: str = "picture", formats: tuple[str, ...] = FORMATS
) -> np.ndarray:
    """Decode a whole picture.

    Greyscale, palette, CMYK and 16-bit files become 8-bit RGB; transparency is put on white.

    Parameters
    ----------
    data : the file's bytes
    apply_exif : bool
        Turn the picture by its EXIF orientation.
    name : for messages
    formats : names of Pillow's formats that are accepted

    Returns
    -------
    ndarray of shape (height, width, 3), uint8, RGB

    Raises
    ------
    BadPictureError
        Empty, truncated, not an image, or larger than `MAX_PIXELS`.
    """
    return np.asarray(decode_image(data, apply_exif, name, formats))


def decode_image(
    data: bytes, apply_exif: bool, name: str = "picture", formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """Decode a whole picture as `decode_picture` does, without a second copy of its pixels as an array.

    Returns
    -------
    Image of mode RGB

    Raises
    ------
    BadPictureError
    """
    with _opened(io.BytesIO(data), name, formats) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image) if apply_exif else image)


def picture_size(path: Path, name: str = "picture") -> tuple[int, int]:
    """Read width and height of the stored pixels, from the file's header alone.

    Raises
    ------
    BadPictureError
        As `decode_picture`, as far as the header tells; or no plain file.
    OSError
        It cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise BadPictureError(f"{name}: no plain file")
    with open(path, "rb") as stream, _opened(stream, name) as image:
        return image.size


@contextmanager
def _opened(stream: BinaryIO, name: str, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open a picture and read its header; an exception in the block is raised as BadPictureError."""
    first = stream.read(8)
    stream.seek(0)
    if not first:
        raise BadPictureError(f"{name}: the file is empty")
    try:
        with Image.open(stream, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadPictureError(
                    f"{name}: {image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are decoded"
                )
            yield image
    except (BadPictureError, MemoryError):  # a machine out of memory is no fault of the picture
        raise
    except UnidentifiedImageError as error:  # its own text holds an address in memory, another one each time
        raise BadPictureError(
            f"{name}: cannot be decoded: expected {', '.join(formats)}, the file begins with {first!r}"
        ) from error
    except Image.DecompressionBombError as error:  # raised by Pillow before the size can be read
        raise BadPictureError(f"{name}: at most {MAX_PIXELS:,} pixels are decoded: {error}") from error
    except Exception as error:  # Pillow's plugins raise nearly anything on hostile bytes
        raise BadPictureError(f"{name}: cannot be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.asarray(image).astype(np.float64)
        # 16-bit grey spans 0..65535; Pillow's own conversion would clip it to white.
        image = Image.fromarray(np.clip(values / 257.0 + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_annotated(data: bytes, size_wh: tuple[int, int] | None, name: str = "picture") -> tuple[np.ndarray, bool]:
    """Decode a picture in the orientation of its annotation.

    Boxes refer either to the stored pixels or to the picture turned by EXIF; the size in the annotation tells
    which. If it does not (no size, or one that fits both), stored pixels are used, as in the devkit and in most
    annotation tools.

    Returns
    -------
    pixels : ndarray of shape (height, width, 3), uint8, RGB
    apply_exif : bool, what was chosen

    Raises
    ------
    BadPictureError
        As `decode_picture`, or the sizes agree neither way.
    """
    pixels = decode_picture(data, apply_exif=False, name=name)
    if size_wh is None or (pixels.shape[1], pixels.shape[0]) == tuple(size_wh):
        return pixels, False
    turned = decode_picture(data, apply_exif=True, name=name)
    if (turned.shape[1], turned.shape[0]) == tuple(size_wh):
        return turned, True
    raise BadPictureError(
        f"{name}: the picture is {pixels.shape[1]} x {pixels.shape[0]}, its annotation says {size_wh[0]} x {size_wh[1]}"
    )
