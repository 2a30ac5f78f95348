"""Decode image files: bytes to uint8 RGB, in one way for the whole project."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.dataset.picture_formats import FORMATS, lacking_format, name_format
from pipeline.dataset.pixels import holds_numbers, is_nearly_constant, load_first_frame, to_rgb
from pipeline.dataset.png_texts import PNG_SIGNATURE, drop_large_texts, holds_exif
from pipeline.io.errors import BadPictureError
from pipeline.io.picture_file import PictureFile, open_picture

DECODER = "pillow-rgb-1"
"""Name of this way of decoding; it is part of a store's identity."""

MAX_PIXELS = 100_000_000
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112

# Pillow warns of odd metadata in pictures that decode well. Filtered here, once: setting filters
# around each call would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Decoded:
    """A decoded picture.

    Attributes
    ----------
    pixels : uint8 ndarray of shape (height, width, 3), RGB
    orientation : EXIF orientation of the file, 1 to 8; 1 where it has none
    apply_exif : whether the pixels are turned by it
    is_told : whether the annotation tells which way round; always True for orientation 1
    from_numbers : whether the file holds floating-point or 32-bit values
    """

    pixels: np.ndarray
    orientation: int
    apply_exif: bool
    is_told: bool
    from_numbers: bool


def decode_picture(
    data: bytes, apply_exif: bool, name: str = "picture", formats: tuple[str, ...] = FORMATS
) -> np.ndarray:
    """Decode a whole picture; of several frames, the first.

    Greyscale, palette, CMYK and 16-bit files become 8-bit RGB; transparency is put on white. Values of
    floating-point and 32-bit files are scaled, see `pipeline.dataset.pixels.to_rgb`.

    Parameters
    ----------
    data : the file's bytes
    apply_exif : bool
        Turn the picture by its EXIF orientation. TIFF files are always turned: Pillow does so by itself. Tables
        refuse those where nothing is to be turned, see `refuse_turned_tiff`.
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
        As `decode_picture`.
    """
    with _loaded(data, name, formats) as image:
        orientation = _read_orientation(image) if apply_exif else 1
        pixels = to_rgb(image)
    del image  # as it is stored: one copy less in memory while it is turned
    return _turn(pixels, orientation)


def decode_annotated(
    data: bytes,
    size_wh: tuple[int, int] | None,
    name: str = "picture",
    *,
    box_xyxy: np.ndarray | None = None,
    otherwise: bool = True,
) -> Decoded:
    """Decode a picture in the orientation of its annotation.

    Boxes refer either to the stored pixels or to the picture turned by EXIF. The size in the annotation tells which
    if it fits one way only; without a size, boxes that lie inside one way only tell it.

    Parameters
    ----------
    size_wh : as stated by the annotation, if it states one
    box_xyxy : ndarray of shape (n, 4), of all objects
    otherwise : whether a picture whose annotation does not tell is turned

    Raises
    ------
    BadPictureError
        As `decode_picture`, or the sizes agree neither way.
    """
    with _loaded(data, name) as image:
        orientation = _read_orientation(image)
        apply_exif, is_told = decide_turn(
            image.size, orientation, size_wh, name, box_xyxy=box_xyxy, otherwise=otherwise
        )
        pixels = np.asarray(_turn(to_rgb(image), orientation if apply_exif else 1))
        return Decoded(pixels, orientation, apply_exif, is_told, holds_numbers(image))


@dataclass(frozen=True)
class PictureFacts:
    """What a whole decoding tells of a file, and what its bytes alone decide.

    Attributes
    ----------
    stored_wh : width and height of the stored pixels
    orientation : EXIF orientation of the file, 1 to 8; 1 where it has none
    from_numbers : whether the file holds floating-point or 32-bit values
    is_nearly_constant : see `is_nearly_constant`
    """

    stored_wh: tuple[int, int]
    orientation: int
    from_numbers: bool
    is_nearly_constant: bool

    def size_wh(self, apply_exif: bool) -> tuple[int, int]:
        """Return width and height of the picture, turned by EXIF or not."""
        width, height = self.stored_wh
        return (height, width) if apply_exif and self.orientation >= 5 else (width, height)


def examine_picture(data: bytes, name: str = "picture") -> PictureFacts:
    """Decode a whole picture, and return what that tells.

    Raises
    ------
    BadPictureError
        As `decode_picture`.
    """
    with _loaded(data, name) as image:
        pixels = np.asarray(to_rgb(image))
        return PictureFacts(image.size, _read_orientation(image), holds_numbers(image), is_nearly_constant(pixels))


def decide_turn(
    stored_wh: tuple[int, int],
    orientation: int,
    size_wh: tuple[int, int] | None,
    name: str = "picture",
    *,
    box_xyxy: np.ndarray | None = None,
    otherwise: bool = True,
) -> tuple[bool, bool]:
    """Decide whether a picture is turned by EXIF, and whether its annotation tells; see `decode_annotated`.

    Raises
    ------
    BadPictureError
        The sizes agree neither way.
    """
    told = _tell_orientation(stored_wh, orientation, size_wh, box_xyxy, name)
    return orientation != 1 and (otherwise if told is None else told), orientation == 1 or told is not None


def orientation_of_file(
    path: Path, size_wh: tuple[int, int] | None, box_xyxy: np.ndarray | None = None
) -> tuple[int, bool | None]:
    """Read a picture's EXIF orientation from the file's header, and what its annotation tells.

    PNG files that hold one are decoded, since it may lie after the pixels. TIFF files have 1: Pillow turns them.

    Returns
    -------
    orientation : int, 1 to 8
    told : whether the annotation refers to the turned picture; None where it does not tell

    Raises
    ------
    BadPictureError
        As `picture_size`, or the sizes agree neither way.
    OSError
        It cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise BadPictureError(f"{path.name}: no plain file")
    with open(path, "rb") as file, _opened(file, path.name) as image:
        orientation = _read_orientation(image) if image.format != "PNG" or holds_exif(path) else 1
        return orientation, _tell_orientation(image.size, orientation, size_wh, box_xyxy, path.name)


def refuse_turned_tiff(path: PictureFile, size_wh: tuple[int, int] | None, name: str) -> None:
    """Raise BadPictureError for a TIFF file that Pillow turns, unless its annotation states the turned size alone."""
    if not path.is_file():
        return  # reading a pipe would block; what reads the picture names it
    with open_picture(path) as file:
        if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return
        file.seek(0)
        with _opened(file, name) as image:
            orientation = image.tag_v2.get(_EXIF_ORIENTATION, 1) if isinstance(image, TiffImageFile) else 1
            is_told = orientation >= 5 and size_wh is not None and size_wh[0] != size_wh[1]
            if orientation in _TURNS and not is_told:
                raise BadPictureError(
                    f"{name}: a TIFF file with orientation {orientation}, which is always applied, and the manifest "
                    "says exif: ignore; store it without (exiftool -Orientation= -n FILE), or say exif: apply"
                )


def _tell_orientation(
    stored_wh: tuple[int, int],
    orientation: int,
    size_wh: tuple[int, int] | None,
    box_xyxy: np.ndarray | None,
    name: str,
) -> bool | None:
    """Tell whether an annotation refers to the turned picture; None if it fits both ways.

    Raises
    ------
    BadPictureError
        The stated size fits neither way.
    """
    shown_wh = stored_wh[::-1] if orientation >= 5 else stored_wh
    fits_stored, fits_shown = _fits(stored_wh, size_wh, box_xyxy), _fits(shown_wh, size_wh, box_xyxy)
    if size_wh is not None and not (fits_stored or fits_shown):
        turned = "" if shown_wh == stored_wh else f" ({shown_wh[0]} x {shown_wh[1]} if turned by EXIF)"
        raise BadPictureError(
            f"{name}: the picture is {stored_wh[0]} x {stored_wh[1]}{turned}, "
            f"its annotation says {size_wh[0]} x {size_wh[1]}"
        )
    return None if fits_stored == fits_shown else fits_shown


def _fits(wh: tuple[int, int], size_wh: tuple[int, int] | None, box_xyxy: np.ndarray | None) -> bool:
    """Whether a picture of size `wh` agrees with a stated size; without one, whether all boxes lie inside."""
    if size_wh is not None:
        return tuple(size_wh) == tuple(wh)
    return box_xyxy is None or not len(box_xyxy) or bool((box_xyxy[:, 2:] <= np.array(wh) + 1).all())


def picture_size(path: PictureFile, name: str = "picture") -> tuple[int, int]:
    """Read width and height of the stored pixels, from the file's header alone.

    Raises
    ------
    BadPictureError, OSError
        As `decode_picture`, as far as the header tells; or no plain file.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise BadPictureError(f"{name}: no plain file")
    with open_picture(path) as file:
        is_png = file.read(8) == PNG_SIGNATURE
        file.seek(0)
        # The texts of a PNG file lie before its pixels, and Pillow refuses large ones.
        stream: BinaryIO = io.BytesIO(drop_large_texts(file.read(), name)) if is_png else file
        with _opened(stream, name) as image:
            return image.size


@contextmanager
def _loaded(data: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open a picture and decode its pixels; an exception in the block is raised as BadPictureError."""
    with _opened(io.BytesIO(drop_large_texts(data, name)), name, formats) as image:
        load_first_frame(image)
        yield image


@contextmanager
def _opened(stream: BinaryIO, name: str, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open a picture and read its header; an exception in the block is raised as BadPictureError."""
    first = stream.read(16)
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
        if (lacking := lacking_format(first)) is not None:
            raise BadPictureError(
                f"{name}: cannot be decoded: a {lacking} file, and this Pillow was built without {lacking}; "
                "install Pillow's own wheel (pip install --force-reinstall pillow), or convert it to PNG or JPEG"
            ) from error
        raise BadPictureError(
            f"{name}: cannot be decoded: expected {', '.join(formats)}, the file begins with {first[:8]!r}"
            f"{name_format(first)}"
        ) from error
    except Image.DecompressionBombError as error:  # raised by Pillow before the size can be read
        raise BadPictureError(f"{name}: at most {MAX_PIXELS:,} pixels are decoded: {error}") from error
    except Exception as error:  # Pillow's plugins raise nearly anything on hostile bytes
        raise BadPictureError(f"{name}: cannot be decoded: {error}") from error


def _read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 to 8; 1 where there is none, or one that means nothing."""
    if image.format == "TIFF":  # Pillow has turned it already
        return 1
    try:
        value = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # broken metadata of a sound picture; Pillow raises nearly anything
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_TURNS[orientation])
