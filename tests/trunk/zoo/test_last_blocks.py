"""The last blocks of transformers, as ``@last:N``, against the libraries' own networks called by hand."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from pipeline.io.errors import TrunkError
from pipeline.trunk.load import load_trunk, outline_trunk
from pipeline.trunk.nodes import Node, name_layer, parse_nodes
from pipeline.trunk.zoo import torchvision as zoo
from pipeline.trunk.zoo.timm import import_timm
from pipeline.trunk.zoo.torchvision_import import import_torchvision

VisionTransformer = import_torchvision().models.VisionTransformer


def spread(model):
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    torch.manual_seed(0)
    model = spread(import_timm().create_model("test_vit"))
    save_file(model.state_dict(), path := tmp_path_factory.mktemp("vit") / "vit.safetensors")
    return model, path


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small network of torchvision's class, in place of vit_b_32."""

    def make(model_name, entry, px=None):
        how = {"patch_size": 32, "num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
        torch.manual_seed(0)
        return spread(VisionTransformer(image_size=px or 224, **how))

    monkeypatch.setattr(zoo, "make_model", make)
    model = make("vit_b_32", None)
    save_file(model.state_dict(), path := tmp_path / "small.safetensors")
    return model, path


def same(got, expected):
    assert expected.std() > 1e-2
    return torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("px", [None, 96])
def test_rows_of_timm_are_its_intermediate_layers(vit, px):
    model, path = vit
    spec = "last:4+last:2:tokens+blocks.1:tokens"
    trunk = load_trunk(f"timm/test_vit@{spec}", weights=path, px=px)
    assert trunk.layer == "last:4:class+last:2:tokens+blocks.1:tokens"
    if px:
        overlay = {"file": str(path), "custom_load": False}
        how = {"pretrained": True, "pretrained_cfg_overlay": overlay, "img_size": px}
        model = import_timm().create_model("test_vit", **how).eval()
    x = torch.randn(2, 3, px or 160, px or 160)
    with torch.inference_mode():
        normed = model.get_intermediate_layers(x, n=4, return_prefix_tokens=True, norm=True)
        (plain,) = model.get_intermediate_layers(x, n=[1])
        classes = [before[:, 0] for _, before in normed]
        means = [patches.mean(1) for patches, _ in normed[-2:]]
        assert same(trunk.network(x), torch.cat([*classes, *means, plain.mean(1)], 1))
        assert trunk.width == 7 * 64


def test_the_last_block_alone_is_the_final_normalisation(vit):
    model, path = vit
    last, norm = (load_trunk(f"timm/test_vit@{spec}", weights=path) for spec in ("last:1", "norm"))
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(last.network(x), norm.network(x))
    assert load_trunk(f"timm/test_vit@{last.layer}", weights=path).layer == last.layer == "last:1:class"


def test_rows_of_torchvision(small):
    model, path = small
    trunk = load_trunk("torchvision/vit_b_32@last:2+last:1:tokens", weights=path)
    seen = []
    for block in model.encoder.layers:
        block.register_forward_hook(lambda module, inputs, output: seen.append(model.encoder.ln(output)))
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        model(x)
        assert same(trunk.network(x), torch.cat([seen[1][:, 0], seen[2][:, 0], seen[2][:, 1:].mean(1)], 1))
    # A file that lacks the normalisation lacks what the row needs.
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("encoder.ln.")}
    save_file(state, path)
    with pytest.raises(TrunkError, match=r"encoder.ln.weight: missing"):
        load_trunk("torchvision/vit_b_32@last:2", weights=path)


def test_last_blocks_are_parsed():
    assert parse_nodes("last:2+norm:tokens", "x") == (Node("last.2"), Node("last.1"), Node("norm", "tokens"))
    assert parse_nodes("last", "x") == (Node("last"),)  # a module may have this name


@pytest.mark.parametrize(
    ("spec", "layer"),
    [
        ("last.2+last.1", "last:2"),
        ("last:2+last.3", "last:2+last.3"),
        ("last.3+last:2:max", "last.3+last:2:max"),
        ("last.3+last.2:max+last.1", "last.3+last.2:max+last:1"),
    ],
)
def test_one_layer_has_one_name_however_it_is_written(spec, layer):
    assert name_layer(parse_nodes(spec, "x")) == layer
    assert parse_nodes(layer, "x") == parse_nodes(spec, "x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/test_vit@last:0", "got 'last:0', expected last:N, the number of blocks"),
        ("timm/test_vit@last:tokens", "got 'last:tokens', expected last:N"),
        ("timm/test_vit@last:2:median", "pooling 'median', expected one of"),
        ("timm/test_vit@last:2+last:1", "a node is named twice"),
        ("timm/test_vit@last:99", "'timm/test_vit@last:99': node last.99: expected last.1 to last.6"),
        (
            "timm/test_resnet@last:2",
            "last blocks are those of a plain vision transformer, .* network has none",
        ),
        ("timm/cait_xxs24_224@last:2", "this network has none"),  # its class token comes in behind these blocks
        ("torchvision/resnet18@last:2", "'torchvision/resnet18@last:2': node last.2: .* this network has none"),
        ("torchvision/vit_b_32@last:13", "expected last.1 to last.12"),
    ],
)
def test_last_blocks_that_are_not_there(name, message):
    with pytest.raises(TrunkError, match=message):
        outline_trunk(name)


def test_networks_with_registers_and_rotary_positions():
    name = "vit_small_patch16_dinov3"
    outline = outline_trunk(f"timm/{name}@last:4+last:4:tokens")
    assert (outline.width, outline.layer) == (8 * 384, "last:4:class+last:4:tokens")
