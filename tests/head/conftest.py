"""A patch table without pictures, and a sealed store of rows that a head can tell apart."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.activations.store import Store
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.head.settings import HeadSettings
from pipeline.patches.labels import Overlap
from pipeline.patches.settings import GridSettings
from pipeline.patches.table import PatchTable

CLASSES = ("cat", "dog", "fish")
WIDTH = 8
# Eight patches a picture: three filled by its object, three untouched, one touched, one filled by a
# difficult object.
N_FILLING = [1, 1, 1, 0, 0, 0, 0, 1]
N_TOUCHING = [1, 1, 2, 0, 0, 0, 1, 1]


@dataclass
class Made:
    """A table, its store and the rows in it."""

    table: PatchTable
    store: Store
    rows: np.ndarray


def make_table(n_pictures: int, split: str = "train") -> PatchTable:
    """Picture i shows one object, of class i modulo 3, and has eight patches."""
    n = len(N_FILLING)
    picture_class = np.arange(n_pictures) % len(CLASSES)
    filling = np.tile(N_FILLING, n_pictures)
    table = PatchTable(
        dataset="made",
        split=split,
        classes=CLASSES,
        source="grid",
        grid=GridSettings(),
        picture=np.repeat(np.arange(n_pictures), n).astype(np.int32),
        box_xyxy=np.tile(np.array([[8 * i, 0, 8 * i + 16, 16] for i in range(n)], np.float32), (n_pictures, 1)),
        scale=np.zeros(n_pictures * n, np.uint8),
        overlap=Overlap(
            n_filling=filling.astype(np.uint8),
            n_touching=np.tile(N_TOUCHING, n_pictures).astype(np.uint8),
            filling_class=np.where(filling == 1, np.repeat(picture_class, n), -1).astype(np.int16),
            filling_difficult=np.tile([False] * 7 + [True], n_pictures),
            fill_row=np.flatnonzero(filling),
            fill_class=np.repeat(picture_class, n)[filling == 1].astype(np.int16),
            fill_difficult=np.tile([False] * 7 + [True], n_pictures)[filling == 1],
        ),
        ids=tuple(f"{split}{i:03d}" for i in range(n_pictures)),
        size_wh=np.full((n_pictures, 2), 100, np.int32),
        apply_exif=np.zeros(n_pictures, bool),
        picture_sha256=tuple(f"{i:064d}" for i in range(n_pictures)),
        picture_labels=np.where(picture_class[:, None] == np.arange(3), 1, -1).astype(np.int8),
        skipped=(),
        annotation_digest="0" * 64,
    )
    return replace(table, rows_digest=table.compute_rows_digest())


def make_rows(table: PatchTable, seed: int = 0) -> np.ndarray:
    """A patch filled by class c is high in column c, all other columns are noise; 3 columns are constant."""
    rows = np.random.default_rng(seed).normal(0, 0.3, (table.n_rows, WIDTH))
    filled = np.flatnonzero(table.overlap.filling_class >= 0)
    rows[filled, table.overlap.filling_class[filled]] += 2
    rows[:, 5:] = [0, 1, 250]
    return rows.astype(np.float16)


def make_store(path: Path, table: PatchTable, rows: np.ndarray, part_rows: int = 50, **changes) -> Store:
    identity = {
        "seen.pictures": table.pictures_digest(),
        "seen.rows": table.rows_digest,
        "seen.which": "all",
        "seen.n_rows": table.n_rows,
        "seen.skipped": [],
        "how.layer": "fc7",
        "how.dtype": "float16",
        "how.width": rows.shape[1],
        "how.mean": [0.5, 0.5, 0.5],
        "how.precision": "cpu-fp32",
        "how.part_rows": part_rows,
        **changes,
    }
    create_store(path, identity, table.ids, {})
    writer = StoreWriter(path)
    for part in writer.parts:
        chosen = slice(part.start, part.stop)
        columns = {name: getattr(table, name)[chosen] for name in ("picture", "box_xyxy", "scale")}
        writer.write_part(part, {"activations": rows[chosen], **columns})
    writer.seal()
    return Store(path)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Networks this small only wait for one another on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make():
    """The three makers, for tests that want other ones than `made`."""

    class Makers:
        table = staticmethod(make_table)
        rows = staticmethod(make_rows)
        store = staticmethod(make_store)

    return Makers


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    table = make_table(24)
    rows = make_rows(table)
    return Made(table, make_store(tmp_path_factory.mktemp("store") / "train.zarr", table, rows), rows)


@pytest.fixture(scope="session")
def small() -> HeadSettings:
    """A head that fits in a blink."""
    return HeadSettings(hidden=(16,), batch=16, max_epochs=(12, 3, 2), background_share=0.5)
