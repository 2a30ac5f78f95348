"""Weights in each form in which they circulate give the activations that the original gives."""

from __future__ import annotations

import alexnet_files as writers
import numpy as np
import pytest
import torch
import yaml
from alexnet_files import CHAIN, MEAN_BGR, caffe_fc7, draw_weights
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from pipeline.cli.trunk import command
from pipeline.io.errors import MissingDataError, SettingsError, TrunkError
from pipeline.trunk.card import save_trunk
from pipeline.trunk.formats.convert import convert, read_mean_bgr
from pipeline.trunk.formats.torch_file import read_torch_tensors
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner


def sequential(weights):
    """Names of torchvision's kind: numbers in two Sequentials."""
    numbers = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5"), (0, 4, 8, 10, 12), strict=True))
    numbers |= {"fc6": 1, "fc7": 4, "fc8": 6}
    named = {}
    for key, value in weights.items():
        layer, part = key.split(".")
        stem = "features" if layer.startswith("conv") else "classifier"
        named[f"{stem}.{numbers[layer]}.{part}"] = torch.from_numpy(value)
    return named


def write(path, kind, weights, architecture):
    chain = CHAIN[architecture]
    if kind.startswith("caffemodel"):
        writers.write_caffemodel(path, weights, chain, int(kind[-1]))
    elif kind.startswith("onnx"):
        writers.write_onnx(path, weights, chain, kind.split()[1], external="external" in kind)
    elif kind == "npy":
        np.save(path, writers.to_tensorflow(weights), allow_pickle=True)
    elif kind == "npy of python 2":
        path.write_bytes(writers.python2_npy(writers.to_tensorflow(weights)))
    elif kind == "npz":
        np.savez(path, **{k.replace(".weight", "_w").replace(".bias", "_b"): v for k, v in weights.items()})
    elif kind == "pth":
        tensors = {f"module.{k}": v for k, v in sequential(weights).items()}
        torch.save({"epoch": 90, "arch": "alexnet", "state_dict": tensors}, path)
    else:
        save_file({k: torch.from_numpy(v) for k, v in weights.items()}, path)


KINDS = {
    "caffemodel 0": ".caffemodel",
    "caffemodel 1": ".caffemodel",
    "caffemodel 2": ".caffemodel",
    "onnx gemm": ".onnx",
    "onnx matmul": ".onnx",
    "onnx gemm external": ".onnx",
    "npy": ".npy",
    "npy of python 2": ".npy",
    "npz": ".npz",
    "pth": ".pth",
    "safetensors": ".safetensors",
}
SAY_THEIR_ORDER = ("caffemodel", "onnx")


@pytest.fixture(scope="session")
def expected(pixels):
    """FC7 of both of Caffe's networks with the same weights, by the plain reference."""
    weights = draw_weights("bvlc_alexnet")
    return weights, {
        name: caffe_fc7(weights, pixels, name == "caffenet", 1.0, MEAN_BGR).numpy()
        for name in ("bvlc_alexnet", "caffenet")
    }


@pytest.mark.parametrize("architecture", ["bvlc_alexnet", "caffenet"])
@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_the_originals(tmp_path, expected, rows_of, kind, architecture):
    weights, fc7 = expected
    path = tmp_path / f"given{KINDS[kind]}"
    write(path, kind, weights, architecture)
    asked = None if kind.startswith(SAY_THEIR_ORDER) else architecture
    imported, card = convert(path, "mine", asked)
    card = save_trunk(tmp_path / "mine", imported, card)

    assert (card.architecture, card.input_px, card.layers["fc7"]) == (architecture, 227, 24)
    rows = rows_of(tmp_path / "mine.yaml")
    scale = fc7[architecture].std()
    assert scale > 1  # Caffe's activations are large
    assert np.allclose(rows, fc7[architecture], rtol=1e-4, atol=1e-4 * scale)
    # The two orders of norm and pool are no rounding apart.
    other = fc7["caffenet" if architecture == "bvlc_alexnet" else "bvlc_alexnet"]
    assert np.abs(rows - other).max() > 0.05 * scale


def test_classes_are_kept_for_whoever_asks(tmp_path, expected):
    weights, _ = expected
    writers.write_caffemodel(tmp_path / "a.caffemodel", weights, CHAIN["caffenet"], 2, fc8="fc8_flickr")
    imported, _ = convert(tmp_path / "a.caffemodel", "mine")
    assert np.array_equal(imported["fc8.weight"], weights["fc8.weight"])
    writers.write_caffemodel(tmp_path / "a.caffemodel", weights, CHAIN["caffenet"], 2, fc8="fc-rcnn")
    imported, card = convert(tmp_path / "a.caffemodel", "mine")
    assert np.array_equal(imported["fc8.weight"], weights["fc8.weight"])
    assert card.trained["tensors"]["fc8.bias"] == "fc-rcnn.bias"


def test_through_the_runner_also_where_squares_leave_float16(tmp_path, expected, pixels):
    weights, fc7 = expected
    writers.write_caffemodel(tmp_path / "a.caffemodel", weights, CHAIN["bvlc_alexnet"], 2)
    save_trunk(tmp_path / "mine", *convert(tmp_path / "a.caffemodel", "mine"))
    rows = TrunkRunner(load_trunk(str(tmp_path / "mine.yaml")), torch.device("cpu"), "fp32")(pixels)
    assert np.allclose(rows, fc7["bvlc_alexnet"], rtol=2e-3, atol=2e-3 * fc7["bvlc_alexnet"].std())
    network = load_trunk(str(tmp_path / "mine.yaml")).network.network
    loud = 3000 * torch.rand(1, 96, 4, 4)
    half = network._normalise(loud.half()).float()
    assert torch.allclose(half, network._normalise(loud), rtol=2e-3)


def test_paper_form_with_another_k(tmp_path, pixels, rows_of):
    weights = draw_weights("krizhevsky")
    np.savez(tmp_path / "a.npz", **weights)
    save_trunk(tmp_path / "mine", *convert(tmp_path / "a.npz", "mine", "krizhevsky"))
    fc7 = caffe_fc7(weights, pixels, False, 2.0, MEAN_BGR).numpy()
    assert np.allclose(rows_of(tmp_path / "mine.yaml"), fc7, rtol=1e-4, atol=1e-4 * fc7.std())


def test_torchvisions_alexnet_from_a_checkpoint(tmp_path):
    from pipeline.trunk.zoo.torchvision_import import import_torchvision

    torch.manual_seed(0)
    model = import_torchvision().models.alexnet(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "alexnet-owt.pth")
    imported, card = convert(tmp_path / "alexnet-owt.pth", "mine")
    assert (card.architecture, card.input_px, card.trained["input"]) == ("alexnet", 224, "torchvision")
    assert card.preprocessing.mean == (0.485, 0.456, 0.406)
    assert card.trained["tensors"]["conv5.weight"] == "features.10.weight"
    for ours, theirs in card.trained["tensors"].items():
        assert torch.equal(imported[ours], model.state_dict()[theirs])


def test_mean_of_a_mean_picture(tmp_path, pixels, expected, rows_of):
    weights, _ = expected
    picture = np.random.default_rng(0).uniform(80, 140, (3, 16, 16)).astype(np.float32)
    blob = writers.caffe().BlobProto()
    writers.fill_blob(blob, picture, old=True)
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    np.save(tmp_path / "mean.npy", picture.astype(np.float64))
    mean = read_mean_bgr(tmp_path / "mean.binaryproto")
    assert np.allclose(mean, picture.mean((1, 2))) and np.allclose(mean, read_mean_bgr(tmp_path / "mean.npy"))

    writers.write_caffemodel(tmp_path / "a.caffemodel", weights, CHAIN["caffenet"], 2)
    save_trunk(tmp_path / "mine", *convert(tmp_path / "a.caffemodel", "mine", mean_bgr=mean))
    fc7 = caffe_fc7(weights, pixels, True, 1.0, mean).numpy()
    assert np.allclose(rows_of(tmp_path / "mine.yaml"), fc7, rtol=1e-4, atol=1e-4 * fc7.std())


def test_command_writes_what_trunk_uses(tmp_path, expected):
    weights, _ = expected
    writers.write_caffemodel(tmp_path / "a.caffemodel", weights, CHAIN["caffenet"], 1)
    arguments = ["import", str(tmp_path / "a.caffemodel"), "--out", str(tmp_path / "out"), "--name", "net"]
    done = CliRunner().invoke(command, [*arguments, "--mean-bgr", "100,110,120"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "caffenet, 227 px, caffe, mean of blue, green, red [100.0, 110.0, 120.0]" in done.stdout
    assert "conv2.weight 256 x 48 x 5 x 5   conv2.weight" in done.stderr
    trunk = load_trunk(str(tmp_path / "out" / "net.yaml"), "pool5")
    assert np.allclose(trunk.card.preprocessing.mean, np.array([120, 110, 100]) / 255)
    shown = CliRunner().invoke(command, ["show", str(tmp_path / "out" / "net.yaml")], catch_exceptions=False)
    assert trunk.weights_sha256 in shown.stdout and "fc7, 24 columns" in shown.stdout
    assert yaml.safe_load((tmp_path / "out" / "net.yaml").read_text())["trained"]["source"].startswith(
        "imported from a"
    )
    with pytest.raises(SettingsError, match="--mean-bgr: expected three numbers such as 104,117,123, got '1,2'"):
        CliRunner().invoke(command, [*arguments, "--mean-bgr", "1,2"], catch_exceptions=False)
    with pytest.raises(SettingsError, match="--name: may have letters"):
        CliRunner().invoke(command, [*arguments[:-1], "../up"], catch_exceptions=False)


# --- what is refused


def test_all_shapes_that_do_not_fit_are_listed(tmp_path, expected):
    weights = dict(expected[0])
    weights["conv2.weight"] = weights["conv2.weight"][:, :40]
    weights["fc6.weight"] = weights["fc6.weight"][:, :100]
    weights["fc7.bias"] = weights["fc7.bias"][:3]
    weights["conv4.bias"] = weights["conv4.bias"] * np.nan
    writers.write_caffemodel(tmp_path / "a.caffemodel", weights, CHAIN["caffenet"], 2, conv2="conv2")
    with pytest.raises(TrunkError) as error:
        convert(tmp_path / "a.caffemodel", "mine")
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines == [
        "- conv2.weight (conv2.weight): shape (256, 40, 5, 5), expected (256, 48, 5, 5)",
        "- fc6.weight (fc6.weight): shape (24, 100), expected (24, 9216)",
        "- fc7.bias (fc7.bias): shape (3,), expected (24,)",
        "- conv4.bias (conv4.bias): holds values that are not finite",
    ]


def test_order_must_be_given_where_the_file_does_not_say(tmp_path, expected):
    np.savez(tmp_path / "a.npz", **expected[0])
    with pytest.raises(TrunkError, match=r"give --architecture: bvlc_alexnet .* caffenet .* krizhevsky"):
        convert(tmp_path / "a.npz", "mine")


def test_another_architecture_than_the_file_says_is_refused(tmp_path, expected):
    writers.write_caffemodel(tmp_path / "a.caffemodel", expected[0], CHAIN["caffenet"], 2)
    with pytest.raises(TrunkError, match="is no bvlc_alexnet\n.*runs conv, pool, norm.*; expected conv, norm, pool"):
        convert(tmp_path / "a.caffemodel", "mine", "bvlc_alexnet")
    with pytest.raises(TrunkError, match=r"is no krizhevsky(\n|.)*norm1: .*1\.0\), expected .*2\.0\)"):
        convert(tmp_path / "a.caffemodel", "mine", "krizhevsky")


def test_other_response_normalisation_is_refused(tmp_path, expected):
    writers.write_caffemodel(tmp_path / "a.caffemodel", expected[0], CHAIN["caffenet"], 2, alpha=5e-4)
    with pytest.raises(TrunkError, match=r"fits none of the known (\n|.)*caffenet: norm1: size, alpha, beta, k are"):
        convert(tmp_path / "a.caffemodel", "mine")


def test_other_networks_are_refused(tmp_path):
    tensors = {}
    for index in (0, 3, 6, 8, 11, 13, 16, 18):  # VGG's eleven layers
        tensors |= {f"features.{index}.weight": torch.zeros(4, 3, 3, 3), f"features.{index}.bias": torch.zeros(4)}
    for index in (0, 3, 6):
        tensors |= {f"classifier.{index}.weight": torch.zeros(4, 4), f"classifier.{index}.bias": torch.zeros(4)}
    torch.save(tensors, tmp_path / "vgg.pth")
    with pytest.raises(
        TrunkError, match="8 convolutions and 3 linear layers, expected 5 and 2 or 3; it has classifier"
    ):
        convert(tmp_path / "vgg.pth", "mine")
    torch.save({"a.weight": torch.zeros(3, 3), "b": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(
        TrunkError, match=r"is no AlexNet\n.*a: 1 tensors \(a.weight\), expected a weight and a bias\n.*b:"
    ):
        convert(tmp_path / "a.pth", "mine")


def test_files_that_are_none(tmp_path):
    with pytest.raises(TrunkError, match="expected a file that ends in .caffemodel, .onnx"):
        convert(tmp_path / "a.h5", "mine")
    with pytest.raises(MissingDataError, match="a.onnx: no such file"):
        convert(tmp_path / "a.onnx", "mine")
    for suffix, message in ((".onnx", "ONNX"), (".caffemodel", "caffemodel"), (".pth", "torch.save"), (".npy", "read")):
        (tmp_path / f"a{suffix}").write_bytes(b"not what it says it is, at all")
        with pytest.raises(TrunkError, match=message):
            convert(tmp_path / f"a{suffix}", "mine")


def test_torchvisions_preprocessing_has_no_mean_to_give(tmp_path, expected):
    writers.write_caffemodel(tmp_path / "a.caffemodel", expected[0], CHAIN["caffenet"], 2)
    with pytest.raises(SettingsError, match="leave one of them out"):
        convert(tmp_path / "a.caffemodel", "mine", None, (1.0, 2.0, 3.0), "torchvision")
    imported, card = convert(tmp_path / "a.caffemodel", "mine", None, None, "torchvision")
    assert np.array_equal(imported["conv1.weight"], expected[0]["conv1.weight"])
    assert card.preprocessing.std == (0.229, 0.224, 0.225)


def test_imports_are_repeatable(tmp_path, expected):
    np.savez(tmp_path / "a.npz", **expected[0])
    for name in ("one", "two"):
        save_trunk(tmp_path / name, *convert(tmp_path / "a.npz", "mine", "caffenet"))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert set(load_file(tmp_path / "one.safetensors")) == set(expected[0])


PLAIN = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.ones(2)}
EMA = {"n_averaged": torch.tensor(7), **{f"module.{name}": 2 * value for name, value in PLAIN.items()}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": PLAIN, "state_dict_ema": EMA}, "same tensors: state_dict, state_dict_ema; save the one"),
        ({"state_dict": PLAIN, "model": EMA}, "several networks: state_dict, model"),
        ({**PLAIN, "conv.bias": torch.ones(2).to_sparse()}, "conv.bias: sparse; save tensor.to_dense"),
        ({**PLAIN, "conv.bias": torch.ones(2, device="meta")}, "conv.bias: without values"),
        ({**PLAIN, "conv.bias": torch.ones(2, dtype=torch.complex64)}, "conv.bias: complex"),
    ],
)
def test_a_checkpoint_of_two_networks_or_of_no_plain_numbers_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(TrunkError, match=message):
        read_torch_tensors(tmp_path / "x.pth")


def test_what_lies_next_to_the_weights_of_a_checkpoint_is_passed_over(tmp_path):
    beside = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}, "scaler": {}}
    torch.save({"model": {"state_dict": PLAIN, "epoch": 3}, **beside}, tmp_path / "x.pth")
    assert read_torch_tensors(tmp_path / "x.pth").keys() == PLAIN.keys()
