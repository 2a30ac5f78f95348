"""Dense trunks: rows from the maps of a whole picture, against windows that are run one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.io.errors import SettingsError, TrunkError
from pipeline.trunk.alexnet import CONFIGS, AlexNet
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.dense_maps import cells_of
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.zoo.torchvision_import import import_torchvision

CPU = torch.device("cpu")


@pytest.fixture
def picture():
    """Smooth, as pictures are: what is around a window is like what is in it."""
    small = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, 3, 9, 12)))
    large = torch.nn.functional.interpolate(small, size=(160, 224), mode="bicubic").clamp(0, 255)
    return large[0].permute(1, 2, 0).numpy().astype(np.uint8)


def read(runner: DenseRunner, picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
    """Read off the vectors of a picture's windows."""
    (windows,) = runner.load_windows([(picture, x, y)])
    return runner.read_windows(*windows)


@pytest.mark.parametrize("name", CONFIGS)
def test_stride_and_cells_are_those_of_the_maps(name):
    form = CONFIGS[name]
    network = AlexNet(form).eval()
    with torch.inference_mode():
        for further in (0, 1, 3):
            side = network.convolve(torch.zeros(1, 3, form.input_px, form.input_px + further * form.stride)).shape
            assert tuple(side[2:]) == (form.pool5_px, form.pool5_px + further)


@pytest.mark.parametrize("layer", ["pool5", "fc6", "fc7"])
def test_a_window_of_the_whole_picture_is_its_patch(picture, layer):
    # Zeros around the window are zeros around the picture: nothing differs but the batch.
    runner = DenseRunner(load_trunk("random", layer), CPU, "fp32")
    patch = picture[:64, :64]
    vectors = read(runner, patch, np.array([0]), np.array([0]))
    rows = runner.finish(vectors, (layer,)).result()[layer]
    expected = TrunkRunner(load_trunk("random", layer), CPU, "fp32")(patch[None])
    assert rows.dtype == np.float16
    assert np.allclose(rows.astype(float), expected.astype(float), rtol=2**-9, atol=1e-3)


@torch.no_grad()
def surrounded(picture: np.ndarray, x: int, y: int, px: int, around: int) -> np.ndarray:
    """FC7 of one window by the plain network in float64, convolutions seeing `around` more pixels on each side."""
    network = load_trunk("random").network.network.double()
    stride, side = network.config.stride, network.config.pool5_px
    padded = np.zeros((px + 2 * around, px + 2 * around, 3))
    for row in range(px + 2 * around):
        for column in range(px + 2 * around):
            at = (y - around + row, x - around + column)
            inside = 0 <= at[0] < picture.shape[0] and 0 <= at[1] < picture.shape[1]
            padded[row, column] = (
                (picture[at] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225] if inside else np.nan
            )
    assert not np.isnan(padded).any(), "the test takes windows far enough from the edge"
    cells = network.convolve(torch.from_numpy(padded.transpose(2, 0, 1)[None].copy()))
    first = around // stride
    window = cells[:, :, first : first + side, first : first + side]
    return network.connect(window.flatten(1), ("fc7",))["fc7"][0].numpy()


def test_a_window_sees_the_picture_around_it(picture):
    runner = DenseRunner(load_trunk("random"), CPU, "fp32")
    x, y = np.array([64, 96]), np.array([48, 48])

    rows = runner.finish(read(runner, picture, x, y), ("fc7",)).result()["fc7"].astype(float)

    # 48 px are further than any cell of the window sees.
    for row, left, upper in zip(rows, x, y, strict=True):
        expected = surrounded(picture, left, upper, 64, 48)
        assert np.linalg.norm(row - expected) < 2e-3 * np.linalg.norm(expected)
    patches = np.stack([picture[upper : upper + 64, left : left + 64] for left, upper in zip(x, y, strict=True)])
    alone = TrunkRunner(load_trunk("random"), CPU, "fp32")(patches).astype(float)
    difference = np.linalg.norm(rows - alone, axis=1) / np.linalg.norm(alone, axis=1)
    # Zeros in place of the picture at the window's edges make another row, but not another thing.
    assert (difference > 0.02).all() and (difference < 0.8).all()


def test_places_are_the_nearest_cells_within_the_map():
    assert cells_of(torch.tensor([0, 7, 9, 24, 200]), 16, 5).tolist() == [0, 0, 1, 2, 5]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_several_layers_are_those_of_one(picture, precision):
    x, y = np.array([0, 32, 100]), np.array([0, 16, 90])
    runner = DenseRunner(load_trunk("random"), CPU, precision)
    found = runner.finish(read(runner, picture, x, y), ("pool5", "fc7")).result()
    for layer, rows in found.items():
        one = DenseRunner(load_trunk("random", layer), CPU, precision)
        vectors = read(one, picture, x, y)
        assert np.array_equal(rows, one.finish(vectors, (layer,)).result()[layer])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """From a name to a torchvision trunk of random weights."""

    def make(name: str):
        model = import_torchvision().models.get_model(name.partition("@")[0], weights=None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.kaiming_normal_(parameter)
        path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
        return load_trunk(f"torchvision/{name}", weights=path)

    return make


@pytest.mark.parametrize(
    ("name", "strides", "sides"),
    [
        ("squeezenet1_0", (16, 16), (13, 13)),
        ("squeezenet1_1@features.12:max+features.5", (16, 8), (13, 27)),
        ("resnet18@layer2:flat", (8,), (28,)),
    ],
)
def test_nodes_of_fully_convolutional_networks(classifier, name, strides, sides):
    trunk = classifier(name)
    runner = DenseRunner(trunk, CPU, "fp32")
    cuts = runner.maps.graph.cuts
    assert (tuple(cut.geometry.stride for cut in cuts), tuple(cut.side for cut in cuts)) == (strides, sides)
    rng = np.random.default_rng(1)
    scaled = rng.integers(0, 256, (256, 304, 3), np.uint8)
    x, y = np.array([0, 16, 64, 80]), np.array([0, 16, 32, 32])

    vectors = read(runner, scaled, x, y)
    rows = runner.finish(vectors, (trunk.layer,)).result()[trunk.layer].astype(float)

    # Pooled by loops over the maps of the whole picture.
    pixels = torch.from_numpy(((scaled / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)[None])
    with torch.inference_mode():
        found = trunk.network.extractor.float()(pixels.float())
    for row, left, upper in zip(rows, x, y, strict=True):
        expected = []
        for node, stride, side in zip(trunk.network.nodes, strides, sides, strict=True):
            a, b = upper // stride, left // stride
            window = found[node.name][0, :, a : a + side, b : b + side].numpy()
            pooled = {"max": window.max((1, 2)), "flat": window.ravel()}.get(node.pooling, window.mean((1, 2)))
            expected.append(pooled)
        assert np.allclose(row, np.concatenate(expected), rtol=2**-9, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mobilenet_v3_small",
            "mul behind hardsigmoid at features.1.block.1.fc2 joins a map .*squeeze and excitation",
        ),
        ("shufflenet_v2_x0_5", "view at stage2.0.branch1.3 is no operation on places alone, and conv2d at stage2.1"),
        pytest.param(
            "swin_t",
            "matmul at features.1.0.attn.qkv attends to all places; use method patches",
            marks=pytest.mark.long,
        ),
    ],
)
def test_networks_that_look_at_the_whole_picture_are_refused(classifier, name, message):
    with pytest.raises(TrunkError, match=message):
        DenseRunner(classifier(name), CPU, "fp32")


def test_dense_and_compiled_exclude_each_other():
    with pytest.raises(SettingsError, match="method dense: .* leave one off"):
        DenseRunner(load_trunk("random"), CPU, "fp32", compiled=True)
