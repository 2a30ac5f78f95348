"""Weights files of many makers, fitted to what a layer needs: taken with the same rows, or refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.cli import run_command

from pipeline.io.errors import TrunkError
from pipeline.trunk.alexnet import ALEXNET, AlexNet
from pipeline.trunk.hubs import cached_by_torch
from pipeline.trunk.load import load_trunk, outline_trunk
from pipeline.trunk.trunk import digest_weights
from pipeline.trunk.zoo.timm import import_timm
from pipeline.trunk.zoo.torchvision_import import import_torchvision

NAMES = ("torchvision/resnet18", "timm/test_resnet")
HEADS = {"torchvision/resnet18": "fc.", "timm/test_resnet": "fc."}


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    return {
        "torchvision/resnet18": import_torchvision().models.resnet18(weights=None).state_dict(),
        "timm/test_resnet": import_timm().create_model("test_resnet").state_dict(),
    }


def without_head(name, state):
    return {k: v for k, v in state.items() if not k.startswith(HEADS[name])}


def prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


KINDS = {
    "headless": lambda name, s: without_head(name, s),
    "other head": lambda name, s: {**s, "fc.weight": torch.zeros(7, 3), "fc.bias": torch.zeros(7)},
    "head of two layers": lambda name, s: {
        **without_head(name, s),
        "fc.0.weight": torch.zeros(9, 3),
        "fc.2.weight": torch.zeros(7, 9),
    },
    "module.": lambda name, s: prefixed("module.", s),
    "model.": lambda name, s: prefixed("model.", s),
    "module.model.": lambda name, s: prefixed("module.model.", s),
    "backbone. and a head": lambda name, s: {**prefixed("backbone.", without_head(name, s)), "head.w": torch.zeros(2)},
    "encoder. headless": lambda name, s: prefixed("encoder.", without_head(name, s)),
    "_orig_mod.module.": lambda name, s: prefixed("_orig_mod.module.", s),
    "no counters": lambda name, s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if name == NAMES[1] or kind in ("headless", "module.") else pytest.mark.long)
        for kind in KINDS
        for name in NAMES
    ],
)
def test_rows_are_those_of_the_whole_file(states, tmp_path, name, kind):
    x = torch.randn(2, 3, 64, 64)
    save_file(states[name], tmp_path / "whole.safetensors")
    save_file({k: v.contiguous() for k, v in KINDS[kind](name, states[name]).items()}, tmp_path / "w.safetensors")
    whole = load_trunk(name, weights=tmp_path / "whole.safetensors")
    trunk = load_trunk(name, weights=tmp_path / "w.safetensors")
    assert whole.notes == () and (trunk.notes or kind == "no counters")
    with torch.inference_mode():
        assert torch.equal(trunk.network(x), whole.network(x))
    # The digest of a whole file is that of all of its tensors, also under a prefix.
    assert whole.weights_sha256 == digest_weights(states[name])
    if kind in ("module.", "model.", "module.model.", "_orig_mod.module."):
        assert trunk.weights_sha256 == whole.weights_sha256
        assert "prefix" in trunk.notes[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken(states, tmp_path, name, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in without_head(name, states[name]).items()}
    save_file(state, tmp_path / "w.safetensors")
    trunk = load_trunk(name, weights=tmp_path / "w.safetensors")
    assert {p.dtype for k, p in trunk.network.named_parameters()} == {torch.float32}
    assert torch.isfinite(trunk.network(torch.zeros(2, 3, 64, 64))).all()


def test_digest_of_a_headless_file_does_not_depend_on_chance(states, tmp_path):
    save_file(without_head("timm/test_resnet", states["timm/test_resnet"]), tmp_path / "w.safetensors")
    digests = {load_trunk("timm/test_resnet", weights=tmp_path / "w.safetensors").weights_sha256 for _ in range(2)}
    assert len(digests) == 1


REFUSED = {
    "a deeper network": (
        lambda s: import_torchvision().models.resnet34(weights=None).state_dict(),
        r"layer1.2.conv1.weight: unknown",
    ),
    "a bias that the layer has not": (lambda s: {**s, "conv1.bias": torch.zeros(64)}, "conv1.bias: unknown"),
    "grey": (lambda s: {**s, "conv1.weight": torch.zeros(64, 1, 7, 7)}, r"conv1.weight: shape \(64, 1, 7, 7\), exp"),
    "a tensor that misses": (
        lambda s: {k: v for k, v in s.items() if k != "layer4.1.bn2.bias"},
        r"(?s)layer4.1.bn2.bias: missing.*the file",
    ),
    "not finite": (lambda s: {**s, "bn1.bias": torch.full((64,), torch.nan)}, "bn1.bias: holds values that are not"),
    "two networks": (lambda s: {**prefixed("model.", s), **prefixed("encoder.", s)}, "several networks that fit"),
    "an unknown prefix": (lambda s: prefixed("student.", s), r"(?s)conv1.weight: missing.*has \d+ .*student.bn1.bias"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_files_of_something_else_are_refused(states, tmp_path, kind):
    make, message = REFUSED[kind]
    save_file({k: v.clone() for k, v in make(states["torchvision/resnet18"]).items()}, tmp_path / "w.safetensors")
    with pytest.raises(TrunkError, match=message):
        load_trunk("torchvision/resnet18", weights=tmp_path / "w.safetensors")


def test_a_layer_before_needs_less(states, tmp_path):
    state = {k: v for k, v in states["torchvision/resnet18"].items() if k.split(".")[0] in ("conv1", "bn1", "layer1")}
    save_file(state, tmp_path / "w.safetensors")
    assert load_trunk("torchvision/resnet18@layer1", weights=tmp_path / "w.safetensors").width == 64
    with pytest.raises(TrunkError, match="layer2.0.conv1.weight: missing"):
        load_trunk("torchvision/resnet18@layer2", weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_alexnet_needs_what_its_layer_needs(tmp_path, prefix):
    torch.manual_seed(0)
    state = AlexNet(ALEXNET).state_dict()
    convs = {prefix + k: v for k, v in state.items() if k.startswith("conv")}
    save_file(convs, tmp_path / "w.safetensors")
    trunk = load_trunk("alexnet", "pool5", tmp_path / "w.safetensors")
    network = AlexNet(ALEXNET)
    network.load_state_dict(state)
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(trunk.network.to("cpu")(x), network(x, ["pool5"])["pool5"])
    with pytest.raises(TrunkError, match="has no layer 'fc7'; it has pool5"):
        trunk.at("fc7")
    with pytest.raises(TrunkError, match="fc7.weight: missing"):
        load_trunk("alexnet", "fc7", tmp_path / "w.safetensors")


# --- outlines


@pytest.mark.parametrize(
    "name", [pytest.param("torchvision/resnet18", marks=pytest.mark.long), "torchvision/squeezenet1_1", "timm/test_vit"]
)
def test_every_node_of_an_outline_can_be_taken(states, tmp_path, name):
    outline = outline_trunk(name)
    assert all(label in outline.nodes for label in outline.layer.split("+"))
    assert outline.width == sum(outline.nodes[label] for label in outline.layer.split("+"))
    for node, width in list(outline.nodes.items())[:: max(1, len(outline.nodes) // 12)]:
        assert outline_trunk(f"{name}@{node}").width == width


def test_an_outline_needs_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: pytest.fail("a request"))
    assert outline_trunk("torchvision/resnet18").nodes["layer4"] == 512
    assert outline_trunk("alexnet").nodes == {"pool5": 9216, "fc6": 4096, "fc7": 4096}
    assert outline_trunk("alexnet64") is None
    assert not cached_by_torch("https://download.pytorch.org/models/nosuch.pth")


# --- conversion


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state"])
def test_a_checkpoint_becomes_safetensors(states, tmp_path, name, wrapper):
    state = prefixed("module.", states[name])
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "x.pth")
    ended = run_command(tmp_path, "trunk", "import", "x.pth", "--architecture", name, "--out", "t", "--name", "mine")
    assert ended.code == 0, ended.err
    assert f"--trunk {name} --weights t/mine.safetensors" in ended.out and "prefix 'module.'" in ended.err
    assert load_file(tmp_path / "t/mine.safetensors").keys() == states[name].keys()
    trunk = load_trunk(name, weights=tmp_path / "t/mine.safetensors")
    assert trunk.weights_sha256 == digest_weights(states[name]) and not trunk.notes


def test_what_a_checkpoint_lacks_is_said(tmp_path):
    torch.save({"optimizer": {}, "epoch": 1}, tmp_path / "x.pth")
    line = ["trunk", "import", "x.pth", "--out", "t", "--name", "m", "--architecture"]
    ended = run_command(tmp_path, *line, "torchvision/resnet18")
    assert ended.code == 2 and "its keys are: 'optimizer', 'epoch'" in ended.err
    ended = run_command(tmp_path, *line, "resnet18")
    assert ended.code == 2 and "did you mean torchvision/resnet18 or timm/resnet18?" in ended.err
