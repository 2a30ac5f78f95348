"""Patch tables without pictures."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from pipeline.patches.labels import FILL_COLUMNS, PATCH_COLUMNS, Overlap
from pipeline.patches.rows import Objects, Rows
from pipeline.patches.settings import GridSettings
from pipeline.patches.sources import Windows
from pipeline.patches.table import PatchTable

NO_OBJECTS = Objects.join([], [], [])


@dataclass(frozen=True, kw_only=True)
class TableOfRows(PatchTable):
    """A table whose rows and overlaps are given: what no grid and no object would make.

    Attributes
    ----------
    picture, box_xyxy, scale, flip : of all rows, as in `Rows`
    overlap : of all rows
    """

    first_row: np.ndarray = None  # type: ignore[assignment]
    objects: Objects = NO_OBJECTS
    picture: np.ndarray = None  # type: ignore[assignment]
    box_xyxy: np.ndarray = None  # type: ignore[assignment]
    scale: np.ndarray = None  # type: ignore[assignment]
    overlap: Overlap = None  # type: ignore[assignment]
    flip: np.ndarray | None = None

    @classmethod
    def of(cls, table: PatchTable) -> TableOfRows:
        """Return a table of the rows that another one computes."""
        stated = {item.name: getattr(table, item.name) for item in fields(table)} | {"label_hashes": {}}
        rows, overlap = all_rows(table), all_overlaps(table)
        return cls(
            **stated, picture=rows.picture, box_xyxy=rows.box_xyxy, scale=rows.scale, flip=rows.flip, overlap=overlap
        )

    def __post_init__(self) -> None:
        first_row = np.searchsorted(self.picture, np.arange(len(self.ids) + 1)).astype(np.int64)
        object.__setattr__(self, "first_row", first_row)

    def windows_of_picture(self, index: int) -> Windows:
        own = self.slice_of(range(index, index + 1))
        return Windows(self.box_xyxy[own], self.scale[own], None if self.flip is None else self.flip[own])

    def overlap_of_picture(self, index: int) -> Overlap:
        own = self.slice_of(range(index, index + 1))
        fills = slice(*np.searchsorted(self.overlap.fill_row, [own.start, own.stop]))
        columns: dict[str, Any] = {name: getattr(self.overlap, name)[own] for name in PATCH_COLUMNS}
        columns |= {name: getattr(self.overlap, name)[fills] for name in FILL_COLUMNS}
        columns["fill_row"] = columns["fill_row"] - own.start
        return Overlap(**columns)


def table_of_strips(n_pictures: int, split: str = "train") -> PatchTable:
    """Make a table with the overlaps of `table_of_eights`, which follow from objects in pictures of eight squares."""
    squares = 16.0 * np.arange(8)
    # The last number: the share of its square's width and height that an object takes.
    of_picture = [(0, 1.0), (1, 1.0), (2, 1.0), (2, 0.25), (6, 0.25), (7, 1.0)]
    boxes = np.array([[squares[at], 0, squares[at] + 16 * side, 16 * side] for at, side in of_picture])
    shown = np.arange(n_pictures) % len(CLASSES)
    table = replace(
        table_of_eights(n_pictures, split),
        grid=GridSettings(scales=(1.0,), overlap=0.0),
        size_wh=np.tile(np.array([[128, 16]], np.int32), (n_pictures, 1)),
        objects=Objects.join(
            [boxes] * n_pictures,
            [np.full(len(boxes), of_class) for of_class in shown],
            [np.arange(len(boxes)) == len(boxes) - 1] * n_pictures,
        ),
    )
    names = [item.name for item in fields(PatchTable)]
    planned = PatchTable(**{name: getattr(table, name) for name in names})
    return replace(planned, rows_digest=planned.compute_rows_digest(), label_hashes=planned.compute_label_hashes())


def all_rows(table: PatchTable) -> Rows:
    return table.rows_of(range(len(table.ids)))


def all_overlaps(table: PatchTable) -> Overlap:
    return table.overlap_of(range(len(table.ids)))


CLASSES = ("cat", "dog", "fish")
# Eight patches per picture: three filled by its object, three untouched, one touched, one filled by a difficult object.
N_FILLING = np.array([1, 1, 1, 0, 0, 0, 0, 1])
N_TOUCHING = np.array([1, 1, 2, 0, 0, 0, 1, 1])


def table_of_eights(n_pictures: int, split: str = "train") -> TableOfRows:
    """Make a table in which picture i shows one object, of class i modulo 3, and has eight patches."""
    n = len(N_FILLING)
    return _table_of_patches(
        split,
        CLASSES,
        picture=np.repeat(np.arange(n_pictures), n),
        box_xyxy=np.tile(np.array([[8 * i, 0, 8 * i + 16, 16] for i in range(n)]), (n_pictures, 1)),
        n_filling=np.tile(N_FILLING, n_pictures),
        n_touching=np.tile(N_TOUCHING, n_pictures),
        difficult=np.tile([False] * 7 + [True], n_pictures),
    )


def table_of_two_to_five(split: str, n_pictures: int, classes: tuple[str, ...] = CLASSES) -> TableOfRows:
    """Make a table in which picture i has 2 + i modulo 4 patches, the first filled by an object of class i modulo 3."""
    picture = np.repeat(np.arange(n_pictures), 2 + np.arange(n_pictures) % 4)
    first = np.diff(picture, prepend=-1) > 0
    return _table_of_patches(
        split,
        classes,
        picture=picture,
        box_xyxy=np.tile([0, 0, 16, 16], (len(picture), 1)),
        n_filling=first.astype(int),
        n_touching=first.astype(int),
        difficult=np.zeros(len(picture), bool),
    )


def table_of_many(split: str, n_pictures: int, n_patches: int) -> PatchTable:
    """Make a table in which each picture has so many patches: a tenth filled by its object, the others untouched."""
    n_filling = (np.arange(n_patches) % 10 == 0).astype(int)
    return _table_of_patches(
        split,
        CLASSES,
        picture=np.repeat(np.arange(n_pictures), n_patches),
        box_xyxy=np.tile([0, 0, 16, 16], (n_pictures * n_patches, 1)),
        n_filling=np.tile(n_filling, n_pictures),
        n_touching=np.tile(n_filling, n_pictures),
        difficult=np.zeros(n_pictures * n_patches, bool),
    )


def _table_of_patches(
    split: str,
    classes: tuple[str, ...],
    *,
    picture: np.ndarray,
    box_xyxy: np.ndarray,
    n_filling: np.ndarray,
    n_touching: np.ndarray,
    difficult: np.ndarray,
) -> TableOfRows:
    """Make a table whose picture i shows one object, of class i modulo the number of classes."""
    n_pictures = int(picture[-1]) + 1
    shown = np.arange(n_pictures) % len(classes)
    filled = n_filling == 1
    table = TableOfRows(
        dataset="made",
        split=split,
        classes=classes,
        source="grid",
        grid=GridSettings(),
        picture=picture.astype(np.int32),
        box_xyxy=box_xyxy.astype(np.float32),
        scale=np.zeros(len(picture), np.uint8),
        overlap=Overlap(
            n_filling=n_filling.astype(np.uint8),
            n_touching=n_touching.astype(np.uint8),
            filling_class=np.where(filled, shown[picture], -1).astype(np.int16),
            filling_difficult=difficult,
            fill_row=np.flatnonzero(filled),
            fill_class=shown[picture][filled].astype(np.int16),
            fill_difficult=difficult[filled],
        ),
        ids=tuple(f"{split}{i:03d}" for i in range(n_pictures)),
        size_wh=np.full((n_pictures, 2), 100, np.int32),
        apply_exif=np.zeros(n_pictures, bool),
        picture_sha256=tuple(f"{i:064d}" for i in range(n_pictures)),
        picture_labels=np.where(shown[:, None] == np.arange(len(classes)), 1, -1).astype(np.int8),
        skipped=(),
        annotation_digest="0" * 64,
    )
    return replace(table, rows_digest=table.compute_rows_digest())
