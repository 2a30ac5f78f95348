"""Trunks that are classes of a user's own: the page that shows one is run; what a class does wrong is refused."""

import json
import re

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.cli import run_command
from support.dataset import CONFIG
from support.examples import CHECKOUT
from support.worked import make_folder

from pipeline.io.errors import PipelineError
from pipeline.trunk.load import load_trunk

PAGE = (CHECKOUT / "docs/how-to/own-trunk.md").read_text()
CODE = next(iter(re.findall(r"```python\n(.*?)```", PAGE, re.S)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_trunks.py").write_text(CODE)
    return tmp_path


def test_the_page_runs_and_a_changed_class_is_another_store(folder):
    work = make_folder(folder / "work")
    (work / "my_trunks.py").write_text(CODE)
    settings = yaml.safe_load(next(b for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.S) if "my_trunks" in b))
    (work / "own-trunk.yaml").write_text(yaml.safe_dump({**CONFIG, "seeds": [0], "held_out": 0.5, **settings}))
    lines = next(b for b in re.findall(r"```sh\n(.*?)```", PAGE, re.S) if "own-trunk" in b).splitlines()
    for line in ["pipeline data new --root data/tiny --name tiny", *lines]:
        ended = run_command(
            work, *line.replace("alexnet64", "random").replace("dataset demo", "dataset tiny").split()[1:]
        )
        assert ended.code == 0, f"{line}\n{ended.err}"
    rows = json.loads((work / "results/tiny_compare.json").read_text())["recipes"]
    assert [row["trunk"] for row in rows] == ["code/my_trunks:Small", "random"]
    stores = set((work / "cache").glob("*Small*.zarr"))
    assert len(stores) == 2

    (work / "my_trunks.py").write_text(CODE.replace("nn.ReLU()", "nn.GELU()"))
    refused = run_command(work, *["score", "--dataset", "tiny", "--head", "svm", "--config", "own-trunk.yaml"])
    assert refused.code == 2 and "pipeline extract" in refused.err
    again = run_command(work, *["extract", "--dataset", "tiny", "--split", "train", "--config", "own-trunk.yaml"])
    assert again.code == 0, again.err
    assert len(set((work / "cache").glob("*Small*.zarr"))) == 3


def test_weights_are_drawn_from_the_seed_or_given(folder):
    drawn = [load_trunk("code/my_trunks:Small", seed=seed) for seed in (0, 0, 1)]
    save_file({f"{k}": v + 1 for k, v in drawn[0].network.state_dict().items()}, folder / "w.safetensors")
    given = load_trunk("code/my_trunks:Small", weights=folder / "w.safetensors")

    assert drawn[0].weights_sha256 == drawn[1].weights_sha256 != drawn[2].weights_sha256 != given.weights_sha256
    assert (given.width, given.layer, given.card.input_px, given.card.preprocessing.mean[0]) == (64, "output", 32, 0.5)
    x = torch.rand(3, 3, 32, 32)
    assert torch.equal(drawn[0].network(x), drawn[1].network(x)) and not drawn[0].network.training


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("input_px = 32", "", "needs an attribute input_px"),
        ("input_px = 32", "input_px = 4.5", "got 4.5"),
        ('"bicubic"', '"cubic"', "attribute preprocessing: interpolation"),
        ("nn.Module)", "object)", "is no torch.nn.Module|super"),
        (".mean((2, 3))", "", r"got shape \(2, 64, 4, 4\) of 2 patches"),
        (".mean((2, 3))", ".mean((2, 3)) > 0", "got a Tensor of torch.bool"),
        (".mean((2, 3))", ".mean((2, 3)) / 0", "not finite"),
        ("return self", "return self.missing", "AttributeError.*line"),
        ("def __init__(self)", "def __init__(self, depth)", "missing 1 required positional argument"),
    ],
)
def test_what_a_class_does_wrong_is_refused_by_name(folder, old, new, problem):
    assert old in CODE
    (folder / "my_trunks.py").write_text(CODE.replace(old, new))
    with pytest.raises(PipelineError, match=problem) as caught:
        load_trunk("code/my_trunks:Small")
    assert "my_trunks" in str(caught.value)


@pytest.mark.parametrize("name", ["code/nowhere_here:Small", "code/my_trunks:Smal", "code/unknown"])
def test_what_is_not_there_is_refused(folder, name):
    with pytest.raises(PipelineError, match="no module|no class|no entry point"):
        load_trunk(name)


def test_other_layers_sizes_and_weights_are_refused(folder):
    save_file({"layers.0.weight": torch.zeros(1)}, folder / "w.safetensors")
    for further, problem in (
        ({"layer": "fc6"}, "has one layer, output"),
        ({"px": 64}, "takes patches of one size"),
        ({"weights": folder / "w.safetensors"}, "weights do not fit"),
    ):
        with pytest.raises(PipelineError, match=problem):
            load_trunk("code/my_trunks:Small", **further)
