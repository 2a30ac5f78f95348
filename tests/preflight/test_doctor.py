"""What the doctor says of a trunk is what an extraction would find."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from pipeline.io.errors import PipelineError
from pipeline.preflight import doctor
from pipeline.stages.runner import make_runner
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace
from pipeline.trunk import hubs
from pipeline.trunk.zoo.torchvision_import import import_torchvision


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    state = import_torchvision().models.resnet18(weights=None).state_dict()
    headless = {k: v for k, v in state.items() if not k.startswith("fc.")}
    save_file(headless, folder / "headless.safetensors")
    save_file({f"module.{k}": v for k, v in state.items()}, folder / "wrapped.safetensors")
    save_file({**headless, "conv1.weight": torch.zeros(64, 1, 7, 7)}, folder / "grey.safetensors")
    torch.save(state, folder / "pickled.pth")
    (folder / "broken.safetensors").write_bytes(b"no weights")
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(hubs, "can_reach", lambda url: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: pytest.fail("a request"))


CASES = [
    ("alexnet64", "fc7", None, True),
    ("random", "pool5", None, True),
    ("alexnet", "fc7", None, False),
    ("krizhevsky", "fc7", None, False),
    ("torchvision/resnet18", "fc7", None, False),
    ("torchvision/resnet18", "fc7", "headless", True),
    ("torchvision/resnet18", "fc7", "wrapped", True),
    ("torchvision/resnet18", "layer3", "headless", True),
    ("torchvision/resnet18@layer9", "fc7", "headless", False),
    ("torchvision/resnet18@fc", "fc7", "headless", False),
    ("torchvision/resnet18", "fc7", "grey", False),
    ("torchvision/resnet18", "fc7", "broken", False),
    ("torchvision/resnet18", "fc7", "nosuch", False),
    ("torchvision/resnet34", "fc7", "wrapped", False),
    ("torchvision/nosuch", "fc7", None, False),
    ("timm/test_vit", "fc7", None, False),
    ("timm/nosuch", "fc7", None, False),
    ("nosuch.yaml", "fc7", None, False),
]


@pytest.mark.parametrize(("trunk", "layer", "weights", "loads"), CASES)
def test_the_verdict_is_that_of_an_extraction(files, offline, trunk, layer, weights, loads):
    path = None if weights is None else str(files / f"{weights}.safetensors")
    ws = Workspace(RunSettings(trunk=trunk, layer=layer, weights=path, precision="fp32", threads=1))
    finding = doctor._trunk(ws, None)
    assert finding.state == ("ok" if loads else "bad")
    if loads:
        make_runner(ws)
        return
    assert finding.found
    with pytest.raises(PipelineError):
        make_runner(ws)


def test_pickled_weights_come_with_the_command_that_converts_them(files, offline):
    settings = RunSettings(trunk="torchvision/resnet18", weights=str(files / "pickled.pth"))
    finding = doctor._trunk(Workspace(settings), None)
    assert finding.state == "bad" and "pipeline trunk import" in finding.fix
    assert "--architecture torchvision/resnet18" in finding.fix


@pytest.mark.parametrize("trunk", ["torchvision/resnet18", "timm/test_vit"])
def test_weights_that_a_run_would_download_are_noted(monkeypatch, tmp_path, trunk):
    monkeypatch.setattr(hubs, "can_reach", lambda url: True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    finding = doctor._trunk(Workspace(RunSettings(trunk=trunk)), None)
    assert finding.state == "note" and "extract downloads them" in finding.fix + finding.found


def test_a_trunk_of_a_dataset_is_not_made_yet():
    finding = doctor._trunk(Workspace(RunSettings(trunk="fisher")), "demo")
    assert finding.state == "bad" and "pipeline trunk make" in finding.fix
    assert doctor._trunk(Workspace(RunSettings(trunk="fisher")), None).state == "note"


def test_a_hub_that_does_not_answer_takes_little_time():
    started = time.monotonic()
    assert not hubs.can_reach("http://192.0.2.1/")  # a network for documentation: nobody is there
    assert time.monotonic() - started < hubs.WAIT_S + 1


def test_the_probe_does_not_keep_a_process():
    code = "from pipeline.trunk import hubs; hubs.WAIT_S = 0.2; print(hubs.can_reach('http://192.0.2.1/'))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.strip()) == (0, "False"), ended.stderr
