"""Logistic regression on pooled rows: against scikit-learn's on the same vectors."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import Normalizer
from support.heads import fit_head

from pipeline.head.file import load_head, save_head
from pipeline.head.fit import fit_heads
from pipeline.head.fit_memory import SLACK, reading_bytes
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.logistic_settings import LogisticSettings
from pipeline.head.rows import RowReader
from pipeline.io.errors import HeadError
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings

LABELS = LabelSettings()
DECAY = 3e-3


def hard_rows(table, seed=0):
    """As the fixture's rows, with more noise: some pictures stay unclear. The last column is constant."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 0.8, (table.n_rows, 8))
    filled = np.flatnonzero(table.overlap.filling_class >= 0)
    rows[filled, table.overlap.filling_class[filled]] += 1
    rows[:, 7] = 1
    return rows.astype(np.float16)


@pytest.fixture(scope="module")
def many(make, tmp_path_factory):
    """90 pictures to fit on and 60 others, of three classes, one a picture."""
    folder = tmp_path_factory.mktemp("logistic")
    made = {}
    for split, n in (("train", 90), ("val", 60)):
        table = make.table(n, split)
        rows = hard_rows(table, seed=n)
        made[split] = (table, make.store(folder / f"{split}.zarr", table, rows), rows)
    return made


def settings(**changes) -> LogisticSettings:
    return LogisticSettings(kind="logistic", weight_decay=DECAY, **changes)


def vectors_slowly(table, rows, pooling=("mean", "max")):
    by_picture = rows.astype(np.float64).reshape(len(table.ids), 8, 8)
    pooled = {"mean": by_picture.mean(1), "max": by_picture.max(1)}
    return np.hstack([Normalizer().fit_transform(pooled[name]) for name in pooling])


def standardised(x, *others):
    """Columns to mean 0 and deviation 1, divided by the root of their number; constant ones to 0."""
    std = np.where(x.std(0) < 1e-6, np.inf, x.std(0))
    return [(v - x.mean(0)) / std / np.sqrt(x.shape[1]) for v in (x, *others)]


def scores_of(head, table, store):
    accumulator = head.network.accumulator(range(len(table.ids)))
    for part, rows in store.iter_parts():
        accumulator.add(rows, table.picture[part.start : part.stop])
    return head.network.picture_scores(accumulator.columns())


def regression(x, y):
    theirs = LogisticRegression(C=1 / (DECAY * len(x)), tol=1e-10, max_iter=10_000)
    return theirs.fit(x, y)


def several_classes(table):
    """Labels of the same pictures with two classes in some, none in others, and difficult ones."""
    labels = table.picture_labels.copy()
    rng = np.random.default_rng(3)
    labels[rng.random(labels.shape) < 0.15] = 1
    labels[rng.random(labels.shape) < 0.1] = 0
    labels[:4] = -1
    return replace(table, picture_labels=labels)


@pytest.mark.parametrize("pooling", [("mean",), ("max",), ("mean", "max")])
def test_a_class_each_as_scikit_learn(many, pooling):
    (table, store, rows), (other, other_store, other_rows) = many["train"], many["val"]
    table = several_classes(table)
    head = fit_head(store, table, "probe", settings(pooling=pooling), LABELS, 0)
    x, unseen = standardised(vectors_slowly(table, rows, pooling), vectors_slowly(other, other_rows, pooling))
    for column, y in enumerate(table.picture_labels.T):
        expected = regression(x[y != 0], y[y != 0]).decision_function(unseen)
        np.testing.assert_allclose(scores_of(head, other, other_store)[:, column], expected, atol=1e-4)
    assert head.facts.of_kind["pooled"]["loss"] == "logistic" and not head.facts.of_kind["pooled"]["unsettled"]


@pytest.mark.parametrize("standardise", [False, True])
def test_one_softmax_as_scikit_learn_where_each_picture_shows_one_class(many, standardise, tmp_path):
    (table, store, rows), (other, other_store, other_rows) = many["train"], many["val"]
    head = fit_head(store, table, "probe", settings(standardise=standardise), LABELS, 0)
    x, unseen = vectors_slowly(table, rows), vectors_slowly(other, other_rows)
    if standardise:
        x, unseen = standardised(x, unseen)
    expected = regression(x, table.picture_labels.argmax(1)).predict_log_proba(unseen)
    got = scores_of(head, other, other_store)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert head.facts.of_kind["pooled"]["loss"] == "softmax" and head.score_kind == "pooled"

    save_head(head, tmp_path / "probe.safetensors")
    assert np.array_equal(scores_of(load_head(tmp_path / "probe.safetensors"), other, other_store), got)


def test_the_loss_that_is_asked_for(many):
    table, store, rows = many["train"]
    head = fit_head(store, table, "probe", settings(loss="logistic", standardise=False), LABELS, 0)
    x = vectors_slowly(table, rows)
    expected = regression(x, table.picture_labels[:, 1]).decision_function(x)
    np.testing.assert_allclose(scores_of(head, table, store)[:, 1], expected, atol=1e-4)
    with pytest.raises(HeadError, match=r"'probe' has loss: softmax.*\n?.*set loss: logistic"):
        fit_head(store, several_classes(table), "probe", settings(loss="softmax"), LABELS, 0)


def test_held_out_pictures_decide_nothing_but_whether_each_picture_shows_one_class(many):
    table, store, rows = many["train"]
    out = hold_out_pictures(table.picture_sha256, 0.4)
    head = fit_head(store, table, "probe", settings(standardise=False), LABELS, 0, held_out_share=0.4)
    x = vectors_slowly(table, rows)
    expected = regression(x[~out], table.picture_labels[~out].argmax(1)).predict_log_proba(x)
    np.testing.assert_allclose(scores_of(head, table, store), expected, atol=1e-4)


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_a_class_that_no_fit_picture_shows_is_no_answer(many, loss):
    table, store, rows = many["train"]
    out = table.picture_labels[:, 1] == 1
    head = fit_head(store, table, "probe", settings(loss=loss, standardise=False), LABELS, 0, held_out_share=out)
    assert head.facts.never_learnt == {table.classes[1]: "no positive picture"}
    got = scores_of(head, table, store)
    assert len(np.unique(got[:, 1])) == 1 and np.isfinite(got).all()
    x, y = vectors_slowly(table, rows), table.picture_labels.argmax(1)
    if loss == "softmax":
        # Of two classes scikit-learn has one set of weights, the difference of the two here: half the penalty.
        theirs = LogisticRegression(C=2 / (DECAY * (~out).sum()), tol=1e-10, max_iter=10_000).fit(x[~out], y[~out])
        expected = theirs.predict_log_proba(x)
        np.testing.assert_allclose(got[:, [0, 2]], expected, atol=1e-4)
        assert (got.argmax(1) != 1).all()


def test_the_same_bits_with_any_seed_and_wherever_parts_end(many, make, tmp_path):
    table, store, rows = many["train"]
    other = make.store(tmp_path / "parts.zarr", table, rows, part_rows=13)
    heads = [
        fit_head(s, table, "probe", settings(), LABELS, seed).network.state_dict()
        for s, seed in ((store, 0), (other, 7))
    ]
    assert all(np.array_equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not settings().has_chance


class Noted(MemoryBudget):
    """Notes how much memory was stated."""

    def choose(self, what, ways, peak=0):
        way = super().choose(what, ways, peak)
        stated.append(ways[way])
        return way


stated: list[int] = []


def test_the_memory_that_is_stated_holds_the_standardising(make, tmp_path):
    table = make.table(90, "train")
    rows = np.tile(hard_rows(table), 64)
    store = make.store(tmp_path / "wide.zarr", table, rows)
    reader = RowReader(store, budget=Noted())
    list(fit_heads(store, table, {"probe": settings()}, LABELS, 0, reader=reader))
    # Vectors in float32, in float64, and their distances from the mean.
    assert stated[-1] - SLACK - reading_bytes(store) >= (4 + 8 + 8) * 90 * 2 * 512


def test_a_picture_without_rows_has_no_score(many):
    table, store, _ = many["train"]
    for loss in ("softmax", "logistic"):
        network = fit_head(store, table, "probe", settings(loss=loss), LABELS, 0).network
        got = network.decide(np.array([[np.nan] * 16, [0.1] * 16], np.float32))
        assert np.isnan(got[0]).all() and np.isfinite(got[1]).all()
