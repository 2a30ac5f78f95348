"""Large texts and colour profiles of PNG files, for which Pillow would refuse a sound picture."""

from __future__ import annotations

import zlib
from pathlib import Path

from pipeline.io.errors import BadPictureError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
MAX_PNG_TEXT = 1_000_000
"""Bytes of a PNG text or colour profile that is handed to Pillow, which refuses larger ones; the pixels need none."""
MAX_PNG_INFLATED = 64_000_000
"""Bytes to which all compressed texts and profiles of a PNG file may inflate; more is a bomb."""


def drop_large_texts(data: bytes, name: str) -> bytes:
    """Leave the large texts and colour profiles out of a PNG file: Pillow refuses a picture for them.

    Raises
    ------
    BadPictureError
        They inflate to more than `MAX_PNG_INFLATED`.
    """
    if not data.startswith(PNG_SIGNATURE):
        return data
    pieces: list[bytes] = []
    start, at, kept, inflated = 0, len(PNG_SIGNATURE), 0, 0
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in PNG_METADATA and end <= len(data):
            size = _inflate(data[at + 4 : at + 8], data[at + 8 : end - 4], MAX_PNG_INFLATED - inflated)
            inflated += size
            if inflated > MAX_PNG_INFLATED:
                raise BadPictureError(
                    f"{name}: cannot be decoded: its texts and profiles inflate to more than {MAX_PNG_INFLATED:,} bytes"
                )
            largest = max(size, end - at)
            if largest > MAX_PNG_TEXT or kept + largest > 16 * MAX_PNG_TEXT:
                pieces.append(data[start:at])
                start = end
            else:
                kept += largest
        at = end
    return b"".join([*pieces, data[start:]]) if pieces else data


def holds_exif(path: Path) -> bool:
    """Whether a PNG file has a chunk that may hold an EXIF orientation; its pixels are not read."""
    with open(path, "rb") as file:
        file.seek(len(PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            begin = file.read(min(size, 32)) if kind in PNG_METADATA else b""
            if kind == b"eXIf" or begin.startswith((b"Raw profile type ", b"XML:com.adobe.xmp")):
                return True
            file.seek(size + 4 - len(begin), 1)
    return False


def _inflate(kind: bytes, content: bytes, limit: int) -> int:
    """Count the bytes to which a PNG chunk inflates, up to a little more than `limit`; 0 if it is not compressed."""
    _, _, rest = content.partition(b"\0")
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] != b"\1"):
        return 0
    if kind == b"iTXt":
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        rest = rest[1:]
    reader, size = zlib.decompressobj(), 0
    try:
        while rest and size <= limit:
            piece = reader.decompress(rest, 1 << 16)
            size, rest = size + len(piece), reader.unconsumed_tail
    except zlib.error:  # Pillow judges such a file
        pass
    return size
