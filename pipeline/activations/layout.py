"""What lies in a store: names, metadata, records, and the bytes of a part. Nothing here reads or writes.

Layout of the group::

    zarr.json                     attributes: identity, fingerprint, ids, what it was made from
    activations/                  (row, <layer>_column) float16, one shard a part, fill value NaN
    picture/ box_xyxy/ scale/     geometry of each row, one chunk a part
    integrity/part-00000.json     record: rows of the part, size and digest of each of its objects
    integrity/seal.json           sizes and digests of all records and of every zarr.json

docs/store-format.md says it in words, for readers that are written without this code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from pipeline.activations.identity import Identity, fingerprint
from pipeline.files import sha256_bytes

ARRAYS = ("activations", "picture", "box_xyxy", "scale")
METADATA = ("zarr.json", *(f"{name}/zarr.json" for name in ARRAYS), "integrity/zarr.json")
INNER_CHUNK_ROWS = 1024
ROW_DTYPE = np.float16


def rows_a_part(width: int) -> int:
    """Rows of one shard: a power of two, near 64 MiB of float16.

    Small enough that an interruption costs seconds, large enough that a picture which straddles two
    parts, and is decoded for both, is rare.

    >>> rows_a_part(1024), rows_a_part(4096), rows_a_part(1512)
    (32768, 8192, 16384)
    """
    rows = 1024
    while rows * 2 * width * ROW_DTYPE().itemsize <= 64 * 2**20:
        rows *= 2
    return rows


@dataclass(frozen=True)
class Part:
    """A part: the range of rows of one shard, written by one task."""

    index: int
    start: int
    stop: int

    @property
    def n_rows(self) -> int:
        return self.stop - self.start

    @property
    def record_name(self) -> str:
        return f"integrity/part-{self.index:05d}.json"

    @property
    def object_names(self) -> tuple[str, ...]:
        """Objects of this part, relative to the store, in the order of `ARRAYS`."""
        i = self.index
        return (f"activations/c/{i}/0", f"picture/c/{i}", f"box_xyxy/c/{i}/0", f"scale/c/{i}")


def parts_of(identity: Identity) -> list[Part]:
    """All parts of a store, in order."""
    n_rows, rows = identity["seen.n_rows"], identity["how.part_rows"]
    return [Part(i, start, min(start + rows, n_rows)) for i, start in enumerate(range(0, n_rows, rows))]


def parts_within(parts: Iterable[Part], rows: Part) -> list[Part]:
    """Those of the parts whose rows all lie in a range.

    >>> [part.index for part in parts_within([Part(0, 0, 4), Part(1, 4, 8), Part(2, 8, 9)], Part(0, 4, 9))]
    [1, 2]
    """
    return [part for part in parts if rows.start <= part.start and part.stop <= rows.stop]


def range_of(stores: Iterable[Sequence[Part]], rows: Part) -> Part | None:
    """Of a range of rows, those from the first to the last of some parts, of several stores; None if there is none.

    >>> range_of([[Part(1, 8, 16)], [Part(5, 10, 12)]], Part(1, 8, 16))
    Part(index=1, start=8, stop=16)
    >>> range_of([[], [Part(5, 10, 12), Part(6, 12, 14), Part(9, 18, 20)]], Part(1, 8, 16))
    Part(index=1, start=10, stop=14)
    """
    inside = [part for parts in stores for part in parts_within(parts, rows)]
    if not inside:
        return None
    return Part(rows.index, min(part.start for part in inside), max(part.stop for part in inside))


def make_metadata(identity: Identity, picture_ids: tuple[str, ...], made_from: Mapping[str, str]) -> dict[str, bytes]:
    """Every ``zarr.json`` of an empty store, in an order in which the group's own comes last."""
    n_rows, width, rows = identity["seen.n_rows"], identity["how.width"], identity["how.part_rows"]
    memory = MemoryStore()
    group = zarr.open_group(
        memory,
        mode="w-",
        attributes={
            "identity": identity,
            "fingerprint": fingerprint(identity),
            "picture_ids": list(picture_ids),
            "made_from": dict(made_from),
        },
    )
    layer_column = f"{identity['how.layer']}_column"
    arrays = {
        "activations": ((n_rows, width), ROW_DTYPE, float("nan"), ["row", layer_column]),
        "picture": ((n_rows,), "int32", -1, ["row"]),
        "box_xyxy": ((n_rows, 4), "float32", float("nan"), ["row", "corner"]),
        "scale": ((n_rows,), "uint8", 255, ["row"]),
    }
    for name, (shape, dtype, fill_value, dimensions) in arrays.items():
        whole = (rows, *shape[1:])
        sharded = name == "activations"
        group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=(min(INNER_CHUNK_ROWS, rows), width) if sharded else whole,
            shards=whole if sharded else None,
            fill_value=fill_value,
            dimension_names=dimensions,
            # zarr's default has no checksum: a flipped bit would be read without an error.
            compressors=[ZstdCodec(level=1, checksum=True)],
        )
    # Records and seal live in a group of their own, so that zarr's listing of the store stays clean.
    group.create_group("integrity")
    return {name: memory._store_dict[name].to_bytes() for name in reversed(METADATA)}


def _open_array(name: str, metadata: bytes, objects: Mapping[str, bytes], writable: bool) -> tuple[Any, MemoryStore]:
    buffer = default_buffer_prototype().buffer
    content = {f"{name}/zarr.json": metadata, **objects}
    memory = MemoryStore({key: buffer.from_bytes(data) for key, data in content.items()}, read_only=not writable)
    return zarr.open_array(memory, path=name, mode="r+" if writable else "r", zarr_format=3), memory


def encode_part(metadata: Mapping[str, bytes], part: Part, columns: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Bytes of each object of a part; a function of its arguments alone.

    Parameters
    ----------
    metadata : as from `make_metadata`
    columns : ``activations`` (n, width) float16, finite; ``picture``, ``box_xyxy``, ``scale``
    """
    objects = {}
    for name, object_name in zip(ARRAYS, part.object_names, strict=True):
        if len(columns[name]) != part.n_rows:
            raise ValueError(f"{name}: {len(columns[name])} rows, expected {part.n_rows} in part {part.index}")
        array, memory = _open_array(name, metadata[f"{name}/zarr.json"], {}, writable=True)
        # Without this, rows of zeros would not be written, and read like missing ones.
        array.with_config({"write_empty_chunks": True})[part.start : part.stop] = columns[name]
        objects[object_name] = memory._store_dict[object_name].to_bytes()
    return objects


def decode_object(name: str, metadata: bytes, part: Part, data: bytes) -> np.ndarray:
    """Rows of a part of one array, from the bytes of its object."""
    object_name = part.object_names[ARRAYS.index(name)]
    array, _ = _open_array(name, metadata, {object_name: data}, writable=False)
    return array[part.start : part.stop]


def stated(data: bytes) -> dict[str, Any]:
    """What a record or the seal says of a file."""
    return {"bytes": len(data), "sha256": sha256_bytes(data)}


def make_record(part: Part, store_fingerprint: str, objects: Mapping[str, bytes]) -> dict[str, Any]:
    """The record of a part."""
    return {
        "fingerprint": store_fingerprint,
        "part": part.index,
        "rows": [part.start, part.stop],
        "objects": {name: stated(data) for name, data in objects.items()},
    }


def make_seal(identity: Identity, records: Mapping[str, bytes], metadata: Mapping[str, bytes]) -> dict[str, Any]:
    """The seal of a store, from all of its records and metadata."""
    return {
        "fingerprint": fingerprint(identity),
        "rows": identity["seen.n_rows"],
        "parts": len(records),
        "skipped": identity["seen.skipped"],
        "records": {name: stated(data) for name, data in sorted(records.items())},
        "metadata": {name: stated(data) for name, data in sorted(metadata.items())},
    }
