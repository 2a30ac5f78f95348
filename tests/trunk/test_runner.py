"""Running a trunk: arithmetic, devices, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.io.errors import SettingsError, TrunkError
from pipeline.trunk.devices import resolve_device
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner, cpu_has_bf16, resolve_precision
from pipeline.trunk.windows import cut_windows, gather_windows

CPU = torch.device("cpu")


@pytest.fixture
def patches():
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)


@pytest.fixture
def reference(patches):
    """Activations in float64, from pixels normalised by the formula."""
    network = load_trunk("random").network.double()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    inputs = torch.from_numpy(((patches / 255 - mean) / std).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        return network(inputs).numpy()


def test_fp32_is_the_reference_but_for_the_stored_type(patches, reference):
    rows = TrunkRunner(load_trunk("random"), CPU, "fp32")(patches)
    assert (rows.shape, rows.dtype) == ((5, 1024), np.float16)
    assert reference.std() > 0.1
    # float16 keeps 11 bits; small values lose to float32 sums of large ones.
    assert np.allclose(rows, reference, rtol=2**-10, atol=1e-4)


def test_bf16_is_near(patches, reference):
    rows = TrunkRunner(load_trunk("random"), CPU, "bf16")(patches).astype(np.float64)
    # bfloat16 keeps 8 bits, through seven layers: 2 % of the norm.
    assert np.linalg.norm(rows - reference) < 0.02 * np.linalg.norm(reference)
    assert not np.allclose(rows, reference, rtol=2**-10, atol=1e-4)


def test_channels_are_red_green_blue():
    red, blue = (np.zeros((1, 64, 64, 3), np.uint8) for _ in range(2))
    red[..., 0] = blue[..., 2] = 255
    trunk = load_trunk("random")
    seen = []
    trunk.network.network.conv1.register_forward_hook(lambda m, inputs, o: seen.append(inputs[0].mean((0, 2, 3))))
    runner = TrunkRunner(trunk, CPU, "fp32")
    runner(red)
    runner(blue)
    low, high = [(0 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))], (1 - 0.485) / 0.229
    assert np.allclose(seen[0], [high, low[1], low[2]], atol=1e-3)
    assert np.allclose(seen[1], [low[0], low[1], (1 - 0.406) / 0.225], atol=1e-3)


def test_rows_do_not_depend_on_their_neighbours(patches):
    runner = TrunkRunner(load_trunk("random"), CPU, "fp32")
    together, alone = runner(patches), np.concatenate([runner(patches[i : i + 1]) for i in range(5)])
    # Another batch size may sum in another order: the last bit of float16, no more.
    assert np.allclose(together.astype(float), alone.astype(float), rtol=2**-9, atol=1e-3)


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(SettingsError, match="precision 'fp16': not on a CPU; use bf16 or fp32"):
        TrunkRunner(load_trunk("random"), CPU, "fp16")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_absent_cuda_is_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=f"device '{device}': .* finds no CUDA device; use --device cpu"):
        resolve_device(device)
    assert resolve_device("auto") == CPU


def test_precision_of_auto(monkeypatch):
    assert resolve_precision("auto", torch.device("cuda")) == "fp16"
    assert resolve_precision("auto", CPU) == ("bf16" if cpu_has_bf16() else "fp32")
    monkeypatch.setattr("pipeline.trunk.runner.cpu_has_bf16", lambda: False)
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"


def test_name_of_the_precision():
    assert TrunkRunner(load_trunk("random"), CPU, "bf16").precision_name == "cpu-bf16"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "error"), [("fp16", 0.01), ("fp32", 0.0005)])
def test_cuda_is_near_the_reference(patches, reference, precision, error):
    rows = TrunkRunner(load_trunk("random"), torch.device("cuda"), precision)(patches).astype(np.float64)
    # float16, as rows are stored, is within 0.0003 of fp32. TF32 would not be.
    assert np.linalg.norm(rows - reference) < error * np.linalg.norm(reference)


# --- batches on the device


@pytest.mark.parametrize("px", [1, 16, 40])
def test_windows_are_the_same_in_one_operation_and_one_by_one(px):
    rng = np.random.default_rng(px)
    scaled = torch.from_numpy(rng.integers(0, 256, (48, 40, 3), np.uint8))
    x, y = (torch.from_numpy(rng.integers(0, side - px + 1, 7)) for side in (40, 48))

    gathered = gather_windows(scaled, x, y, px)

    assert (gathered.shape, gathered.dtype) == ((7, px, px, 3), torch.uint8)
    for window, left, top in zip(gathered, x, y, strict=True):
        assert torch.equal(window, scaled[top : top + px, left : left + px])


def test_a_batch_is_filled_by_cutting():
    runner = TrunkRunner(load_trunk("random"), CPU, "fp32")
    picture = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    batch = runner.new_batch(3)
    corner = np.zeros(1, int)
    first, second = runner.load_windows(
        [(picture, np.array([0, 26]), np.array([16, 3])), (picture[:64, :64], corner, corner)]
    )
    cut_windows(*first, batch[:2])
    cut_windows(*second, batch[2:])

    windows = np.stack([picture[16:, :64], picture[3:67, 26:], picture[:64, :64]])
    assert np.array_equal(batch.numpy(), windows)
    assert np.array_equal(runner.launch(batch, ("fc7",)).result()["fc7"], runner(windows))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_batches_in_flight_do_not_mix(patches, compiled):
    runner = TrunkRunner(load_trunk("random"), torch.device("cuda"), "fp16", compiled)
    contents = (patches, 255 - patches, patches[::-1].copy())
    # Compiled in the first call, captured as a graph in the second; three replays are in flight after.
    expected = [runner(content) for content in contents]
    batch, launched = runner.new_batch(5), []
    for content in contents:
        for place, patch in zip(batch.split(1), content, strict=True):
            cut_windows(*runner.load_windows([(patch, np.zeros(1, int), np.zeros(1, int))])[0], place)
        launched.append(runner.launch(batch, ("fc7",)))
    for flight, rows in zip(launched, expected, strict=True):
        assert np.array_equal(flight.result()["fc7"], rows)


# --- compiled


@pytest.mark.long
def test_a_compiled_trunk_gives_the_same_rows_whatever_fills_the_batch(patches, reference):
    plain, compiled = (TrunkRunner(load_trunk("random"), CPU, "fp32", compiled) for compiled in (False, True))

    rows = compiled(patches)

    assert np.allclose(rows, reference, rtol=2**-10, atol=1e-4)
    assert np.allclose(rows.astype(float), plain(patches).astype(float), rtol=2**-9, atol=1e-3)
    # Fewer patches are filled up to the compiled size, with no trace in their rows.
    assert np.array_equal(compiled(patches[:2]), rows[:2])
    assert plain.precision_name == "cpu-fp32" and compiled.precision_name == "cpu-fp32-compiled"
    with pytest.raises(SettingsError, match="compiled: only one layer per pass"):
        compiled.launch(patches, ("fc6", "fc7"))


def test_without_a_compiler_it_is_said(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(SettingsError, match=r"compiled: .* this machine has none; install one \(Debian: apt-get"):
        TrunkRunner(load_trunk("random"), CPU, "fp32", compiled=True)


# --- several layers


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("own", ["pool5", "fc7"])
def test_layers_of_one_pass_are_those_of_runners_of_their_own(patches, precision, own):
    layers = ("fc6", "pool5", "fc7")
    runner = TrunkRunner(load_trunk("random", own), CPU, precision)

    found = runner.launch(patches, layers).result()

    assert sorted(found) == sorted(layers)
    for layer in layers:
        alone = TrunkRunner(load_trunk("random", layer), CPU, precision)(patches)
        assert found[layer].dtype == np.float16 and np.array_equal(found[layer], alone), layer
        assert np.array_equal(runner.launch(patches, (layer,)).result()[layer], alone), layer


def test_a_trunk_at_another_layer_shares_its_weights():
    trunk = load_trunk("random")
    pool5 = trunk.at("pool5")

    assert (pool5.layer, pool5.width, trunk.at("fc7")) == ("pool5", 1152, trunk)
    assert pool5.network.network is trunk.network.network
    assert pool5.weights_sha256 == trunk.weights_sha256
    with pytest.raises(TrunkError, match=r"trunk 'random0' has no layer 'fc8'; it has pool5, fc6, fc7"):
        trunk.at("fc8")


def test_other_trunks_have_one_layer(torchvision_weights):
    trunk = load_trunk("torchvision/squeezenet1_0@features.12", weights=torchvision_weights("squeezenet1_0"))

    assert trunk.at("features.12") is trunk
    with pytest.raises(TrunkError, match=r"has no layer 'fc7'; it has features\.12"):
        trunk.at("fc7")
