"""Patch tables without pictures."""

from dataclasses import replace

import numpy as np

from pipeline.patches.labels import Overlap
from pipeline.patches.settings import GridSettings
from pipeline.patches.table import PatchTable

CLASSES = ("cat", "dog", "fish")
# Eight patches per picture: three filled by its object, three untouched, one touched, one filled by a difficult object.
N_FILLING = np.array([1, 1, 1, 0, 0, 0, 0, 1])
N_TOUCHING = np.array([1, 1, 2, 0, 0, 0, 1, 1])


def table_of_eights(n_pictures: int, split: str = "train") -> PatchTable:
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


def table_of_two_to_five(split: str, n_pictures: int, classes: tuple[str, ...] = CLASSES) -> PatchTable:
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
) -> PatchTable:
    """Make a table whose picture i shows one object, of class i modulo the number of classes."""
    n_pictures = int(picture[-1]) + 1
    shown = np.arange(n_pictures) % len(classes)
    filled = n_filling == 1
    table = PatchTable(
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
