"""Every torchvision classifier: its usual layer, its input, its preprocessing."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline.activations.trunk_identity import trunk_fields
from pipeline.io.errors import TrunkError
from pipeline.trunk.load import load_trunk
from pipeline.trunk.zoo.torchvision import attach, find_weights, make_model, parse_name, preprocessing_of
from pipeline.trunk.zoo.torchvision_import import import_torchvision

NAMES = import_torchvision().models.list_models(import_torchvision().models)
ONE_PER_FAMILY = {
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_32",
    "wide_resnet50_2",
}  # fmt: skip


class EmptyOnMeta(TorchFunctionMode):
    """Weights, which modules make with ``torch.empty``, take no memory; what models compute when they are made does."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        on_meta = {"device": "meta"} if function is torch.empty else {}
        return function(*args, **{**(kwargs or {}), **on_meta})


def on_meta(model_name):
    name = f"torchvision/{model_name}"
    entry = find_weights(name, model_name, "")
    with EmptyOnMeta():
        model = make_model(model_name, entry).to("meta")
    return name, model, preprocessing_of(model_name, entry)


@pytest.mark.parametrize(
    "model_name", [name if name in ONE_PER_FAMILY else pytest.param(name, marks=pytest.mark.long) for name in NAMES]
)
def test_usual_layer_is_the_input_of_the_last_linear_layer(model_name):
    name, model, (px, _) = on_meta(model_name)
    _, layer, width = attach(name, model, parse_name(name, "fc7")[2], px)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if model_name.startswith("squeezenet"):  # it has none: its last map and its class map, averaged
        assert (layer, width, linear) == ("features.12+classifier.2", 1512, [])
    else:
        assert width == linear[-1].in_features, layer


SIZES = {"inception_v3": 299, "efficientnet_b7": 600, "vit_h_14": 518, "regnet_y_128gf": 384, "swin_v2_t": 256}
HALF = {"googlenet", "inception_v3", "efficientnet_v2_l"}


def test_input_and_preprocessing_are_those_of_the_weights():
    bicubic = []
    for model_name in NAMES:
        entry = find_weights("x", model_name, "")
        px, preprocessing = preprocessing_of(model_name, entry)
        assert px == entry.transforms().crop_size[0] == SIZES.get(model_name, px)
        assert preprocessing.mean == ((0.5, 0.5, 0.5) if model_name in HALF else (0.485, 0.456, 0.406))
        if preprocessing.interpolation == "bicubic":
            bicubic.append(model_name)
    assert {"swin_t", "maxvit_t", "vit_h_14", "efficientnet_b0"} < set(bicubic) < set(NAMES) - {"resnet50", "vit_b_16"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file with random weights that let activations through, and the model that has them."""
    folder = tmp_path_factory.mktemp("saved")

    def save(model_name):
        torch.manual_seed(0)
        model = make_model(model_name, find_weights("x", model_name, ""))
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        if norms:  # statistics of its own maps: with those of no map, activations fade to 1e-8
            for norm in norms:
                norm.momentum = 1.0
            model.train()(torch.randn(2, 3, 224, 224))
            model.eval()
        save_file(model.state_dict(), folder / f"{model_name}.safetensors")
        return model, folder / f"{model_name}.safetensors"

    return save


@pytest.mark.parametrize(
    "model_name", ["mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "convnext_tiny", "swin_t"]
)
def test_rows_are_what_the_last_linear_layer_gets(saved, model_name):
    model, path = saved(model_name)
    trunk = load_trunk(f"torchvision/{model_name}", weights=path)
    seen = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.randn(1, 3, trunk.card.input_px, trunk.card.input_px)
    with torch.inference_mode():
        model(x)
        assert seen[0].std() > 1e-2
        assert torch.allclose(trunk.network(x), seen[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_name", ["googlenet", "inception_v3"])
def test_inputs_of_the_inceptions_are_what_torchvision_makes_of_its_own(model_name):
    # Torchvision takes its usual normalisation and turns it into -1..1 inside; here the card says -1..1.
    _, preprocessing = preprocessing_of(model_name, find_weights("x", model_name, ""))
    theirs = import_torchvision().models.get_model(model_name, weights=None, transform_input=True, init_weights=False)
    pixels = torch.rand(1, 3, 4, 4)
    usual = find_weights("x", model_name, "").transforms()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (usual.mean, usual.std))
    expected = theirs._transform_input((pixels - mean) / std)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    assert torch.allclose((pixels - mean) / std, expected, atol=1e-6)


def attached(model, name, px=224):
    network, layer, _ = attach(name, model, parse_name(name, "fc7")[2], px)
    return network, layer


def test_tokens_of_a_vision_transformer():
    torch.manual_seed(0)
    model = make_model("vit_b_32", find_weights("x", "vit_b_32", "")).eval()
    x = torch.randn(2, 3, 224, 224)
    (usual, layer), (mean, _) = (attached(model, f"torchvision/vit_b_32@encoder.ln{p}") for p in ("", ":tokens"))
    assert layer == "encoder.ln:class" == attached(model, "torchvision/vit_b_32")[1]
    with torch.inference_mode():
        patches = model.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = model.encoder(torch.cat([model.class_token.expand(2, -1, -1), patches], 1))
        assert torch.allclose(usual(x), tokens[:, 0], rtol=1e-4, atol=1e-5)
        assert torch.allclose(mean(x), tokens[:, 1:].mean(1), rtol=1e-4, atol=1e-5)


def test_maps_with_channels_last():
    model = make_model("swin_t", find_weights("x", "swin_t", "")).eval()
    x = torch.randn(1, 3, 224, 224)
    network, _ = attached(model, "torchvision/swin_t@features.3:max")
    with torch.inference_mode():
        assert torch.allclose(network(x), model.features[:4](x).amax((1, 2)), rtol=1e-4, atol=1e-5)


def test_interpolation_is_in_the_identity_where_it_is_not_the_usual_one(saved):
    def resize(name, weights):
        return trunk_fields(load_trunk(name, weights=weights), "cpu-fp32", 64, 128)["how.resize"]

    assert (
        resize("torchvision/efficientnet_b0", saved("efficientnet_b0")[1])
        == "pillow-bicubic-antialiased, once a scale, uint8"
    )
    assert resize("alexnet64", None) == "pillow-bilinear-antialiased, once a scale, uint8"


def test_other_weights_of_a_model_by_name(saved):
    _, path = saved("resnet18")
    trunk = load_trunk("torchvision/resnet18.IMAGENET1K_V1@layer4", weights=path)
    assert (trunk.card.name, trunk.card.architecture) == ("torchvision/resnet18.IMAGENET1K_V1", "torchvision/resnet18")
    name = "torchvision/vit_l_16.IMAGENET1K_SWAG_E2E_V1"
    entry = find_weights(name, "vit_l_16", "IMAGENET1K_SWAG_E2E_V1")
    px, preprocessing = preprocessing_of("vit_l_16", entry)
    assert (px, preprocessing.interpolation) == (512, "bicubic")
    with pytest.raises(TrunkError, match="no weights 'V9'; resnet18 has IMAGENET1K_V1"):
        load_trunk("torchvision/resnet18.V9", weights=path)
