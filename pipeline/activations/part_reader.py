"""Reading the recorded parts of a store: every byte is checked against the part's record before it is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.activations.codec import restore
from pipeline.activations.folder import Folder
from pipeline.activations.identity import Identity
from pipeline.activations.layout import decode_object
from pipeline.activations.partition import Part
from pipeline.activations.records import PartRecord, describe_bytes
from pipeline.io.errors import StoreDamagedError

REPAIR = "list the damage with: pipeline cache verify, and repair it with: pipeline cache repair"
FINITE_BLOCK_ROWS = 128


def all_finite(values: np.ndarray) -> bool:
    """Return whether no float16 value is infinite or NaN.

    Several times as fast as `numpy.isfinite`: as integers, and block by block, so that no copy leaves the cache.
    """
    bits = values.view(np.uint16)
    blocks = range(0, len(bits), FINITE_BLOCK_ROWS)
    return not any((bits[start : start + FINITE_BLOCK_ROWS] & 0x7C00 == 0x7C00).any() for start in blocks)


@dataclass(frozen=True)
class PartReader:
    """Reads parts of one store, sealed or not.

    Attributes
    ----------
    metadata : every ``zarr.json`` by its name
    records : of the parts that can be read, by their index
    """

    folder: Folder
    identity: Identity
    metadata: Mapping[str, bytes]
    records: Mapping[int, PartRecord]

    def read_bytes(self, name: str, part: Part) -> bytes:
        """Read the bytes of one part of one array, and check their digest.

        Raises
        ------
        StoreDamagedError
        """
        object_name = part.object_name(name)
        try:
            data = self.folder.read(object_name)
        except OSError as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
            raise StoreDamagedError(f"{self.folder}: {object_name} {reason}; {REPAIR}") from error
        if describe_bytes(data) != self.records[part.index].objects[object_name]:
            raise StoreDamagedError(f"{self.folder}: {object_name} changed since it was written; {REPAIR}")
        return data

    def read_object(self, name: str, part: Part) -> np.ndarray:
        """Read one part of one array; see `read_bytes`."""
        return decode_object(name, self.metadata[f"{name}/zarr.json"], part, self.read_bytes(name, part))

    def read_part(self, part: Part) -> np.ndarray:
        """Read the activations of one part: float16 ndarray of shape (rows of the part, width), finite."""
        values = self.read_object("activations", part)
        if "column_range" in part.arrays:
            values = restore(values, self.read_object("column_range", part)[0])
        if not all_finite(values):
            raise StoreDamagedError(f"{self.folder}: part {part.index} holds values that are not finite; {REPAIR}")
        return values
