"""Trunks by name, and every way in which a name, a card or a file of weights can be wrong."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.io.digests import sha256_file
from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.trunk.formats.convert import read_weight_file
from pipeline.trunk.load import load_trunk
from pipeline.trunk.trunk import read_weights
from pipeline.trunk.weight_files import PICKLED_SUFFIXES
from pipeline.trunk.zoo.convert import convert_zoo
from pipeline.trunk.zoo.torchvision_import import import_torchvision

# --- embedded


@pytest.fixture
def embedded():
    return files("pipeline.trunk") / "weights"


def test_embedded_trunk_runs_and_has_no_batch_norm():
    trunk = load_trunk("alexnet64")
    assert (trunk.layer, trunk.width, trunk.card.input_px) == ("fc7", 1024, 64)
    assert not [m for m in trunk.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert sum(p.numel() for p in trunk.network.parameters()) == 3_068_576
    with torch.inference_mode():
        rows = trunk.network(torch.randn(4, 3, 64, 64))
    assert torch.isfinite(rows).all() and rows.std() > 0


def test_embedded_weights_are_small_and_those_of_the_card(embedded):
    weights = Path(str(embedded / "alexnet64.safetensors"))
    card = yaml.safe_load((embedded / "alexnet64.yaml").read_text())
    assert weights.stat().st_size < 8e6
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    assert card["weights_sha256"] == sha256_file(weights) == load_trunk("alexnet64").weights_sha256


def test_embedded_card_says_how_it_was_made():
    trained = load_trunk("alexnet64").card.trained
    assert 0.2 < trained["top1"] < 1
    assert "pipeline" in trained["command"] and "pretrain" in trained["command"]
    assert isinstance(trained["settings"]["seed"], int)
    assert trained["source"]


# --- random


def test_random_is_seeded_and_repeatable():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, other = load_trunk("random"), load_trunk("random", "fc6"), load_trunk("random", seed=1)
    assert torch.rand(1) == expected  # the caller's generator is left alone
    assert a.weights_sha256 == b.weights_sha256 != other.weights_sha256
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(a.network(x), load_trunk("random").network(x))
        assert not torch.equal(a.network(x), other.network(x))
        assert a.network(x).std() > 0.1  # He initialisation: activations do not fade
    assert (a.slug, other.slug) == ("random0", "random1")
    assert (a.layer, b.layer, b.width) == ("fc7", "fc6", 1024)


# --- names and layers


@pytest.mark.parametrize("name", ["alexnet65", "", "resnet18", "tim/vit@norm"])
def test_unknown_name_lists_the_known(name):
    with pytest.raises(TrunkError, match="unknown; expected one of alexnet64, random, alexnet, krizhevsky"):
        load_trunk(name)


def test_weights_without_a_card_name_the_card():
    with pytest.raises(TrunkError, match="'weights.safetensors': no card weights.yaml"):
        load_trunk("weights.safetensors")


def test_unknown_layer_lists_the_known():
    with pytest.raises(TrunkError, match=r"'random0' has no layer 'fc8'; it has pool5, fc6, fc7"):
        load_trunk("random", "fc8")


def test_embedded_trunk_takes_no_weights(tmp_path):
    with pytest.raises(TrunkError, match="has weights of its own"):
        load_trunk("alexnet64", weights=tmp_path / "w.safetensors")


def test_krizhevsky_needs_weights():
    with pytest.raises(MissingDataError, match="no weights are shipped; give --weights"):
        load_trunk("krizhevsky")


# --- weights


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.npy"])
def test_a_git_lfs_pointer_is_named(tmp_path, name):
    file = tmp_path / name
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")

    calls = [lambda: read_weight_file(file), lambda: convert_zoo(file, "torchvision/resnet18")]
    for call in [*calls, lambda: load_trunk("krizhevsky", weights=file)] if file.suffix != ".npy" else calls[:1]:
        with pytest.raises(TrunkError, match=rf"{name}: a Git LFS pointer without its file; .* git lfs pull"):
            call()


def test_a_card_that_is_a_git_lfs_pointer_is_named(tmp_path):
    file = tmp_path / "w.yaml"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")

    with pytest.raises(TrunkError, match=r"w.yaml: a Git LFS pointer without its file; .* git lfs pull"):
        load_trunk(str(file))


@pytest.mark.parametrize("suffix", PICKLED_SUFFIXES)
def test_what_is_advised_for_a_pickled_file_reads_it(tmp_path, suffix):
    torch.save({"conv1.weight": torch.ones(2)}, tmp_path / f"w{suffix}")

    with pytest.raises(TrunkError, match="pipeline trunk import .* --out trunks --name w"):
        load_trunk("krizhevsky", weights=tmp_path / f"w{suffix}")
    assert list(read_weight_file(tmp_path / f"w{suffix}").tensors) == ["conv1.weight"]


@pytest.mark.parametrize("suffix", [".pkl", ".tar"])
@pytest.mark.parametrize("content", [pickle.dumps({"a": [1]}), pickle.dumps({"a": 1}, 0), b"", b"text"])
def test_other_pickles_are_refused_in_one_message(tmp_path, suffix, content):
    (tmp_path / f"w{suffix}").write_bytes(content)

    with pytest.raises(TrunkError, match=f"w{suffix}: "):
        read_weight_file(tmp_path / f"w{suffix}")


@pytest.mark.parametrize("suffix", PICKLED_SUFFIXES)
def test_pickled_trunk_is_refused_by_name(suffix):
    with pytest.raises(TrunkError, match="pickled weights are never loaded; expected safetensors with a card"):
        load_trunk(f"trunk{suffix}")


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_is_refused_whatever_its_name(tmp_path, name, protocol):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(TrunkError, match="pickled weights are never loaded, since a pickle can run any code"):
        read_weights(tmp_path / name)


def test_torch_file_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "w.safetensors")
    with pytest.raises(TrunkError, match="pickled weights are never loaded"):
        load_trunk("alexnet", weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("length", [0x0280, 0x0480])
def test_header_whose_length_looks_like_a_pickle_is_read(tmp_path, length):
    path = tmp_path / "w.safetensors"
    for n in (1, length - 89):
        save_file({"a": torch.ones(3)}, path, metadata={"note": "x" * n})
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    assert path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04")
    assert torch.equal(read_weights(path)["a"], torch.ones(3))


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\xff" * 100])
def test_file_that_is_no_safetensors(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(TrunkError, match="w.safetensors: not a safetensors file"):
        read_weights(tmp_path / "w.safetensors")


def test_truncated_weights(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-1])
    with pytest.raises(TrunkError, match="not a safetensors file"):
        read_weights(tmp_path / "w.safetensors")


def test_missing_weights(tmp_path):
    with pytest.raises(MissingDataError, match="none.safetensors: weights file not found"):
        load_trunk("krizhevsky", weights=tmp_path / "none.safetensors")


# --- cards


def test_saved_trunk_is_loaded(save_card, state):
    path = save_card(state)
    trunk = load_trunk(str(path), "pool5")
    assert (trunk.card.name, trunk.layer, trunk.width) == ("mine", "pool5", 1152)
    assert trunk.weights_sha256 == sha256_file(path.with_suffix(".safetensors"))
    assert torch.equal(trunk.network.network.fc6.weight, state["fc6.weight"])
    assert load_trunk(str(path.with_suffix(".safetensors")), "pool5").weights_sha256 == trunk.weights_sha256


def test_missing_card(tmp_path):
    with pytest.raises(MissingDataError, match="none.yaml: no such card"):
        load_trunk(str(tmp_path / "none.yaml"))


def test_missing_weights_of_a_card(save_card, state):
    path = save_card(state)
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(MissingDataError, match="mine.safetensors: weights file not found"):
        load_trunk(str(path))


def test_digest_that_disagrees_with_the_card(save_card, state):
    path = save_card(state)
    save_file({**state, "fc7.bias": state["fc7.bias"] + 1}, path.with_suffix(".safetensors"))
    with pytest.raises(TrunkError, match=r"mine.safetensors: digest .*the card says .*another or a damaged file"):
        load_trunk(str(path))


def test_all_tensors_that_do_not_fit_are_listed(save_card, state):
    state = {**state, "fc6.weight": torch.zeros(10, 1152), "fc7.bias": torch.zeros(3), "extra": torch.zeros(1)}
    del state["conv1.bias"]
    with pytest.raises(TrunkError) as error:
        load_trunk(str(save_card(state)))
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines == [
        "mine: weights do not fit",
        "- conv1.bias: missing, expected shape (48,)",
        "- extra: unknown",
        "- fc6.weight: shape (10, 1152), expected (1024, 1152)",
        "- fc7.bias: shape (3,), expected (1024,)",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(save_card, state, value):
    state["conv3.weight"][0, 0, 0, 0] = value
    with pytest.raises(TrunkError, match="conv3.weight: holds values that are not finite"):
        load_trunk(str(save_card(state)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected a mapping of keys to values, got list"),
        ("", "not a trunk's card"),
        ("{a: b: c}", "not valid YAML"),
        ("{name: x, architecture: alexnet64, input_px: 64, layers: {fc7: 4}, colour: red}", "colour: Extra inputs"),
        ("{name: x, input_px: 2, layers: {fc7: many}}", "(?s)architecture: .*input_px: .*layers.fc7: "),
        ("{name: x, architecture: vgg, input_px: 64, layers: {fc7: 4}}", "expected an architecture of krizhevsky"),
        ("{name: x, architecture: alexnet64, input_px: 64, layers: {fc7: 4}}", "weights_file and weights_sha256"),
        (
            "{name: x, architecture: alexnet64, input_px: 64, layers: {fc7: 4}, weights_file: ../w, weights_sha256: a}",
            "must be a plain name next to the card, got '../w'",
        ),
    ],
)
def test_card_that_is_no_card(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(TrunkError, match=message):
        load_trunk(str(tmp_path / "c.yaml"))


# --- torchvision


def test_torchvision_imports_in_a_fresh_process():
    code = (
        "from pipeline.trunk.zoo.torchvision_import import import_torchvision as t; print(t().models.alexnet.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "alexnet"), done.stderr


NODES = {
    "torchvision/squeezenet1_0@features.12": 512,
    "torchvision/squeezenet1_0@features.12:max": 512,
    "torchvision/squeezenet1_0@features.12:flat": 512 * 13 * 13,
    "torchvision/squeezenet1_0@features.12+classifier.2": 512 + 1000,
    "torchvision/squeezenet1_0": 512 + 1000,
    "torchvision/resnet18": 512,
    "torchvision/resnet18@layer3+layer4:max": 256 + 512,
}


@pytest.mark.parametrize("name", NODES)
def test_torchvision_nodes(torchvision_weights, name):
    model = name.removeprefix("torchvision/").partition("@")[0]
    trunk = load_trunk(name, weights=torchvision_weights(model))
    assert trunk.width == NODES[name]
    assert trunk.card.layers == {trunk.layer: trunk.width}
    assert trunk.card.input_px == 224
    with torch.inference_mode():
        assert trunk.network(torch.zeros(2, 3, 224, 224)).shape == (2, NODES[name])


def test_torchvision_activations_are_the_models_own(torchvision_weights):
    weights = torchvision_weights("squeezenet1_0")
    model = import_torchvision().models.squeezenet1_0(weights=None).eval()
    model.load_state_dict(load_file(weights))
    x = torch.randn(2, 3, 224, 224)
    trunk = load_trunk("torchvision/squeezenet1_0@features.12:max+classifier.2", weights=weights)
    with torch.inference_mode():
        maps = model.features(x)
        classes = model.classifier[:3](maps).mean((2, 3))
        expected = torch.cat([maps.amax((2, 3)), classes], 1)
        assert torch.allclose(trunk.network(x), expected, rtol=1e-4, atol=1e-5)


def test_unknown_torchvision_model_suggests():
    with pytest.raises(TrunkError, match="torchvision has no classifier 'resnet19'; did you mean resnet18, "):
        load_trunk("torchvision/resnet19")


def test_unknown_node_lists_the_known(torchvision_weights):
    with pytest.raises(
        TrunkError, match=r"no node layer9 in resnet18; did you mean layer.*trunk show torchvision/resnet18"
    ):
        load_trunk("torchvision/resnet18@layer4+layer9", weights=torchvision_weights("resnet18"))


def test_unknown_pooling(torchvision_weights):
    with pytest.raises(TrunkError, match="pooling 'median', expected one of mean, max, flat"):
        load_trunk("torchvision/resnet18@layer4:median", weights=torchvision_weights("resnet18"))


def test_weights_of_another_model(torchvision_weights):
    with pytest.raises(TrunkError, match=r"(?s)weights do not fit.*conv1.weight: missing.*and \d+ more"):
        load_trunk("torchvision/resnet18", weights=torchvision_weights("squeezenet1_0"))


@pytest.mark.parametrize("name", ["torchvision/squeezenet1_0", "alexnet"])
def test_without_a_network_the_ways_on_are_named(tmp_path, monkeypatch, name):
    def no_network(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(MissingDataError, match=r"(?s)could not be downloaded.*--weights FILE.safetensors.*alexnet64"):
        load_trunk(name)


@pytest.mark.parametrize("width", [0, 10**6])
def test_widths_of_a_card_have_bounds(state, save_card, width):
    card = save_card(state, layers={"pool5": 1152, "fc6": width, "fc7": width})
    with pytest.raises(TrunkError, match="layers.fc6 must be 1 to 16,384 wide"):
        load_trunk(str(card))
