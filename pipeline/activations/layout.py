"""What lies in a store: names, metadata, records, and the bytes of a part. Nothing here reads or writes.

Layout of the group::

    zarr.json                     attributes: identity, fingerprint, ids, what it was made from
    activations/                  (row, <layer>_column) float16, one shard a part, fill value NaN; or codes
    picture/ box_xyxy/ scale/     geometry of each row, one chunk a part
    column_range/                 only beside codes: (part, low and step, <layer>_column) float32
    integrity/part-00000.json     record: rows of the part, size and digest of each of its objects
    integrity/seal.json           sizes and digests of all records and of every zarr.json

docs/store-format.md says it in words, for readers that are written without this code.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import zarr
from numcodecs.pcodec import PCodec as PCodecOfChunks
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.codecs.numcodecs import PCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from pipeline.activations.identity import Identity, fingerprint
from pipeline.activations.settings import Codec
from pipeline.io.digests import sha256_bytes

# Of pcodec, once an array: that other implementations of zarr may not know it; docs/store-format.md says what to do.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")

ARRAYS = ("activations", "picture", "box_xyxy", "scale")
CODEC_AT = "activations/zarr.json"
"""The file that says how activations are compressed."""
INNER_CHUNK_ROWS = 1024
NO_CODE = 2**16 - 1
NO_CHUNK = 2**64 - 1
"""In the index of a shard."""
ROW_DTYPE = np.float16
"""Of rows as they are given and read; a store may keep codes of them."""


# Each with a checksum: else a flipped bit is read without an error.
COMPRESSION: dict[Codec, dict[str, Any]] = {
    "small": {"serializer": PCodec(level=8), "compressors": [Crc32cCodec()]},
    "fast": {"compressors": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=2), Crc32cCodec()]},
    "zstd": {"compressors": [ZstdCodec(level=1, checksum=True)]},
}
"""Arguments of zarr's ``create_array``, for activations."""


def metadata_names(arrays: Iterable[str] = ARRAYS) -> tuple[str, ...]:
    """Every ``zarr.json`` of a store with these arrays."""
    return ("zarr.json", *(f"{name}/zarr.json" for name in arrays), "integrity/zarr.json")


def arrays_of(identity: Identity) -> tuple[str, ...]:
    """The arrays of a store, in the order in which the objects of a part are written."""
    return (*ARRAYS, "column_range") if identity["how.dtype"] == "8bit" else ARRAYS


def rows_per_part(width: int) -> int:
    """Rows of one shard: a power of two, near 64 MiB of float16.

    Small enough that an interruption costs seconds, large enough that a picture which straddles two
    parts, and is decoded for both, is rare.

    >>> rows_per_part(1024), rows_per_part(4096), rows_per_part(1512)
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
    arrays: tuple[str, ...] = field(default=ARRAYS, repr=False)

    @property
    def n_rows(self) -> int:
        return self.stop - self.start

    @property
    def record_name(self) -> str:
        return f"integrity/part-{self.index:05d}.json"

    @property
    def object_names(self) -> tuple[str, ...]:
        """Objects of this part, relative to the store, in the order of `arrays`."""
        return tuple(f"{name}/c/{self.index}{'/0' * (_DIMENSIONS[name] - 1)}" for name in self.arrays)

    def object_name(self, array: str) -> str:
        """The object of this part of one array."""
        return self.object_names[self.arrays.index(array)]


_DIMENSIONS = {"activations": 2, "picture": 1, "box_xyxy": 2, "scale": 1, "column_range": 3}


def parts_of(identity: Identity) -> list[Part]:
    """All parts of a store, in order."""
    n_rows, rows, arrays = identity["seen.n_rows"], identity["how.part_rows"], arrays_of(identity)
    return [Part(i, start, min(start + rows, n_rows), arrays) for i, start in enumerate(range(0, n_rows, rows))]


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


def make_metadata(
    identity: Identity, picture_ids: tuple[str, ...], made_from: Mapping[str, str], codec: Codec = "small"
) -> dict[str, bytes]:
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
    in_codes = identity["how.dtype"] == "8bit"
    group.create_array(
        "activations",
        shape=(n_rows, width),
        # Of 16 bits either way: pcodec takes nothing smaller, and of codes it keeps the 8 bits and less.
        dtype="uint16" if in_codes else ROW_DTYPE,
        chunks=(min(INNER_CHUNK_ROWS, rows), width),
        shards=(rows, width),
        fill_value=NO_CODE if in_codes else float("nan"),
        dimension_names=["row", layer_column],
        # zstd is what stores without a name have.
        attributes={"codec": codec} if codec != "zstd" else {},
        **COMPRESSION[codec],
    )
    n_parts = -(-n_rows // rows)
    smaller = {
        "picture": ((n_rows,), (rows,), "int32", -1, ["row"]),
        "box_xyxy": ((n_rows, 4), (rows, 4), "float32", float("nan"), ["row", "corner"]),
        "scale": ((n_rows,), (rows,), "uint8", 255, ["row"]),
        "column_range": (
            (n_parts, 2, width),
            (1, 2, width),
            "float32",
            float("nan"),
            ["part", "low_step", layer_column],
        ),
    }
    for name in arrays_of(identity)[1:]:
        shape, chunks, kept_as, fill_value, dimensions = smaller[name]
        group.create_array(
            name,
            shape=shape,
            dtype=kept_as,
            chunks=chunks,
            fill_value=fill_value,
            dimension_names=dimensions,
            **COMPRESSION["zstd"],
        )
    # Records and seal live in a group of their own, so that zarr's listing of the store stays clean.
    group.create_group("integrity")
    names = metadata_names(arrays_of(identity))
    return {name: memory._store_dict[name].to_bytes() for name in reversed(names)}


def codec_of(metadata: Mapping[str, bytes]) -> str:
    """The codec of a store, by its metadata.

    Raises
    ------
    ValueError
        The metadata of the activations are missing or damaged.
    """
    try:
        return json.loads(metadata[CODEC_AT])["attributes"].get("codec", "zstd")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{CODEC_AT} is missing or damaged ({error!r})") from error


def quantise(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of 8 bits over the range of each column.

    Parameters
    ----------
    rows : float16 ndarray (n, width), finite

    Returns
    -------
    codes : uint16 ndarray (n, width), 0 to 255
    column_range : float32 ndarray (2, width)
        The least value of each column, and the step between codes. A value that comes back differs by half a
        step at most, and by the rounding to float16; where the least value is 0, zeros stay zeros.
    """
    # Converts float16 several times as fast as numpy; not at the top, for commands that read metadata alone.
    import torch

    given = torch.from_numpy(rows)
    low = given.amin(0).float()
    step = (given.amax(0).float() - low) / 255
    per_step = 1 / torch.where(step > 0, step, 1)
    codes = np.empty(rows.shape, np.uint16)
    # A block at a time, so that float32 of all rows is never held.
    for start in range(0, len(rows), INNER_CHUNK_ROWS):
        block = slice(start, start + INNER_CHUNK_ROWS)
        codes[block] = given[block].float().sub_(low).mul_(per_step).round_().numpy()
    return codes, torch.stack([low, step]).numpy()


def restore(codes: np.ndarray, column_range: np.ndarray) -> np.ndarray:
    """Rows of codes: float16 ndarray (n, width); see `quantise`."""
    import torch

    low, step = torch.from_numpy(column_range)
    rows = np.empty(codes.shape, ROW_DTYPE)
    for start in range(0, len(codes), INNER_CHUNK_ROWS):
        block = slice(start, start + INNER_CHUNK_ROWS)
        rows[block] = torch.from_numpy(codes[block]).float().mul_(step).add_(low).half().numpy()
    return rows


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
    for name, column in columns.items():
        if len(column) != part.n_rows:
            raise ValueError(f"{name}: {len(column)} rows, expected {part.n_rows} in part {part.index}")
    kept = dict(columns)
    if "column_range" in part.arrays:
        kept["activations"], column_range = quantise(columns["activations"])
        kept["column_range"] = column_range[None]
    objects = {}
    for name in part.arrays:
        array, memory = _open_array(name, metadata[f"{name}/zarr.json"], {}, writable=True)
        # Without this, rows of zeros would not be written, and read like missing ones.
        array.with_config({"write_empty_chunks": True})[_place(name, part)] = kept[name]
        objects[part.object_name(name)] = memory._store_dict[part.object_name(name)].to_bytes()
    return objects


def _place(name: str, part: Part) -> slice:
    """Where a part lies in an array: at its rows, or in the one of column ranges at its index."""
    return slice(part.index, part.index + 1) if name == "column_range" else slice(part.start, part.stop)


def decode_object(name: str, metadata: bytes, part: Part, data: bytes) -> np.ndarray:
    """What an array holds of a part, from the bytes of its object.

    Raises
    ------
    ValueError
        A checksum of a chunk disagrees, or a chunk is missing or cannot be decoded.
    """
    if name == "activations":
        return decode_shard(json.loads(metadata), part.n_rows, data)
    return decode_with_zarr(name, metadata, part, data)


_DECODERS = {
    ("bytes", "blosc", "crc32c"): numcodecs.Blosc().decode,
    ("bytes", "zstd"): numcodecs.Zstd().decode,
    ("numcodecs.pcodec", "crc32c"): PCodecOfChunks().decode,
}
"""By the names of a chunk's codecs. Each reads from the chunk itself with what parameters it was encoded."""


def decode_shard(metadata: Mapping[str, Any], n_rows: int, data: bytes) -> np.ndarray:
    """The first rows of a shard, each chunk decoded into its place.

    zarr's own reading gives the same, after two more copies of every row in a single thread.

    Parameters
    ----------
    metadata : of the array, as in its ``zarr.json``; a shard's index is at its end, without compression
    """
    (sharding,) = metadata["codecs"]
    names = tuple(codec["name"] for codec in sharding["configuration"]["codecs"])
    decode, has_checksum = _DECODERS[names], names[-1] == "crc32c"
    chunk_rows, width = sharding["configuration"]["chunk_shape"]
    n_chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"][0] // chunk_rows
    index_bytes = 16 * n_chunks
    index = np.frombuffer(_without_checksum(data[-index_bytes - 4 :], "index"), "<u8").reshape(-1, 2).tolist()

    rows = np.empty((n_rows, width), np.dtype(metadata["data_type"]).newbyteorder("<"))
    for start, (offset, n_bytes) in zip(range(0, n_rows, chunk_rows), index, strict=False):
        if n_bytes == NO_CHUNK:
            raise ValueError(f"chunk of row {start}: missing")
        chunk = data[offset : offset + n_bytes]
        if has_checksum:
            chunk = _without_checksum(chunk, f"chunk of row {start}")
        place = rows[start : start + chunk_rows]
        if len(place) == chunk_rows:
            decode(chunk, place)
        else:
            # Chunks are of one size: the last one goes on behind the last row.
            whole = np.empty((chunk_rows, width), rows.dtype)
            decode(chunk, whole)
            place[:] = whole[: len(place)]
    return rows


def _without_checksum(data: bytes, what: str) -> bytes:
    content, expected = data[:-4], data[-4:]
    if google_crc32c.value(content) != int.from_bytes(expected, "little"):
        raise ValueError(f"{what}: the checksum disagrees")
    return content


def decode_with_zarr(name: str, metadata: bytes, part: Part, data: bytes) -> np.ndarray:
    """What an array holds of a part, as every reader of zarr gets it."""
    array, _ = _open_array(name, metadata, {part.object_name(name): data}, writable=False)
    return array[_place(name, part)]


def describe_bytes(data: bytes) -> dict[str, Any]:
    """What a record or the seal says of a file."""
    return {"bytes": len(data), "sha256": sha256_bytes(data)}


def make_record(part: Part, store_fingerprint: str, objects: Mapping[str, bytes], codec: str) -> dict[str, Any]:
    """The record of a part."""
    return {
        "fingerprint": store_fingerprint,
        "part": part.index,
        "rows": [part.start, part.stop],
        # Objects are read by the metadata: where these were lost and made with another codec, the part is not there.
        **({"codec": codec} if codec != "zstd" else {}),
        "objects": {name: describe_bytes(data) for name, data in objects.items()},
    }


def make_seal(identity: Identity, records: Mapping[str, bytes], metadata: Mapping[str, bytes]) -> dict[str, Any]:
    """The seal of a store, from all of its records and metadata."""
    return {
        "fingerprint": fingerprint(identity),
        "rows": identity["seen.n_rows"],
        "parts": len(records),
        "skipped": identity["seen.skipped"],
        "records": {name: describe_bytes(data) for name, data in sorted(records.items())},
        "metadata": {name: describe_bytes(data) for name, data in sorted(metadata.items())},
    }
