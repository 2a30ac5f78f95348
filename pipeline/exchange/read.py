"""Rows that were made elsewhere, as they lie in a file: npy with a list of ids, or Parquet."""

from __future__ import annotations

import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations.columns import CORNERS
from pipeline.exchange.contents import FEATURES
from pipeline.io.csv_line import read_csv_columns
from pipeline.io.errors import DatasetError, SettingsError
from pipeline.io.extras import import_extra
from pipeline.io.likeness import suggest
from pipeline.io.messages import brief
from pipeline.io.names import normalise

ROWS_NEXT_TO_IT = ".rows.csv"
"""Behind the name of an npy file: its other columns, as an export writes them."""
READ = (".npy", ".parquet")
OTHERS = {"scale": np.uint8, "flip": bool, "turn": np.float32}
"""Columns of patches beside their corners, as far as a file has them, and types."""


@dataclass(frozen=True)
class GivenRows:
    """Rows of a file, in its order.

    Attributes
    ----------
    path : of the file, for messages
    values : ndarray (n, width) of floating-point numbers, on the disk; read it in slices or by index
    picture : ids, one per row
    windows : ``box_xyxy`` (float32 (n, 4)) and, if the file has them, ``scale``, ``flip`` and ``turn``; none for rows
        of pictures
    """

    path: Path
    values: np.ndarray
    picture: list[str]
    windows: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def per(self) -> str:
        """``patch`` or ``picture``."""
        return "patch" if self.windows else "picture"


@contextmanager
def open_rows(path: Path, ids: Path | None, scratch: Path) -> Iterator[GivenRows]:
    """Open the rows of a file.

    Parameters
    ----------
    path : ``.npy``, an array (n, width), or ``.parquet`` with columns ``picture`` and ``features``, a list of numbers
        per row; rows of patches have ``x0``, ``y0``, ``x1``, ``y1``, and may have ``scale``, ``flip`` and ``turn``
    ids : of ``.npy``: text, the picture of each row on a line; None for the table that an export wrote next to it
    scratch : folder for a temporary file, which is gone afterwards

    Raises
    ------
    DatasetError
        The file cannot be read, or lacks something.
    SettingsError
        It has another ending.
    MissingDataError
        pyarrow is not installed.
    """
    if path.suffix not in READ:
        raise SettingsError(
            f"{path}: rows are read from {' and '.join(READ)}, got ending {path.suffix!r}{suggest(path.suffix, READ)}"
        )
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    if path.suffix == ".npy":
        yield _open_npy(path, ids)
        return
    if ids is not None:
        raise SettingsError(f"--ids is for .npy; {path} has ids of its own, in its column 'picture'")
    with _open_parquet(path, scratch) as rows:
        yield rows


def _open_npy(path: Path, ids: Path | None) -> GivenRows:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: cannot be read as an array: {error}") from error
    if not isinstance(values, np.ndarray):
        raise DatasetError(f"{path}: expected one array, as numpy.save writes it, got an archive of arrays (.npz)")
    _check_values(path, values.dtype, values.shape)
    table = path.with_name(path.name + ROWS_NEXT_TO_IT)
    if ids is None and not table.is_file():
        raise DatasetError(f"{path}: it does not say which row is which picture; give a text file of ids: --ids FILE")
    try:
        columns = read_csv_columns(table) if ids is None else {"picture": _lines(ids)}
        return _given(path, values, columns.pop("picture"), columns)
    except KeyError as error:
        raise DatasetError(f"{table}: no column {error}, the picture of each row") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{ids or table}: cannot be read as the pictures of {path}: {error}") from error


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")


@contextmanager
def _open_parquet(path: Path, scratch: Path) -> Iterator[GivenRows]:
    parquet = import_extra("pyarrow.parquet")
    arrow = import_extra("pyarrow")
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        for name in ("picture", FEATURES):
            if name not in names:
                raise DatasetError(f"{path}: no column {name!r}{suggest(name, names)}; rename the one that is meant")
        if twice := sorted({name for name, n in Counter(names).items() if n > 1}):
            raise DatasetError(f"{path}: columns named twice: {', '.join(map(brief, twice))}")
        others = [name for name in (*CORNERS, *OTHERS) if name in names]
        table = file.read(columns=["picture", *others])
        columns = {name: table[name].to_numpy() for name in others}
        with tempfile.TemporaryFile(dir=scratch) as stream:
            shape, dtype = _spool(file, path, stream)
            _check_values(path, dtype, shape)
            stream.flush()
            values = np.memmap(stream, dtype, "r", shape=shape)
            yield _given(path, values, table["picture"].to_pylist(), columns)
    except (OSError, arrow.ArrowException, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: cannot be read as Parquet: {error}") from error


def _spool(file: Any, path: Path, stream: Any) -> tuple[tuple[int, int], np.dtype]:
    """Write the activations of a Parquet file as a plain array: rows are needed in another order than its own."""
    compute = import_extra("pyarrow.compute")
    n_rows, widths, dtype = 0, set(), np.dtype(np.float16)
    for batch in file.iter_batches(batch_size=4096, columns=[FEATURES]):
        column = batch.column(0)
        if "list" not in str(column.type):
            raise DatasetError(f"{path}: column {FEATURES!r}: expected a list of numbers per row, got {column.type}")
        values = column.flatten()
        n_missing = column.null_count + values.null_count
        if n_missing:
            raise DatasetError(f"{path}: column {FEATURES!r}: {n_missing:,} values are missing")
        widths |= set(compute.unique(compute.list_value_length(column)).to_pylist())
        if len(widths) > 1:
            raise DatasetError(f"{path}: column {FEATURES!r}: rows of different lengths: {sorted(widths)[:5]}")
        plain = values.to_numpy(zero_copy_only=False)
        stream.write(np.ascontiguousarray(plain).data)
        n_rows, dtype = n_rows + len(batch), plain.dtype
    return (n_rows, max(widths, default=0)), dtype


def _check_values(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise DatasetError(f"{path}: expected numbers of float16, float32 or float64, got {dtype}")
    if len(shape) != 2 or 0 in shape:
        raise DatasetError(f"{path}: expected an array of rows and columns, got shape {shape}")


def _numbers(path: Path, name: str, values: Any) -> np.ndarray:
    """Return a column of patches as float64; text of a CSV is read."""
    try:
        numbers = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path}: column {name!r}: expected numbers: {error}") from error
    most = {"scale": 255, "flip": 1}.get(name)
    if not np.isfinite(numbers).all() or most and not np.isin(numbers, np.arange(most + 1)).all():
        expected = f"whole numbers of 0 to {most}" if most else "numbers"
        raise DatasetError(f"{path}: column {name!r}: expected {expected}, and some are missing or are none")
    return numbers


def _given(path: Path, values: np.ndarray, picture: list[Any], columns: dict[str, Any]) -> GivenRows:
    if len(picture) != len(values):
        raise DatasetError(f"{path}: {len(values):,} rows, and ids of {len(picture):,}")
    bad = [row for row, name in enumerate(picture) if not isinstance(name, str) or not name]
    if bad:
        raise DatasetError(f"{path}: {len(bad):,} rows have no id of a picture; the first is row {bad[0]:,}")
    windows: dict[str, np.ndarray] = {}
    there = [name for name in CORNERS if name in columns]
    if there and len(there) < len(CORNERS):
        raise DatasetError(f"{path}: of a patch's box it has only {', '.join(there)}; expected {', '.join(CORNERS)}")
    if there:
        numbers = {name: _numbers(path, name, columns[name]) for name in (*CORNERS, *OTHERS) if name in columns}
        windows["box_xyxy"] = np.stack([numbers[name] for name in CORNERS], axis=1).astype(np.float32)
        windows |= {name: numbers[name].astype(dtype) for name, dtype in OTHERS.items() if name in numbers}
    return GivenRows(path, values, [normalise(name) for name in picture], windows)
