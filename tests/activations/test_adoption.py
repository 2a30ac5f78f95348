"""Rows that other stores hold are taken over, and a store with them has the bytes of a fresh extraction."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.noise import draw_noise
from support.pictures import split_of
from support.tables import all_rows
from torch import Tensor

from pipeline.activations.adoption import Adoption, Run
from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import LocalFolder, open_folder
from pipeline.activations.parts import PartMaker
from pipeline.activations.run_log import RunLog, StageClock
from pipeline.activations.store import Store
from pipeline.activations.verify import recompute_rows
from pipeline.patches.build import make_table
from pipeline.patches.settings import CropSettings, GridSettings, SourceSettings
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.load import load_trunk
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.zoo.timm import import_timm

GRID = SourceSettings(grid=GridSettings(scales=(1.0, 2.0), overlap=0.5))
BATCH = 16
PART_ROWS = 32
SIZES_WH = {"a": (64, 48), "b": (48, 64), "c": (50, 50), "d": (80, 40), "e": (64, 48), "f": (70, 60)}


class CountingRunner(TrunkRunner):
    """Counts rows that go through the trunk, and stops like a pulled plug before batch number `stop_at`."""

    stop_at: int | None = None

    def __init__(self, precision: str = "fp32", layer: str = "fc7") -> None:
        super().__init__(load_trunk("random", layer), torch.device("cpu"), precision)
        self.batches = 0

    def measure_rate(self, n_rows: int) -> float:
        return 1000.0

    def rows_are_independent(self, batch: int) -> bool:
        return True

    def launch(self, patches: Tensor, layers: Sequence[str]) -> PendingBatch:
        if self.batches == self.stop_at:
            raise KeyboardInterrupt
        self.batches += 1
        return super().launch(patches, layers)


class Pictures:
    """Drawn pictures in a folder, and tables of some of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for seed, (name, size_wh) in enumerate(SIZES_WH.items()):
            draw_noise(folder / f"{name}.png", size_wh, seed)

    def table(self, ids: str, sources: SourceSettings = GRID, name: str = "tiny"):
        paths = tuple(self.folder / f"{i}.png" for i in ids)
        return make_table(split_of(paths, ids, name), sources)

    def extraction(self, table, cache: Path, runner=None, **options) -> Extraction:
        paths = {name: self.folder / f"{name}.png" for name in table.ids}
        stores = LocalFolder(cache)
        return Extraction(
            table,
            paths,
            runner or CountingRunner(),
            stores,
            BATCH,
            log_folder=cache,
            part_rows=lambda width: PART_ROWS,
            **options,
        )


@pytest.fixture
def pictures(tmp_path) -> Pictures:
    return Pictures(tmp_path / "pictures")


def bytes_of(store: Store) -> dict[str, bytes]:
    return {name: store.folder.read(name) for name in store.folder.sizes()}


def check_like_fresh(pictures, table, tmp_path, before, n_computed, *, make_runner=CountingRunner, **options):
    """Extract `before`, then `table` in the same cache and in an empty one; compare bytes and rows that were run."""
    for earlier in before:
        pictures.extraction(earlier, tmp_path / "cache", make_runner(), **options).run_layers()
    runner = make_runner()
    grown = pictures.extraction(table, tmp_path / "cache", runner, **options)
    stores = grown.run_layers()
    fresh = pictures.extraction(table, tmp_path / "fresh", make_runner(), **options).run_layers()
    for store, expected in zip(stores, fresh, strict=True):
        assert bytes_of(store) == bytes_of(expected)
    entry = RunLog.of_store(tmp_path / "cache", stores[0].folder.name).read()[-1]
    assert table.n_rows - sum(entry.adopted.values()) == n_computed
    return runner, stores


def rows_of(table, ids: str) -> int:
    return sum(int((all_rows(table).picture == table.ids.index(i)).sum()) for i in ids)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        pytest.param("abcde", "abcdef", "f", id="grown at the end"),
        pytest.param("bcdef", "abcdef", "a", id="grown at the front"),
        pytest.param("abcdef", "abdef", "", id="one removed"),
        pytest.param("abcdef", "fedcba", "", id="another order"),
        pytest.param("ab", "abcdef", "cdef", id="mostly new"),
        pytest.param("abcdef", "c", "", id="a subset"),
    ],
)
def test_only_new_pictures_are_computed(pictures, tmp_path, before, after, new, precision):
    table = pictures.table(after)
    runner, _ = check_like_fresh(
        pictures,
        table,
        tmp_path,
        [pictures.table(before)],
        rows_of(table, new),
        make_runner=lambda: CountingRunner(precision),
    )
    assert (runner.batches == 0) == (not new)


def test_two_splits_hold_their_union(pictures, tmp_path):
    train, val = pictures.table("abc"), pictures.table("def", name="other")
    runner, (store,) = check_like_fresh(pictures, pictures.table("abcdef", name="third"), tmp_path, [train, val], 0)
    assert runner.batches == 0
    adopted = RunLog.of_store(tmp_path / "cache", store.folder.name).adopted()
    assert sorted(adopted.values()) == sorted([train.n_rows, val.n_rows])


def test_a_changed_picture_is_computed_again_and_a_renamed_one_is_not(pictures, tmp_path):
    before = pictures.table("abcdef")
    pictures.extraction(before, tmp_path / "cache").run_layers()
    draw_noise(pictures.folder / "c.png", (50, 50), 99)
    (pictures.folder / "e.png").rename(pictures.folder / "g.png")
    table = pictures.table("abcdfg")
    check_like_fresh(pictures, table, tmp_path, [], rows_of(table, "c"))


def test_a_picture_that_is_turned_the_other_way_is_another_one(pictures, tmp_path):
    table = pictures.table("abc")
    turned = replace(table, apply_exif=np.array([False, True, False]))
    turned = replace(turned, rows_digest=turned.compute_rows_digest())
    pictures.extraction(turned, tmp_path / "cache").run_layers()
    check_like_fresh(pictures, table, tmp_path, [], rows_of(table, "b"))


def test_windows_of_another_grid_are_taken_where_they_are_the_same(pictures, tmp_path):
    coarse = SourceSettings(grid=GridSettings(scales=(2.0,), overlap=0.5))
    table = pictures.table("abcdef")
    n_shared = int((all_rows(table).scale == 1).sum())
    check_like_fresh(pictures, table, tmp_path, [pictures.table("abcdef", coarse)], table.n_rows - n_shared)


@pytest.mark.parametrize(
    "sources",
    [
        SourceSettings(source="whole"),
        SourceSettings(source="crops", crops=CropSettings(shares=(0.5, 0.8))),
    ],
    ids=["whole", "crops"],
)
def test_other_sources(pictures, tmp_path, sources):
    table = pictures.table("fabcd", sources)
    before = pictures.table("abcde", sources)
    check_like_fresh(pictures, table, tmp_path, [before], rows_of(table, "f"))


def test_rows_of_another_source_are_no_rows_of_this_one(pictures, tmp_path):
    whole = pictures.table("abcdef", SourceSettings(source="whole"))
    full = pictures.table("abcdef", SourceSettings(grid=GridSettings(scales=(1.0,))))
    check_like_fresh(pictures, whole, tmp_path, [full], whole.n_rows)


def test_chosen_rows_come_from_all_and_the_reverse(pictures, tmp_path):
    table = pictures.table("abcdef")
    rows = np.flatnonzero(np.arange(table.n_rows) % 3 == 1)
    runner = CountingRunner()
    pictures.extraction(table, tmp_path / "cache", rows=rows).run_layers()
    pictures.extraction(table, tmp_path / "cache", runner).run_layers()
    per_part = np.bincount(np.setdiff1d(np.arange(table.n_rows), rows) // PART_ROWS)
    assert runner.batches == sum(-(-per_part // BATCH)), "the rows between, part by part"
    few = CountingRunner()
    shutil.rmtree(next(p for p in (tmp_path / "cache").glob("*.zarr") if Store(p).n_rows == len(rows)))
    (store,) = pictures.extraction(table, tmp_path / "cache", few, rows=rows).run_layers()
    (fresh,) = pictures.extraction(table, tmp_path / "fresh", rows=rows).run_layers()
    assert few.batches == 0 and bytes_of(store) == bytes_of(fresh)


@pytest.mark.parametrize(("of_codes", "n_new"), [(False, "f"), (True, None)])
def test_codes_of_8_bits(pictures, tmp_path, of_codes, n_new):
    """From float16 all rows are taken; from codes only parts of the very same rows, which were coded together."""
    before, table = pictures.table("abcde"), pictures.table("abcdef")
    pictures.extraction(before, tmp_path / "cache", dtype="8bit" if of_codes else "float16").run_layers()
    whole_parts = before.n_rows // PART_ROWS * PART_ROWS
    n_computed = rows_of(table, n_new) if n_new else table.n_rows - whole_parts
    check_like_fresh(pictures, table, tmp_path, [], n_computed, dtype="8bit")


def test_float16_takes_nothing_from_codes(pictures, tmp_path):
    table = pictures.table("abc")
    pictures.extraction(table, tmp_path / "cache", dtype="8bit").run_layers()
    check_like_fresh(pictures, table, tmp_path, [], table.n_rows)


def test_another_codec_gives_its_rows(pictures, tmp_path):
    table = pictures.table("abcdef")
    pictures.extraction(pictures.table("abcde"), tmp_path / "cache", codec="fast").run_layers()
    check_like_fresh(pictures, table, tmp_path, [], rows_of(table, "f"))


def test_several_layers_from_one_pass(pictures, tmp_path):
    before, table = pictures.table("abcde"), pictures.table("abcdef")
    pictures.extraction(before, tmp_path / "cache", CountingRunner(layer="pool5"), layers=["pool5"]).run_layers()
    stores = pictures.extraction(table, tmp_path / "cache", layers=["pool5", "fc7"]).run_layers()
    fresh = pictures.extraction(table, tmp_path / "fresh", layers=["pool5", "fc7"]).run_layers()
    assert [bytes_of(store) for store in stores] == [bytes_of(store) for store in fresh]
    adopted = [sum(RunLog.of_store(tmp_path / "cache", s.folder.name).adopted().values()) for s in stores]
    assert adopted == [before.n_rows, 0]


@pytest.fixture(scope="module")
def library_weights(tmp_path_factory):
    """Random weights of small networks of timm: the folder of their files."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("test_resnet", "test_vit"):
        torch.manual_seed(0)
        save_file(import_timm().create_model(name).eval().state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("random", "torch"),
        ("timm/test_resnet", "openvino"),
        ("timm/test_vit@norm:tokens", "torch"),
    ],
)
def test_dense_rows(pictures, tmp_path, library_weights, name, backend):
    table, before = pictures.table("abcdef"), pictures.table("bcdef")
    model = name.removeprefix("timm/").partition("@")[0]
    weights = library_weights / f"{model}.safetensors" if name.startswith("timm/") else None

    def runner() -> DenseRunner:
        return DenseRunner(load_trunk(name, weights=weights), torch.device("cpu"), "fp32", backend=backend)

    pictures.extraction(before, tmp_path / "cache", runner()).run_layers()
    (store,) = pictures.extraction(table, tmp_path / "cache", runner()).run_layers()
    (fresh,) = pictures.extraction(table, tmp_path / "fresh", runner()).run_layers()

    assert bytes_of(store) == bytes_of(fresh)
    assert RunLog.of_store(tmp_path / "cache", store.folder.name).adopted() != {}
    paths = {name: pictures.folder / f"{name}.png" for name in table.ids}
    assert recompute_rows(fresh, table, paths, runner(), 5).difference.max() < 2e-3


# --- what is not whole, and what is not wanted


def test_recorded_parts_of_an_interrupted_extraction(pictures, tmp_path):
    before, table = pictures.table("abcdef"), pictures.table("fabcde")
    runner = CountingRunner()
    runner.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        pictures.extraction(before, tmp_path / "cache", runner).run_layers()
    recorded = len(list((tmp_path / "cache").glob("*.zarr/integrity/part-*.json")))
    assert recorded >= 1
    check_like_fresh(pictures, table, tmp_path, [], table.n_rows - recorded * PART_ROWS)


@pytest.mark.parametrize("stop_at", [0, 1])
def test_interrupted_in_the_middle_it_ends_with_the_same_bytes(pictures, tmp_path, stop_at):
    before, table = pictures.table("cd"), pictures.table("abcdef")
    pictures.extraction(before, tmp_path / "cache").run_layers()
    runner = CountingRunner()
    runner.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        pictures.extraction(table, tmp_path / "cache", runner).run_layers()
    (store,) = pictures.extraction(table, tmp_path / "cache").run_layers()
    (fresh,) = pictures.extraction(table, tmp_path / "fresh").run_layers()
    assert bytes_of(store) == bytes_of(fresh)


def test_a_damaged_store_gives_nothing(pictures, tmp_path):
    (before,) = pictures.extraction(pictures.table("abcde"), tmp_path / "cache").run_layers()
    seal = before.folder.path / "integrity/seal.json"
    seal.write_bytes(seal.read_bytes()[:-9])
    table = pictures.table("abcdef")
    check_like_fresh(pictures, table, tmp_path, [], table.n_rows)


def test_damaged_rows_are_refused_by_name(pictures, tmp_path):
    (before,) = pictures.extraction(pictures.table("abcde"), tmp_path / "cache").run_layers()
    path = before.folder.path / "activations/c/0/0"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(Exception, match=r"activations/c/0/0 changed since it was written.*--no-adopt"):
        pictures.extraction(pictures.table("abcdef"), tmp_path / "cache").run_layers()
    runner = CountingRunner()
    pictures.extraction(pictures.table("abcdef"), tmp_path / "cache", runner, adopt=False).run_layers()
    assert runner.batches > 0


def test_nothing_is_taken_over_if_it_is_not_wanted(pictures, tmp_path):
    pictures.extraction(pictures.table("abcde"), tmp_path / "cache").run_layers()
    runner, table = CountingRunner(), pictures.table("abcdef")
    (store,) = pictures.extraction(table, tmp_path / "cache", runner, adopt=False).run_layers()
    assert runner.batches >= table.n_rows // BATCH
    assert RunLog.of_store(tmp_path / "cache", store.folder.name).adopted() == {}


def test_nothing_is_taken_over_where_the_place_in_a_batch_matters(pictures, tmp_path):
    pictures.extraction(pictures.table("abcde"), tmp_path / "cache").run_layers()
    runner, said, table = CountingRunner(), [], pictures.table("abcdef")
    runner.rows_are_independent = lambda batch: False
    pictures.extraction(table, tmp_path / "cache", runner, say=said.append).run_layers()
    assert runner.batches >= table.n_rows // BATCH
    assert any("none is taken over" in line for line in said)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_this_machine_keeps_the_bits_of_a_row(precision):
    assert TrunkRunner(load_trunk("random"), torch.device("cpu"), precision).rows_are_independent(BATCH)
    assert DenseRunner(load_trunk("random"), torch.device("cpu"), precision).rows_are_independent(BATCH)


def test_rows_that_two_stores_hold_are_taken_from_one(pictures, tmp_path):
    """The larger store lacks some windows of each picture; the smaller one holds all of some."""
    coarse = SourceSettings(grid=GridSettings(scales=(2.0,), overlap=0.5))
    table, some = pictures.table("abcdef"), pictures.table("bd")
    lacking = int((all_rows(table).scale == 0).sum()) - int((all_rows(some).scale == 0).sum())
    check_like_fresh(pictures, table, tmp_path, [pictures.table("abcdef", coarse), some], lacking)


def test_codes_do_not_hide_a_store_of_whole_rows(pictures, tmp_path):
    table = pictures.table("fabcde")
    pictures.extraction(pictures.table("abcdef"), tmp_path / "cache", dtype="8bit").run_layers()
    pictures.extraction(pictures.table("abcde"), tmp_path / "cache").run_layers()
    check_like_fresh(pictures, table, tmp_path, [], rows_of(table, "f"), dtype="8bit")


def test_pictures_of_the_same_bytes_share_their_rows(pictures, tmp_path):
    shutil.copy(pictures.folder / "a.png", pictures.folder / "h.png")
    check_like_fresh(pictures, pictures.table("hbach"[:4]), tmp_path, [pictures.table("abc")], 0)


def test_another_trunk_gives_nothing(pictures, tmp_path):
    table = pictures.table("abc")
    pictures.extraction(table, tmp_path / "cache", CountingRunner(layer="fc6")).run_layers()
    pictures.extraction(table, tmp_path / "cache", CountingRunner("bf16")).run_layers()
    check_like_fresh(pictures, table, tmp_path, [], table.n_rows)


# --- other places, other engines, stores of before


def test_from_another_folder(pictures, tmp_path):
    pictures.extraction(pictures.table("abcde"), tmp_path / "elsewhere").run_layers()
    table = pictures.table("abcdef")
    check_like_fresh(
        pictures, table, tmp_path, [], rows_of(table, "f"), other_stores=[LocalFolder(tmp_path / "elsewhere")]
    )


def test_into_an_object_store(pictures, tmp_path):
    before, table = pictures.table("abcde"), pictures.table("abcdef")
    stores = open_folder("memory://test-adoption")
    try:
        for wanted in (before, table):
            extraction = pictures.extraction(wanted, tmp_path / "unused")
            extraction = replace(extraction, stores=stores)
            (store,) = extraction.run_layers()
        (fresh,) = pictures.extraction(table, tmp_path / "fresh").run_layers()
        assert bytes_of(store) == bytes_of(fresh)
        assert sum(RunLog.of_store(tmp_path / "unused", store.folder.name).adopted().values()) == before.n_rows
    finally:
        stores.remove_all()


@pytest.mark.parametrize("count", [2, 3])
def test_in_shares_and_by_another_engine(pictures, tmp_path, count):
    before, table = pictures.table("bcde"), pictures.table("abcdef")
    pictures.extraction(before, tmp_path / "cache").run_layers()

    def engine(tasks, report):
        for task in reversed(tasks):
            PartMaker(CountingRunner(), extraction.folder).make(task, StageClock())
            report(task.part.n_rows, {})

    for index in range(1, count + 1):
        extraction = pictures.extraction(table, tmp_path / "cache")
        extraction.run_layers((index, count), engine)
    (store,) = pictures.extraction(table, tmp_path / "cache").run_layers()
    (fresh,) = pictures.extraction(table, tmp_path / "fresh").run_layers()
    assert bytes_of(store) == bytes_of(fresh)
    assert sum(RunLog.of_store(tmp_path / "cache", store.folder.name).adopted().values()) == before.n_rows


def forget_files(store: Store) -> None:
    """Take from a store what versions before did not record, as if one of them had made it."""
    path = store.folder.path / "zarr.json"
    document = json.loads(path.read_text())
    del document["attributes"]["picture_files"]
    path.write_text(json.dumps(document))
    (store.folder.path / "integrity/seal.json").unlink()


@pytest.mark.parametrize("after", ["abcdef", "fabcde"])
def test_a_store_of_before_gives_the_rows_of_its_whole_batches(pictures, tmp_path, after):
    before = pictures.table("abcde")
    (store,) = pictures.extraction(before, tmp_path / "cache").run_layers()
    forget_files(store)
    table = pictures.table(after)
    in_whole_batches = sum(part.n_rows // BATCH * BATCH for part in store.parts)
    check_like_fresh(pictures, table, tmp_path, [], table.n_rows - in_whole_batches)


def test_a_store_of_before_with_a_changed_picture_gives_nothing(pictures, tmp_path):
    (store,) = pictures.extraction(pictures.table("abcde"), tmp_path / "cache").run_layers()
    forget_files(store)
    draw_noise(pictures.folder / "c.png", (50, 50), 99)
    table = pictures.table("abcdef")
    check_like_fresh(pictures, table, tmp_path, [], table.n_rows)


def test_missing_rows_are_those_of_no_run():
    adoption = Adoption((Run("x", 2, 10, 3), Run("y", 7, 0, 2)))
    assert adoption.missing(0, 10).tolist() == [True, True, False, False, False, True, True, False, False, True]
    assert adoption.within(3, 8).runs == (Run("x", 3, 11, 2), Run("y", 7, 0, 1))
    assert adoption.rows_by_place == {"x": 3, "y": 2} and adoption.n_rows == 5
