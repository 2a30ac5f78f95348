"""Two splits without pictures: tables, sealed stores of rows that tell three classes apart, fitted heads."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.activations.store import Store
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.dataset.manifest import Manifest
from pipeline.head.head import Head, fit_head
from pipeline.head.settings import HeadSettings
from pipeline.patches.labels import Overlap
from pipeline.patches.settings import GridSettings, LabelSettings
from pipeline.patches.table import PatchTable

CLASSES = ("cat", "dog", "fish")


@dataclass
class Made:
    table: PatchTable
    store: Store
    rows: np.ndarray


def make_table(split: str, n_pictures: int, classes: tuple[str, ...] = CLASSES) -> PatchTable:
    """Picture i has 2 + i modulo 4 patches: the first filled by an object of class i modulo 3, the rest empty."""
    counts = 2 + np.arange(n_pictures) % 4
    picture = np.repeat(np.arange(n_pictures), counts).astype(np.int32)
    first = np.diff(picture, prepend=-1) > 0
    n = len(picture)
    shown = np.arange(n_pictures) % len(classes)
    table = PatchTable(
        dataset="made",
        split=split,
        classes=classes,
        source="grid",
        grid=GridSettings(),
        picture=picture,
        box_xyxy=np.tile(np.array([0, 0, 16, 16], np.float32), (n, 1)),
        scale=np.zeros(n, np.uint8),
        overlap=Overlap(
            n_filling=first.astype(np.uint8),
            n_touching=first.astype(np.uint8),
            filling_class=np.where(first, shown[picture], -1).astype(np.int16),
            filling_difficult=np.zeros(n, bool),
            fill_row=np.flatnonzero(first),
            fill_class=shown[picture][first].astype(np.int16),
            fill_difficult=np.zeros(int(first.sum()), bool),
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


def make_store(path: Path, table: PatchTable, **changes) -> Made:
    """Rows of 6 columns: noise, and column c high in a patch that class c fills."""
    rows = np.random.default_rng(len(table.ids)).normal(0, 0.3, (table.n_rows, 6))
    filled = np.flatnonzero(table.overlap.filling_class >= 0)
    rows[filled, table.overlap.filling_class[filled]] += 2
    rows = rows.astype(np.float16)
    identity = {
        "seen.pictures": table.pictures_digest(),
        "seen.rows": table.rows_digest,
        "seen.which": "all",
        "seen.n_rows": table.n_rows,
        "seen.skipped": [],
        "how.layer": "fc7",
        "how.dtype": "float16",
        "how.width": 6,
        "how.precision": "cpu-fp32",
        "how.part_rows": 16,  # several pictures straddle two parts
        **changes,
    }
    create_store(path, identity, table.ids, {})
    writer = StoreWriter(path)
    for part in writer.parts:
        chosen = slice(part.start, part.stop)
        geometry = {name: getattr(table, name)[chosen] for name in ("picture", "box_xyxy", "scale")}
        writer.write_part(part, {"activations": rows[chosen], **geometry})
    writer.seal()
    return Made(table, Store(path), rows)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Networks this small only wait for one another on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make():
    """The makers, for tests that want a split of their own."""

    class Makers:
        table = staticmethod(make_table)
        store = staticmethod(make_store)

    return Makers


@pytest.fixture(scope="session")
def train(tmp_path_factory) -> Made:
    return make_store(tmp_path_factory.mktemp("stores") / "train.zarr", make_table("train", 36))


@pytest.fixture(scope="session")
def val(tmp_path_factory) -> Made:
    return make_store(tmp_path_factory.mktemp("stores") / "val.zarr", make_table("val", 21))


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
