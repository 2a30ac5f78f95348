"""A patch table without pictures, and a sealed store of rows that a head can tell apart."""

from pathlib import Path

import numpy as np
import pytest
from support.stores import Made, make_store, make_table
from support.threads import one_thread  # noqa: F401

from pipeline.activations.store import Store
from pipeline.head.settings import HeadSettings
from pipeline.patches.table import PatchTable

CLASSES = ("cat", "dog", "fish")
WIDTH = 8
# Eight patches a picture: three filled by its object, three untouched, one touched, one filled by a
# difficult object.
N_FILLING = [1, 1, 1, 0, 0, 0, 0, 1]
N_TOUCHING = [1, 1, 2, 0, 0, 0, 1, 1]


def table_of(n_pictures: int, split: str = "train") -> PatchTable:
    """Picture i shows one object, of class i modulo 3, and has eight patches."""
    n = len(N_FILLING)
    picture_class = np.arange(n_pictures) % len(CLASSES)
    filling = np.tile(N_FILLING, n_pictures)
    return make_table(
        split,
        CLASSES,
        picture_class,
        picture=np.repeat(np.arange(n_pictures), n).astype(np.int32),
        box_xyxy=np.tile(np.array([[8 * i, 0, 8 * i + 16, 16] for i in range(n)], np.float32), (n_pictures, 1)),
        scale=np.zeros(n_pictures * n, np.uint8),
        n_filling=filling.astype(np.uint8),
        n_touching=np.tile(N_TOUCHING, n_pictures).astype(np.uint8),
        filling_class=np.where(filling == 1, np.repeat(picture_class, n), -1).astype(np.int16),
        filling_difficult=np.tile([False] * 7 + [True], n_pictures),
        fill_row=np.flatnonzero(filling),
        fill_class=np.repeat(picture_class, n)[filling == 1].astype(np.int16),
        fill_difficult=np.tile([False] * 7 + [True], n_pictures)[filling == 1],
    )


def make_rows(table: PatchTable, seed: int = 0) -> np.ndarray:
    """A patch filled by class c is high in column c, all other columns are noise; 3 columns are constant."""
    rows = np.random.default_rng(seed).normal(0, 0.3, (table.n_rows, WIDTH))
    filled = np.flatnonzero(table.filling_class >= 0)
    rows[filled, table.filling_class[filled]] += 2
    rows[:, 5:] = [0, 1, 250]
    return rows.astype(np.float16)


def store_of(path: Path, table: PatchTable, rows: np.ndarray, part_rows: int = 50, **changes) -> Store:
    return make_store(path, table, rows, part_rows, **{"how.mean": [0.5, 0.5, 0.5], **changes})


@pytest.fixture(scope="session")
def make():
    """The three makers, for tests that want other ones than `made`."""

    class Makers:
        table = staticmethod(table_of)
        rows = staticmethod(make_rows)
        store = staticmethod(store_of)

    return Makers


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    table = table_of(24)
    rows = make_rows(table)
    return Made(table, store_of(tmp_path_factory.mktemp("store") / "train.zarr", table, rows), rows)


@pytest.fixture(scope="session")
def small() -> HeadSettings:
    """A head that fits in a blink."""
    return HeadSettings(hidden=(16,), batch=16, max_epochs=(12, 3, 2), background_share=0.5)
