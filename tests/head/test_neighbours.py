"""k nearest neighbours and nearest class mean: against scikit-learn, slow loops, and heads that do nothing."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import Normalizer
from support.heads import fit_head

from pipeline.head.file import load_head, save_head
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.knn import make_network
from pipeline.head.rows import RowReader
from pipeline.head.settings import HeadSettings, KnnSettings, NcmSettings
from pipeline.head.strong import choose_training_patches
from pipeline.head.task import FitTask
from pipeline.io.errors import HeadError
from pipeline.metrics.accuracy import accuracy
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.score import score_split

LABELS = LabelSettings()
KNN = KnnSettings(kind="knn", k=7)
NCM = NcmSettings(kind="ncm")
BOTH = pytest.mark.parametrize("settings", [KNN, NCM], ids=["knn", "ncm"])


def noisy_rows(table, seed):
    """A patch that is filled by class c is somewhat higher in column c; the rest is noise."""
    rows = np.random.default_rng(seed).normal(0.3, 0.8, (table.n_rows, 8))
    filled = np.flatnonzero(table.overlap.filling_class >= 0)
    rows[filled, table.overlap.filling_class[filled]] += 1.5
    return rows.astype(np.float16)


@pytest.fixture(scope="module")
def many(make, tmp_path_factory):
    """60 pictures to fit on and 45 others, of three classes; parts of 50 rows cut through pictures of 8."""
    folder, made = tmp_path_factory.mktemp("neighbours"), {}
    for split, n in (("train", 60), ("val", 45)):
        table = make.table(n, split)
        rows = noisy_rows(table, seed=n)
        made[split] = (table, make.store(folder / f"{split}.zarr", table, rows), rows)
    return made


def pooled(table, rows):
    """Mean and maximum of each picture's eight rows, each to length 1, side by side."""
    by_picture = rows.astype(np.float64).reshape(len(table.ids), 8, 8)
    return np.hstack([Normalizer().fit_transform(x) for x in (by_picture.mean(1), by_picture.max(1))])


def scores_of(many, settings, k="pooled"):
    (table, store, _), (other, other_store, _) = many["train"], many["val"]
    head = fit_head(store, table, "mine", settings, LABELS, 0)
    (scores,) = score_split(other_store, other, [head], [Aggregation.parse("max")])
    return head, scores.by(k)


def weights_of(temperature):
    return lambda distances: np.exp((1 - distances) / temperature)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_knn_on_pictures_is_scikit_learn_s(many, temperature):
    (table, _, rows), (other, _, other_rows) = many["train"], many["val"]
    _, got = scores_of(many, KNN.model_copy(update={"temperature": temperature}))

    plain = KNeighborsClassifier(7, metric="cosine", weights=weights_of(temperature), algorithm="brute")
    plain.fit(pooled(table, rows), table.picture_labels.argmax(1))
    assert np.allclose(got, plain.predict_proba(pooled(other, other_rows)), atol=1e-4)


def test_ncm_on_pictures_is_scikit_learn_s(many):
    (table, _, rows), (other, _, other_rows) = many["train"], many["val"]
    _, got = scores_of(many, NCM)

    x, unseen = pooled(table, rows), pooled(other, other_rows)
    centred = [Normalizer().fit_transform(v - x.mean(0)) for v in (x, unseen)]
    plain = NearestCentroid().fit(centred[0], table.picture_labels.argmax(1))
    assert np.array_equal(got.argmax(1), plain.predict(centred[1]))
    expected = -((centred[1][:, None] - plain.centroids_) ** 2).sum(2)
    assert np.allclose(got, expected, atol=1e-4)


@BOTH
def test_they_learn_and_shuffled_labels_do_not(many, settings):
    table, store, _ = many["train"]
    other = many["val"][0]
    _, scores = scores_of(many, settings)
    learnt = mean_average_precision(scores, other.picture_labels, "voc12")[0]
    shuffled = table.picture_labels[np.random.default_rng(0).permutation(len(table.ids))]
    wrong = {**many, "train": (type(table)(**{**vars(table), "picture_labels": shuffled}), store, None)}
    _, of_nothing = scores_of(wrong, settings)

    assert learnt > 0.75 and accuracy(scores, other.picture_labels) > 0.7
    assert mean_average_precision(of_nothing, other.picture_labels, "voc12")[0] < learnt - 0.2


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (KNN, {"k": 1}),
        (KNN, {"k": 59}),
        (KNN, {"temperature": 10.0}),
        (KNN, {"pooling": ("max",)}),
        (KNN, {"normalise": False}),
        (NCM, {"centre": False}),
        (NCM, {"unit_length": False}),
        (NCM, {"pooling": ("mean",)}),
    ],
)
def test_every_setting_changes_scores(many, settings, change):
    assert not np.allclose(scores_of(many, settings)[1], scores_of(many, settings.model_copy(update=change))[1])


def several_labels(table):
    """Every picture shows a second class too, or shows it as a difficult object alone."""
    labels = table.picture_labels.copy()
    rng = np.random.default_rng(3)
    labels[rng.random(labels.shape) < 0.3] = 1
    labels[rng.random(labels.shape) < 0.2] = 0
    return type(table)(**{**vars(table), "picture_labels": labels})


def test_several_classes_and_difficult_ones_are_counted_as_a_slow_loop_does(many):
    (table, store, rows), (other, _, other_rows) = many["train"], many["val"]
    table = several_labels(table)
    both = {**many, "train": (table, store, rows)}
    x, unseen = pooled(table, rows), pooled(other, other_rows)
    x, unseen = (Normalizer().fit_transform(v) for v in (x, unseen))

    for row, got in zip(unseen, scores_of(both, KNN)[1], strict=True):
        nearest = np.argsort(-(x @ row), kind="stable")[:7]
        weight = np.exp(x[nearest] @ row / 0.07)
        for c, score in enumerate(got):
            y = table.picture_labels[nearest, c]
            share = (table.picture_labels[:, c] == 1).sum() / (table.picture_labels[:, c] != 0).sum()
            expected = weight[y == 1].sum() / weight[y != 0].sum() if (y != 0).any() else share
            assert score == pytest.approx(expected, abs=1e-4)
    head, got = scores_of(both, NCM)
    x, unseen = pooled(table, rows), pooled(other, other_rows)
    x, unseen = (Normalizer().fit_transform(v - x.mean(0)) for v in (x, unseen))
    for c in range(3):
        mean = x[table.picture_labels[:, c] == 1].mean(0)
        assert np.allclose(got[:, c], -((unseen - mean) ** 2).sum(1), atol=1e-4)


def training_patches(many):
    table, store, rows = many["train"]
    task = FitTask(store, table, "x", LABELS, 0, np.zeros(len(table.ids), bool), None, RowReader(store))
    patches = choose_training_patches(task, HeadSettings(background_share=0.1))
    return rows[patches.row_index].astype(np.float64), patches.targets


def test_on_patches_they_are_scikit_learn_s(many):
    x, targets = training_patches(many)
    rows = many["val"][2]
    (table, store, _) = many["train"]
    knn = fit_head(store, table, "knn", KNN.model_copy(update={"takes": "patches"}), LABELS, 0)
    ncm = fit_head(store, table, "ncm", NCM.model_copy(update={"takes": "patches"}), LABELS, 0)

    plain = KNeighborsClassifier(7, metric="cosine", weights=weights_of(0.07), algorithm="brute").fit(x, targets)
    got = knn.patch_scores(rows)
    assert np.allclose(got, plain.predict_proba(rows.astype(np.float64))[:, :3], atol=1e-3)
    centred = [Normalizer().fit_transform(v - x.mean(0)) for v in (x, rows.astype(np.float64))]
    means = NearestCentroid().fit(centred[0], targets).centroids_
    distance = ((centred[1][:, None] - means) ** 2).sum(2)
    assert np.allclose(ncm.patch_scores(rows), distance[:, 3:] - distance[:, :3], atol=1e-4)
    assert knn.score_kind == "softmax" and ncm.score_kind == "log-odds"


@BOTH
@pytest.mark.parametrize("takes", ["pictures", "patches"])
def test_a_head_comes_back_from_its_file_and_equal_ones_are_equal_bytes(many, settings, takes, tmp_path):
    settings = settings.model_copy(update={"takes": takes})
    (table, store, _), (other, other_store, _) = many["train"], many["val"]
    heads = [fit_head(store, table, "mine", settings, LABELS, 0) for _ in range(2)]
    digests = [save_head(head, tmp_path / f"{i}.safetensors") for i, head in enumerate(heads)]
    back = load_head(tmp_path / "0.safetensors")

    assert digests[0] == digests[1] and back.facts == heads[0].facts
    scores = [
        score_split(other_store, other, [head], [Aggregation.parse("max")])[0].scores for head in (heads[0], back)
    ]
    assert np.array_equal(*scores)


def test_copies_of_the_k_th_neighbour_all_vote_so_that_order_decides_nothing():
    settings = KnnSettings(kind="knn", k=2, takes="patches")
    votes = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        made = make_network(2, 1, settings, 4)
        made.vectors.copy_(torch.tensor([[1.0, 0], [1, 1], [1, 1], [1, 1]])[order])
        made.labels.copy_(torch.tensor([[1, -1], [1, -1], [-1, 1], [-1, 1]])[order])
        votes.append(made.patch_scores(torch.tensor([[1.0, 0.2]])))
    assert torch.allclose(votes[0], votes[1])
    # Four voters: one near one, and three copies.
    near, copy = (
        np.exp(np.dot(v, [1, 0.2]) / np.linalg.norm(v) / np.linalg.norm([1, 0.2]) / 0.07) for v in ([1, 0], [1, 1])
    )
    assert votes[0].item() == pytest.approx((near + copy) / (near + 3 * copy), abs=1e-5)


def test_all_vote_where_there_are_fewer_than_k_and_that_is_said(many):
    table, store, _ = many["train"]
    said = []
    reader = RowReader(store, budget=MemoryBudget(say=said.append))
    head = fit_head(store, table, "mine", KNN.model_copy(update={"k": 61}), LABELS, 0, reader=reader)
    all_of_them = scores_of(many, KNN.model_copy(update={"k": 60}))[1]

    assert head.facts.of_kind["neighbours"] == 60
    assert "mine: 60 pictures to fit on, fewer than k=61: all vote" in said
    assert np.array_equal(scores_of(many, KNN.model_copy(update={"k": 61}))[1], all_of_them)


@BOTH
def test_a_fit_that_does_not_fit_into_the_memory_budget_is_refused(many, settings):
    table, store, _ = many["train"]
    for takes in ("pictures", "patches"):
        small = RowReader(store, budget=MemoryBudget(2**20))
        with pytest.raises(HeadError, match="allow more with memory: "):
            fit_head(store, table, "mine", settings.model_copy(update={"takes": takes}), LABELS, 0, reader=small)


@BOTH
def test_held_out_pictures_are_not_looked_at(many, settings):
    (table, store, _) = many["train"]
    head = fit_head(store, table, "mine", settings, LABELS, 0, held_out_share=0.4)
    assert head.facts.pictures["held_out"] > 10
    if settings.kind == "knn":
        assert len(head.network.vectors) == head.facts.pictures["used"]
