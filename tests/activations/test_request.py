"""Which store an extraction is for: parts by the rule, and stores that are there with parts of another size."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import pipeline.activations.part_size as part_size
from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import LocalFolder
from pipeline.activations.identity import value_fields
from pipeline.activations.partition import share_of
from pipeline.activations.preview import preview
from pipeline.activations.store import Store
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import TrunkRunner

BATCH = 4
SECONDS = 16 * 84e6 / 1e11
"""In which, by the rule, the random trunk makes 16 rows: a slow trunk in small."""


class CountingRunner(TrunkRunner):
    """Counts batches, and stops like a pulled plug before batch number `stop_at`."""

    def __init__(self, runner: TrunkRunner, stop_at: int | None = None) -> None:
        super().__init__(runner.trunk, runner.device, runner.precision)
        self.batches, self.stop_at = 0, stop_at

    def measure_rate(self, n_rows: int) -> float:
        return 1000.0

    def launch(self, patches: Tensor, layers: Sequence[str]) -> PendingBatch:
        if self.batches == self.stop_at:
            raise KeyboardInterrupt
        self.batches += 1
        return super().launch(patches, layers)


@pytest.fixture
def make(table, picture_paths, make_runner, tmp_path):
    """An extraction into the folder ``cache``, and its runner."""

    def extraction(stop_at=None, folder="cache", batch=BATCH, runner=None, **options):
        runner = CountingRunner(runner or make_runner(), stop_at)
        return Extraction(table, picture_paths, runner, LocalFolder(tmp_path / folder), batch, **options), runner

    return extraction


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(part_size, "PART_SECONDS", SECONDS)


def old_size(width: int) -> int:
    return 32


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").glob("*.zarr"))


def bytes_of(store: Store) -> dict[str, bytes]:
    return {name: store.folder.read(name) for name in store.folder.sizes()}


def test_a_slow_trunk_has_small_parts(make, slow, tmp_path):
    extraction, runner = make()
    (store,) = extraction.run_layers()
    assert store.identity.part_rows == 16
    assert [part.n_rows for part in store.parts] == [16] * 6 + [3]
    assert runner.batches == 25
    (other,) = make(folder="other", part_rows=old_size)[0].run_layers()
    rows = np.arange(99)
    assert np.array_equal(store.read_rows(rows), other.read_rows(rows))
    assert value_fields(store.identity) == value_fields(other.identity)


@pytest.mark.parametrize("options", [{}, {"dtype": "8bit"}, {"rows": np.arange(0, 99, 2)}], ids=["all", "8bit", "some"])
def test_a_sealed_store_of_other_parts_is_complete(make, slow, tmp_path, options):
    (old,) = make(part_rows=old_size, **options)[0].run_layers()
    extraction, runner = make(**options)
    assert preview(extraction).n_rows == 0
    (store,) = extraction.run_layers()
    assert store.folder.name == old.folder.name and store.identity == old.identity
    assert folders(tmp_path) == [old.folder.name]
    assert runner.batches == 0


def test_several_layers_each_find_their_own(make, slow, tmp_path):
    (old,) = make(part_rows=old_size, layers=["fc7"])[0].run_layers()
    extraction, _ = make(layers=["pool5", "fc7"])
    pool5, fc7 = extraction.run_layers()
    assert fc7.folder.name == old.folder.name and fc7.identity.part_rows == 32
    assert pool5.identity.part_rows == 16
    assert len(folders(tmp_path)) == 2


def test_the_store_of_the_rule_comes_first(make, slow, tmp_path):
    make(part_rows=old_size)[0].run_layers()
    shutil.move(tmp_path / "cache", tmp_path / "aside")
    (own,) = make()[0].run_layers()
    shutil.copytree(tmp_path / "aside", tmp_path / "cache", dirs_exist_ok=True)
    assert make()[0].folder.name == own.folder.name
    # Until it is sealed, a sealed one is more.
    (own.folder.path / "integrity/seal.json").unlink()
    assert make()[0].identity.part_rows == 32


@pytest.mark.parametrize(("stop_at", "is_resumed"), [(20, True), (3, False)])
def test_one_that_was_interrupted_is_resumed_if_it_has_a_part(make, slow, tmp_path, stop_at, is_resumed):
    with pytest.raises(KeyboardInterrupt):
        make(stop_at, part_rows=old_size)[0].run_layers()
    extraction, runner = make(adopt=False)
    (store,) = extraction.run_layers()
    size = 32 if is_resumed else 16
    assert store.identity.part_rows == size
    assert (runner.batches < 25) == is_resumed
    (fresh,) = make(folder="fresh", part_rows=lambda width: size)[0].run_layers()
    assert bytes_of(store) == bytes_of(fresh)


def test_a_store_of_other_values_is_another_one(make, slow, make_runner, tmp_path):
    make(part_rows=old_size, runner=make_runner("bf16"))[0].run_layers()
    make(part_rows=old_size, batch=8)[0].run_layers()
    make(part_rows=old_size, rows=np.arange(7))[0].run_layers()
    damaged, _ = make(part_rows=lambda width: 64)
    damaged.run_layers()
    (damaged.folder.path / "zarr.json").write_text("{}")
    extraction, runner = make(adopt=False)
    extraction.run_layers()
    assert extraction.identity.part_rows == 16 and runner.batches == 25
    assert len(folders(tmp_path)) == 5


def test_a_given_size_is_kept(make, slow, tmp_path):
    make()[0].run_layers()
    make(part_rows=old_size)[0].run_layers()
    assert len(folders(tmp_path)) == 2


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_a_few_rows_of_a_slow_trunk_are_even(make, slow, tmp_path, count):
    batches = []
    for index in range(1, count + 1):
        extraction, runner = make()
        extraction.run_layers((index, count))
        batches.append(runner.batches)
    assert max(batches) - min(batches) <= 4, "one part"
    (store,) = make()[0].run_layers()
    (fresh,) = make(folder="fresh")[0].run_layers()
    assert bytes_of(store) == bytes_of(fresh)


def test_shares_of_thirty_thousand_rows_of_efficientnet():
    """Some 30,895 rows that were one part of twenty minutes."""
    rows = part_size.rows_per_part(1280, 2_612_000_000, 64)
    parts = [range(start, min(start + rows, 30_895)) for start in range(0, 30_895, rows)]
    for count in (2, 3):
        shares = [sum(map(len, share_of(parts, index, count))) for index in range(1, count + 1)]
        assert max(shares) - min(shares) <= rows and max(shares) / min(shares) < 1.2


# --- a real kill

RUN = """
import json, sys, time
from pathlib import Path
import torch
import pipeline.activations.part_size as part_size
from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import LocalFolder
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.manifest_entries import SplitEntry
from pipeline.dataset.split import Split
from pipeline.patches.build import make_table
from pipeline.patches.settings import GridSettings, SourceSettings
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner

given = json.loads(sys.argv[1])
torch.set_num_threads(1)
part_size.PART_SECONDS = given["seconds"]

class Slow(TrunkRunner):
    n = 0
    def measure_rate(self, n_rows):
        return 1000.0
    def launch(self, patches, layers):
        time.sleep(given["sleep_s"])
        Slow.n += 1
        Path(given["count"]).write_text(str(Slow.n))
        return super().launch(patches, layers)

paths = tuple(map(Path, given["pictures"]))
manifest = Manifest(name="tiny", title="drawn", folder="tiny", classes=("ball",), metric="voc12", fit="train",
                    eval="train", splits={"train": SplitEntry()})
split = Split.of_files(manifest, paths, tuple(path.stem for path in paths), "train")
table = make_table(split, SourceSettings(grid=GridSettings(scales=(1.0, 2.0), overlap=0.5)))
runner = Slow(load_trunk("random"), torch.device("cpu"), "fp32")
Extraction(table, split.paths_by_id, runner, LocalFolder(Path(given["cache"])), 4).run_layers()
"""


def test_a_killed_run_of_a_slow_trunk_keeps_all_but_the_part_it_was_at(make, slow, picture_paths, tmp_path):
    count = tmp_path / "count"

    def start(sleep_s: float) -> subprocess.Popen:
        count.unlink(missing_ok=True)
        given = {"seconds": SECONDS, "sleep_s": sleep_s, "count": str(count), "cache": str(tmp_path / "cache")}
        given["pictures"] = [str(path) for path in picture_paths.values()]
        return subprocess.Popen([sys.executable, "-c", RUN, json.dumps(given)], stderr=subprocess.PIPE)

    process = start(0.25)
    deadline = time.monotonic() + 120
    # In the middle of the fourth part of seven.
    while not (count.exists() and count.read_text() == "14"):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    records = list((tmp_path / "cache").glob("*.zarr/integrity/part-*.json"))
    assert len(records) == 3

    process = start(0)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told.decode()
    assert count.read_text() == str(3 * 4 + 1), "the four parts that were left"
    (fresh,) = make(folder="fresh")[0].run_layers()
    assert bytes_of(Store(tmp_path / "cache" / fresh.folder.name)) == bytes_of(fresh)
