"""How the values of a store are coded: compression, codes of 8 bits, and decoding of shards."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
from numcodecs.pcodec import PCodec as PCodecOfChunks
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.codecs.numcodecs import PCodec

from pipeline.activations.arrays import ROW_DTYPE
from pipeline.activations.settings import UNNAMED_CODEC, Codec
from pipeline.io.errors import StoreError

# Printed for pcodec, once per array: other zarr implementations may lack it. docs/store-format.md lists what to do.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")

CODEC_AT = "activations/zarr.json"
"""The file that states how activations are compressed."""
INNER_CHUNK_ROWS = 1024
NO_CODE = 2**16 - 1
NO_CHUNK = 2**64 - 1
"""Stands in the index of a shard for a missing chunk."""

# Each with a checksum: without one, a flipped bit is read without an error.
COMPRESSION: dict[Codec, dict[str, Any]] = {
    "small": {"serializer": PCodec(level=8), "compressors": [Crc32cCodec()]},
    "fast": {"compressors": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=2), Crc32cCodec()]},
    "zstd": {"compressors": [ZstdCodec(level=1, checksum=True)]},
}
"""Arguments of zarr's ``create_array`` for the activations. A new codec is an entry, its name in `Codec` of
``settings.py``, and a decoder in `_DECODERS` where its chain of codecs is new."""


def codec_of(metadata: Mapping[str, bytes]) -> str:
    """Read the codec of a store from its metadata.

    Raises
    ------
    ValueError
        The metadata of the activations is missing or damaged.
    """
    try:
        return json.loads(metadata[CODEC_AT])["attributes"].get("codec", UNNAMED_CODEC)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{CODEC_AT} is missing or damaged ({error!r})") from error


def quantise(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise rows to codes of 8 bits over the range of each column.

    Parameters
    ----------
    rows : float16 ndarray (n, width), finite

    Returns
    -------
    codes : uint16 ndarray (n, width), 0 to 255
    column_range : float32 ndarray (2, width)
        The least value of each column, and the step between codes. A restored value differs by half a step at
        most, and by the rounding to float16. Zeros stay zeros if the least value is 0.
    """
    # torch converts float16 several times as fast as numpy. Imported here: some commands only read metadata.
    import torch

    given = torch.from_numpy(rows)
    low = given.amin(0).float()
    step = (given.amax(0).float() - low) / 255
    per_step = 1 / torch.where(step > 0, step, 1)
    codes = np.empty(rows.shape, np.uint16)
    # Block by block, so that float32 of all rows is never in memory.
    for start in range(0, len(rows), INNER_CHUNK_ROWS):
        block = slice(start, start + INNER_CHUNK_ROWS)
        codes[block] = given[block].float().sub_(low).mul_(per_step).round_().numpy()
    return codes, torch.stack([low, step]).numpy()


def restore(codes: np.ndarray, column_range: np.ndarray) -> np.ndarray:
    """Restore rows from codes: float16 ndarray (n, width); see `quantise`."""
    import torch

    low, step = torch.from_numpy(column_range)
    rows = np.empty(codes.shape, ROW_DTYPE)
    for start in range(0, len(codes), INNER_CHUNK_ROWS):
        block = slice(start, start + INNER_CHUNK_ROWS)
        rows[block] = torch.from_numpy(codes[block]).float().mul_(step).add_(low).half().numpy()
    return rows


_DECODERS = {
    ("bytes", "blosc", "crc32c"): numcodecs.Blosc().decode,
    ("bytes", "zstd"): numcodecs.Zstd().decode,
    ("numcodecs.pcodec", "crc32c"): PCodecOfChunks().decode,
}
"""By the names of a chunk's codecs. Each decoder reads its parameters from the chunk, and checks the checksum unless
that is a ``crc32c`` at the end, which `decode_shard` checks."""


def decode_shard(metadata: Mapping[str, Any], n_rows: int, data: bytes) -> np.ndarray:
    """Decode the first rows of a shard, each chunk into its place.

    zarr's own reader returns the same values, after two more copies of every row in a single thread.

    Parameters
    ----------
    metadata : of the array, as in its ``zarr.json``; a shard's index is at its end, without compression

    Raises
    ------
    ValueError
        A checksum disagrees, or a chunk is missing.
    StoreError
        The chunks are coded by codecs that are not read here.
    """
    (sharding,) = metadata["codecs"]
    names = tuple(codec["name"] for codec in sharding["configuration"]["codecs"])
    if names not in _DECODERS:
        read = "; ".join(" + ".join(chain) for chain in _DECODERS)
        raise StoreError(
            f"{CODEC_AT}: chunks are coded by {' + '.join(names) or 'nothing'}, expected one of: {read}; read the "
            "store with the version that wrote it, or with zarr"
        )
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
        target = rows[start : start + chunk_rows]
        if len(target) == chunk_rows:
            decode(chunk, target)
        else:
            # All chunks have one size: the last one has room after the last row.
            whole = np.empty((chunk_rows, width), rows.dtype)
            decode(chunk, whole)
            target[:] = whole[: len(target)]
    return rows


def _without_checksum(data: bytes, what: str) -> bytes:
    content, expected = data[:-4], data[-4:]
    if google_crc32c.value(content) != int.from_bytes(expected, "little"):
        raise ValueError(f"{what}: the checksum disagrees")
    return content
