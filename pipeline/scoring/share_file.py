"""The file of a share of scores: HDF5 with a checksum, and everything that decides its values."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from pipeline.activations.identity import explain_differences
from pipeline.head.task import Columns
from pipeline.io.atomic import write_atomic
from pipeline.io.checksummed import USER_BLOCK, check_hdf5, checksum_hdf5
from pipeline.io.errors import StoreError

FORMAT = "scores-share-1"


def save_share(columns: Columns, made_from: Mapping[str, Any], seconds: float, path: Path) -> None:
    """Write the columns of a range of pictures atomically.

    Parameters
    ----------
    made_from : JSON object, all that decides the columns, the share among it
    seconds : that they took
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        for name, values in columns.items():
            file.create_dataset(f"columns/{name}", data=values)
        file.attrs["format"] = FORMAT
        file.attrs["seconds"] = seconds
        # As a dataset: attributes are limited to 64 KiB.
        file.create_dataset("made_from", data=json.dumps(made_from, sort_keys=True), dtype=h5py.string_dtype())
    write_atomic(path, checksum_hdf5(buffer.getvalue()))


def load_share(made_from: Mapping[str, Any], path: Path) -> tuple[Columns, float]:
    """Read a share that was made from exactly what is stated; return its columns and seconds.

    Raises
    ------
    StoreError
        No such file, damaged, or made from something else; the message names the fields that differ.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such share of scores")
    try:
        with h5py.File(io.BytesIO(check_hdf5(path.read_bytes())), "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ValueError(f"format {file.attrs.get('format')!r}, expected {FORMAT!r}")
            stored = json.loads(file["made_from"].asstr()[()])
            columns = {name: values[:] for name, values in file["columns"].items()}
            seconds = float(file.attrs["seconds"])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise StoreError(f"{path}: damaged: {error}") from error
    expected = json.loads(json.dumps(made_from))
    if stored != expected:
        raise StoreError(f"{path}: made from something else\n{explain_differences(stored, expected)}")
    return columns, seconds
