"""Orderless pooling under a linear SVM: against loops in numpy, and heads that encode nothing."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from support.bags import WIDTH, make_table
from support.heads import fit_head

from pipeline.head.codebook import EncodedPictures
from pipeline.head.file import load_head, save_head
from pipeline.head.fit_memory import rows_bytes
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.rows import RowReader
from pipeline.head.settings import VladSettings
from pipeline.head.svm import FOLDS
from pipeline.head.vlad import group_scales, span
from pipeline.io.errors import HeadError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings
from pipeline.scoring import score
from pipeline.scoring.score import SplitScoring, score_split

PLAIN = VladSettings(
    kind="vlad", levels=2, words=5, components=6, sample=1000, pooling=(), standardise=False, costs=(0.3, 3.0)
)
BOTH = pytest.mark.parametrize("encoding", ["vlad", "fisher"])
SIZES = [12, 9, 15, 10]


def draw(seed: int, n_pictures: int):
    """Pictures of three classes, told apart by how rows lie together: all means are the same.

    A picture of class c has rows at plus or minus four in column c, and others are noise. Patches are of four scales.
    """
    rng = np.random.default_rng(seed)
    sizes = [SIZES[i % 4] for i in range(n_pictures)]
    labels = np.where(np.arange(3) == (np.arange(n_pictures) % 3)[:, None], 1, -1).astype(np.int8)
    rows, scales = [], []
    for i, size in enumerate(sizes):
        values = rng.normal(0, 0.6, (size, WIDTH))
        values[:, i % 3] += 4 * rng.choice([-1, 1], size) * (rng.random(size) < 0.5)
        rows.append(values)
        scales.append(np.sort(rng.integers(0, 4, size)))
    table = replace(make_table(sizes, labels), scale=np.concatenate(scales).astype(np.uint8))
    return replace(table, rows_digest=table.compute_rows_digest()), np.concatenate(rows).astype(np.float16)


@pytest.fixture(scope="module")
def many(make, tmp_path_factory):
    """60 pictures to fit on and 45 others; parts of 50 rows cut through pictures."""
    folder, made = tmp_path_factory.mktemp("vlad"), {}
    for split, n in (("train", 60), ("val", 45)):
        table, rows = draw(n, n)
        made[split] = (table, make.store(folder / f"{split}.zarr", table, rows), rows)
    return made


def fit(many, settings=PLAIN, seed=0, **options):
    table, store, _ = many["train"]
    return fit_head(store, options.pop("table", table), "mine", settings, LabelSettings(), seed, **options)


def scores_of(many, head, split="val"):
    table, store, _ = many[split]
    (scores,) = score_split(store, table, [head], ["max"])
    assert [str(k) for k in scores.aggregations] == ["pooled"]
    return scores.by("pooled")


# ---- it learns what it should ----------------------------------------------------------------------


def ap(many, settings, **options):
    scores = scores_of(many, fit(many, settings, **options))
    return mean_average_precision(scores, many["val"][0].picture_labels, "voc12")[0]


@BOTH
def test_it_tells_pictures_apart_whose_means_are_alike_and_shuffled_labels_teach_nothing(many, encoding):
    settings = PLAIN.model_copy(update={"encoding": encoding})
    table = many["train"][0]
    shuffled = replace(table, picture_labels=np.random.default_rng(0).permutation(table.picture_labels))

    learnt, one_word = ap(many, settings), ap(many, PLAIN.model_copy(update={"words": 1}))

    assert learnt > 0.85 and learnt > one_word + 0.2
    assert ap(many, settings, table=shuffled) < 0.6


# ---- its arithmetic --------------------------------------------------------------------------------


def encode_slowly(head, rows, scale, pooling=()):
    """The vector of one picture, row by row and word by word, in float64."""
    p = {name: v.double().numpy() for name, v in head.network.book.state_dict().items()}
    fisher = len(p["weights"]) > 0
    blocks = []
    for level in range(len(p["means"])):
        means = p["means"][level]
        own = rows[p["level"][scale] == level].astype(np.float64)
        vector = np.zeros((2 if fisher else 1, *means.shape))
        for row in own:
            x = (row / np.linalg.norm(row) - p["centre"]) @ p["components"]
            if fisher:
                w, sigma = p["weights"][level], p["deviations"][level]
                density = w * np.prod(np.exp(-(((x - means) / sigma) ** 2) / 2) / sigma, axis=1)
                share = density / density.sum()
                for k in range(len(means)):
                    u = (x - means[k]) / sigma[k]
                    vector[0, k] += share[k] * u / np.sqrt(w[k]) / len(own)
                    vector[1, k] += share[k] * (u**2 - 1) / np.sqrt(2 * w[k]) / len(own)
            else:
                nearest = np.argmin([((x - mean) ** 2).sum() for mean in means])
                vector[0, nearest] += x - means[nearest]
        vector = np.sign(vector.ravel()) * np.sqrt(np.abs(vector.ravel()))
        blocks.append(vector / (np.linalg.norm(vector) or 1))
    for level in range(len(p["means"])):
        own = rows[p["level"][scale] == level].astype(np.float64)
        for name in pooling:
            pooled = getattr(own, name)(0) if len(own) else np.zeros(WIDTH)
            blocks.append(pooled / (np.linalg.norm(pooled) or 1))
    return np.concatenate(blocks)


def encoded(book, rows, picture, scale, n_pictures):
    accumulator = EncodedPictures(book, range(n_pictures))
    accumulator.add_scaled(rows, picture, scale)
    return accumulator.columns()[EncodedPictures.COLUMN]


@BOTH
@pytest.mark.parametrize("pooling", [(), ("mean", "max")], ids=["alone", "joined"])
def test_vectors_and_scores_are_those_of_loops_and_of_scikit_learn(many, encoding, pooling):
    standardise = bool(pooling)
    changes = {"encoding": encoding, "pooling": pooling, "standardise": standardise, "costs": (1.0,)}
    settings = PLAIN.model_copy(update=changes)
    head = fit(many, settings)
    vectors = {}
    for split in ("train", "val"):
        table, _, rows = many[split]
        pictures = [slice(*table.first_row[i : i + 2]) for i in range(len(table.ids))]
        vectors[split] = np.array([encode_slowly(head, rows[own], table.scale[own], pooling) for own in pictures])
        got = encoded(head.network.book, rows, table.picture, table.scale, len(table.ids))
        assert np.allclose(got, vectors[split], atol=1e-3)

    x, unseen = (vectors[split] - vectors["train"].mean(0) for split in ("train", "val"))
    if standardise:
        deviation = vectors["train"].std(0)
        gain = np.where(deviation > 1e-7, 1 / np.maximum(deviation, 1e-7), 0) / np.sqrt(x.shape[1])
        x, unseen = x * gain, unseen * gain
    expected = [
        LinearSVC(C=1.0, dual=True, tol=1e-6, max_iter=10**6, random_state=0).fit(x, y == 1).decision_function(unseen)
        for y in many["train"][0].picture_labels.T
    ]
    assert np.allclose(scores_of(many, head), np.column_stack(expected), atol=0.02)


def test_words_are_the_centres_of_the_rows_that_are_nearest(many):
    head = fit(many, PLAIN.model_copy(update={"sample": 10_000}))
    table, _, rows = many["train"]
    book = head.network.book
    assert head.facts.of_kind["codebook"]["rows"] == len(rows)
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    _, s, axes = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    ours, exact = book.components.double().numpy(), axes[:6].T
    # The same components up to the last ones, which the approximation may mix with the next.
    assert np.abs(np.linalg.svd(ours.T @ exact)[1][:4] - 1).max() < 0.05
    x = (unit - book.centre.double().numpy()) @ ours
    for level, means in enumerate(book.means.double().numpy()):
        of_level = x[book.level.numpy()[table.scale] == level]
        nearest = ((of_level[:, None] - means) ** 2).sum(2).argmin(1)
        for k, mean in enumerate(means):
            assert np.allclose(of_level[nearest == k].mean(0), mean, atol=1e-3)


def test_a_basis_changes_no_product():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(8, 30)) @ rng.normal(size=(30, 30))
    vectors[7] = vectors[0]
    basis = span(vectors)
    assert basis.shape == (30, 7)
    assert np.allclose(basis.T @ basis, np.eye(7), atol=1e-6)
    small = vectors @ basis
    assert np.allclose(small @ small.T, vectors @ vectors.T)
    assert span(rng.normal(size=(30, 8))) is None


def test_scales_are_grouped():
    assert group_scales(np.arange(6), 3)[:7].tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert group_scales(np.array([2, 5]), 3)[:7].tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert set(group_scales(np.array([0]), 4).tolist()) == {0}


@BOTH
def test_ranges_of_pictures_give_the_same_bits(many, encoding):
    head = fit(many, PLAIN.model_copy(update={"encoding": encoding, "pooling": ("mean",)}))
    table, store, _ = many["val"]
    scoring = SplitScoring(store, table, [head], [])
    ranges = [scoring.score(scoring.share(i, 3)) for i in (1, 2, 3)]
    assert np.array_equal(scoring.join(ranges)[0].by("pooled"), scores_of(many, head))
    some = np.arange(45) % 2 == 0
    (scores,) = score_split(store, table, [head], [], some)
    assert np.allclose(scores.by("pooled")[some], scores_of(many, head)[some], atol=1e-4)
    assert np.isnan(scores.by("pooled")[~some]).all()


def test_a_picture_without_rows_has_no_score_and_a_level_without_rows_is_zero(many):
    head = fit(many)
    rows = many["val"][2][:6]
    vectors = encoded(head.network.book, rows, np.array([0, 0, 0, 2, 2, 2]), np.array([0, 0, 3, 3, 3, 3]), 3)
    assert np.isnan(vectors[1]).all() and np.isfinite(vectors[[0, 2]]).all()
    half = vectors.shape[1] // 2  # the first of two levels
    assert not vectors[2, :half].any() and np.linalg.norm(vectors[2]) == pytest.approx(1)
    scores = head.network.picture_scores({EncodedPictures.COLUMN: vectors})
    assert np.isnan(scores).all(1).tolist() == [False, True, False]


# ---- which pictures and labels count ---------------------------------------------------------------


def test_held_out_pictures_are_not_looked_at(many, make, tmp_path):
    table, store, rows = many["train"]
    out = hold_out_pictures(table.picture_sha256, 0.4)
    wild = rows.copy()
    wild[out[table.picture]] = -999
    lies = replace(table, picture_labels=np.where(out[:, None], -table.picture_labels, table.picture_labels))
    other = {"train": (lies, make.store(tmp_path / "a.zarr", table, wild), wild)}

    heads = [fit(which, held_out_share=0.4) for which in (many, other)]

    for name, tensor in heads[0].network.state_dict().items():
        assert torch.equal(tensor, heads[1].network.state_dict()[name])
    assert heads[0].facts.of_kind == heads[1].facts.of_kind
    assert fit(other).weights_digest() != fit(many).weights_digest()


def test_classes_of_one_side_are_named_and_difficult_labels_are_left_out(many):
    table, store, _ = many["train"]
    labels = table.picture_labels.copy()
    labels[:, 0] = -1
    labels[5:, 1][labels[5:, 1] == -1] = 0
    labels[:5, 1] = 0
    head = fit(many, table=replace(table, picture_labels=labels))
    assert set(head.facts.never_learnt) == {"cat", "dog"}
    flipped = np.where(labels == 0, 0, labels)
    unsure = replace(table, picture_labels=np.where(np.arange(60)[:, None] % 7 == 0, 0, flipped).astype(np.int8))
    assert np.isfinite(scores_of(many, fit(many, table=unsure))).all()


def test_without_labels_it_is_refused(many):
    table, *_ = many["train"]
    with pytest.raises(HeadError, match="no class has both"):
        fit(many, table=replace(table, picture_labels=np.zeros_like(table.picture_labels)))


# ---- heads and files -------------------------------------------------------------------------------


@BOTH
def test_a_head_comes_back_from_its_file_and_a_seed_gives_its_bytes(many, encoding, tmp_path):
    settings = PLAIN.model_copy(update={"encoding": encoding})
    heads = [fit(many, settings, seed) for seed in (0, 0, 1)]
    digests = [save_head(head, tmp_path / f"{i}.safetensors") for i, head in enumerate(heads)]
    back = load_head(tmp_path / "0.safetensors")

    assert digests[0] == digests[1] != digests[2] and back.facts == heads[0].facts
    assert np.array_equal(scores_of(many, heads[0]), scores_of(many, back))
    svm = heads[0].facts.of_kind["svm"]
    assert svm["folds"] == FOLDS and svm["cost"] in (0.3, 3.0)


def test_small_samples_give_fewer_words_and_say_so(many):
    said = []
    table, store, _ = many["train"]
    reader = RowReader(store, budget=MemoryBudget(say=said.append))
    head = fit(many, PLAIN.model_copy(update={"sample": 30, "words": 32}), reader=reader)
    assert head.facts.of_kind["codebook"]["words"] == head.facts.of_kind["network"]["shape"][1] < 4
    assert any("words of 6 components" in line for line in said)
    assert np.isfinite(scores_of(many, head)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"levels": 1},
        {"levels": 4},
        {"words": 3},
        {"components": 3},
        {"sample": 100},
        {"encoding": "fisher"},
        {"pooling": ("mean",)},
        {"standardise": True},
    ],
)
def test_every_setting_changes_scores(many, change):
    plain, changed = (fit(many, PLAIN.model_copy(update=update)) for update in ({}, change))
    assert not np.allclose(scores_of(many, plain), scores_of(many, changed), atol=1e-3)


class Noted(MemoryBudget):
    """Notes what was asked for."""

    asked: ClassVar[list[dict[str, int]]] = []

    def choose(self, what, ways, peak=0):
        self.asked.append(ways)
        return super().choose(what, ways, peak)


def test_the_sample_which_the_reader_keeps_is_part_of_what_a_fit_takes(many):
    taken = []
    for sample in (400, 600):
        reader = RowReader(many["train"][1], budget=Noted())
        head = fit(many, PLAIN.model_copy(update={"sample": sample}), reader=reader)
        of_vectors, _ = Noted.asked[-2:]
        taken.append((min(of_vectors.values()), head.facts.of_kind["codebook"]["rows"]))
    (less, n_less), (more, n_more) = taken
    assert more - less == rows_bytes(n_more - n_less, WIDTH) > 0


def test_what_all_heads_of_a_sweep_collect_is_stated_and_read_in_passes_where_memory_is_short(many, monkeypatch):
    """The encodings of all pictures by all points of a grid were held at once, and stated nowhere."""
    table, store, _ = many["val"]
    heads = [fit(many, PLAIN.model_copy(update={"words": words})) for words in (5, 4, 3)]
    at_once, passes, read = score_split(store, table, heads, ["max"]), [], store.iter_parts
    monkeypatch.setattr(store, "iter_parts", lambda parts: passes.append(1) or read(parts))
    monkeypatch.setattr(score, "SLACK", 0)
    monkeypatch.setattr(score, "SMALL_COLUMNS", 0)
    said, largest = [], 45 * heads[0].network.book.n_columns * 4

    def with_room(n_bytes):
        monkeypatch.setattr(MemoryBudget, "room", lambda budget: n_bytes)
        passes.clear()
        return score_split(store, table, heads, ["max"], budget=Noted(say=said.append))

    for room, n_passes in ((8 * largest, 1), (7 * largest, 3)):
        found = with_room(room)
        assert len(passes) == n_passes
        assert all(np.array_equal(a.scores, b.scores) for a, b in zip(at_once, found, strict=True))
    assert Noted.asked[-1] == {"read once": 8 * largest, "read 3 times": 6 * largest}
    assert "3 heads that encode pictures: rows read 3 times; at most" in said[-1]
