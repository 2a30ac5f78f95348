"""The AlexNet family: shapes, the parts that are easily written wrong, and folding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.trunk.alexnet import ALEXNET, ALEXNET64, KRIZHEVSKY, AlexNet, fold_batch_norm, krizhevsky
from pipeline.trunk.zoo.alexnet import from_torchvision_names
from pipeline.trunk.zoo.torchvision_import import import_torchvision


def shapes(form, n=2):
    """Shapes of all layers, and of all maps between, without computing a number."""
    with torch.device("meta"):
        network = AlexNet(form)
        maps = {}
        for name, module in network.named_children():
            if name.startswith("conv"):
                module.register_forward_hook(lambda m, i, out, name=name: maps.update({name: tuple(out.shape[1:])}))
        out = network(torch.zeros(n, 3, form.input_px, form.input_px), ("pool5", "fc6", "fc7"))
    return maps, {name: tuple(value.shape) for name, value in out.items()}


FORMS = {
    "alexnet64": (ALEXNET64, 32, 15, 1152, 1024),
    "alexnet": (ALEXNET, 55, 27, 9216, 4096),
    "krizhevsky at 224": (KRIZHEVSKY, 55, 27, 9216, 4096),
    "krizhevsky at 227": (krizhevsky(227), 55, 27, 9216, 4096),
    "krizhevsky, 6144 wide": (krizhevsky(224, 6144), 55, 27, 9216, 6144),
}


@pytest.mark.parametrize("name", FORMS)
def test_shapes(name):
    form, conv1, conv2, pool5, fc = FORMS[name]
    maps, layers = shapes(form)
    assert maps["conv1"] == (form.convs[0].channels, conv1, conv1)
    assert maps["conv2"] == (form.convs[1].channels, conv2, conv2)
    assert maps["conv5"][1:] == maps["conv3"][1:]
    assert layers == {"pool5": (2, pool5), "fc6": (2, fc), "fc7": (2, fc)}
    assert form.widths == {"pool5": pool5, "fc6": fc, "fc7": fc}


def test_other_input_size_is_refused():
    with pytest.raises(ValueError, match="input_px must be 224 or 227, got 64"):
        krizhevsky(64)


def test_groups_are_those_of_the_paper():
    with torch.device("meta"):
        network = AlexNet(KRIZHEVSKY)
    # C2, C4 and C5 see the maps of one of the two GPUs only.
    assert [network.get_submodule(f"conv{i}").weight.shape[1] for i in range(1, 6)] == [3, 48, 256, 192, 192]


def test_parameters_of_alexnet64():
    convs = (3 * 48 * 25 + 48) + (48 * 96 * 25 + 96) + (96 * 192 * 9 + 192) + (192 * 192 * 9 + 192)
    rest = (192 * 128 * 9 + 128) + (1152 * 1024 + 1024) + (1024 * 1024 + 1024)
    assert sum(p.numel() for p in AlexNet(ALEXNET64).parameters()) == convs + rest == 3_068_576


def test_response_norm_is_the_formula_of_the_paper():
    # Krizhevsky et al. (2012) section 3.3: over 5 neighbouring maps, k = 2, beta = 0.75, and
    # alpha = 1e-4 divided by the 5 maps, as their code (and Caffe's weights) have it.
    with torch.device("meta"):
        layer = AlexNet(KRIZHEVSKY).response_norm
    a = 300 * np.random.default_rng(0).standard_normal((2, 9, 3, 4))
    expected = np.empty_like(a)
    for i in range(9):
        near = a[:, max(0, i - 2) : i + 3]
        expected[:, i] = a[:, i] / (2 + 1e-4 / 5 * (near**2).sum(1)) ** 0.75
    assert np.allclose(layer(torch.from_numpy(a)).numpy(), expected, rtol=1e-12)


def test_response_norm_stands_between_relu_and_pool():
    # One map, one cell that is negative before ReLU: in another order the result differs.
    form = KRIZHEVSKY
    with torch.device("meta"):
        network = AlexNet(form)
    order = []
    network.response_norm.register_forward_hook(lambda m, i, o: order.append("norm"))
    network.pool.register_forward_hook(lambda m, i, o: order.append("pool"))
    with torch.device("meta"):
        network(torch.zeros(1, 3, 224, 224), ("pool5",))
    assert order == ["norm", "pool", "norm", "pool", "pool"]


@pytest.mark.parametrize(("layer", "expected"), [("pool5", []), ("fc6", ["fc6"]), ("fc7", ["fc6", "fc7"])])
def test_nothing_beyond_the_asked_layer_is_computed(layer, expected):
    network, ran = AlexNet(ALEXNET64), []
    for name in ("fc6", "fc7"):
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: ran.append(name))
    assert list(network(torch.zeros(1, 3, 64, 64), (layer,))) == [layer]
    assert ran == expected


def test_layers_of_one_pass_are_those_of_single_passes():
    torch.manual_seed(0)
    network, x = AlexNet(ALEXNET64).eval(), torch.randn(3, 3, 64, 64)
    together = network(x, ("fc7", "pool5", "fc6"))
    for layer in ("pool5", "fc6", "fc7"):
        assert torch.equal(together[layer], network(x, (layer,))[layer])
        assert (together[layer] >= 0).all()


def test_folded_network_equals_the_one_with_batch_norm():
    torch.manual_seed(1)
    trained = AlexNet(ALEXNET64, batch_norm=True).eval()
    for name, buffer in trained.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.5)
        elif name.endswith("running_var"):
            buffer.uniform_(0.2, 3)
    for name, parameter in trained.named_parameters():
        if name.startswith("norm"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    plain = AlexNet(ALEXNET64).eval()
    plain.load_state_dict(fold_batch_norm(trained))
    x = torch.randn(4, 3, 64, 64)
    layers = ("pool5", "fc6", "fc7")
    with torch.inference_mode():
        got, expected = plain(x, layers), trained(x, layers)
    for layer in layers:
        assert expected[layer].std() > 0.01
        # The same sums in another order, in float32.
        assert torch.allclose(got[layer], expected[layer], rtol=1e-3, atol=1e-4), layer


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    network, x = AlexNet(ALEXNET64, dropout=0.5), torch.randn(2, 3, 64, 64)
    a, b = (network(x)["fc7"] for _ in range(2))
    assert not torch.equal(a, b)
    network.eval()
    plain = AlexNet(ALEXNET64).eval()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network(x)["fc7"], plain(x)["fc7"])


def test_alexnet_is_that_of_torchvision():
    with torch.device("meta"):
        theirs = import_torchvision().models.alexnet(weights=None)
        ours = AlexNet(ALEXNET)
    theirs = theirs.to_empty(device="cpu").eval()
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.data.uniform_(-1, 1).mul_((6 / fan_in) ** 0.5)
    renamed = from_torchvision_names(theirs.state_dict())
    ours.load_state_dict({k: v for k, v in renamed.items() if not k.startswith("fc8.")}, assign=True)
    assert renamed["fc8.weight"].shape == (1000, 4096)

    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        got = ours.eval()(x, ("pool5", "fc6", "fc7"))
        pool5 = theirs.avgpool(theirs.features(x)).flatten(1)
        fc6 = theirs.classifier[:3](pool5)
        fc7 = theirs.classifier[3:6](fc6)
    for name, expected in (("pool5", pool5), ("fc6", fc6), ("fc7", fc7)):
        assert expected.std() > 0.01
        assert torch.allclose(got[name], expected, rtol=1e-4, atol=1e-5), name
