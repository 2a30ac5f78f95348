"""Formats of picture files: those that are read, and names of those that are met in place of them."""

from __future__ import annotations

import re

from PIL import features

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "AVIF")
"""Told by the bytes, whatever the file's name. Pillow reads more formats, and hands EPS to an external program."""
OPTIONAL_FORMATS = {"WEBP": "webp", "AVIF": "avif"}
"""Formats that some builds of Pillow lack, with the name of the feature."""
_CONVERT = ", which is not read: convert it to JPEG or PNG"
_KNOWN = {
    f"a HEIC file{_CONVERT}": rb".{4}ftyp(hei[cxms]|hevc|mif1|msf1)",
    f"a JPEG 2000 file{_CONVERT}": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
    f"a JPEG XL file{_CONVERT}": rb"\xff\x0a|\x00\x00\x00\x0cJXL ",
    f"a PDF file{_CONVERT}": rb"%PDF",
    f"an SVG or XML file{_CONVERT}": rb"<svg|<\?xml",
    f"a Photoshop file{_CONVERT}": rb"8BPS",
    "a page in HTML, as servers send in place of a file": rb"\s*<(!doctype|!DOCTYPE|html|HTML)",
    "a Git LFS pointer without its file: git lfs pull": rb"version https://",
}
"""Files that are met in place of pictures, and their first bytes."""


def name_format(first: bytes) -> str:
    """Return the end of a message on a file that is no picture: what its first bytes tell, or nothing.

    >>> name_format(b"%PDF-1.4"), name_format(b"abc")
    (': a PDF file, which is not read: convert it to JPEG or PNG', '')
    """
    return next((f": {name}" for name, begin in _KNOWN.items() if re.match(begin, first, re.DOTALL)), "")


def lacking_format(first: bytes) -> str | None:
    """Name the format of a file's first bytes if this build of Pillow cannot read it."""
    stated = None
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        stated = "WEBP"
    elif first[4:12] in (b"ftypavif", b"ftypavis"):
        stated = "AVIF"
    return stated if stated is not None and not features.check(OPTIONAL_FORMATS[stated]) else None
