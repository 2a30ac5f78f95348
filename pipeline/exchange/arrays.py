"""Files of arrays: npy, npz, HDF5, safetensors. Texts stand once, and rows have numbers that point at them.

Each has ``features`` (n, width), the arrays of a `Block`, ``picture_ids`` and ``classes`` (texts), ``picture_labels``
if there are labels, ``fingerprint`` and ``provenance`` (JSON).
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from pipeline.exchange.contents import FEATURES, Block, Contents
from pipeline.exchange.text import write_csv
from pipeline.io.atomic import render_json
from pipeline.io.errors import PipelineError

SAFETENSORS_DTYPES = {"float16": "F16", "float32": "F32", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8"}
"""Names of types in a safetensors file; it knows no other."""
SAFETENSORS_HEADER_BYTES = 100_000_000
"""The readers of safetensors refuse a larger header."""


def array_types(contents: Contents) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return type and shape of all arrays with an entry per row, by name."""
    empty = contents.empty()
    arrays = {FEATURES: empty.features, **empty.arrays}
    return {name: (array.dtype, (contents.n_rows, *array.shape[1:])) for name, array in arrays.items()}


def constants(contents: Contents) -> dict[str, np.ndarray]:
    """Return the arrays of numbers that have an entry per picture."""
    return {} if contents.picture_labels is None else {"picture_labels": contents.picture_labels}


def texts(contents: Contents, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return what is text: lists, and the provenance as JSON."""
    return {
        "picture_ids": list(contents.picture_ids),
        "classes": list(contents.classes),
        "fingerprint": provenance["fingerprint"],
        "provenance": json.dumps(provenance, ensure_ascii=False),
    }


def _arrays_of(block: Block) -> dict[str, np.ndarray]:
    return {FEATURES: block.features, **block.arrays}


def write_npy(contents: Contents, blocks: Iterable[Block], paths: list[Path], provenance: dict[str, Any]) -> None:
    """Write the activations alone as ``.npy``; next to it a table of the other columns, and the provenance."""
    path, rows_path, provenance_path = paths
    dtype, shape = array_types(contents)[FEATURES]

    def written(stream: IO[bytes]) -> Iterator[Block]:
        for block in blocks:
            _write_plain(stream, block.features)
            yield block

    with open(path, "wb") as stream:
        _write_npy_header(stream, dtype, shape)
        write_csv(contents, written(stream), rows_path, with_features=False)
    provenance_path.write_bytes(render_json(provenance))


def write_npz(contents: Contents, blocks: Iterable[Block], paths: list[Path], provenance: dict[str, Any]) -> None:
    """Write all arrays into one ``.npz``, not compressed; `numpy.load` needs no pickle for it."""
    types = array_types(contents)
    with zipfile.ZipFile(paths[0], "w", zipfile.ZIP_STORED, allowZip64=True) as archive, ExitStack() as stack:
        # A zip file is written one member after the other: the small columns wait on the disk.
        waiting = {
            name: stack.enter_context(tempfile.TemporaryFile(dir=paths[0].parent)) for name in types if name != FEATURES
        }
        with _npz_member(archive, FEATURES, *types[FEATURES]) as stream:
            for block in blocks:
                _write_plain(stream, block.features)
                for name, file in waiting.items():
                    _write_plain(file, block.arrays[name])
        for name, file in waiting.items():
            file.seek(0)
            with _npz_member(archive, name, *types[name]) as stream:
                shutil.copyfileobj(file, stream)
        small = {**constants(contents), **texts(contents, provenance)}
        for name, value in small.items():
            array = np.asarray(value, str) if not isinstance(value, np.ndarray) else value
            with _npz_member(archive, name, array.dtype, array.shape) as stream:
                _write_plain(stream, array)


@contextmanager
def _npz_member(archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    # With a time of its own, so that equal rows give equal bytes.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
        _write_npy_header(stream, dtype, shape)
        yield stream


def _write_npy_header(stream: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _write_plain(stream: IO[bytes], array: np.ndarray) -> None:
    stream.write(np.ascontiguousarray(array).data)


def write_hdf5(contents: Contents, blocks: Iterable[Block], paths: list[Path], provenance: dict[str, Any]) -> None:
    """Write all arrays as datasets of an HDF5 file, not compressed; the fingerprint is an attribute, too."""
    with h5py.File(paths[0], "w", libver=("v110", "v110")) as file:
        for name, (dtype, shape) in array_types(contents).items():
            chunks = (max(1, min(shape[0], 1024)), *shape[1:])
            file.create_dataset(name, shape, dtype, chunks=chunks)
        start = 0
        for block in blocks:
            stop = start + len(block.features)
            for name, array in _arrays_of(block).items():
                file[name][start:stop] = array
            start = stop
        for name, array in constants(contents).items():
            file.create_dataset(name, data=array)
        for name, value in texts(contents, provenance).items():
            # As datasets: attributes are limited to 64 KiB.
            file.create_dataset(name, data=value, dtype=h5py.string_dtype())
        file.attrs["fingerprint"] = provenance["fingerprint"]


def write_safetensors(
    contents: Contents, blocks: Iterable[Block], paths: list[Path], provenance: dict[str, Any]
) -> None:
    """Write all arrays as tensors of a safetensors file; texts are JSON in its metadata.

    Raises
    ------
    PipelineError
        So many pictures that their ids do not go into the header.
    """
    # The library writes tensors that are in memory; the format itself is a header, then each tensor's bytes.
    plain = {
        name: (np.dtype(np.uint8) if dtype.kind == "b" else dtype, shape)
        for name, (dtype, shape) in array_types(contents).items()
    }
    small = constants(contents)
    plain |= {name: (array.dtype, array.shape) for name, array in small.items()}
    said = texts(contents, provenance)
    header: dict[str, Any] = {
        "__metadata__": {key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}
    }
    places, end = {}, 0
    # The largest items first, so that each begins at a multiple of its size.
    for name, (dtype, shape) in sorted(plain.items(), key=lambda item: -item[1][0].itemsize):
        places[name], begin = end, end
        end += int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {"dtype": SAFETENSORS_DTYPES[dtype.name], "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    if len(head) > SAFETENSORS_HEADER_BYTES:
        raise PipelineError(
            f"{len(contents.picture_ids):,} ids of pictures make a header of {len(head):,} bytes, and readers of "
            f"safetensors refuse more than {SAFETENSORS_HEADER_BYTES:,}; export to .h5 or .parquet"
        )
    with open(paths[0], "wb") as stream:
        stream.write(struct.pack("<Q", len(head)) + head)
        data_start = stream.tell()
        stream.truncate(data_start + end)

        def put(name: str, array: np.ndarray) -> None:
            stream.seek(data_start + places[name])
            _write_plain(stream, array.view(np.uint8) if array.dtype.kind == "b" else array)
            places[name] += array.nbytes

        for block in blocks:
            for name, array in _arrays_of(block).items():
                put(name, np.ascontiguousarray(array))
        for name, array in small.items():
            put(name, array)
