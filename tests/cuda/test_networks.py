"""Networks of torchvision and timm on CUDA without values: no tensor of the CPU, and no other type, among them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from simulated_cuda import CUDA, fake_cuda

from pipeline.trunk.alexnet import CONFIGS, AlexNet
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import LayeredNetwork, Trunk
from pipeline.trunk.zoo.timm import import_timm
from pipeline.trunk.zoo.torchvision_import import import_torchvision

TORCHVISION = ("squeezenet1_0", "resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0")
TIMM = ("test_convnext", "test_efficientnet", "test_vit", "test_vit3", "test_resnet")


@pytest.fixture
def load(tmp_path):
    """A trunk of random weights, from a file, by its name."""

    def load_random(name: str) -> Trunk:
        library, _, rest = name.partition("/")
        model = rest.partition("@")[0]
        made = (
            import_timm().create_model(model)
            if library == "timm"
            else import_torchvision().models.get_model(model, weights=None)
        )
        path = Path(tmp_path / f"{model}.safetensors")
        save_file({key: value.contiguous() for key, value in made.state_dict().items()}, path)
        return load_trunk(name, weights=path)

    return load_random


def check(runner: TrunkRunner, activations: torch.Tensor, n: int) -> None:
    assert (activations.device, activations.dtype) == (CUDA, runner.dtype)
    assert activations.shape == (n, runner.trunk.width)


NETWORKS = [f"torchvision/{n}" for n in TORCHVISION] + [f"timm/{n}" for n in TIMM]


@pytest.mark.parametrize(
    ("name", "precision"), [(n, "fp16") for n in NETWORKS] + [(n, "bf16") for n in (NETWORKS[1], NETWORKS[-1])]
)
def test_a_network_is_whole_on_the_device(load, name, precision):
    trunk = load(name)
    with fake_cuda():
        runner = TrunkRunner(trunk, CUDA, precision)
        patches = runner.new_batch(3)
        with torch.inference_mode():
            check(runner, runner._network(runner._inputs(patches)), 3)


@pytest.mark.parametrize(
    "name", ["torchvision/squeezenet1_0@features.12:max+classifier.2", "torchvision/resnet18@layer3"]
)
def test_a_dense_network_is_whole_on_the_device(load, name):
    trunk = load(name)
    with fake_cuda():
        runner = DenseRunner(trunk, CUDA, "fp16")
        pixels = torch.empty(300, 400, 3, dtype=torch.uint8, device=CUDA)
        corners = torch.zeros(2, 5, dtype=torch.int64, device=CUDA)
        check(runner, runner.read_windows(pixels, *corners), 5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_alexnets_are_whole_on_the_device(name):
    config = CONFIGS[name]
    network = LayeredNetwork(AlexNet(config), "fc7").eval()
    card = TrunkCard(name=name, architecture=name, input_px=config.input_px, layers=config.widths)
    trunk = Trunk(card, "fc7", config.widths["fc7"], "0", network)
    with fake_cuda():
        runner = TrunkRunner(trunk, CUDA, "fp16")
        with torch.inference_mode():
            check(runner, runner._network(runner._inputs(runner.new_batch(2))), 2)
