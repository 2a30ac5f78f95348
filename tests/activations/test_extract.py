"""Extraction: each row is its window's activations, and no interruption shows in the bytes."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.small_parts import code_to_bind
from support.tables import TableOfRows, all_rows
from torch import Tensor

import pipeline.io.progress
from pipeline.activations import extraction
from pipeline.activations.compute import compute_layers
from pipeline.activations.folder import LocalFolder, open_folder
from pipeline.activations.identity import FieldDifference, differences
from pipeline.activations.parts import PartMaker
from pipeline.activations.prefetch import PictureQueue
from pipeline.activations.row_plan import plan_rows
from pipeline.activations.run_log import StageClock, log_name
from pipeline.activations.store import Store
from pipeline.activations.verify import recompute_rows
from pipeline.io.errors import PipelineError, StoreError
from pipeline.patches.build import make_table
from pipeline.patches.settings import CropSettings, GridSettings, SourceSettings
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import TrunkRunner

PART_ROWS = 64  # of 99 rows: a picture straddles the two parts
BATCH = 16


extract, Extraction = (
    functools.partial(make, part_rows=lambda width: PART_ROWS) for make in (extraction.extract, extraction.Extraction)
)


class CountingRunner(TrunkRunner):
    """Counts batches, and stops like a pulled plug before batch number `stop_at`; trial batches are counted apart."""

    def __init__(self, runner: TrunkRunner, stop_at: int | None = None) -> None:
        super().__init__(runner.trunk, runner.device, runner.precision)
        self.runner = runner
        self.batches: list[int] = []
        self.trials: list[int] = []
        self.stop_at = stop_at

    def measure_rate(self, n_rows: int) -> float:
        self.trials.append(n_rows)
        return self.runner.measure_rate(n_rows)

    def launch(self, patches: Tensor, layers: Sequence[str]) -> PendingBatch:
        if len(self.batches) == self.stop_at:
            raise KeyboardInterrupt
        self.batches.append(len(patches))
        return super().launch(patches, layers)


class BrokenRunner(TrunkRunner):
    """Puts `value` into one column of every patch that is nearly white."""

    value = np.nan

    def launch(self, patches: Tensor, layers: Sequence[str]) -> PendingBatch:
        launched = super().launch(patches, layers)
        (rows,) = launched.result().values()
        rows[np.asarray(patches).mean(axis=(1, 2, 3)) > 250, 5] = self.value
        return launched


def bytes_of(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@pytest.fixture
def uninterrupted(whole_cache, tmp_path) -> Store:
    """A copy, in the folder ``whole``, of a store that was made in one go."""
    shutil.copytree(whole_cache, tmp_path / "whole")
    return Store(next((tmp_path / "whole").glob("*.zarr")))


# --- values


def test_rows_equal_a_slow_direct_computation(table, picture_paths, make_runner, uninterrupted):
    network = make_runner().trunk.network
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rows = uninterrupted.read_rows(np.arange(table.n_rows))
    assert rows.shape == (table.n_rows, 1024)

    for row in range(table.n_rows):
        picture = Image.open(picture_paths[table.ids[all_rows(table).picture[row]]])
        x0, y0, x1, _ = (float(v) for v in all_rows(table).box_xyxy[row])
        factor = 64 / (x1 - x0)
        size = max(64, round(picture.width * factor)), max(64, round(picture.height * factor))
        left, top = min(round(x0 * factor), size[0] - 64), min(round(y0 * factor), size[1] - 64)
        patch = picture.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + 64, top + 64))
        pixels = (torch.from_numpy(np.asarray(patch).copy()) / 255 - mean) / std
        with torch.inference_mode():
            expected = network(pixels.permute(2, 0, 1)[None])[0].numpy()
        # float16 keeps 11 bits: half a unit in the last place is 2 ** -11 of the value.
        assert np.allclose(rows[row], expected, rtol=2**-10, atol=1e-4), row


def test_geometry_is_that_of_the_table(table, uninterrupted):
    for name in ("picture", "box_xyxy", "scale"):
        assert np.array_equal(uninterrupted.read_geometry(name), getattr(all_rows(table), name))
    assert uninterrupted.picture_ids == table.ids


def test_parts_split_a_picture(table, uninterrupted):
    # Otherwise nothing here would try a picture that two parts decode.
    first = uninterrupted.parts[1].start
    assert len(uninterrupted.parts) == 2
    assert all_rows(table).picture[first - 1] == all_rows(table).picture[first]


def test_whole_pictures(split, picture_paths, make_runner, tmp_path):
    table = make_table(split, SourceSettings(source="whole"))
    store = extract(table, picture_paths, make_runner(), tmp_path / "cache", BATCH)
    runner = make_runner()
    squashed = [np.asarray(Image.open(p).resize((64, 64), Image.Resampling.BILINEAR)) for p in split.paths]
    assert np.allclose(store.read_rows(np.arange(6)), runner(np.stack(squashed)), rtol=2**-9, atol=1e-3)


@pytest.fixture
def crops_of(split, make_runner, tmp_path):
    """Table, store and rows (picture, crop, column) of crops of pictures that are drawn by `pixels_of(seed)`."""

    def rows(name, pixels_of):
        folder = tmp_path / name
        folder.mkdir()
        paths = tuple(folder / path.name for path in split.paths)
        for seed, path in enumerate(paths):
            Image.fromarray(pixels_of(seed)).save(path)
        drawn = replace(split, paths=paths)
        table = make_table(drawn, SourceSettings(source="crops", crops=CropSettings(shares=(0.5, 0.8))))
        store = extract(table, dict(zip(split.ids, paths, strict=True)), make_runner(), folder / "cache", BATCH)
        return table, store, store.read_rows(np.arange(table.n_rows)).reshape(6, 22, -1)

    return rows


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (64, 96, 3), np.uint8)


def test_rows_of_mirrored_crops_are_those_of_mirrored_pictures(crops_of):
    table, store, rows = crops_of("plain", noise)
    _, _, mirrored = crops_of("mirrored", lambda seed: noise(seed)[:, ::-1].copy())

    # A crop of the right side is one of the left side of the mirrored picture.
    there = [0, 1, 3, 2, 5, 4, 6, 8, 7, 10, 9]
    step = np.abs(rows[:, 11:] - mirrored[:, there]).max()
    between = np.abs(rows[:, 11:] - rows[:, :11]).max(axis=2).min()
    assert step < 0.05 * between, "as far apart as a picture and its mirror image"
    # Which rows are mirrored can be told from the store alone: the second half of the crops' numbers.
    assert np.array_equal(store.read_geometry("scale") >= 11, all_rows(table).flip)


def test_chosen_rows_alone(table, picture_paths, make_runner, tmp_path):
    every = extract(table, picture_paths, make_runner(), tmp_path / "all", BATCH)
    rows = np.flatnonzero(np.arange(table.n_rows) % 3 == 1)
    runner = CountingRunner(make_runner())
    (store,) = Extraction(table, picture_paths, runner, open_folder(tmp_path / "some"), BATCH, rows=rows).run_layers()

    assert {difference.name for difference in differences(store.identity, every.identity)} == {
        "seen.which",
        "seen.n_rows",
    }
    assert store.n_rows == len(rows) == 33 and len(runner.batches) == 3, "no other row goes through the trunk"
    for name in ("picture", "box_xyxy", "scale"):
        assert np.array_equal(store.read_geometry(name), getattr(table.rows_at(rows), name))
    some, expected = (np.asarray(x, np.float32) for x in (store.read_rows(np.arange(len(rows))), every.read_rows(rows)))
    np.testing.assert_allclose(some, expected, rtol=2e-3, atol=1e-4)


def test_codes_of_the_same_rows(table, picture_paths, make_runner, tmp_path):
    exact = extract(table, picture_paths, make_runner(), tmp_path / "exact", BATCH)
    folder = open_folder(tmp_path / "codes")
    (store,) = Extraction(table, picture_paths, make_runner(), folder, BATCH, dtype="8bit", codec="fast").run_layers()

    assert differences(store.identity, exact.identity) == [FieldDifference("how.dtype", "8bit", "float16")]
    for (part, rows), (_, expected) in zip(store.iter_parts(), exact.iter_parts(), strict=True):
        rows, expected = rows.astype(np.float32), expected.astype(np.float32)
        assert (np.abs(rows - expected) <= store.rounding(part) + expected * 2.0**-11).all()
        assert not np.array_equal(rows, expected)
    again = recompute_rows(store, table, picture_paths, make_runner(), 20)
    assert not len(again.bad_rows) and again.difference.max() < 1e-3 and again.equal < 20


def test_recomputed_rows_of_crops_are_equal(split, picture_paths, make_runner, tmp_path):
    table = make_table(split, SourceSettings(source="crops"))
    store = extract(table, picture_paths, make_runner(), tmp_path / "cache", BATCH)
    assert not len(recompute_rows(store, table, picture_paths, make_runner(), 20).bad_rows)

    unflipped = replace(TableOfRows.of(table), flip=np.zeros(table.n_rows, bool))
    bad = recompute_rows(store, unflipped, picture_paths, make_runner(), table.n_rows).bad_rows
    assert np.array_equal(bad, np.flatnonzero(all_rows(table).flip))


@pytest.mark.parametrize("layer", ["pool5", "fc6"])
def test_other_layers_are_other_stores(table, picture_paths, make_runner, tmp_path, uninterrupted, layer):
    store = extract(table, picture_paths, make_runner(layer=layer), tmp_path / "whole", BATCH)
    assert store.folder.path != uninterrupted.folder.path
    assert store.width == {"pool5": 1152, "fc6": 1024}[layer]
    Store(uninterrupted.folder.path)


def test_threads_change_no_more_than_the_last_bits(table, picture_paths, make_runner, tmp_path, uninterrupted):
    torch.set_num_threads(2)
    try:
        store = extract(table, picture_paths, make_runner("fp32"), tmp_path / "two", BATCH)
    finally:
        torch.set_num_threads(1)
    # Some processors divide the sums of a fully connected layer among threads, and so add in another order.
    rows = np.arange(table.n_rows)
    got, expected = (each.read_rows(rows).astype(np.float32) for each in (store, uninterrupted))
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-3)
    assert store.fingerprint == uninterrupted.fingerprint


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_has_the_same_bits_wherever_it_stands(table, picture_paths, make_runner, precision):
    runner = make_runner(precision)
    whole = compute_rows(plan_rows(table, picture_paths, slice(0, table.n_rows)), runner)
    rng = np.random.default_rng(0)
    for n in (1, 3, BATCH, BATCH + 1, 60):
        rows = np.sort(rng.choice(table.n_rows, n, replace=False))
        assert np.array_equal(compute_rows(plan_rows(table, picture_paths, rows), runner), whole[rows]), n


def compute_rows(plan, runner):
    (rows,) = compute_layers(plan, runner, BATCH, StageClock()).values()
    return rows


# --- looked at once


def test_running_again_does_not_call_the_trunk(table, picture_paths, make_runner, tmp_path, uninterrupted):
    before = {p: p.stat().st_mtime_ns for p in uninterrupted.folder.path.rglob("*")}
    runner, said = CountingRunner(make_runner()), []

    extract(table, {}, runner, tmp_path / "whole", BATCH, said.append)  # not even pictures are needed

    assert runner.batches == [] and runner.trials == []
    assert {p: p.stat().st_mtime_ns for p in uninterrupted.folder.path.rglob("*")} == before
    assert len(said) == 1 and "complete, the trunk does not run" in said[0]


def test_log_beside_the_store_says_what_ran(table, uninterrupted):
    log = uninterrupted.folder.path.with_name(uninterrupted.folder.path.name.replace(".zarr", ".log.jsonl"))
    (entry,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert (entry["rows"], entry["parts"]) == (table.n_rows, 2)
    assert set(entry["stages"]) == {"decode", "rescale", "cut", "trunk", "write"}


def test_progress_goes_to_stderr(table, picture_paths, make_runner, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(pipeline.io.progress, "PLAIN_EVERY_S", 0.0)
    extract(table, picture_paths, make_runner(), tmp_path / "cache", BATCH)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"extract tiny train: {table.n_rows}/{table.n_rows} patches, ")
    assert len(err.splitlines()) == 4 + 3  # one per batch


# --- interrupted


@pytest.mark.parametrize("goes_on_at", [0, 1])
@pytest.mark.parametrize("stop_at", [0, 3, 4, 5, 6])
def test_interrupted_and_gone_on_gives_the_same_bytes(
    table, picture_paths, make_runner, tmp_path, uninterrupted, monkeypatch, stop_at, goes_on_at
):
    # 4 batches make the first part, 3 the second. A new store begins with the first part, one that goes
    # on with any of those that are left.
    monkeypatch.setattr("random.randrange", lambda n: goes_on_at % n)
    cache = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        extract(table, picture_paths, CountingRunner(make_runner(), stop_at), cache, BATCH)
    (path,) = cache.glob("*.zarr")
    with pytest.raises(StoreError, match="not complete"):
        Store(path)

    runner, said = CountingRunner(make_runner()), []
    store = extract(table, picture_paths, runner, cache, BATCH, said.append)

    parts = [[16, 16, 16, 16], [16, 16, 16]]
    order = [1] if stop_at >= 4 else [goes_on_at, 1 - goes_on_at]
    assert runner.batches == [n for index in order for n in parts[index]]
    assert any("resuming, 1 of 2 parts are recorded" in line for line in said) == (stop_at >= 4)
    assert sorted(p.name for p in cache.iterdir() if p.name != log_name(path.name)) == sorted([".partial", path.name])
    assert not list((cache / ".partial").iterdir())
    assert store.folder.path.name == uninterrupted.folder.path.name
    assert bytes_of(store.folder.path) == bytes_of(uninterrupted.folder.path)


@pytest.mark.parametrize(("least", "trials"), [(20, []), (3, [BATCH])])
def test_a_run_of_many_batches_begins_with_a_trial(
    table, picture_paths, make_runner, tmp_path, monkeypatch, least, trials
):
    monkeypatch.setattr("pipeline.activations.extraction.LEAST_BATCHES_FOR_A_TRIAL", least)
    runner, said = CountingRunner(make_runner()), []
    extract(table, picture_paths, runner, tmp_path / "tried", BATCH, said.append)

    assert runner.trials == trials
    assert any("patches/s in a trial batch" in line for line in said) == bool(trials)


def test_lost_seal_is_written_again_without_the_trunk(table, picture_paths, make_runner, tmp_path, uninterrupted):
    before = bytes_of(uninterrupted.folder.path)
    (uninterrupted.folder.path / "integrity/seal.json").unlink()
    runner = CountingRunner(make_runner())
    extract(table, picture_paths, runner, tmp_path / "whole", BATCH)
    assert runner.batches == []
    assert bytes_of(uninterrupted.folder.path) == before


# --- on other folders, in shares, by other engines


def test_on_an_object_store(table, picture_paths, make_runner, uninterrupted):
    stores = open_folder("memory://test-extract")
    said = []
    store = extract(table, picture_paths, make_runner(), stores, BATCH, said.append)
    try:
        sizes = store.folder.sizes()
        assert {name: store.folder.read(name) for name in sizes} == bytes_of(uninterrupted.folder.path)
        assert stores.folders() == [uninterrupted.folder.name]
        assert all(line.startswith(f"memory://test-extract/{store.folder.name}: ") for line in said)
    finally:
        stores.remove_all()


@pytest.mark.parametrize("count", [2, 3])
def test_shares_together_make_the_same_bytes(table, picture_paths, make_runner, tmp_path, uninterrupted, count):
    cache, batches = LocalFolder(tmp_path / "shared"), []
    for index in reversed(range(1, count + 1)):
        runner = CountingRunner(make_runner())
        assert Extraction(table, picture_paths, runner, cache, BATCH).run_layers((index, count)) == []
        batches.append(runner.batches)
        (path,) = cache.path.glob("*.zarr")
        with pytest.raises(StoreError, match="not complete"):
            Store(path)
    # Of more shares than parts one has nothing to do.
    assert sorted(batches) == sorted([[16, 16, 16, 16], [16, 16, 16], *[[]] * (count - 2)])

    runner = CountingRunner(make_runner())
    (store,) = Extraction(table, picture_paths, runner, cache, BATCH).run_layers()
    assert runner.batches == []
    assert bytes_of(store.folder.path) == bytes_of(uninterrupted.folder.path)
    assert Extraction(table, {}, runner, cache, BATCH).run_layers((1, count)) == []  # complete: left alone


def test_an_engine_may_make_the_parts_in_any_order(table, picture_paths, make_runner, tmp_path, uninterrupted):
    cache, said, seen = LocalFolder(tmp_path / "engine"), [], []
    pass_ = Extraction(table, picture_paths, make_runner(), cache, BATCH, said.append)

    def engine(tasks, report):
        # What a worker elsewhere gets: the task alone, as bytes.
        for task in pickle.loads(pickle.dumps(list(reversed(tasks)))):
            clock = StageClock()
            PartMaker(make_runner(), pass_.folder).make(task, clock)
            seen.append(task.part.index)
            report(task.part.n_rows, dict(clock.seconds))

    (store,) = pass_.run_layers(engine=engine)

    assert seen == [1, 0]
    assert bytes_of(store.folder.path) == bytes_of(uninterrupted.folder.path)
    assert any("99 patches in" in line and "trunk" in line for line in said)


def test_a_part_that_another_writer_recorded_meanwhile_is_not_made_again(
    table, picture_paths, make_runner, tmp_path, uninterrupted
):
    cache, runner, tasks, advanced = LocalFolder(tmp_path / "two"), CountingRunner(make_runner()), [], []

    def other_writer_is_first(given, report):
        extract(table, picture_paths, make_runner(), cache, BATCH)
        tasks.extend(given)

    pass_ = Extraction(table, picture_paths, runner, cache, BATCH)
    pass_.run_layers(engine=other_writer_is_first)
    for task in tasks:
        PartMaker(runner, pass_.folder).make(task, StageClock(), advanced.append)

    assert runner.batches == [] and advanced == [64, 35]
    assert bytes_of(pass_.folder.path) == bytes_of(uninterrupted.folder.path)


# --- killed

SMALL_AND_SLOW = f"""
import sys
if "extract" in sys.orig_argv:
    import pathlib, time
    from pipeline.activations import writer
    {code_to_bind(PART_ROWS)}
    write_part = writer.StoreWriter.write_part
    def write_then_wait(self, *arguments):
        write_part(self, *arguments)
        time.sleep(60 * pathlib.Path("slow").exists())
    writer.StoreWriter.write_part = write_then_wait
"""
MANIFEST = """
{name: tiny, title: drawn, folder: tiny, classes: [ball], metric: voc12, fit: train, eval: train, splits: {train: {}}}
"""


def test_killed_command_goes_on_to_the_same_bytes(tmp_path, split, uninterrupted):
    for sub in ("data_manifests", "site", "data/tiny/Annotations", "data/tiny/ImageSets/Main"):
        (tmp_path / sub).mkdir(parents=True)
    (tmp_path / "data_manifests/tiny.yaml").write_text(MANIFEST)
    (tmp_path / "site/sitecustomize.py").write_text(SMALL_AND_SLOW)
    (tmp_path / "data/tiny/ImageSets/Main/train.txt").write_text("\n".join(split.ids))
    for name in split.ids:
        (tmp_path / f"data/tiny/Annotations/{name}.xml").write_text("<annotation/>")
    (tmp_path / "config.yaml").write_text("grid: {scales: [1.0, 2.0], overlap: 0.5}")
    arguments = (
        "extract --dataset tiny --split train --trunk random --config config.yaml"
        f" --precision fp32 --threads 1 --batch {BATCH}"
    )
    command = [Path(sys.executable).parent / "pipeline", *arguments.split()]
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    (tmp_path / "slow").touch()

    process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    try:
        while not (records := list(tmp_path.glob("cache/*.zarr/integrity/part-*.json"))):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    recorded = records[0].stat().st_mtime_ns
    with pytest.raises(StoreError, match="1 of 2 parts are missing"):
        Store(records[0].parents[1])
    (tmp_path / "slow").unlink()

    finished = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)

    assert finished.returncode == 0, finished.stderr
    assert "resuming, 1 of 2 parts are recorded" in finished.stderr
    assert records[0].stat().st_mtime_ns == recorded
    assert records[0].parents[1].name == uninterrupted.folder.path.name
    assert bytes_of(records[0].parents[1]) == bytes_of(uninterrupted.folder.path)


# --- what stops it


def test_changed_picture_is_named(table, picture_paths, make_runner, tmp_path):
    Image.new("RGB", (48, 64), "red").save(picture_paths["b"])
    with pytest.raises(
        PipelineError,
        match=r"b: .*b\.png: changed since the patch table was made; "
        r"make the patch table again with: pipeline patches, then resume with: pipeline extract$",
    ):
        extract(table, picture_paths, make_runner(), tmp_path / "cache", BATCH)


def test_removed_picture_is_named(table, picture_paths, make_runner, tmp_path):
    picture_paths["f"].unlink()
    with pytest.raises(PipelineError, match=r"f: .*f\.png: No such file or directory; it was there before"):
        extract(table, picture_paths, make_runner(), tmp_path / "cache", BATCH)
    # What came before is kept: the picture is in the second part.
    (path,) = (tmp_path / "cache").glob("*.zarr")
    with pytest.raises(StoreError, match=r"1 of 2 parts are missing \(first: 1\)"):
        Store(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_name_the_picture(split, make_runner, tmp_path, picture_paths, value):
    Image.new("RGB", (64, 48), "white").save(picture_paths["c"])
    table = make_table(split, SourceSettings(grid=GridSettings(scales=(1.0, 2.0), overlap=0.5)))
    runner = make_runner()
    broken = BrokenRunner(runner.trunk, runner.device, runner.precision)
    broken.value = value
    with pytest.raises(PipelineError, match=r"activations of 17 patches are not finite .*in picture\(s\) c; try"):
        extract(table, picture_paths, broken, tmp_path / "cache", BATCH)
    (path,) = (tmp_path / "cache").glob("*.zarr")
    assert not list(path.glob("integrity/part-*.json"))


def test_full_disk_is_seen_before_the_trunk_runs(table, picture_paths, make_runner, tmp_path, monkeypatch):
    runner = CountingRunner(make_runner())
    usage = type("usage", (), {"free": 100_000})  # enough for the second part alone
    monkeypatch.setattr("pipeline.activations.folder.shutil.disk_usage", lambda path: usage)
    with pytest.raises(PipelineError, match=r"0.0 GiB may be needed and 0.0 GiB are free; .* --cache or --stores"):
        extract(table, picture_paths, runner, tmp_path / "cache", BATCH)
    assert runner.batches == [] and runner.trials == []
    assert not (tmp_path / "cache").exists()


def test_a_store_that_goes_on_needs_room_for_what_is_left(table, picture_paths, make_runner, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        extract(table, picture_paths, CountingRunner(make_runner(), stop_at=4), tmp_path / "cache", BATCH)
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("pipeline.activations.folder.shutil.disk_usage", lambda path: usage)
    with pytest.raises(PipelineError, match="GiB may be needed"):
        extract(table, picture_paths, make_runner(), tmp_path / "cache", BATCH)
    usage.free = 100_000
    assert extract(table, picture_paths, make_runner(), tmp_path / "cache", BATCH).n_rows == table.n_rows


@pytest.mark.parametrize("n_before", [5, 7, 9, 10], ids=["first object", "an object", "record", "seal"])
def test_disk_that_fills_up_is_said_and_nothing_recorded_is_lost(
    table, picture_paths, make_runner, tmp_path, uninterrupted, monkeypatch, n_before
):
    replace, calls = os.replace, itertools.count()  # five a part: four objects and the record

    def fills_up(source, target):
        if next(calls) >= n_before:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fills_up)
        with pytest.raises(PipelineError, match=r"\.zarr: the disk is full \(.*start the same command again$"):
            extract(table, picture_paths, make_runner(), tmp_path / "cache", BATCH)
    runner = CountingRunner(make_runner())
    store = extract(table, picture_paths, runner, tmp_path / "cache", BATCH)
    assert len(runner.batches) == (3 if n_before < 10 else 0)
    assert bytes_of(store.folder.path) == bytes_of(uninterrupted.folder.path)


def test_pictures_of_the_next_plan_are_decoded_while_one_is_computed(table, picture_paths):
    plans = [plan_rows(table, picture_paths, slice(*rows)) for rows in ((0, 5), (5, 64), (64, table.n_rows))]
    asked = []

    def ask():
        for index, plan in enumerate(plans):
            asked.append(index)
            yield plan

    with PictureQueue(ask(), lambda plan, pixels, rows: (plan, rows), StageClock()) as queue:
        queue.fill()
        assert asked[:2] == [0, 1]  # beyond the first plan, before its only picture is taken
        taken = [queue.take() for plan in plans for _ in plan.pictures]
    assert [id(plan) for plan, _ in taken] == [id(plan) for plan in plans for _ in plan.pictures]
    assert sum(rows.stop - rows.start for _, rows in taken) == table.n_rows
    assert asked == [0, 1, 2]
