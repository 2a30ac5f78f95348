"""The trunk of Fisher vectors: fitted, saved, loaded, refused, and worth something."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save, save_file
from sklearn.svm import LinearSVC

from pipeline.io.digests import sha256_file
from pipeline.io.errors import DatasetError, SettingsError, TrunkError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.trunk.card import TrunkCard, save_trunk
from pipeline.trunk.fisher.codebook import choose_windows, fit_codebooks, sample_descriptors
from pipeline.trunk.fisher.trunk import FisherNetwork, vector_width
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner, resolve_precision
from pipeline.trunk.settings import FisherSettings

CPU = torch.device("cpu")
PX = 48
SMALL = FisherSettings(input_px=PX, words=4, components=8, samples=40)
WIDTH = 2 * 2 * 4 * (8 + 2)


def draw_texture(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Stripes that lie (0) or stand (1), or checks (2), of any width, phase and two colours: uint8 (PX, PX, 3)."""
    y, x = np.mgrid[:PX, :PX] * (2 * np.pi / rng.uniform(6, 12)) + rng.uniform(0, 7, (2, 1, 1))
    wave = (np.sin(y), np.sin(x), np.sin(x) * np.sin(y))[kind][..., None]
    pale, dark = rng.uniform(120, 255, 3), rng.uniform(0, 120, 3)
    noisy = np.where(wave > 0, pale, dark) + rng.normal(0, 12, (PX, PX, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def draw_textures(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % 3
    return np.stack([draw_texture(kind, rng) for kind in kinds]), kinds


@pytest.fixture(scope="module")
def pictures():
    return draw_textures(36, 0)[0]


@pytest.fixture(scope="module")
def weights(pictures):
    return fit_codebooks(pictures, SMALL)


@pytest.fixture
def card_path(weights, tmp_path):
    fields = {"preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1]}, "layers": {"fisher": vector_width(weights)}}
    card = TrunkCard(name="mine", architecture="fisher", input_px=PX, trained={"source": "textures"}, **fields)
    save_trunk(tmp_path / "mine", weights, card)
    return tmp_path / "mine.yaml"


def test_same_seed_same_bytes(pictures, weights):
    assert save(fit_codebooks(iter(pictures), SMALL)) == save(weights)
    assert save(fit_codebooks(pictures, SMALL.model_copy(update={"seed": 1}))) != save(weights)


def test_threads_change_nothing(pictures, weights):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert save(fit_codebooks(pictures, SMALL)) == save(weights)
    finally:
        torch.set_num_threads(before)


def test_components_have_deviation_one_and_mixtures_sum_to_one(pictures, weights):
    rows, places = sample_descriptors(pictures, SMALL)
    assert len(places) == 40 * len(pictures)
    for kind, values in rows.items():
        x = (values - weights[f"books.{kind}.centre"].numpy()) @ weights[f"books.{kind}.components"].numpy()
        assert np.allclose(x.mean(0), 0, atol=1e-3)
        assert np.allclose(x.std(0), 1, atol=1e-2)
        assert np.allclose(np.corrcoef(x.T), np.eye(8), atol=1e-2)
        assert weights[f"books.{kind}.weights"].sum().item() == pytest.approx(1, abs=1e-5)


def test_a_sample_is_of_the_picture_and_of_nothing_else(pictures):
    (alone, where), (together, places) = sample_descriptors(pictures[:1], SMALL), sample_descriptors(pictures, SMALL)
    assert np.array_equal(alone["shape"], together["shape"][:40])
    assert np.array_equal(where, places[:40])


def test_pictures_are_chosen_by_the_seed():
    chosen = choose_windows(100, FisherSettings(windows=10))
    assert len(set(chosen.tolist())) == 10
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, choose_windows(100, FisherSettings(windows=10)))
    assert not np.array_equal(chosen, choose_windows(100, FisherSettings(windows=10, seed=1)))
    assert np.array_equal(choose_windows(7, FisherSettings()), np.arange(7))


def test_too_few_descriptors_are_refused(pictures):
    with pytest.raises(DatasetError, match="80 descriptors for 64 words of 8 components, at least 640 are needed"):
        fit_codebooks(pictures[:2], SMALL.model_copy(update={"words": 64}))


# --- card and runner


def test_card_and_codebook_come_back(card_path, weights, pictures):
    trunk = load_trunk(str(card_path))
    assert (trunk.layer, trunk.width, trunk.precision) == ("fisher", WIDTH, "fp32")
    assert trunk.weights_sha256 == trunk.card.weights_sha256 == sha256_file(card_path.with_suffix(".safetensors"))
    loaded = trunk.network.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    rows = TrunkRunner(trunk, CPU, "fp32")(pictures[:3])
    assert (rows.shape, rows.dtype) == ((3, WIDTH), np.float16)
    assert np.allclose(np.linalg.norm(rows.astype(float), axis=1), 1, atol=1e-3)


def test_rows_do_not_depend_on_their_neighbours(card_path, pictures):
    runner = TrunkRunner(load_trunk(str(card_path)), CPU, "fp32")
    alone = np.concatenate([runner(pictures[i : i + 1]) for i in range(4)])
    assert np.array_equal(runner(pictures[:4]), alone)
    assert len(np.unique(alone, axis=0)) == 4


def test_arithmetic_is_what_the_trunk_needs(card_path):
    trunk = load_trunk(str(card_path), "fisher")
    assert resolve_precision("auto", torch.device("cuda"), trunk.precision) == "fp32"
    assert TrunkRunner(trunk, CPU, resolve_precision("auto", CPU, trunk.precision)).precision_name == "cpu-fp32"
    with pytest.raises(SettingsError, match="precision 'bf16': trunk 'mine' computes in fp32 alone"):
        TrunkRunner(trunk, CPU, resolve_precision("bf16", CPU, trunk.precision))


def test_another_layer_is_refused(card_path):
    with pytest.raises(TrunkError, match="trunk 'mine' has no layer 'pool5'; it has fisher"):
        load_trunk(str(card_path), "pool5")


def test_a_flipped_bit_is_refused(card_path):
    path = card_path.with_suffix(".safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)
    with pytest.raises(TrunkError, match="another or a damaged file"):
        load_trunk(str(card_path))


def resign(card_path, weights):
    """Other tensors, under a card that vouches for them."""
    path = card_path.with_suffix(".safetensors")
    save_file(weights, path)
    card = yaml.safe_load(card_path.read_text())
    card_path.write_text(yaml.safe_dump({**card, "weights_sha256": sha256_file(path)}))


NEGATIVE, WEIGHTS, NAN = -torch.ones(4, 10), torch.full((4,), 0.5), torch.full((4, 10), torch.nan)
BAD_TENSORS = {
    "no mixture": ({"books.shape.means": None}, "books.shape.means: missing"),
    "flat means": ({"books.colour.means": torch.ones(40)}, "books.colour.means: shape .40,., expected .words"),
    "no centre": ({"books.shape.centre": None}, "books.shape.centre: missing"),
    "unknown tensor": ({"books.smell.means": torch.ones(4, 10)}, "books.smell.means: unknown"),
    "components of colour": ({"books.shape.components": torch.ones(96, 8)}, r"shape \(96, 8\), expected \(128, 8\)"),
    "negative deviations": ({"books.colour.deviations": NEGATIVE}, "books.colour: weights and deviations must be pos"),
    "weights of sum 2": ({"books.shape.weights": WEIGHTS}, "books.shape: weights sum to 2, expected 1"),
    "not finite": ({"books.shape.means": NAN}, "books.shape.means: holds values that are not finite"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_codebook_that_none_can_be_is_refused(card_path, weights, name):
    changes, message = BAD_TENSORS[name]
    resign(card_path, {k: v for k, v in {**weights, **changes}.items() if v is not None})
    with pytest.raises(TrunkError, match=message):
        load_trunk(str(card_path))


BAD_CARDS = {
    "layers": ({"layers": {"fisher": 100}}, f"layers: got .*100.*, the codebook gives fisher: {WIDTH}"),
    "preprocessing": ({"preprocessing": {"mean": [0.5, 0.5, 0.5]}}, "preprocessing: expected mean 0 and std 1"),
    "input size": ({"input_px": 12}, "input_px: got 12, a descriptor alone takes"),
}


@pytest.mark.parametrize("name", BAD_CARDS)
def test_a_card_that_disagrees_is_refused(card_path, name):
    changes, message = BAD_CARDS[name]
    card_path.write_text(yaml.safe_dump({**yaml.safe_load(card_path.read_text()), **changes}))
    with pytest.raises(TrunkError, match=message):
        load_trunk(str(card_path))


# --- worth


def mean_ap(fit_rows, fit_kinds, rows, kinds):
    svm = LinearSVC(C=1.0, random_state=0).fit(fit_rows, fit_kinds)
    labels = np.where(kinds[:, None] == np.arange(3), 1, -1)
    return mean_average_precision(svm.decision_function(rows), labels, "voc12")[0]


def test_vectors_tell_textures_apart_that_their_colours_do_not(weights):
    network = FisherNetwork(dict.fromkeys(("shape", "colour"), (8, 4)))
    network.load_state_dict(weights)

    def look(pictures):
        return network(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255).numpy()

    fit_pictures, fit_kinds = draw_textures(36, 1)
    pictures, kinds = draw_textures(60, 2)
    fit_rows, rows = look(fit_pictures), look(pictures)
    found = mean_ap(fit_rows, fit_kinds, rows, kinds)
    shuffled = mean_ap(np.random.default_rng(0).permutation(fit_rows), fit_kinds, rows, kinds)
    colours = [p.reshape(len(p), -1, 3).mean(1) / 255 for p in (fit_pictures, pictures)]
    by_colour = mean_ap(colours[0], fit_kinds, colours[1], kinds)
    assert found > 0.9
    assert shuffled < 0.6
    assert by_colour < 0.6
