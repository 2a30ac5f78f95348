"""A patch table without pictures, and a sealed store of rows that a head can tell apart."""

import numpy as np
import pytest
from support.stores import SplitData, draw_rows, seal_store
from support.tables import table_of_eights
from support.threads import one_thread  # noqa: F401

from pipeline.head.settings import HeadSettings
from pipeline.patches.table import PatchTable

WIDTH = 8


def make_rows(table: PatchTable, seed: int = 0) -> np.ndarray:
    """A patch filled by class c is high in column c, all other columns are noise; 3 columns are constant."""
    rows = draw_rows(table, WIDTH, seed)
    rows[:, 5:] = [0, 1, 250]
    return rows


@pytest.fixture(scope="session")
def make():
    """The three makers, for tests that want other ones than `made`."""

    class Makers:
        table = staticmethod(table_of_eights)
        rows = staticmethod(make_rows)
        store = staticmethod(seal_store)

    return Makers


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> SplitData:
    table = table_of_eights(24)
    rows = make_rows(table)
    return SplitData(table, seal_store(tmp_path_factory.mktemp("store") / "train.zarr", table, rows), rows)


@pytest.fixture(scope="session")
def small() -> HeadSettings:
    """A head that fits in a blink."""
    return HeadSettings(hidden=(16,), batch=16, max_epochs=(12, 3, 2), background_share=0.5)
