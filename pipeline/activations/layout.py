"""Metadata of a store, and the bytes of a part. Nothing here reads or writes files.

Layout of the group::

    zarr.json                     attributes: identity, fingerprint, ids and files of the pictures, names of dataset,
                                  split and trunk
    activations/                  (row, <layer>_column) float16, one shard per part, fill value NaN; or codes
    picture/ box_xyxy/ scale/     geometry of each row, one chunk per part
    column_range/                 only next to codes: (part, low and step, <layer>_column) float32
    integrity/part-00000.json     record: rows of the part, size and digest of each of its objects
    integrity/seal.json           sizes and digests of all records and of every zarr.json

docs/store-format.md describes it for readers that are written without this code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from pipeline.activations.arrays import GEOMETRY, ROW_DTYPE, metadata_names
from pipeline.activations.codec import COMPRESSION, INNER_CHUNK_ROWS, NO_CODE, decode_shard, quantise
from pipeline.activations.identity import Identity, fingerprint
from pipeline.activations.partition import Part, arrays_of
from pipeline.activations.settings import UNNAMED_CODEC, Codec


@dataclass(frozen=True)
class PictureFiles:
    """What decides the pixels of each picture of a store, by which another store may take over its rows.

    Attributes
    ----------
    sha256 : digest of each file's bytes
    apply_exif : whether each picture is turned by EXIF
    """

    sha256: tuple[str, ...]
    apply_exif: tuple[bool, ...]

    @classmethod
    def from_dict(cls, value: Any) -> PictureFiles | None:
        """Read the stored form; None for None.

        Raises
        ------
        KeyError, TypeError
            It is malformed.
        """
        if value is None:
            return None
        return cls(tuple(value["sha256"]), tuple(bool(turned) for turned in value["apply_exif"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form."""
        return {"sha256": list(self.sha256), "apply_exif": [int(turned) for turned in self.apply_exif]}


def make_metadata(
    identity: Identity,
    picture_ids: tuple[str, ...],
    made_from: Mapping[str, str],
    codec: Codec = "small",
    picture_files: PictureFiles | None = None,
) -> dict[str, bytes]:
    """Make every ``zarr.json`` of an empty store; the group's own comes last."""
    memory = MemoryStore()
    group = zarr.open_group(
        memory,
        mode="w-",
        attributes={
            "identity": identity.to_dict(),
            "fingerprint": fingerprint(identity),
            "picture_ids": list(picture_ids),
            "made_from": dict(made_from),
            **({} if picture_files is None else {"picture_files": picture_files.to_dict()}),
        },
    )
    layer_column = f"{identity.layer}_column"
    _create_activations(group, identity, layer_column, codec)
    for name, array in GEOMETRY.items():
        group.create_array(
            name,
            shape=(identity.n_rows, *array.tail),
            dtype=array.dtype,
            chunks=(identity.part_rows, *array.tail),
            fill_value=array.fill_value,
            dimension_names=list(array.dimensions),
            **COMPRESSION["zstd"],
        )
    if "column_range" in arrays_of(identity):
        group.create_array(
            "column_range",
            shape=(-(-identity.n_rows // identity.part_rows), 2, identity.width),
            dtype="float32",
            chunks=(1, 2, identity.width),
            fill_value=float("nan"),
            dimension_names=["part", "low_step", layer_column],
            **COMPRESSION["zstd"],
        )
    # Records and seal live in a group of their own, so that zarr's listing of the store stays clean.
    group.create_group("integrity")
    names = metadata_names(arrays_of(identity))
    return {name: memory._store_dict[name].to_bytes() for name in reversed(names)}


def _create_activations(group: zarr.Group, identity: Identity, layer_column: str, codec: Codec) -> None:
    has_codes = identity.dtype == "8bit"
    group.create_array(
        "activations",
        shape=(identity.n_rows, identity.width),
        # 16 bits either way: pcodec takes no smaller type, and stores codes in 8 bits and less.
        dtype="uint16" if has_codes else ROW_DTYPE,
        chunks=(min(INNER_CHUNK_ROWS, identity.part_rows), identity.width),
        shards=(identity.part_rows, identity.width),
        fill_value=NO_CODE if has_codes else float("nan"),
        dimension_names=["row", layer_column],
        attributes={"codec": codec} if codec != UNNAMED_CODEC else {},
        **COMPRESSION[codec],
    )


def _open_array(name: str, metadata: bytes, objects: Mapping[str, bytes], writable: bool) -> tuple[Any, MemoryStore]:
    buffer = default_buffer_prototype().buffer
    content = {f"{name}/zarr.json": metadata, **objects}
    memory = MemoryStore({key: buffer.from_bytes(data) for key, data in content.items()}, read_only=not writable)
    return zarr.open_array(memory, path=name, mode="r+" if writable else "r", zarr_format=3), memory


def encode_part(
    metadata: Mapping[str, bytes],
    part: Part,
    columns: Mapping[str, np.ndarray],
    encoded: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[str, bytes]:
    """Encode each object of a part; the bytes depend on the arguments alone.

    Parameters
    ----------
    metadata : as from `make_metadata`
    columns : ``activations`` (n, width) float16, finite; ``picture``, ``box_xyxy``, ``scale``
    encoded : objects of other arrays that are encoded already, by the array's name

    Raises
    ------
    ValueError
        A column has another number of rows than the part.
    """
    for name, column in columns.items():
        if len(column) != part.n_rows:
            raise ValueError(f"{name}: {len(column)} rows, expected {part.n_rows} in part {part.index}")
    stored = dict(columns)
    if "column_range" in part.arrays and "column_range" not in encoded:
        stored["activations"], column_range = quantise(columns["activations"])
        stored["column_range"] = column_range[None]
    objects = {}
    for name in part.arrays:
        if name in encoded:
            objects[part.object_name(name)] = encoded[name]
            continue
        array, memory = _open_array(name, metadata[f"{name}/zarr.json"], {}, writable=True)
        # Without this, rows of zeros would not be written, and would read like missing ones.
        array.with_config({"write_empty_chunks": True})[_place(name, part)] = stored[name]
        objects[part.object_name(name)] = memory._store_dict[part.object_name(name)].to_bytes()
    return objects


def _place(name: str, part: Part) -> slice:
    """Return the place of a part in an array: its rows, or its index in the array of column ranges."""
    return slice(part.index, part.index + 1) if name == "column_range" else slice(part.start, part.stop)


def decode_object(name: str, metadata: bytes, part: Part, data: bytes) -> np.ndarray:
    """Decode an array's values of a part from the bytes of its object.

    Raises
    ------
    ValueError
        A checksum of a chunk disagrees, or a chunk is missing or cannot be decoded.
    """
    if name == "activations":
        return decode_shard(json.loads(metadata), part.n_rows, data)
    return decode_with_zarr(name, metadata, part, data)


def decode_with_zarr(name: str, metadata: bytes, part: Part, data: bytes) -> np.ndarray:
    """Decode an array's values of a part as every reader of zarr does."""
    array, _ = _open_array(name, metadata, {part.object_name(name): data}, writable=False)
    return array[_place(name, part)]
