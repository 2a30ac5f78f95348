"""Cached activations as an array, and as a torch dataset."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.activations.arrays import GEOMETRY, ROW_DTYPE
from pipeline.activations.columns import patch_columns, picture_columns
from pipeline.activations.partition import Part
from pipeline.activations.pooling import POOLS, iter_pooled, join_pooled
from pipeline.activations.store import Store
from pipeline.io.errors import DatasetError, StoreError
from pipeline.io.extras import import_extra
from pipeline.io.likeness import suggest
from pipeline.patches.labels import UNUSED
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable

if TYPE_CHECKING:
    import pandas


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
        self._labels_by_rule: dict[str, np.ndarray] = {}

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
        """Label the patches by another label rule; see `labels`. Two bytes per row of the table are held."""
        return self._labelled_table.labels(reading)[self._rows]

    @property
    def picture_labels(self) -> np.ndarray:
        """int8 ndarray (n_pictures, n_classes): 1 shown, -1 not shown, 0 only as a difficult object."""
        return self._labelled_table.picture_labels

    @property
    def has_patch_labels(self) -> bool:
        """Whether patches have labels: the dataset has boxes, and the split is labelled."""
        return self.table is not None and self.table.labelled and self.table.has_boxes

    @property
    def has_picture_labels(self) -> bool:
        """Whether pictures have labels."""
        return self.table is not None and self.table.labelled

    # Vectors of pictures, and frames.

    def pooled(self, pool: str = "mean", normalise: bool = False) -> np.ndarray:
        """Pool the rows of each picture into one vector.

        Parameters
        ----------
        pool : ``mean``, ``max``, or ``mean+max``, both joined
        normalise : scale each pooled vector to Euclidean length 1 before they are joined

        Returns
        -------
        float32 ndarray of shape (n_pictures, width), or (n_pictures, 2 * width) for ``mean+max``

        Raises
        ------
        StoreError
            The store does not hold all rows of each picture.
        """
        poolings = find_pool(pool)
        self.need_all_rows()
        out = np.empty((len(self.picture_ids), len(poolings) * self.store.width), np.float32)
        for _, first, pooled in iter_pooled(self.store, poolings):
            out[first : first + pooled.shape[1]] = join_pooled(pooled, normalise)
        return out

    def need_all_rows(self) -> None:
        """Raise an error if the store holds only some rows of each picture.

        Raises
        ------
        StoreError
        """
        if self.store.identity.which_rows != "all":
            raise StoreError(
                f"{self.store.folder}: holds the training rows of a strong head alone, and pooling needs all rows of "
                "a picture; extract them with: pipeline extract --rows all"
            )

    def to_frame(
        self, rows: Any = None, *, per: str = "patch", pool: str = "mean", activations: bool = True
    ) -> pandas.DataFrame:
        """Return patches or pictures as a pandas DataFrame, in the order of the store.

        Parameters
        ----------
        rows : chosen patches, as an index of the array; None for all
        per : ``patch``, a row per patch, or ``picture``, a row per picture
        pool : of pictures, as of `pooled`
        activations : whether their columns ``f0``, ``f1``, ... are in the frame: float16 of patches, float32 of
            pictures

        Returns
        -------
        DataFrame with the columns of a patch (``picture``, ``x0``, ``y0``, ``x1``, ``y1``, ``scale``, ``flip``,
        ``turn``, ``label``, ``class``) or of a picture (``picture``, ``class``, ``label_<class>``), as far as there are
        such

        Raises
        ------
        MissingDataError
            pandas is not installed.
        """
        pandas = import_extra("pandas")
        if per not in ("patch", "picture"):
            raise ValueError(f"per: expected patch or picture, got {per!r}")
        if per == "picture" and rows is not None:
            raise ValueError("rows: chooses patches, and per='picture' has rows of pictures; choose from the frame")
        if per == "picture":
            columns, index = self.picture_columns(), np.arange(len(self.picture_ids))
        else:
            index = np.arange(len(self)) if rows is None else np.atleast_1d(np.arange(len(self))[rows])
            columns = self.patch_columns(index)
        frame = pandas.DataFrame(columns, index=index)
        if not activations:
            return frame
        values = self.pooled(pool) if per == "picture" else self[index]
        names = [f"f{column}" for column in range(values.shape[1])]
        return pandas.concat([frame, pandas.DataFrame(values, index=index, columns=names, copy=False)], axis=1)

    def patch_columns(self, rows: Any = slice(None)) -> dict[str, np.ndarray]:
        """Return the columns of chosen patches by name; see `pipeline.activations.columns.patch_columns`."""
        arrays = {"picture": self.picture[rows], "box_xyxy": self.box_xyxy[rows], "scale": self.scale[rows]}
        return patch_columns(self.picture_ids, self._names_of_labels, **arrays, **self._of_table(rows, LabelSettings()))

    def picture_columns(self, pictures: slice = slice(None)) -> dict[str, np.ndarray]:
        """Return the columns of pictures by name; see `pipeline.activations.columns.picture_columns`."""
        labels = self.picture_labels[pictures] if self.has_picture_labels else None
        return picture_columns(self.picture_ids[pictures], self._names_of_labels, labels)

    def arrays_of_part(self, part: Part, label_rule: LabelSettings) -> dict[str, np.ndarray]:
        """Return geometry and labels of one part's rows, without those of all rows in memory.

        Returns
        -------
        ``picture``, ``box_xyxy`` and ``scale``, as the attributes of these names; ``flip``, ``turn`` and ``label`` if
        there are such
        """
        geometry = {name: self.store.read_object(name, part) for name in GEOMETRY}
        return {**geometry, **self._of_table(slice(part.start, part.stop), label_rule)}

    def _of_table(self, rows: Any, label_rule: LabelSettings) -> dict[str, np.ndarray]:
        arrays = {}
        if self.table is not None:
            index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.arange(len(self))[rows]
            of_table = self.table.rows_at(index if isinstance(self._rows, slice) else self._rows[index])
            if of_table.flip is not None:
                arrays["flip"] = of_table.flip
            if of_table.turn is not None:
                arrays["turn"] = of_table.turn
        if self.has_patch_labels:
            key = label_rule.model_dump_json()
            if key not in self._labels_by_rule:
                self._labels_by_rule[key] = self.labels_under(label_rule)
            arrays["label"] = self._labels_by_rule[key][rows]
        return arrays

    @property
    def _names_of_labels(self) -> tuple[str, ...]:
        return self.classes if self.has_picture_labels else ()


def find_pool(name: str) -> tuple[str, ...]:
    """Return the poolings of a name.

    Raises
    ------
    ValueError
        Unknown; those that there are.
    """
    if name not in POOLS:
        raise ValueError(f"pool: unknown {name!r}{suggest(name, POOLS)}")
    return POOLS[name]


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

    def __repr__(self) -> str:
        n_classes, width = len(self.classes), self._values.shape[1]
        return f"<PatchDataset of {len(self):,} patches of {n_classes:,} classes, {width:,} columns>"

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._values[index].float(), int(self._labels[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        values = self._values[indices].float()
        return list(zip(values, self._labels[indices].tolist(), strict=True))
