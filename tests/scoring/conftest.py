"""Two splits without pictures: tables, sealed stores of rows that tell three classes apart, fitted heads."""

from pathlib import Path

import numpy as np
import pytest
from support.stores import Made, make_store, make_table
from support.threads import one_thread  # noqa: F401

from pipeline.dataset.manifest import Manifest
from pipeline.head.head import Head, fit_head
from pipeline.head.settings import HeadSettings
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable

CLASSES = ("cat", "dog", "fish")


def table_of(split: str, n_pictures: int, classes: tuple[str, ...] = CLASSES) -> PatchTable:
    """Picture i has 2 + i modulo 4 patches: the first filled by an object of class i modulo 3, the rest empty."""
    counts = 2 + np.arange(n_pictures) % 4
    picture = np.repeat(np.arange(n_pictures), counts).astype(np.int32)
    first = np.diff(picture, prepend=-1) > 0
    n = len(picture)
    shown = np.arange(n_pictures) % len(classes)
    return make_table(
        split,
        classes,
        shown,
        picture=picture,
        box_xyxy=np.tile(np.array([0, 0, 16, 16], np.float32), (n, 1)),
        scale=np.zeros(n, np.uint8),
        n_filling=first.astype(np.uint8),
        n_touching=first.astype(np.uint8),
        filling_class=np.where(first, shown[picture], -1).astype(np.int16),
        filling_difficult=np.zeros(n, bool),
        fill_row=np.flatnonzero(first),
        fill_class=shown[picture][first].astype(np.int16),
        fill_difficult=np.zeros(int(first.sum()), bool),
    )


def store_of(path: Path, table: PatchTable, **changes) -> Made:
    """Rows of 6 columns: noise, and column c high in a patch that class c fills."""
    rows = np.random.default_rng(len(table.ids)).normal(0, 0.3, (table.n_rows, 6))
    filled = np.flatnonzero(table.filling_class >= 0)
    rows[filled, table.filling_class[filled]] += 2
    rows = rows.astype(np.float16)
    # Several pictures straddle two parts.
    return Made(table, make_store(path, table, rows, part_rows=16, **changes), rows)


@pytest.fixture(scope="session")
def make():
    """The makers, for tests that want a split of their own."""

    class Makers:
        table = staticmethod(table_of)
        store = staticmethod(store_of)

    return Makers


@pytest.fixture(scope="session")
def train(tmp_path_factory) -> Made:
    return store_of(tmp_path_factory.mktemp("stores") / "train.zarr", table_of("train", 36))


@pytest.fixture(scope="session")
def val(tmp_path_factory) -> Made:
    return store_of(tmp_path_factory.mktemp("stores") / "val.zarr", table_of("val", 21))


@pytest.fixture(scope="session")
def heads(train) -> dict[str, Head]:
    settings = {
        "fca": HeadSettings(precision="fp32", hidden=(16,), batch=8, max_epochs=(20, 3, 1), background_share=1.0),
        "fcb": HeadSettings(hidden=(), batch=8, max_epochs=(20, 3, 1), background_share=1.0),
    }
    return {
        name: fit_head(train.store, train.table, name, chosen, LabelSettings(), seed=0)
        for name, chosen in settings.items()
    }


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        name="made",
        title="Made",
        folder="made",
        classes=CLASSES,
        metric="voc12",
        fit="train",
        eval="val",
        splits={"train": {"pictures": 36}, "val": {"pictures": 21}},
    )
