"""timm's models as trunks: rows, tokens, weights from files and from the hub, and what is refused."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.io.errors import MissingDataError, SettingsError, TrunkError
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.zoo.timm import import_timm

SMALL = ("test_byobnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_maxvit", "test_nfnet")
SMALL += ("test_resnet", "test_vit", "test_vit3", "test_vit_relpos")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[[str], tuple[nn.Module, Path]]:
    """A timm model with random weights, and the file that holds them."""
    folder = tmp_path_factory.mktemp("timm")
    made = {}

    def save(name: str) -> tuple[nn.Module, Path]:
        if name not in made:
            torch.manual_seed(0)
            model = import_timm().create_model(name).eval()
            for parameter in model.parameters():  # some layers begin at nought
                parameter.data += 0.02 * torch.randn_like(parameter)
            save_file(model.state_dict(), folder / f"{name}.safetensors")
            made[name] = model, folder / f"{name}.safetensors"
        return made[name]

    return save


@pytest.mark.parametrize("name", SMALL)
def test_usual_row_is_the_input_of_the_classifier(saved, name):
    model, path = saved(name)
    trunk = load_trunk(f"timm/{name}", weights=path)
    model = copy.deepcopy(model)
    model.reset_classifier(0)
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        expected = model(x)
        assert (trunk.layer, trunk.width) == ("features", expected.shape[1])
        assert expected.std() > 1e-3
        assert torch.allclose(trunk.network(x), expected, rtol=1e-4, atol=1e-5)


def test_card_says_what_the_weights_look_at(saved):
    _, path = saved("test_vit")
    card = load_trunk("timm/test_vit.r160_in1k", weights=path).card
    assert (card.name, card.architecture, card.input_px) == ("timm/test_vit.r160_in1k", "timm/test_vit", 160)
    assert card.preprocessing.mean == card.preprocessing.std == (0.5, 0.5, 0.5)
    assert card.preprocessing.interpolation == "bicubic"
    assert card.trained == {"source": "file test_vit.safetensors"}
    other = load_trunk("timm/test_resnet", weights=saved("test_resnet")[1]).card
    assert other.preprocessing.interpolation == "bilinear"


def test_class_token_and_patch_tokens(saved):
    model, path = saved("test_vit")
    x = torch.randn(2, 3, 160, 160)
    trunks = {spec: load_trunk(f"timm/test_vit@{spec}", weights=path) for spec in ("norm", "norm:tokens", "blocks.2")}
    assert [t.layer for t in trunks.values()] == ["norm:class", "norm:tokens", "blocks.2:class"]
    with torch.inference_mode():
        tokens = model.forward_features(x)
        early = model.blocks[:3](model.norm_pre(model._pos_embed(model.patch_embed(x))))
        for spec, expected in (
            ("norm", tokens[:, 0]),
            ("norm:tokens", tokens[:, 1:].mean(1)),
            ("blocks.2", early[:, 0]),
        ):
            assert torch.allclose(trunks[spec].network(x), expected, rtol=1e-4, atol=1e-5), spec


def test_nodes_are_joined_and_nothing_behind_them_runs(saved):
    model, path = saved("test_resnet")
    trunk = load_trunk("timm/test_resnet@layer1+layer2:max", weights=path)
    behind = []
    trunk.network.extractor.model.layer3.register_forward_hook(lambda *of: behind.append(of))
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        first = model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x)))))
        expected = torch.cat([first.mean((2, 3)), model.layer2(first).amax((2, 3))], 1)
        assert torch.allclose(trunk.network(x), expected, rtol=1e-4, atol=1e-5)
    assert not behind


def test_maps_with_channels_last(saved):
    model, path = saved("test_mambaout")
    trunk = load_trunk("timm/test_mambaout@stages.1", weights=path)
    assert trunk.width == model.feature_info[1]["num_chs"]


def test_runs_like_any_trunk(saved):
    trunk = load_trunk("timm/test_vit", weights=saved("test_vit")[1])
    patches = np.random.default_rng(0).integers(0, 256, (3, 160, 160, 3), np.uint8)
    whole = TrunkRunner(trunk, torch.device("cpu"), "fp32")(patches).astype(float)
    half = TrunkRunner(trunk, torch.device("cpu"), "bf16")(patches).astype(float)
    assert whole.shape == (3, 64)
    assert 0 < np.linalg.norm(half - whole) < 0.05 * np.linalg.norm(whole)


def test_weights_through_the_hub_are_those_of_the_file(saved, monkeypatch):
    import timm.models._hub as hub

    _, path = saved("test_vit")
    monkeypatch.setattr(hub, "hf_hub_download", lambda **how: str(path))
    fetched, local = load_trunk("timm/test_vit"), load_trunk("timm/test_vit", weights=path)
    assert (
        fetched.weights_sha256
        == local.weights_sha256
        != load_trunk("timm/test_vit3", weights=saved("test_vit3")[1]).weights_sha256
    )
    assert fetched.card.trained == {"source": "timm's test_vit.r160_in1k"}


def test_without_a_network_the_ways_on_are_named(monkeypatch):
    import timm.models._hub as hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def no_network(*arguments, **how):
        raise LocalEntryNotFoundError("Please check your connection")

    monkeypatch.setattr(hub, "hf_hub_download", no_network)
    with pytest.raises(MissingDataError, match=r"(?s)could not be downloaded: .*--weights FILE.safetensors.*alexnet64"):
        load_trunk("timm/test_vit")


def test_without_timm_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDataError, match=r"not installed; install it with: pip install 'pipeline\[timm\]'"):
        load_trunk("timm/test_vit")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet19", "timm has no model 'resnet19'; did you mean resnet"),
        ("timm/test_vit.r999", "no weights 'r999'; test_vit has r160_in1k"),
        ("timm/test_vit@blocks.99", "no node blocks.99; did you mean blocks"),
        ("timm/test_resnet@layer4:class", "a map; name another node, or layer4:mean"),
        ("timm/test_vit@norm:mean", "tokens; name another node, or norm:class, norm:tokens"),
    ],
)
def test_names_that_name_nothing(saved, name, message):
    model = name.removeprefix("timm/").partition("@")[0].partition(".")[0]
    with pytest.raises(TrunkError, match=message):
        load_trunk(name, weights=saved(model if model.startswith("test") else "test_vit")[1])


def test_weights_that_do_not_fit(saved, tmp_path):
    with pytest.raises(TrunkError, match=r"(?s)timm/test_vit from .*weights do not fit.*missing, expected shape"):
        load_trunk("timm/test_vit", weights=saved("test_resnet")[1])
    state = saved("test_vit")[0].state_dict()
    state["norm.bias"] = torch.full_like(state["norm.bias"], torch.nan)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(TrunkError, match="values that are not finite\n.*norm.bias"):
        load_trunk("timm/test_vit", weights=tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(TrunkError, match="pickled weights are never loaded"):
        load_trunk("timm/test_vit", weights=tmp_path / "w.pth")


@pytest.mark.parametrize("trunk", ["timm/vit_base_patch16_224.augreg_in21k@norm:tokens", "timm/resnet18"])
def test_settings_know_the_names(trunk):
    assert parse_run_settings({"trunk": trunk}).trunk == trunk
    assert parse_run_settings({"trunk": "torchvision/vit_h_14.IMAGENET1K_SWAG_LINEAR_V1@encoder.ln:tokens"})
    with pytest.raises(SettingsError, match="timm/NAME@LAYER"):
        parse_run_settings({"trunk": f"{trunk}/more".replace("@norm:tokens", "")})
