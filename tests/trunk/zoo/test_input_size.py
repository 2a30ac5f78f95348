"""Networks at another input size than their own, against the libraries called by hand, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.activations.trunk_identity import trunk_fields
from pipeline.io.errors import TrunkError
from pipeline.trunk.load import load_trunk, outline_trunk
from pipeline.trunk.zoo.timm import import_timm
from pipeline.trunk.zoo.torchvision import find_weights, make_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network with random weights of some spread, and the file that holds them."""
    folder, made = tmp_path_factory.mktemp("saved"), {}

    def save(name):
        if name not in made:
            torch.manual_seed(0)
            library, _, model_name = name.partition("/")
            if library == "timm":
                model = import_timm().create_model(model_name).eval()
            else:
                model = make_model(model_name, find_weights("x", model_name, "")).eval()
            for parameter in model.parameters():
                parameter.data += 0.02 * torch.randn_like(parameter)
            path = folder / f"{model_name}.safetensors"
            save_file(model.state_dict(), path)
            made[name] = model, path
        return made[name]

    return save


def same(got, expected):
    assert expected.std() > 1e-3
    return torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("px", [97, 192])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_nfnet"])
def test_convolutional_networks_of_timm_take_any_size(saved, name, px):
    model, path = saved(f"timm/{name}")
    trunk = load_trunk(f"timm/{name}", weights=path, px=px)
    x = torch.randn(2, 3, px, px)
    with torch.inference_mode():
        assert same(trunk.network(x), model.forward_head(model.forward_features(x), pre_logits=True))
    assert trunk.card.input_px == px


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of indices and contiguous tensors
@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "test_vit_relpos", "test_maxvit"])
def test_transformers_of_timm_are_resampled_by_timm(saved, name):
    model, path = saved(f"timm/{name}")
    trunk = load_trunk(f"timm/{name}", weights=path, px=192)
    overlay = {"file": str(path), "custom_load": False}
    theirs = import_timm().create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=192).eval()
    x = torch.randn(2, 3, 192, 192)
    with torch.inference_mode():
        assert same(trunk.network(x), theirs.forward_head(theirs.forward_features(x), pre_logits=True))
    # The digest names the weights as they came; the size stands beside it.
    own = load_trunk(f"timm/{name}", weights=path)
    assert trunk.weights_sha256 == own.weights_sha256
    fields, others = (trunk_fields(t, "cpu-fp32", 64, 128) for t in (trunk, own))
    assert {key for key in fields if fields[key] != others[key]} == {"how.input_px"}


def test_position_embeddings_of_timm_are_a_bicubic_picture_of_the_old_ones(saved):
    model, path = saved("timm/test_vit")
    trunk = load_trunk("timm/test_vit", weights=path, px=224)
    got = trunk.network.extractor.model.pos_embed
    old, n_before = model.pos_embed.detach(), model.num_prefix_tokens
    side = math.isqrt(old.shape[1] - n_before)
    grid = old[:, n_before:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(14, 14), mode="bicubic", antialias=True)
    expected = torch.cat([old[:, :n_before], grid.permute(0, 2, 3, 1).reshape(1, 196, -1)], 1)
    assert torch.allclose(got, expected, atol=1e-6)


def test_convolutional_networks_of_torchvision_take_any_size(saved):
    model, path = saved("torchvision/shufflenet_v2_x0_5")
    seen = []
    model.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    for px in (101, 256):
        trunk = load_trunk("torchvision/shufflenet_v2_x0_5", weights=path, px=px)
        x = torch.randn(2, 3, px, px)
        with torch.inference_mode():
            model(x)
            assert torch.allclose(trunk.network(x), seen.pop(), rtol=1e-4, atol=1e-5)
        assert trunk.card.input_px == px


def test_positions_of_torchvision_are_resampled_as_it_does(saved, monkeypatch):
    from torchvision.models import vision_transformer

    from pipeline.trunk.zoo import torchvision as zoo

    how = {"patch_size": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    made = []

    def small(model_name, entry, px=None):
        torch.manual_seed(0)
        model = vision_transformer.VisionTransformer(image_size=px or 224, **how).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        made.append(model)
        return model

    monkeypatch.setattr(zoo, "make_model", small)
    first = small("vit_b_32", None)
    save_file(first.state_dict(), path := saved("timm/test_vit")[1].with_name("small.safetensors"))
    trunk = load_trunk("torchvision/vit_b_32@encoder.ln:tokens", weights=path, px=320)
    theirs = vision_transformer.VisionTransformer(image_size=320, **how).eval()
    theirs.load_state_dict(vision_transformer.interpolate_embeddings(320, 32, first.state_dict()))
    seen = []
    theirs.encoder.ln.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(2, 3, 320, 320)
    with torch.inference_mode():
        theirs(x)
        assert same(trunk.network(x), seen[0][:, 1:].mean(1))


def test_its_own_size_is_no_other_trunk(saved):
    _, path = saved("timm/test_vit")
    stated, plain = (load_trunk("timm/test_vit", weights=path, px=px) for px in (160, None))
    assert replace(stated, network=plain.network) == plain


@pytest.mark.parametrize(
    ("name", "px", "message"),
    [
        ("alexnet64", 96, "'alexnet64': got trunk_px 96, expected none: .*fc6 reads a map of one size"),
        ("random", 96, "expected none"),
        ("timm/test_vit", 100, "got trunk_px 100, expected a multiple of 16, .*such as 96 or 112"),
        ("torchvision/vit_b_16", 230, "expected a multiple of 16, .*such as 224 or 240"),
        ("torchvision/vgg11", 320, "a map of 10 x 10 places, expected 7 x 7, which the fc layers .* own is 224 px"),
        ("torchvision/alexnet@classifier.5", 192, "a map of 5 x 5 places, expected 6 x 6"),
        ("timm/vgg11", 97, "trunk_px 97: a map of 3 x 3 places, expected 7 x 7"),
        ("torchvision/inception_v3", 40, r"takes no patches of 40 px \(trunk_px\): .*its own size is 299 px"),
        ("torchvision/maxvit_t", 230, r"takes no patches of 230 px \(trunk_px\): .*its own size is 224 px"),
        ("timm/test_maxvit", 100, "takes no patches of 100 px"),
    ],
)
def test_sizes_that_a_network_cannot_take(name, px, message):
    with pytest.raises(TrunkError, match=message):
        (outline_trunk if "/" in name else load_trunk)(name, px=px)


def test_weights_that_timm_does_not_resample_are_refused(saved):
    _, path = saved("timm/gmixer_12_224")
    with pytest.raises(TrunkError, match="got trunk_px 256: timm does not resample this network's weights"):
        load_trunk("timm/gmixer_12_224", weights=path, px=256)


@pytest.mark.parametrize(("name", "px", "width"), [("vgg11@features.20", 97, 512), ("alexnet@features.12", 320, 256)])
def test_convolutional_nodes_before_fc_layers_take_any_size(name, px, width):
    outline = outline_trunk(f"torchvision/{name}", px=px)
    assert (outline.card.input_px, outline.width) == (px, width)
