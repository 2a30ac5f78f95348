"""Several layers from one pass: each store has the bytes that it has alone, and each patch is looked at once."""

from __future__ import annotations

import functools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import LocalFolder
from pipeline.activations.parts import PartMaker
from pipeline.activations.run_log import StageClock, log_name
from pipeline.activations.store import Store
from pipeline.io.errors import PipelineError, SettingsError, TrunkError
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import Trunk

PART_ROWS = {1152: 32, 1024: 64}  # of 99 rows: four parts of pool5 lie in the two of fc6 and of fc7
BATCH = 16
LAYERS = ("pool5", "fc6", "fc7")


@functools.cache
def drawn(precision: str) -> Trunk:
    """One trunk an arithmetic: a runner changes its weights' type in place."""
    return load_trunk("random")


class WatchedRunner(TrunkRunner):
    """Notes the rows and layers of each batch, and stops like a pulled plug before batch number `stop_at`."""

    def __init__(self, layer: str = "fc7", stop_at: int | None = None, precision: str = "fp32") -> None:
        super().__init__(drawn(precision).at(layer), torch.device("cpu"), precision)
        self.batches: list[int] = []
        self.asked: list[tuple[str, ...]] = []
        self.convolved = 0
        self.stop_at = stop_at
        self.trunk.network.network.conv1.register_forward_hook(self._count)

    def _count(self, module, inputs, output) -> None:
        self.convolved += len(output)

    def measure_rate(self, n_rows: int) -> float:
        return 1000.0

    def launch(self, patches, layers):
        if len(self.batches) == self.stop_at:
            raise KeyboardInterrupt
        self.batches.append(len(patches))
        self.asked.append(tuple(layers))
        return super().launch(patches, layers)


def bytes_of(store: Store) -> dict[str, bytes]:
    path = store.folder.path
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def make(table, picture_paths, tmp_path):
    """An extraction of some layers into a folder of ``tmp_path``."""

    def extraction(runner, folder="joint", layers=LAYERS, batch=BATCH, say=lambda text: None):
        stores = LocalFolder(tmp_path / folder)
        of_width = PART_ROWS.__getitem__
        return Extraction(table, picture_paths, runner, stores, batch, say, stores.path, layers, part_rows=of_width)

    return extraction


ALONE: dict[str, dict[str, dict[str, bytes]]] = {}


@pytest.fixture
def alone(make):
    """Bytes of the store of each layer, made without the others from weights that were loaded for it alone."""

    def made(precision="fp32"):
        if precision not in ALONE:
            runners = {x: TrunkRunner(load_trunk("random", x), torch.device("cpu"), precision) for x in LAYERS}
            stores = {x: make(r, f"alone-{precision}", ()).run_layers() for x, r in runners.items()}
            ALONE[precision] = {x: bytes_of(store) for x, (store,) in stores.items()}
        return ALONE[precision]

    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("own", LAYERS)
def test_one_pass_gives_each_layer_the_bytes_that_it_has_alone(make, alone, table, own, precision):
    runner = WatchedRunner(own, precision=precision)

    stores = make(runner).run_layers()

    assert [store.identity["how.layer"] for store in stores] == list(LAYERS)
    assert [len(store.parts) for store in stores] == [4, 2, 2]
    assert runner.convolved == 7 * BATCH, "99 rows, in whole batches"
    assert {tuple(asked) for asked in runner.asked} == {LAYERS}
    for store in stores:
        assert bytes_of(store) == alone(precision)[store.identity["how.layer"]]


def test_a_layer_that_is_added_later_touches_no_sealed_one(make, alone, table):
    (first,) = make(WatchedRunner(), layers=("fc7",)).run_layers()
    times = {p: p.stat().st_mtime_ns for p in first.folder.path.rglob("*")}
    runner, said = WatchedRunner(), []

    stores = make(runner, layers=("pool5", "fc7"), say=said.append).run_layers()

    assert {p: p.stat().st_mtime_ns for p in first.folder.path.rglob("*")} == times
    assert {tuple(asked) for asked in runner.asked} == {("pool5",)}  # and no fully connected layer was computed
    assert bytes_of(stores[0]) == alone()["pool5"]
    assert said[0] == f"{first.folder}: complete, the trunk does not run"


def test_all_complete_needs_neither_trunk_nor_pictures(make):
    make(WatchedRunner()).run_layers()
    runner, said = WatchedRunner(), []
    extraction = make(runner, say=said.append)
    extraction.picture_paths = {}

    assert len(extraction.run_layers()) == 3
    assert runner.batches == [] and len(said) == 3


@pytest.mark.parametrize("stop_at", range(0, 7))
def test_interrupted_and_gone_on_gives_the_same_bytes(make, alone, stop_at):
    # Four batches make the first range (two parts of pool5, one of fc6 and fc7), three the rest.
    with pytest.raises(KeyboardInterrupt):
        make(WatchedRunner(stop_at=stop_at)).run_layers()
    runner = WatchedRunner()

    stores = make(runner).run_layers()

    assert sum(runner.batches) == BATCH * (3 if stop_at >= 4 else 7)
    for store in stores:
        assert bytes_of(store) == alone()[store.identity["how.layer"]]


@pytest.mark.parametrize(
    ("lost", "batches", "asked"),
    [
        pytest.param([("pool5", 1)], [16, 16], {("pool5",)}, id="a part of the first layer"),
        pytest.param([("pool5", 3)], [16], {("pool5",)}, id="its last"),
        pytest.param([("pool5", 0), ("pool5", 3)], [16, 16, 16], {("pool5",)}, id="two parts"),
        pytest.param([("fc7", 0)], [16] * 4, {("fc7",)}, id="a part of the last layer"),
        pytest.param([("fc6", 1), ("pool5", 2)], [16, 16, 16], {("pool5", "fc6")}, id="of two layers"),
        pytest.param([("fc6", 0), ("pool5", 2)], [16] * 6, {("fc6",), ("pool5",)}, id="in two ranges"),
    ],
)
def test_recorded_parts_are_not_made_again(make, alone, monkeypatch, lost, batches, asked):
    monkeypatch.setattr("random.randrange", lambda n: 0)
    made = {store.identity["how.layer"]: store for store in make(WatchedRunner()).run_layers()}
    for layer, index in lost:
        path = made[layer].folder.path / "integrity"
        (path / "seal.json").unlink(missing_ok=True)
        (path / f"part-{index:05d}.json").unlink()
        next(path.parent.glob(f"activations/c/{index}/0")).unlink()
    runner = WatchedRunner()

    stores = make(runner).run_layers()

    assert runner.batches == batches
    assert set(runner.asked) == asked
    for store in stores:
        assert bytes_of(store) == alone()[store.identity["how.layer"]]


@pytest.mark.parametrize("count", [2, 3])
def test_shares_together_make_the_same_bytes(make, alone, count):
    batches = []
    for index in range(1, count + 1):
        runner = WatchedRunner()
        assert make(runner).run_layers((index, count)) == []
        batches += runner.batches
    assert sum(batches) == 7 * BATCH

    runner = WatchedRunner()
    stores = make(runner).run_layers()
    assert runner.batches == []
    for store in stores:
        assert bytes_of(store) == alone()[store.identity["how.layer"]]


def test_an_engine_may_make_the_parts_in_any_order(make, alone):
    extraction = make(WatchedRunner())

    def engine(tasks, report):
        for task in pickle.loads(pickle.dumps(list(reversed(tasks)))):
            clock = StageClock()
            PartMaker(WatchedRunner("pool5"), *(item.folder for item in extraction.requested)).make(task, clock)
            report(task.part.n_rows, dict(clock.seconds))

    for store in extraction.run_layers(engine=engine):
        assert bytes_of(store) == alone()[store.identity["how.layer"]]


def test_what_another_writer_recorded_meanwhile_is_not_made_again(make, alone):
    """The other writer makes fc7 alone: the rest of the pass ends at pool5."""
    extraction, runner = make(WatchedRunner(), layers=("pool5", "fc7")), WatchedRunner()

    def other_writer_is_first(tasks, report):
        make(WatchedRunner(), layers=("fc7",)).run_layers()
        for task in tasks:
            PartMaker(runner, *(item.folder for item in extraction.requested)).make(task, StageClock())

    stores = extraction.run_layers(engine=other_writer_is_first)

    assert set(runner.asked) == {("pool5",)}
    for store in stores:
        assert bytes_of(store) == alone()[store.identity["how.layer"]]


def test_each_store_has_a_log_that_says_how_many_were_made(make):
    stores = make(WatchedRunner()).run_layers()

    for store, parts in zip(stores, (4, 2, 2), strict=True):
        path: Path = store.folder.path.with_name(log_name(store.folder.name))
        (entry,) = [json.loads(line) for line in path.read_text().splitlines()]
        assert (entry["stores"], entry["rows"], entry["parts"]) == (3, 99, parts)


def test_one_line_says_what_is_made_together(make):
    said = []
    make(WatchedRunner(), layers=("fc6", "pool5"), say=said.append).run_layers()

    assert any("joint: fc6, pool5 in one pass: 99 rows to extract, at most 0 MiB" in line for line in said), said
    assert sum("sealed" in line for line in said) == 2


def test_room_is_asked_for_all_stores_together(make, monkeypatch, table):
    # 99 rows of (1152 + 1024 + 1024) float16 and their geometry are 640 kB.
    free = 300_000
    monkeypatch.setattr(LocalFolder, "free_bytes", lambda self: free)
    runner = WatchedRunner()
    with pytest.raises(PipelineError, match="GiB may be needed"):
        make(runner).run_layers()
    assert runner.batches == []
    make(runner, layers=("pool5",)).run_layers()


@pytest.mark.parametrize("batch", [12, 24, 64])
def test_batches_that_would_not_be_those_of_one_layer_are_refused(make, batch):
    with pytest.raises(SettingsError, match=rf"batch {batch}: .* must divide 32, .* \(rows: pool5 32, fc7 64\)"):
        make(WatchedRunner(), layers=("pool5", "fc7"), batch=batch)
    # Parts of one size begin together, whatever the batch.
    make(WatchedRunner(), layers=("fc6", "fc7"), batch=batch)


@pytest.mark.parametrize("batch", [12, 64])
def test_parts_by_the_rule_always_fit_together(table, picture_paths, tmp_path, batch):
    stores = LocalFolder(tmp_path)
    extraction = Extraction(table, picture_paths, WatchedRunner(), stores, batch, layers=("pool5", "fc7"))
    assert all(item.identity.part_rows % batch == 0 for item in extraction.requested)


def test_layers_that_the_trunk_does_not_have(make):
    with pytest.raises(TrunkError, match=r"'random0' has no layer 'fc9'; it has pool5, fc6, fc7"):
        make(WatchedRunner(), layers=("fc7", "fc9"))


def test_a_layer_named_twice_is_one_store(make):
    assert len(make(WatchedRunner(), layers=("fc7", "fc7")).requested) == 1


def test_activations_that_are_not_finite_are_found_in_any_layer(make, table):
    class Broken(WatchedRunner):
        def launch(self, patches, layers):
            launched = super().launch(patches, layers)
            launched.result()["pool5"][0, 3] = np.inf
            return launched

    with pytest.raises(PipelineError, match=r"activations of 4 patches are not finite"):
        make(Broken()).run_layers()
