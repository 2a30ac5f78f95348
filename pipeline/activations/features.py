"""Cached activations as an array, and as a torch dataset."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pipeline.activations.arrays import ROW_DTYPE
from pipeline.activations.store import Store
from pipeline.io.errors import DatasetError
from pipeline.patches.labels import UNUSED
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable


class Features:
    """Cached activations as an array, with the geometry of each row, and with labels if they come with a table.

    Indexing returns float16 ndarrays, and reads and checks only the parts it needs. A slice reads each part once;
    single rows read one part each. Index many scattered rows at once: ``features[rows]``.

    Parameters
    ----------
    store : sealed
    table : of the same rows; None for features without labels
    rows : int64 ndarray, rising: rows of the table that the store holds; None for all

    Attributes
    ----------
    store, table : as given
    """

    def __init__(self, store: Store, table: PatchTable | None = None, rows: np.ndarray | None = None) -> None:
        self.store, self.table = store, table
        self._rows = slice(None) if rows is None else rows

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.store.n_rows, self.store.width

    dtype = np.dtype(ROW_DTYPE)
    ndim = 2

    def __len__(self) -> int:
        return self.store.n_rows

    def __repr__(self) -> str:
        what = f"{self.table.dataset} {self.table.split}, " if self.table else ""
        return f"<Features {what}{self.shape[0]:,} rows of {self.shape[1]:,} columns, {self.store.folder.name}>"

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        if isinstance(rows, (int, np.integer)):
            return self._read(np.array([self._row(rows)]))[0][columns]
        if isinstance(rows, slice):
            return self._read(np.arange(len(self))[rows])[:, columns]
        index = np.asarray(rows)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise IndexError(f"expected a mask of {len(self):,} rows, got shape {index.shape}")
            index = np.flatnonzero(index)
        if index.ndim != 1 or (len(index) and not np.issubdtype(index.dtype, np.integer)):
            raise IndexError("rows: expected an int, a slice, a list of ints or a mask")
        return self._read(np.array([self._row(row) for row in index.tolist()], np.int64))[:, columns]

    def _row(self, row: Any) -> int:
        index = operator.index(row)
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self):,}")
        return index % len(self)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        rising, positions = np.unique(rows, return_inverse=True)
        return self.store.read_rows(rising)[positions]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self[:]
        return values if dtype is None else values.astype(dtype)

    # Geometry: read on first use, 21 bytes per row.

    @cached_property
    def picture(self) -> np.ndarray:
        """int32 ndarray (n_rows,): index of each row's picture in `picture_ids`."""
        return self.store.read_geometry("picture")

    @cached_property
    def box_xyxy(self) -> np.ndarray:
        """float32 ndarray (n_rows, 4): each row's patch, in pixels of its picture."""
        return self.store.read_geometry("box_xyxy")

    @cached_property
    def scale(self) -> np.ndarray:
        """uint8 ndarray (n_rows,): index of each row's scale in the grid, or number of its crop."""
        return self.store.read_geometry("scale")

    @property
    def picture_ids(self) -> tuple[str, ...]:
        return self.store.picture_ids

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the values: pictures, rows, and how they were extracted."""
        return self.store.identity.to_dict()

    # Labels.

    @property
    def _labelled_table(self) -> PatchTable:
        if self.table is None:
            raise DatasetError(
                f"{self.store.folder}: a store holds no labels; open its split with "
                "pipeline.open_features(dataset, split)"
            )
        return self.table

    @property
    def classes(self) -> tuple[str, ...]:
        return self._labelled_table.classes

    @cached_property
    def labels(self) -> np.ndarray:
        """int16 ndarray (n_rows,): the class of each patch, -1 background, -2 not used (section 3.2 of the paper)."""
        return self.labels_under(LabelSettings())

    def labels_under(self, reading: LabelSettings) -> np.ndarray:
        """Label the patches by another label rule; see `labels`."""
        return self._labelled_table.labels(reading)[self._rows]

    @property
    def picture_labels(self) -> np.ndarray:
        """int8 ndarray (n_pictures, n_classes): 1 shown, -1 not shown, 0 only as a difficult object."""
        return self._labelled_table.picture_labels


class PatchDataset(torch.utils.data.Dataset):
    """Labelled patches as a torch dataset: ``(activation, label)``, read once and held in memory.

    Parameters
    ----------
    features : of a split with labels
    rows : int ndarray, rising; None for all rows that have a label, a class or background (-1)

    Items are a float32 Tensor (width,) and an int. A `torch.utils.data.DataLoader` gets whole batches at once.
    """

    def __init__(self, features: Features, rows: Sequence[int] | np.ndarray | None = None) -> None:
        labels = features.labels
        self.rows = np.flatnonzero(labels != UNUSED) if rows is None else np.asarray(rows, np.int64)
        self.classes = features.classes
        self._values = torch.from_numpy(features[self.rows])
        self._labels = torch.from_numpy(labels[self.rows].astype(np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._values[index].float(), int(self._labels[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        values = self._values[indices].float()
        return list(zip(values, self._labels[indices].tolist(), strict=True))
