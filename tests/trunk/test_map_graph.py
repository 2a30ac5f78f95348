"""Networks divided into maps and a part per window: against patches, loops per window, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.io.errors import SettingsError, TrunkError
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.dense_maps import mirror
from pipeline.trunk.dense_sizes import extended_size
from pipeline.trunk.load import load_trunk
from pipeline.trunk.map_graph import split
from pipeline.trunk.nodes import Node, NodesNetwork, Prefix
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import Trunk
from pipeline.trunk.zoo.timm import import_timm

CPU = torch.device("cpu")
PX = 40


class Named(nn.Module):
    """Values of modules that run in a row, by name."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleDict(modules)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        for name, module in self.inner.items():
            found[name] = x = module(x)
        return found


def trunk_of(*nodes: Node, px: int = PX, **modules: nn.Module) -> Trunk:
    """A trunk of modules with random weights that ends at some of them."""
    torch.manual_seed(0)
    extractor = Named(**modules).eval()
    for parameter in extractor.parameters():
        nn.init.normal_(parameter, std=0.3)
    network = NodesNetwork(extractor, nodes, Prefix()).eval()
    with torch.inference_mode():
        width = network(torch.zeros(1, 3, px, px)).shape[1]
    card = TrunkCard(name="small", architecture="small", input_px=px, layers={"rows": width})
    return Trunk(card, "rows", width, "0" * 64, network)


def picture_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def dense_rows(runner: DenseRunner, picture: np.ndarray, x: list[int], y: list[int]) -> np.ndarray:
    (windows,) = runner.load_windows([(picture, np.array(x), np.array(y))])
    return runner.finish(runner.read_windows(*windows), ("rows",)).result()["rows"].astype(np.float32)


def same_conv(channels: int, stride: int) -> nn.Module:
    """A convolution with TensorFlow's padding, which depends on the size of the input."""
    import_timm()
    from timm.layers import create_conv2d

    return create_conv2d(3, channels, 3, stride=stride, padding="same")


# --- equal to patches


@settings(max_examples=10, deadline=None)
@given(
    cells=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    beyond=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 99),
    pooling=st.sampled_from(["mean", "max", "flat"]),
)
def test_without_padding_windows_on_cells_are_their_patches(cells, beyond, seed, pooling):
    trunk = trunk_of(
        Node("b", pooling),
        a=nn.Sequential(nn.Conv2d(3, 4, 4, 2), nn.ReLU()),
        b=nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)),
    )
    (x, y), (right, below) = (np.array(cells) * 4).tolist(), beyond
    picture = picture_of(y + PX + below, x + PX + right, seed)

    rows = dense_rows(DenseRunner(trunk, CPU, "fp32"), picture, [x], [y])

    expected = TrunkRunner(trunk, CPU, "fp32")(picture[None, y : y + PX, x : x + PX])
    assert np.allclose(rows, expected.astype(np.float32), rtol=2**-9, atol=2e-3)


FORMS = {
    "padding": {"a": nn.Conv2d(3, 4, 3, 2, 1), "b": nn.MaxPool2d(3, 2, 1)},
    "SAME": {"a": same_conv(4, 2), "b": nn.ReLU()},
    "fc layers": {
        "a": nn.Conv2d(3, 4, 5, 4, 2),
        "b": nn.AdaptiveAvgPool2d(10),
        "c": nn.Flatten(),
        "d": nn.Linear(400, 7),
    },
    "global pool": {"a": nn.Conv2d(3, 4, 3, 4), "b": nn.AdaptiveAvgPool2d(1), "c": nn.Flatten(), "d": nn.Linear(4, 7)},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_of_one_window_is_its_patch(form):
    trunk = trunk_of(Node(list(FORMS[form])[-1]), **FORMS[form])
    picture = picture_of(PX, PX)
    rows = dense_rows(DenseRunner(trunk, CPU, "fp32"), picture, [0], [0])
    expected = TrunkRunner(trunk, CPU, "fp32")(picture[None]).astype(np.float32)
    assert np.allclose(rows, expected, rtol=2**-9, atol=2e-3)


# --- a loop per window


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_those_of_a_loop_over_windows(form):
    modules = FORMS[form]
    trunk = trunk_of(Node(list(modules)[-1]), **modules)
    runner = DenseRunner(trunk, CPU, "fp32")
    picture, x, y = picture_of(70, 93), [0, 13, 40, 53], [0, 30, 9, 30]

    rows = dense_rows(runner, picture, x, y)

    stride = {"SAME": 2}.get(form, 4)
    sides = [PX + -(-(side - PX) // stride) * stride for side in picture.shape[:2]]
    larger = np.pad(picture, [(0, sides[0] - 70), (0, sides[1] - 93), (0, 0)], mode="symmetric")
    inputs = (larger / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    inner = trunk.network.extractor.inner
    with torch.inference_mode():
        cells = torch.from_numpy(inputs.transpose(2, 0, 1)[None]).float()
        if form == "SAME":
            # A patch is padded after its last pixel alone, by one; so is the picture.
            cells = nn.functional.conv2d(nn.functional.pad(cells, (0, 1, 0, 1)), inner["a"].weight, stride=2)
            cells = inner["b"](cells)
        else:
            for name in {"padding": "ab"}.get(form, "a"):
                cells = inner[name](cells)
        side = PX // stride
        for row, left, top in zip(rows, x, y, strict=True):
            first = round(top / stride), round(left / stride)
            window = cells[:, :, first[0] : first[0] + side, first[1] : first[1] + side]
            if form in ("padding", "SAME"):
                expected = window.mean((2, 3))
            else:
                expected = inner["d"](inner["c"](inner["b"](window)))
            assert np.allclose(row, expected[0].numpy(), rtol=2**-8, atol=5e-3)


def test_a_window_has_the_same_bits_beside_other_windows():
    trunk = trunk_of(Node("a"), Node("b"), **FORMS["padding"])
    runner = DenseRunner(trunk, CPU, "fp32")
    picture, rng = picture_of(70, 93), np.random.default_rng(0)
    x, y = rng.integers(0, 53, 30).tolist(), rng.integers(0, 30, 30).tolist()
    rows = dense_rows(runner, picture, x, y)
    for some in (slice(3, 4), slice(10, 30)):
        assert np.array_equal(dense_rows(runner, picture, x[some], y[some]), rows[some])


# --- what follows from the trace

LAYERS = st.one_of(
    st.tuples(st.just("conv"), st.integers(1, 5), st.integers(1, 2), st.integers(0, 2)),
    st.tuples(st.just("pool"), st.integers(2, 3), st.integers(1, 2), st.integers(0, 1)),
)


@settings(max_examples=12, deadline=None)
@given(st.lists(LAYERS, max_size=3))
def test_stride_field_and_padding_are_those_of_gradients(layers):
    layers = [("conv", 3, 2, 1), *layers]
    made = [
        nn.Conv2d(3, 3, k, stride, padding) if kind == "conv" else nn.AvgPool2d(k, stride, min(padding, k // 2))
        for kind, k, stride, padding in layers
    ]
    paddings = [p if kind == "conv" else min(p, k // 2) for kind, k, _, p in layers]
    trunk = trunk_of(Node("all"), px=64, all=nn.Sequential(*made))
    (cut,) = split(trunk.network, 64).cuts
    network = trunk.network.extractor.inner["all"]
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    pixels = torch.zeros(1, 3, 64, 64, requires_grad=True)
    cells = network(pixels)
    assert cells.shape[2] == cut.side
    middle, seen = cut.side // 2, []
    for cell in (middle, middle + 1):
        (gradient,) = torch.autograd.grad(cells[0, 0, middle, cell], pixels, retain_graph=True)
        columns = torch.nonzero(gradient.abs().sum((0, 1, 2))).flatten()
        seen.append((int(columns.min()), int(columns.max()) + 1))
    geometry = cut.geometry
    assert seen[1][0] - seen[0][0] == geometry.stride
    assert seen[0][1] - seen[0][0] == geometry.field
    assert seen[0][0] == geometry.start + middle * geometry.stride
    assert (geometry.start < 0) == any(paddings)


@given(st.integers(32, 300), st.integers(0, 3000), st.sampled_from([4, 8, 16, 32]))
def test_extended_sides_are_whole_cells_and_few(px, further, stride):
    size = extended_size(px + further, px, stride)
    cells = (size - px) // stride
    assert (size - px) % stride == 0
    assert px + further <= size < px + (further + stride) * 17 / 16
    assert len(bin(cells)[2:].rstrip("0")) <= 5


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_beyond_its_edges_a_picture_is_mirrored(height, width, below, right):
    picture = picture_of(height, width)
    found = mirror(torch.from_numpy(picture), height + min(below, height), width + min(right, width)).numpy()
    expected = np.pad(picture, [(0, min(below, height)), (0, min(right, width)), (0, 0)], mode="symmetric")
    assert np.array_equal(found, expected)


# --- what is refused


class Excited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cells = self.conv(x)
        return cells * self.fc(cells.mean((2, 3), keepdim=True)).sigmoid()


class Placed(nn.Module):
    """Adds a value per place, as position embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.places = nn.Conv2d(3, 4, 4, 4), nn.Parameter(torch.zeros(1, 4, 10, 10))
        self.last = nn.Conv2d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(x) + self.places)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Excited(), "mul behind sigmoid at inner.a.fc joins a map with what was pooled from all places"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.GroupNorm(2, 4)),
            "group_norm at inner.a.1 normalises over all places",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.LayerNorm([4, 10, 10])),
            "layer_norm at inner.a.1 normalises over all places",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3)),
            "upsample_nearest2d at",
        ),
        (Placed(), "add at inner.a is no operation on places alone, and conv2d at inner.a.last reads it by places"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * PX * PX, 4)), "nothing of it runs over maps"),
    ],
)
def test_what_depends_on_the_whole_picture_is_refused(module, message):
    with pytest.raises(TrunkError, match=f"trunk 'small': method dense: {message}.*; use method patches"):
        DenseRunner(trunk_of(Node("a"), a=module), CPU, "fp32")


# --- OpenVINO


@pytest.mark.parametrize("form", FORMS)
def test_openvino_gives_the_rows_of_torch_at_any_size(form):
    pytest.importorskip("openvino")
    rows = {}
    for backend in ("torch", "openvino"):
        trunk = trunk_of(Node(list(FORMS[form])[-1]), **FORMS[form])
        runner = DenseRunner(trunk, CPU, "fp32", backend=backend)
        assert runner.precision_name == ("cpu-fp32" if backend == "torch" else "cpu-fp32-openvino")
        rows[backend] = np.concatenate(
            [dense_rows(runner, picture_of(h, w), [0, 9], [0, h - PX]) for h, w in ((40, 49), (70, 90), (40, 49))]
        )
    assert np.allclose(rows["torch"], rows["openvino"], rtol=2**-8, atol=5e-3)
    assert np.array_equal(rows["openvino"][:2], rows["openvino"][4:])


def test_the_alexnet_family_is_run_by_torch():
    with pytest.raises(SettingsError, match="method dense of the AlexNet family is run by torch"):
        DenseRunner(load_trunk("random"), CPU, "fp32", backend="openvino")
