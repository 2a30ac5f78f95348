"""ONNX files as trunks: the rows of torch's network, at any node, through to a store; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.cli import run_command
from support.onnx_files import PX, Plain, write_onnx
from support.worked import copy_work

from pipeline.io.errors import SettingsError, TrunkError
from pipeline.trunk.backends import resolve_backend
from pipeline.trunk.load import load_trunk
from pipeline.trunk.onnx.network import parse_layer
from pipeline.trunk.operations import count_operations
from pipeline.trunk.runner import TrunkRunner

CPU = torch.device("cpu")


def run_import(*line):
    return run_command(Path.cwd(), "trunk", "import", *map(str, line), "--architecture", "onnx")


UNIT = ("--rgb-mean", "0,0,0", "--rgb-std", "1,1,1")


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    file = write_onnx(folder / "net.onnx")
    done = run_import(file, "--out", folder / "trunks", "--name", "net", *UNIT, "--layer", "head")
    assert done.code == 0, done.err
    return folder / "trunks/net.yaml"


def patches(n=5):
    return np.random.default_rng(0).integers(0, 256, (n, PX, PX, 3), np.uint8)


@pytest.mark.parametrize(
    ("layer", "rows"),
    [
        ("head", lambda v: v["head"]),
        ("net/map:0", lambda v: v["net/map:0"].mean((2, 3))),
        ("net/map:0:max", lambda v: v["net/map:0"].amax((2, 3))),
        ("net/map:0:flat", lambda v: v["net/map:0"].flatten(1)),
        ("last", lambda v: v["net/map:0"].mean((2, 3))),
        ("last:max", lambda v: v["net/map:0"].amax((2, 3))),
        ("tokens:class", lambda v: v["tokens"][:, 0]),
        ("tokens:mean", lambda v: v["tokens"].mean(1)),
        ("net/map:0:max+head", lambda v: torch.cat([v["net/map:0"].amax((2, 3)), v["head"]], 1)),
    ],
)
def test_rows_are_those_of_the_same_network_in_torch(card, layer, rows):
    trunk = load_trunk(str(card), layer)
    backend = resolve_backend("auto", trunk, CPU, "fp32")
    found = TrunkRunner(trunk, CPU, "fp32", backend=backend)(patches())

    with torch.inference_mode():
        expected = rows(Plain()(torch.from_numpy(patches()).permute(0, 3, 1, 2) / 255)).numpy()
    assert backend == "openvino" and found.dtype == np.float16 and trunk.width == found.shape[1]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)


def test_operations_are_those_that_torch_counts(card):
    torchs = count_operations(Plain(), PX)

    found = TrunkRunner(load_trunk(str(card), "head"), CPU, "fp32", backend="openvino").operations_per_row(
        load_trunk(str(card), "head")
    )
    assert 0.5 * torchs < found < 2 * torchs


def test_a_name_may_hold_colons():
    assert [(node.name, node.pooling) for node in parse_layer("a:0+b:1:max")] == [("a:0", ""), ("b:1", "max")]


def test_an_import_lists_the_nodes_and_guesses_no_pixels(tmp_path):
    file = write_onnx(tmp_path / "net.onnx")
    line = [file, "--out", tmp_path / "trunks", "--name", "net"]

    unnamed, unsaid = run_import(*line, *UNIT), run_import(*line, "--layer", "head")

    assert unnamed.code == 2 and "give --layer NODE" in unnamed.err and "  head  5" in unnamed.err
    assert unsaid.code == 2 and "does not say how its pictures are normalised" in unsaid.err
    assert not (tmp_path / "trunks").exists()


@pytest.mark.parametrize(
    ("form", "layer", "message"),
    [
        ({}, "haed", "did you mean head?"),
        ({}, "tokens", "name one of tokens:class, tokens:mean"),
        ({}, "head:max", "name one of head:flat"),
        ({"channels_last": True}, "head", "expected one input (n, 3, height, width)"),
        ({"px": "side"}, "head", "give --px"),
        ({"batch_norm_of_the_batch": True}, "centred", "depends on the other patches"),
    ],
)
def test_what_gives_no_rows_is_refused(tmp_path, form, layer, message):
    file = write_onnx(tmp_path / "net.onnx", **form)

    done = run_import(file, "--out", tmp_path / "trunks", "--name", "net", *UNIT, "--layer", layer)

    assert done.code == 2 and message in done.err
    assert not (tmp_path / "trunks").exists()


def test_weights_in_other_files_are_refused(tmp_path):
    model = onnx.load(write_onnx(tmp_path / "net.onnx"))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)

    done = run_import(tmp_path / "net.onnx", "--out", tmp_path, "--name", "other", *UNIT, "--layer", "head")

    assert done.code == 2 and "lie in other files" in done.err


def test_another_file_behind_the_card_is_refused(card, tmp_path):
    copy = tmp_path / "net.yaml"
    copy.write_bytes(card.read_bytes())
    write_onnx(tmp_path / "net.onnx", batch=4)

    with pytest.raises(TrunkError, match="another or a damaged file"):
        load_trunk(str(copy), "head")


def test_torch_cannot_run_it(card):
    with pytest.raises(SettingsError, match="an ONNX file, which OpenVINO runs"):
        resolve_backend("torch", load_trunk(str(card), "head"), CPU, "fp32")


def test_a_store_of_it_is_made_and_computed_again(card, begun, tmp_path):
    work = copy_work(begun, tmp_path / "work")
    settings = f"--trunk {card} --layer net/map:0:max+head"

    made = run_command(work, *f"extract --dataset tiny --split val {settings}".split())
    verified = run_command(work, *["cache", "verify", "--recompute", "8"])
    again = run_command(work, *f"extract --dataset tiny --split val {settings}".split())

    assert made.code == 0, made.err
    assert verified.code == 0, verified.err
    assert "8 rows recomputed in cpu-" in verified.out and "-openvino: 8 equal bit for bit" in verified.out
    assert "the trunk does not run" in again.err and again.out == made.out
