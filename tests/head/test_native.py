"""The trunk's own last layer as a head: what the whole network gives, and refused where its outputs mean others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.heads import fit_head

from pipeline.head.file import load_head, save_head
from pipeline.head.settings import OwnSettings
from pipeline.io.errors import HeadError
from pipeline.patches.settings import LabelSettings
from pipeline.trunk.alexnet import ALEXNET64, AlexNet
from pipeline.trunk.card import TrunkCard, save_trunk
from pipeline.trunk.load import load_trunk
from pipeline.trunk.zoo.alexnet import from_torchvision_names

LABELS = LabelSettings()
OWN = OwnSettings(kind="own")
CLASSES = ["cat", "dog", "fish", "background"]
WIDTH = 1024


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(0)
    fc8 = {"fc8.weight": torch.randn(4, WIDTH, generator=generator) / 32, "fc8.bias": torch.arange(4) / 4}
    return {**AlexNet(ALEXNET64).state_dict(), **fc8}


@pytest.fixture
def card(tmp_path, weights):
    """Writes a card with its weights; gives what loads it."""

    def make(classes=CLASSES, **changes):
        fields = {"name": "mine", "architecture": "alexnet64", "input_px": 64, "layers": ALEXNET64.widths}
        trained = {} if classes is None else {"classes": classes}
        state = {k: v for k, v in {**weights, **changes}.items() if v is not None}
        save_trunk(tmp_path / "mine", state, TrunkCard(**fields, trained=trained))
        return lambda: load_trunk(str(tmp_path / "mine.yaml"))

    return make


@pytest.fixture
def rows(make):
    table = make.table(6)
    return np.abs(np.random.default_rng(0).normal(0, 1, (table.n_rows, WIDTH))).astype(np.float16)


@pytest.fixture
def fit(make, rows, tmp_path):
    def fitted(load, **how):
        table = make.table(6)
        how = {"how.weights": load().weights_sha256, **how}
        store = make.store(tmp_path / "fc7.zarr", table, rows, **how)
        return fit_head(store, table, "own", OWN, LABELS, 0, load_trunk=load)

    return fitted


def test_scores_are_those_of_the_whole_network(fit, card, rows, weights):
    head = fit(card())

    logits = rows.astype(np.float64) @ weights["fc8.weight"].double().numpy().T + weights["fc8.bias"].double().numpy()
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(head.patch_scores(rows), expected[:, :3], atol=1e-5)
    assert head.score_kind == "softmax"
    assert head.facts.epochs == [] and head.facts.how["how.layer"] == "fc7"


def test_round_trip_needs_no_trunk(fit, card, rows, tmp_path):
    head = fit(card())
    save_head(head, tmp_path / "own.safetensors")

    loaded = load_head(tmp_path / "own.safetensors")

    assert loaded.facts == head.facts
    np.testing.assert_array_equal(loaded.patch_scores(rows), head.patch_scores(rows))


def test_half_precision_weights(fit, card, rows, weights):
    halves = {name: weights[name].half() for name in ("fc8.weight", "fc8.bias")}
    np.testing.assert_allclose(fit(card(**halves)).patch_scores(rows).sum(1).max(), 1, atol=0.2)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        pytest.param(None, r"its card names no `trained\.classes`; make such a trunk with", id="none named"),
        pytest.param("cat", r"its card names no `trained\.classes`", id="no list"),
        pytest.param(["background", "cat", "dog", "fish"], "the same in another order", id="background first"),
        pytest.param(
            ["cat", "dog", "fish"], "trained on 3 classes, .* without background, with no others", id="no background"
        ),
        pytest.param(["cat", "dog", "bird", "background"], "without fish, with bird others", id="another class"),
    ],
)
def test_a_trunk_of_other_classes(fit, card, classes, message):
    with pytest.raises(HeadError, match=f"trunk 'mine'.*{message}"):
        fit(card(classes))


def test_weights_without_a_last_layer(fit, card):
    with pytest.raises(HeadError, match=r"trunk 'mine': its weights hold no last layer \(fc8\.weight and fc8\.bias\)"):
        fit(card(**{"fc8.bias": None}))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"fc8.weight": torch.zeros(3, WIDTH)}, id="fewer outputs"),
        pytest.param({"fc8.bias": torch.full((4,), float("nan"))}, id="not finite"),
    ],
)
def test_a_last_layer_that_does_not_fit(fit, card, changes):
    with pytest.raises(HeadError, match=r"trunk 'mine': fc8\.\w+ has shape .*, expected .* of finite values"):
        fit(card(**changes))


def test_rows_of_another_layer(fit, card):
    with pytest.raises(HeadError, match=r"whose input is fc7, and .* holds fc6; set layer: fc7"):
        fit(card(), **{"how.layer": "fc6"})


def test_other_weights_than_those_that_made_the_rows(fit, card):
    with pytest.raises(HeadError, match=r"trunk 'mine' has weights .*, .* was made with ffff"):
        fit(card(), **{"how.weights": "f" * 64})


def test_trunks_hand_on_their_last_layer(card, weights):
    trunk = card()()
    assert torch.equal(trunk.classifier["weight"], weights["fc8.weight"])
    assert torch.equal(trunk.classifier["bias"], weights["fc8.bias"])
    assert trunk.at("pool5").classifier is trunk.classifier
    assert load_trunk("random").classifier is None
    assert load_trunk("alexnet64").classifier["weight"].shape == (200, 1024)
    names = from_torchvision_names({"features.0.weight": 0, "classifier.6.weight": 0, "classifier.6.bias": 0})
    assert set(names) == {"conv1.weight", "fc8.weight", "fc8.bias"}
