"""The arrays of a store: their names, types and files. Imports neither torch nor zarr.

Everything that follows from the set of arrays is derived here: bytes of a row's geometry, objects per part, files
per store.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

ROW_DTYPE = np.float16
"""Type of activations as they are given and read; a store may hold codes of them."""


@dataclass(frozen=True)
class GeometryArray:
    """An array with one entry per row, next to the activations.

    Attributes
    ----------
    dtype : of the stored values
    tail : shape of one row's entry; () for a number
    fill_value : which no row has
    dimensions : names of the dimensions
    """

    dtype: str
    tail: tuple[int, ...]
    fill_value: float
    dimensions: tuple[str, ...]

    @property
    def bytes_per_row(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.tail)


GEOMETRY = {
    "picture": GeometryArray("int32", (), -1, ("row",)),
    "box_xyxy": GeometryArray("float32", (4,), float("nan"), ("row", "corner")),
    "scale": GeometryArray("uint8", (), 255, ("row",)),
}
"""The picture, the box and the scale of each row."""

ARRAYS = ("activations", *GEOMETRY)
"""In the order in which the objects of a part are written."""

ARRAYS_OF_CODES = (*ARRAYS, "column_range")
"""Arrays of a store that holds codes of 8 bits."""

DIMENSIONS = {"activations": 2, "column_range": 3, **{name: len(a.dimensions) for name, a in GEOMETRY.items()}}
"""Number of dimensions of each array."""


def metadata_names(arrays: Iterable[str] = ARRAYS) -> tuple[str, ...]:
    """Return the name of every ``zarr.json`` of a store with these arrays."""
    return ("zarr.json", *(f"{name}/zarr.json" for name in arrays), "integrity/zarr.json")


def geometry_bytes_per_row() -> int:
    """Return the uncompressed bytes of picture, box and scale of one row.

    >>> geometry_bytes_per_row()
    21
    """
    return sum(array.bytes_per_row for array in GEOMETRY.values())


def raw_bytes_per_row(width: int) -> int:
    """Return the uncompressed bytes of one row: `width` activations and the geometry.

    >>> raw_bytes_per_row(1024)
    2069
    """
    return width * np.dtype(ROW_DTYPE).itemsize + geometry_bytes_per_row()


def files_per_part(arrays: Iterable[str] = ARRAYS) -> int:
    """Return the number of files of one part: one object per array, and the record.

    >>> files_per_part()
    5
    """
    return len(tuple(arrays)) + 1


def files_per_store(arrays: Iterable[str] = ARRAYS) -> int:
    """Return the number of files of a store without its parts: metadata and the seal.

    >>> files_per_store()
    7
    """
    return len(metadata_names(arrays)) + 1
