"""Stores of rows that OpenVINO made: kept apart from torch's, taken over among themselves, and recomputed by either."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.noise import draw_noise
from support.pictures import split_of

from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import LocalFolder
from pipeline.activations.identity import differences
from pipeline.activations.run_log import RunLog
from pipeline.activations.store import Store
from pipeline.activations.verify import recompute_rows
from pipeline.patches.build import make_table
from pipeline.patches.settings import GridSettings, SourceSettings
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner

BATCH = 8


@pytest.fixture(scope="module")
def runners():
    cpu = torch.device("cpu")
    return {name: TrunkRunner(load_trunk("random"), cpu, "fp32", backend=name) for name in ("torch", "openvino")}


@pytest.fixture
def pictures(tmp_path) -> Path:
    (tmp_path / "pictures").mkdir()
    for seed, name in enumerate("abc"):
        draw_noise(tmp_path / "pictures" / f"{name}.png", (72, 64), seed)
    return tmp_path / "pictures"


def table_of(pictures: Path, ids: str):
    paths = tuple(pictures / f"{name}.png" for name in ids)
    sources = SourceSettings(grid=GridSettings(scales=(1.0, 2.0), overlap=0.5))
    return make_table(split_of(paths, ids), sources)


def extract(pictures: Path, ids: str, runner: TrunkRunner, cache: Path, **options: object) -> Store:
    paths = {name: pictures / f"{name}.png" for name in ids}
    extraction = Extraction(
        table_of(pictures, ids), paths, runner, LocalFolder(cache), BATCH, log_folder=cache, **options
    )
    return extraction.run_layers()[0]


def test_rows_are_taken_over_from_the_same_backend_alone(pictures, runners, tmp_path):
    cache = tmp_path / "cache"
    by_torch = extract(pictures, "ab", runners["torch"], cache)
    first = extract(pictures, "ab", runners["openvino"], cache)
    more = extract(pictures, "abc", runners["openvino"], cache)
    fresh = extract(pictures, "abc", runners["openvino"], tmp_path / "fresh", adopt=False)

    assert [d.name for d in differences(by_torch.identity, first.identity)] == ["how.precision"]
    assert first.identity.precision == "cpu-fp32-openvino"
    adopted = {store.folder.name: RunLog.of_store(cache, store.folder.name).adopted() for store in (first, more)}
    assert adopted == {first.folder.name: {}, more.folder.name: {first.folder.name: first.n_rows}}
    every = np.arange(more.n_rows)
    assert more.fingerprint == fresh.fingerprint and np.array_equal(more.read_rows(every), fresh.read_rows(every))


def test_rows_are_recomputed_by_either(pictures, runners, tmp_path):
    store = extract(pictures, "ab", runners["openvino"], tmp_path / "cache")
    paths = {name: pictures / f"{name}.png" for name in "ab"}

    same = recompute_rows(store, table_of(pictures, "ab"), paths, runners["openvino"], 16)
    other = recompute_rows(store, table_of(pictures, "ab"), paths, runners["torch"], 16)

    assert same.equal == len(same.rows) == 16 and not len(other.bad_rows)
    assert "rows recomputed in cpu-fp32 (stored: cpu-fp32-openvino)" in str(other)
