"""Six drawn pictures, their patch table, a small random trunk, and small stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.noise import draw_noise
from support.pictures import split_of
from support.store_tests import make_columns, make_small_identity, read_columns, write_small_parts
from support.threads import one_thread  # noqa: F401

from pipeline.activations.extraction import extract
from pipeline.activations.identity import Identity
from pipeline.activations.writer import StoreWriter
from pipeline.dataset.split import Split
from pipeline.patches.build import make_table
from pipeline.patches.settings import GridSettings, SourceSettings
from pipeline.patches.table import PatchTable
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import Trunk

GRID = GridSettings(scales=(1.0, 2.0), overlap=0.5)
SIZES_WH = ((64, 48), (48, 64), (50, 50), (80, 40), (64, 48), (70, 60))


def make_split(folder: Path) -> Split:
    (folder / "JPEGImages").mkdir(parents=True)
    ids = tuple("abcdef")
    paths = tuple(folder / "JPEGImages" / f"{i}.png" for i in ids)
    for seed, (path, size_wh) in enumerate(zip(paths, SIZES_WH, strict=True)):
        draw_noise(path, size_wh, seed)
    return split_of(paths, ids)


@pytest.fixture
def split(tmp_path) -> Split:
    """Split ``train`` of dataset ``tiny``: six PNG pictures ``a`` ... ``f`` without annotations."""
    return make_split(tmp_path / "data/tiny")


@pytest.fixture
def table(split) -> PatchTable:
    return make_table(split, SourceSettings(grid=GRID))


@pytest.fixture
def picture_paths(split) -> dict[str, Path]:
    return split.paths_by_id


@pytest.fixture(scope="session")
def trunk() -> Trunk:
    return load_trunk("random")


@pytest.fixture
def make_runner() -> Callable[..., TrunkRunner]:
    """A runner of a fresh random trunk on the CPU: ``precision``, and the layer."""

    def make(precision: str = "fp32", layer: str = "fc7") -> TrunkRunner:
        return TrunkRunner(load_trunk("random", layer), torch.device("cpu"), precision)

    return make


@pytest.fixture(scope="session")
def whole_cache(trunk, tmp_path_factory) -> Path:
    """A cache with the uninterrupted store of the six pictures, in parts of 64 rows and batches of 16."""
    threads = torch.get_num_threads()
    # As in the tests of this room: on some processors the last bits depend on it.
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    split, cache = make_split(folder / "data/tiny"), folder / "cache"
    runner = TrunkRunner(load_trunk("random"), torch.device("cpu"), "fp32")
    paths = dict(zip(split.ids, split.paths, strict=True))
    extract(make_table(split, SourceSettings(grid=GRID)), paths, runner, cache, 16, part_rows=lambda width: 64)
    torch.set_num_threads(threads)
    return cache


@pytest.fixture
def small_identity() -> Callable[..., Identity]:
    """The fields that a store's shape follows from: 10 rows of 3 columns, parts of 4, 4 and 2 rows."""
    return make_small_identity


@pytest.fixture
def columns() -> Callable[[int, int], dict[str, np.ndarray]]:
    """All columns of a range of rows; activations count up from 1, three per row."""
    return make_columns


@pytest.fixture
def write_parts() -> Callable[..., StoreWriter]:
    """Write some parts (all, unless told) of the small store at a path or URL."""
    return write_small_parts


@pytest.fixture
def sealed(tmp_path, small_identity, write_parts) -> Path:
    """Path of a sealed small store of two pictures ``a`` and ``b``."""
    path = tmp_path / "cache" / "small.zarr"
    write_parts(path, small_identity()).seal()
    return path


@pytest.fixture
def read_all() -> Callable[[Path | str], dict[str, np.ndarray]]:
    """Open a store and read everything in it."""
    return read_columns
