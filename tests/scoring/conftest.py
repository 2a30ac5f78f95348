"""Two splits without pictures: tables, sealed stores of rows that tell three classes apart, fitted heads."""

from pathlib import Path

import pytest
from support.stores import SplitData, draw_rows, seal_store
from support.tables import CLASSES, table_of_two_to_five
from support.threads import one_thread  # noqa: F401

from pipeline.dataset.manifest import Manifest
from pipeline.head.fit import fit_heads
from pipeline.head.head import Head
from pipeline.head.settings import HeadSettings
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable


def make_store(path: Path, table: PatchTable, **changes) -> SplitData:
    """Rows of 6 columns, in parts of 16 rows, so that several pictures straddle two parts."""
    rows = draw_rows(table, 6, seed=len(table.ids))
    return SplitData(table, seal_store(path, table, rows, part_rows=16, **changes), rows)


@pytest.fixture(scope="session")
def make():
    """The makers, for tests that want a split of their own."""

    class Makers:
        table = staticmethod(table_of_two_to_five)
        store = staticmethod(make_store)

    return Makers


@pytest.fixture(scope="session")
def train(tmp_path_factory) -> SplitData:
    return make_store(tmp_path_factory.mktemp("stores") / "train.zarr", table_of_two_to_five("train", 36))


@pytest.fixture(scope="session")
def val(tmp_path_factory) -> SplitData:
    return make_store(tmp_path_factory.mktemp("stores") / "val.zarr", table_of_two_to_five("val", 21))


@pytest.fixture(scope="session")
def heads(train) -> dict[str, Head]:
    settings = {
        "fca": HeadSettings(precision="fp32", hidden=(16,), batch=8, max_epochs=(20, 3, 1), background_share=1.0),
        "fcb": HeadSettings(hidden=(), batch=8, max_epochs=(20, 3, 1), background_share=1.0),
    }
    return dict(fit_heads(train.store, train.table, settings, LabelSettings(), seed=0))


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
