"""Vision transformers over tiles: against patches, and against a loop over windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.io.errors import TrunkError
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.dense_tokens import tile_starts
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.zoo.timm import import_timm

CPU = torch.device("cpu")
NAME = "timm/test_vit@blocks.0:max+norm:tokens"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(import_timm().create_model("test_vit").eval().state_dict(), path)
    return path


def picture_of(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (-(-height // 20), -(-width // 20), 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(20, 0).repeat(20, 1)[:height, :width])


def dense_rows(runner: DenseRunner, picture: np.ndarray, x: list[int], y: list[int]) -> np.ndarray:
    (windows,) = runner.load_windows([(picture, np.array(x), np.array(y))])
    return runner.finish(runner.read_windows(*windows), (runner.trunk.layer,)).result()[runner.trunk.layer]


def test_at_the_largest_scale_rows_are_those_of_patches(weights):
    trunk = load_trunk(NAME, weights=weights)
    px = trunk.card.input_px
    picture = picture_of(px, px + 48)
    rows = dense_rows(DenseRunner(trunk, CPU, "fp32"), picture, [0, 32], [0, 0])
    expected = TrunkRunner(trunk, CPU, "fp32")(np.stack([picture[:, :px], picture[:, 32 : 32 + px]]))
    assert np.allclose(rows.astype(float), expected.astype(float), rtol=2**-9, atol=2e-3)


@torch.inference_mode()
def by_loop(weights, picture: np.ndarray, x: int, y: int) -> np.ndarray:
    """One window: its tile's tokens by a network that is loaded for the tile's size, pooled by loops."""
    px, stride = 160, 16
    tokens = [-(-side // stride) for side in picture.shape[:2]]
    sides = [n * stride for n in tokens]
    larger = np.pad(picture, [(0, sides[0] - len(picture)), (0, sides[1] - picture.shape[1]), (0, 0)], mode="symmetric")
    tile = min(*tokens, 2 * px // stride)
    step = tile - px // stride + 1
    first = [min(round(at / stride), n - px // stride) for at, n in ((y, tokens[0]), (x, tokens[1]))]
    start = [min(cell // step * step, n - tile) for cell, n in zip(first, tokens, strict=True)]
    cut = larger[start[0] * 16 : (start[0] + tile) * 16, start[1] * 16 : (start[1] + tile) * 16]
    trunk = load_trunk(NAME, weights=weights, px=tile * stride)
    mean, std = np.array(trunk.card.preprocessing.mean), np.array(trunk.card.preprocessing.std)
    found = trunk.network.extractor(torch.from_numpy(((cut / 255 - mean) / std).transpose(2, 0, 1)[None]).float())
    row = []
    for name, pool in (("blocks.0", np.max), ("norm", np.mean)):
        values = found[name][0].numpy()[trunk.network.prefix.n_tokens :]
        inside = [
            values[(first[0] - start[0] + i) * tile + first[1] - start[1] + j] for i in range(10) for j in range(10)
        ]
        row.append(pool(inside, axis=0))
    return np.concatenate(row)


@pytest.mark.parametrize("size", [(200, 250), (400, 490)])
def test_rows_are_those_of_a_loop_over_windows(weights, size):
    picture, rng = picture_of(*size), np.random.default_rng(1)
    x, y = rng.integers(0, size[1] - 160, 4).tolist(), rng.integers(0, size[0] - 160, 4).tolist()
    x[0], y[0] = size[1] - 160, size[0] - 160
    runner = DenseRunner(load_trunk(NAME, weights=weights), CPU, "fp32")

    rows = dense_rows(runner, picture, x, y)

    for row, left, top in zip(rows, x, y, strict=True):
        assert np.allclose(row, by_loop(weights, picture, left, top), rtol=2**-8, atol=5e-3)
    # A row has the same bits whatever else is asked for.
    assert np.array_equal(dense_rows(runner, picture, x[1:2], y[1:2]), rows[1:2])


def test_openvino_gives_the_rows_of_torch(weights):
    pytest.importorskip("openvino")
    picture, x, y = picture_of(200, 250), [0, 16, 90], [0, 0, 40]
    torchs, openvinos = (
        dense_rows(DenseRunner(load_trunk(NAME, weights=weights), CPU, "fp32", backend=backend), picture, x, y)
        for backend in ("torch", "openvino")
    )
    assert np.allclose(torchs.astype(float), openvinos.astype(float), rtol=2**-8, atol=5e-3)


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 40), st.data())
def test_each_window_lies_in_its_tile_and_each_tile_in_the_picture(side, larger, beyond, data):
    tile = side + larger
    n = tile + beyond
    cell = data.draw(st.integers(0, n - side))
    (start,) = tile_starts(torch.tensor([cell]), n, tile, side).tolist()
    assert 0 <= start <= cell
    assert cell + side <= start + tile <= n


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("norm", "node norm:class: a class token stands for the whole picture; name patch tokens, such as norm:tokens"),
        ("features", "node features: gives no patch tokens"),
        ("norm:flat", "node norm:flat: gives no patch tokens, or they are not pooled"),
    ],
)
def test_what_is_no_window_of_tokens_is_refused(weights, layer, message):
    with pytest.raises(TrunkError, match=f"method dense: {message}"):
        DenseRunner(load_trunk(f"timm/test_vit@{layer}", weights=weights), CPU, "fp32")
