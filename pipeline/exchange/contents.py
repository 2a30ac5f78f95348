"""What an export holds: rows in blocks, the columns next to them, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.activations.columns import patch_columns, picture_columns
from pipeline.activations.features import Features, find_pool
from pipeline.activations.partition import Part
from pipeline.activations.pooling import iter_pooled, join_pooled
from pipeline.io.errors import SettingsError
from pipeline.patches.settings import LabelSettings
from pipeline.version import __version__

FORMAT = "pipeline-features-1"
FEATURES = "features"
"""Name of the activations among the columns."""
Per = Literal["patch", "picture"]


@dataclass(frozen=True)
class Block:
    """Consecutive rows of an export: those of one part of the store, or of the pictures that end in it.

    Attributes
    ----------
    features : ndarray (n, width), n >= 0
    arrays : by name, each of n entries: of patches ``picture`` (int32), ``box_xyxy`` (float32 (n, 4)), ``scale``
        (uint8), and if there are such ``flip`` (bool), ``turn`` (float32) and ``label`` (int16); of pictures
        ``picture``
    n_stored : rows of the store that were read for it
    """

    features: np.ndarray
    arrays: Mapping[str, np.ndarray]
    n_stored: int


@dataclass(frozen=True)
class Contents:
    """The rows of an export, and what is said about them.

    Parameters
    ----------
    features : of a split, with its table
    per : a row per patch, or per picture
    pool : of pictures: ``mean``, ``max`` or ``mean+max``
    label_rule : that gives patches their labels
    as_float32 : widen float16 rows, whose values stay the same

    Raises
    ------
    StoreError
        Rows of pictures are asked for, and the store does not hold all rows of each.
    SettingsError
        An unknown `pool`.
    """

    features: Features
    per: Per = "patch"
    pool: str = "mean"
    label_rule: LabelSettings = LabelSettings()
    as_float32: bool = False

    def __post_init__(self) -> None:
        try:
            find_pool(self.pool)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        if self.per == "picture":
            self.features.need_all_rows()

    @property
    def n_rows(self) -> int:
        """Number of rows of the export."""
        return len(self.features) if self.per == "patch" else len(self.picture_ids)

    @property
    def width(self) -> int:
        """Number of activations of a row."""
        return self.features.store.width * (1 if self.per == "patch" else len(find_pool(self.pool)))

    @property
    def dtype(self) -> np.dtype:
        """float16 of patches, unless they are widened; float32 of pictures."""
        return np.dtype(np.float16 if self.per == "patch" and not self.as_float32 else np.float32)

    @property
    def n_bytes(self) -> int:
        """Bytes of the activations."""
        return self.n_rows * self.width * self.dtype.itemsize

    @property
    def parts(self) -> list[Part]:
        """Parts of the store: a block for each."""
        return self.features.store.parts

    @property
    def picture_ids(self) -> tuple[str, ...]:
        return self.features.picture_ids

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none without labels."""
        return self.features.classes if self.features.has_picture_labels else ()

    @property
    def picture_labels(self) -> np.ndarray | None:
        """int8 ndarray (n_pictures, n_classes); None without labels."""
        return self.features.picture_labels if self.features.has_picture_labels else None

    def blocks(self, first_part: int = 0) -> Iterator[Block]:
        """Iterate over the rows from a part on; memory depends on the size of a part alone."""
        store = self.features.store
        if self.per == "picture":
            for part, first, pooled in iter_pooled(store, find_pool(self.pool), first_part):
                rows = join_pooled(pooled, normalise=False)
                yield Block(rows, {"picture": np.arange(first, first + len(rows), dtype=np.int32)}, part.n_rows)
            return
        for part, rows in store.iter_parts(store.parts[first_part:]):
            arrays = self.features.arrays_of_part(part, self.label_rule)
            yield Block(rows.astype(self.dtype, copy=False), arrays, part.n_rows)
            # Otherwise its rows would stay in memory while the next ones are read.
            del rows

    def empty(self) -> Block:
        """Return a block without rows, with the arrays that all blocks have."""
        if self.per == "picture":
            arrays = {"picture": np.empty(0, np.int32)}
        else:
            arrays = self.features.arrays_of_part(self.parts[0], self.label_rule)
        return Block(
            np.empty((0, self.width), self.dtype), {name: array[:0] for name, array in arrays.items()}, n_stored=0
        )

    def columns(self, block: Block) -> dict[str, np.ndarray]:
        """Return the columns of a block for tables, by name: numbers, and texts as ndarrays of objects."""
        if self.per == "patch":
            return patch_columns(self.picture_ids, self.classes, **block.arrays)
        pictures = block.arrays["picture"]
        chosen = slice(int(pictures[0]), int(pictures[-1]) + 1) if len(pictures) else slice(0)
        labels = None if self.picture_labels is None else self.picture_labels[chosen]
        return picture_columns(self.picture_ids[chosen], self.classes, labels)

    def provenance(self, command: str = "") -> dict[str, Any]:
        """Return a JSON object: what the rows are, and everything that decided their values."""
        store, table = self.features.store, self.features.table
        labels: dict[str, Any] = {}
        if self.features.has_patch_labels and self.per == "patch":
            labels = {"label_rule": self.label_rule.model_dump(), "label": {"-1": "background", "-2": "not used"}}
        return {
            "format": FORMAT,
            "dataset": table.dataset if table else None,
            "split": table.split if table else None,
            "per": self.per,
            **({"pool": self.pool} if self.per == "picture" else {}),
            "rows": self.n_rows,
            "width": self.width,
            "dtype": self.dtype.name,
            "columns": [*self.columns(self.empty()), FEATURES],
            "classes": list(self.classes),
            **labels,
            "store": store.folder.name,
            "fingerprint": store.fingerprint,
            "identity": store.identity.to_dict(),
            "pipeline": __version__,
            "command": command,
        }
