"""Dense extraction: rows read off the maps of whole pictures, in a store of their own."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from PIL import Image
from support.tables import all_rows

from pipeline.activations import extraction
from pipeline.activations.folder import LocalFolder
from pipeline.activations.store import Store
from pipeline.activations.verify import recompute_rows
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.load import load_trunk

BATCH = 16


extract, Extraction = (
    functools.partial(make, part_rows=lambda width: 64) for make in (extraction.extract, extraction.Extraction)
)


def runner(layer: str = "fc7") -> DenseRunner:
    return DenseRunner(load_trunk("random", layer), torch.device("cpu"), "fp32")


def bytes_of(store: Store) -> dict[str, bytes]:
    path = store.folder.path
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def store(table, picture_paths, tmp_path) -> Store:
    return extract(table, picture_paths, runner(), tmp_path / "dense", BATCH)


def test_rows_equal_a_slow_direct_computation(table, picture_paths, store):
    network = load_trunk("random").network.network
    stride, side = network.config.stride, network.config.pool5_px
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rows = store.read_rows(np.arange(table.n_rows))

    for row in range(table.n_rows):
        picture = Image.open(picture_paths[table.ids[all_rows(table).picture[row]]])
        x0, y0, x1, _ = (float(v) for v in all_rows(table).box_xyxy[row])
        factor = 64 / (x1 - x0)
        size = max(64, round(picture.width * factor)), max(64, round(picture.height * factor))
        scaled = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
        with torch.inference_mode():
            cells = network.convolve(((torch.from_numpy(scaled.copy()) / 255 - mean) / std).permute(2, 0, 1)[None])
            left = min(round(round(x0 * factor) / stride), cells.shape[3] - side)
            top = min(round(round(y0 * factor) / stride), cells.shape[2] - side)
            pool5 = cells[:, :, top : top + side, left : left + side].flatten(1)
            expected = network.connect(pool5, ("fc7",))["fc7"][0].numpy()
        assert np.allclose(rows[row], expected, rtol=2**-9, atol=1e-3), row


def test_it_is_another_store_that_says_how(store, whole_cache):
    patches = Store(next(whole_cache.glob("*.zarr")))
    ours, theirs = store.identity, patches.identity
    assert {key for key in ours if ours[key] != theirs[key]} == {"how.method", "how.rounding"}
    assert ours["how.method"] == "dense"
    assert ours["how.rounding"] == "window corners to the nearest multiple of 16 pixels of the rescaled picture"
    assert store.folder.path.name != patches.folder.path.name


def test_interrupted_and_gone_on_gives_the_same_bytes(table, picture_paths, store, tmp_path, monkeypatch):
    made = []

    def stopped(self, *arguments):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(len(arguments[0]))
        return DenseRunner.finish(self, *arguments)

    broken = type("Broken", (DenseRunner,), {"finish": stopped})(load_trunk("random"), torch.device("cpu"), "fp32")
    with pytest.raises(KeyboardInterrupt):
        extract(table, picture_paths, broken, tmp_path / "cut", BATCH)
    assert made == [16] * 5  # four of the first part, one of the second

    gone_on = extract(table, picture_paths, runner(), tmp_path / "cut", BATCH)

    assert bytes_of(gone_on) == bytes_of(store)


def test_a_row_does_not_depend_on_its_batch(table, picture_paths, store, tmp_path):
    other = extract(table, picture_paths, runner(), tmp_path / "other", 7)
    rows = np.arange(table.n_rows)
    assert np.allclose(store.read_rows(rows).astype(float), other.read_rows(rows).astype(float), rtol=2**-9, atol=1e-3)


def test_several_layers_from_one_pass(table, picture_paths, store, tmp_path):
    stores = LocalFolder(tmp_path / "joint")
    joint = Extraction(table, picture_paths, runner(), stores, BATCH, layers=("pool5", "fc7")).run_layers()
    assert [item.identity["how.layer"] for item in joint] == ["pool5", "fc7"]
    assert bytes_of(joint[1]) == bytes_of(store)


def test_rows_made_again_are_equal(table, picture_paths, store):
    assert recompute_rows(store, table, picture_paths, runner(), 20).difference.max() < 1e-3
