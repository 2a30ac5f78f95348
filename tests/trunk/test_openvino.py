"""OpenVINO beside torch: the same rows within the arithmetic, when it is chosen, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.activations.verify import TOLERANCES
from pipeline.io.errors import SettingsError, TrunkError
from pipeline.preflight import doctor
from pipeline.stages.runner import make_runner
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace
from pipeline.trunk import backends
from pipeline.trunk.backends import resolve_backend
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.load import load_trunk
from pipeline.trunk.openvino_network import OpenVinoNetwork
from pipeline.trunk.runner import TrunkRunner, cpu_has_bf16
from pipeline.trunk.trunk import Trunk
from pipeline.trunk.zoo.timm import import_timm

CPU = torch.device("cpu")
PRECISIONS = ["fp32", *(["bf16"] if cpu_has_bf16() else [])]
NAMES = (
    "random",
    "timm/test_resnet",
    "timm/test_efficientnet@blocks.1:max+features",
    "timm/test_vit@blocks.0:tokens+norm:class",
)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Load a trunk by name, timm's with random weights from a file."""
    folder = tmp_path_factory.mktemp("weights")

    def load_named(name: str) -> Trunk:
        if not name.startswith("timm/"):
            return load_trunk(name)
        model = name.removeprefix("timm/").partition("@")[0]
        path = folder / f"{model}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            save_file(import_timm().create_model(model).eval().state_dict(), path)
        return load_trunk(name, weights=path)

    return load_named


def patches_of(trunk: Trunk, n: int) -> np.ndarray:
    """Blocks of colour, since a network sees little in noise."""
    px = trunk.card.input_px
    coarse = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), np.uint8)
    return coarse.repeat(px // 8, 1).repeat(px // 8, 2)


def reference(trunk: Trunk, patches: np.ndarray) -> np.ndarray:
    """Rows in float64, from pixels normalised by the formula."""
    mean, std = np.array(trunk.card.preprocessing.mean), np.array(trunk.card.preprocessing.std)
    inputs = torch.from_numpy(((patches / 255 - mean) / std).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        rows = trunk.network.double()(inputs).numpy()
    trunk.network.float()  # the weights are float32: nothing is lost
    return rows


def apart(rows: np.ndarray, expected: np.ndarray) -> float:
    return float((np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_of_float64_within_the_arithmetic(load, name, precision):
    trunk = load(name)
    patches = patches_of(trunk, 5)
    expected = reference(trunk, patches)
    runner = TrunkRunner(trunk, CPU, precision, backend="openvino")

    rows = runner(patches)

    assert (rows.shape, rows.dtype) == ((5, trunk.width), np.float16)
    assert runner.precision_name == f"cpu-{precision}-openvino"
    assert apart(rows.astype(np.float64), expected) < TOLERANCES[precision] / 2
    # bf16 is what it says it is: not fp32 under another name.
    assert (apart(rows.astype(np.float64), expected) > 1e-3) == (precision == "bf16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_the_same_wherever_it_stands(load, name, precision):
    trunk = load(name)
    runner = TrunkRunner(trunk, CPU, precision, backend="openvino")
    assert runner.rows_are_independent(8)
    patches = patches_of(trunk, 8)
    turned = np.roll(patches, 3, axis=0)
    turned[:3] = 0
    assert np.array_equal(runner(turned)[3:], runner(patches)[:5])
    # Batches of other sizes in between leave no trace.
    runner(patches[:3]), runner(patches[:5])
    assert np.array_equal(runner(turned)[3:], runner(patches)[:5])


def test_rows_of_one_batch_outlive_the_next(load):
    runner = TrunkRunner(load("random"), CPU, "fp32", backend="openvino")
    patches = patches_of(runner.trunk, 4)
    first = runner.launch(patches, ("fc7",))
    kept = first.result()["fc7"].copy()
    runner(255 - patches)
    assert np.array_equal(first.result()["fc7"], kept)


@pytest.mark.parametrize(
    ("channels", "px", "rows"),
    [(8, 64, 64), (96, 224, 8), (96, 225, 8), pytest.param(512, 512, 1, marks=pytest.mark.long)],
)
def test_the_batch_follows_from_the_largest_map(channels, px, rows):
    network = nn.Sequential(nn.Conv2d(3, channels, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert OpenVinoNetwork(network, px, "fp32").batch_rows == rows
    n_values = channels * ((px + 1) // 2) ** 2
    assert rows in (1, 64) or 2 * n_values * rows <= 2**25 < 4 * n_values * rows


def test_only_one_layer_a_pass():
    runner = TrunkRunner(load_trunk("random"), CPU, "fp32", backend="openvino")
    with pytest.raises(SettingsError, match="backend openvino: only one layer per pass"):
        runner.launch(np.zeros((1, 64, 64, 3), np.uint8), ("fc6", "fc7"))


class FixedByTracing(nn.Module):
    """Multiplies by a number that torch's trace takes for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :16] * self.weight * float(x.abs().sum())


def test_a_conversion_that_gives_other_rows_is_refused():
    with pytest.raises(TrunkError, match=r"backend openvino: rows differ from torch's by .* use backend: torch"):
        OpenVinoNetwork(FixedByTracing(), 16, "fp32")


@pytest.mark.parametrize("size", [1e-12, 1e-9, 1e-6, 1.0])
def test_rows_that_float16_hardly_holds_are_no_difference(size):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    for parameter in network.parameters():
        parameter.data *= size
    assert OpenVinoNetwork(network, 16, "fp32")(torch.ones(3, 3, 16, 16)).shape == (3, 8 * 14 * 14)


class Unconvertible(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.qr(x.flatten(1)[:, :16])[0]


def test_a_network_that_cannot_be_converted_is_refused():
    with pytest.raises(TrunkError, match="backend openvino: the network cannot be converted: No conv.*linalg_qr; use"):
        OpenVinoNetwork(Unconvertible(), 16, "fp32")


def test_nothing_is_reported_to_anybody(monkeypatch):
    telemetry = pytest.importorskip("openvino_telemetry")
    monkeypatch.setattr(telemetry.Telemetry, "init", lambda *a, **k: pytest.fail("a use was reported"))
    TrunkRunner(load_trunk("random"), CPU, "fp32", backend="openvino")


# --- which one runs a trunk


def trunk_named(architecture: str, precision: str | None = None) -> Trunk:
    card = TrunkCard(name="mine", architecture=architecture, input_px=64, layers={"fc7": 4})
    return Trunk(card, "fc7", 4, "0" * 64, nn.Identity(), precision=precision)


@pytest.mark.parametrize(
    ("architecture", "precision", "expected"),
    [
        ("timm/tf_efficientnet_lite0", "bf16", "openvino"),
        ("torchvision/squeezenet1_0", "bf16", "openvino"),
        ("torchvision/resnet18", "bf16", "openvino"),
        ("timm/vit_small_patch16_224", "bf16", "openvino"),
        ("torchvision/resnet18", "fp32", "torch"),
        ("torchvision/swin_t", "bf16", "torch"),
        ("alexnet64", "bf16", "torch"),
        ("alexnet", "bf16", "torch"),
    ],
)
def test_auto_takes_it_where_it_was_measured_to_be_faster(monkeypatch, architecture, precision, expected):
    trunk = trunk_named(architecture)
    assert resolve_backend("auto", trunk, CPU, precision) == expected
    assert resolve_backend("torch", trunk, CPU, precision) == "torch"
    assert resolve_backend("openvino", trunk, CPU, precision) == "openvino"
    assert resolve_backend("auto", trunk, torch.device("cuda"), "bf16") == "torch"
    assert resolve_backend("auto", trunk, CPU, "bf16", compiled=True) == "torch"
    assert resolve_backend("auto", trunk, CPU, precision, dense=True) == expected
    monkeypatch.setattr(backends, "has_openvino", lambda: False)
    assert resolve_backend("auto", trunk, CPU, precision) == "torch"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": torch.device("cuda")}, "it runs on a CPU, and the device is cuda"),
        ({"compiled": True}, "leave compiled off"),
        ({"dense": True, "trunk": load_trunk("random")}, "method dense: the AlexNet family is run by torch"),
        ({"trunk": trunk_named("fisher", "fp32")}, "computes in fp32 by itself"),
    ],
)
def test_what_openvino_cannot_run_is_refused(changes, message):
    given = {"trunk": trunk_named("torchvision/resnet18"), "device": CPU, "precision": "fp32", **changes}
    with pytest.raises(SettingsError, match=f"backend openvino: .*{message}"):
        resolve_backend("openvino", **given)


def test_without_the_package_it_is_said_what_brings_it(monkeypatch):
    for module in (backends, doctor):
        monkeypatch.setattr(module, "has_openvino", lambda: False)
    assert doctor._openvino(Workspace(RunSettings())).state == "note"
    assert doctor._openvino(Workspace(RunSettings(backend="openvino"))).state == "bad"
    with pytest.raises(SettingsError, match=r"not installed; install it with: pip install 'pipeline\[openvino\]'"):
        resolve_backend("openvino", trunk_named("alexnet"), CPU, "fp32")


def test_bf16_without_it_in_the_processor_is_refused(monkeypatch):
    openvino = pytest.importorskip("openvino")

    class Old:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32"]

    monkeypatch.setattr(openvino, "Core", Old)
    with pytest.raises(SettingsError, match="this processor has no bfloat16; use precision: fp32"):
        OpenVinoNetwork(nn.Identity(), 16, "bf16")


def test_the_setting_chooses(load, tmp_path):
    load("timm/test_resnet")
    weights = next(Path(tmp_path).parent.glob("weights*/test_resnet.safetensors"))
    given = {"trunk": "timm/test_resnet", "weights": str(weights), "precision": "fp32", "threads": 1, "device": "cpu"}
    names = {
        backend: make_runner(Workspace(RunSettings(**given, backend=backend))).precision_name
        for backend in ("auto", "torch", "openvino")
    }
    # auto: only bf16 was measured.
    assert names == {"auto": "cpu-fp32", "torch": "cpu-fp32", "openvino": "cpu-fp32-openvino"}
