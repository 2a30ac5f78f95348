"""Read protobuf's wire format: fields by number, every length checked.

Caffe and ONNX files are protobuf messages of which a dozen fields are needed here, so a reader of the format
itself (https://protobuf.dev/programming-guides/encoding) takes the place of two libraries and their schemas.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Message:
    """The fields of one message; nested ones are read on access.

    Parameters
    ----------
    data : memoryview or bytes, a whole message

    Raises
    ------
    ValueError
        The bytes are no message: a length that points past the end, an unknown wire type, an endless number.
    """

    def __init__(self, data: memoryview | bytes) -> None:
        self._fields: dict[int, list[tuple[int, int | memoryview]]] = {}
        for number, kind, value in _fields(memoryview(data)):
            self._fields.setdefault(number, []).append((kind, value))

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def blobs(self, number: int) -> list[memoryview]:
        """Bytes of every occurrence of a length-delimited field."""
        values = self._fields.get(number, [])
        found = [value for kind, value in values if kind == BYTES and not isinstance(value, int)]
        if len(found) < len(values):
            raise ValueError(f"field {number} is not what it should be")
        return found

    def messages(self, number: int) -> list[Message]:
        return [Message(blob) for blob in self.blobs(number)]

    def text(self, number: int, default: str = "") -> str:
        found = self.blobs(number)
        return bytes(found[-1]).decode("utf-8", "replace") if found else default

    def texts(self, number: int) -> list[str]:
        return [bytes(blob).decode("utf-8", "replace") for blob in self.blobs(number)]

    def integer(self, number: int, default: int = 0) -> int:
        found = self.integers(number)
        return found[-1] if found else default

    def integers(self, number: int) -> list[int]:
        """A repeated integer field (int64), packed or not."""
        found: list[int] = []
        for kind, value in self._fields.get(number, []):
            if isinstance(value, int):  # as for VARINT alone
                found.append(_signed(value))
            elif kind == BYTES:
                position = 0
                while position < len(value):
                    item, position = _varint(value, position)
                    found.append(_signed(item))
            else:
                raise ValueError(f"field {number} is not what it should be")
        return found

    def real(self, number: int, default: float) -> float:
        found = self.reals(number)
        return float(found[-1]) if len(found) else default

    def reals(self, number: int, dtype: str = "<f4") -> np.ndarray:
        """A repeated float (or, with ``<f8``, double) field, packed or not."""
        wire_type, size = (FIXED32, 4) if dtype == "<f4" else (FIXED64, 8)
        pieces = []
        for kind, value in self._fields.get(number, []):
            if isinstance(value, int) or kind not in (wire_type, BYTES) or len(value) % size:
                raise ValueError(f"field {number} is not what it should be")
            pieces.append(np.frombuffer(value, dtype))
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, dtype), *pieces])


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == VARINT:
            value, position = _varint(data, position)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, position = _varint(data, position)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        if size > len(data) - position:
            raise ValueError(f"field {number} ends past the end")
        yield number, kind, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("a number ends past the end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & (2**64 - 1), position
    raise ValueError("a number of more than 64 bits")


def _signed(value: int) -> int:
    return struct.unpack("<q", struct.pack("<Q", value))[0]
