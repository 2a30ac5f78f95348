"""Linear SVMs on pooled rows: against a plain scikit-learn pipeline, and against their ablations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC
from support.heads import fit_head

from pipeline.activations.pooling import join_pooled
from pipeline.head.file import load_head, save_head
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.rows import RowReader
from pipeline.head.settings import SvmSettings
from pipeline.head.svm import FOLDS, Svm, fold_of
from pipeline.io.errors import HeadError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings

LABELS = LabelSettings()
PLAIN = SvmSettings(kind="svm", pooling=("mean", "max"), standardise=False, costs=(1.0,))


def hard_rows(table, seed=0):
    """As the fixture's rows, with more noise: some pictures stay unclear."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 0.8, (table.n_rows, 8))
    filled = np.flatnonzero(table.overlap.filling_class >= 0)
    rows[filled, table.overlap.filling_class[filled]] += 1
    rows[:, 7] = 1
    return rows.astype(np.float16)


@pytest.fixture(scope="module")
def many(make, tmp_path_factory):
    """90 pictures to fit on and 60 others, of three classes; parts of 50 rows cut through pictures of 8."""
    folder = tmp_path_factory.mktemp("svm")
    made = {}
    for split, n in (("train", 90), ("val", 60)):
        table = make.table(n, split)
        rows = hard_rows(table, seed=n)
        made[split] = (table, make.store(folder / f"{split}.zarr", table, rows), rows)
    return made


def pooled_slowly(table, rows):
    """Mean and maximum of each picture's eight rows, each to length 1, side by side."""
    by_picture = rows.astype(np.float64).reshape(len(table.ids), 8, 8)
    return np.hstack([Normalizer().fit_transform(x) for x in (by_picture.mean(1), by_picture.max(1))])


def decisions(head, store, table):
    accumulator = head.network.accumulator(range(len(table.ids)))
    for part, rows in store.iter_parts():
        accumulator.add(rows, table.picture[part.start : part.stop])
    return head.network.picture_scores(accumulator.columns())[None]


def mean_ap(scores, table):
    return mean_average_precision(scores, table.picture_labels, "voc12")[0]


@pytest.mark.parametrize("standardise", [False, True])
def test_as_a_plain_scikit_learn_pipeline(many, standardise):
    (table, store, rows), (other, other_store, other_rows) = many["train"], many["val"]
    settings = PLAIN.model_copy(update={"standardise": standardise})

    head = fit_head(store, table, "svm", settings, LABELS, seed=3)
    got = decisions(head, other_store, other)

    x, unseen = pooled_slowly(table, rows), pooled_slowly(other, other_rows)
    if standardise:
        scaler = StandardScaler().fit(x)
        constant = x.std(0) < 1e-6
        x, unseen = (np.where(constant, 0, scaler.transform(v)) / np.sqrt(x.shape[1]) for v in (x, unseen))
    expected = np.column_stack(
        [
            LinearSVC(C=1.0, dual="auto", tol=1e-6, random_state=0).fit(x, y == 1).decision_function(unseen)
            for y in table.picture_labels.T
        ]
    )
    assert got.shape == (1, 60, 3) and got.dtype == np.float64
    np.testing.assert_allclose(got[0], expected, atol=5e-3)
    assert mean_ap(got[0], other) == pytest.approx(mean_ap(expected, other), abs=0.01)


def test_it_learns_and_shuffled_labels_do_not(many):
    (table, store, _), (other, other_store, _) = many["train"], many["val"]
    shuffled = np.random.default_rng(0).permutation(table.picture_labels)

    learnt, chance = (
        mean_ap(decisions(fit_head(store, t, "svm", SvmSettings(kind="svm"), LABELS, 0), other_store, other)[0], other)
        for t in (table, replace(table, picture_labels=shuffled))
    )

    assert learnt > 0.85  # of 60 pictures 20 are positive: chance is 1/3
    assert chance < 0.55


def test_ids_decide_nothing(many, make, tmp_path):
    table, _, rows = many["train"]
    renamed = replace(table, ids=tuple(f"other {i}" for i in range(len(table.ids))))
    renamed = replace(renamed, rows_digest=renamed.compute_rows_digest())
    settings = SvmSettings(kind="svm", costs=(0.01, 1.0))
    heads = [
        fit_head(make.store(tmp_path / f"{i}.zarr", t, rows), t, "svm", settings, LABELS, 0, held_out_share=0.4)
        for i, t in enumerate((table, renamed))
    ]
    first, second = (head.network.state_dict() for head in heads)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert heads[0].facts.of_kind == heads[1].facts.of_kind


def test_held_out_pictures_are_not_looked_at(many, make, tmp_path):
    table, _, rows = many["train"]
    out = hold_out_pictures(table.picture_sha256, 0.4)
    spoilt = rows.copy()
    spoilt[out[table.picture]] = 777
    other_labels = table.picture_labels.copy()
    other_labels[out] *= -1
    heads = [
        fit_head(
            make.store(tmp_path / f"{i}.zarr", t, r), t, "svm", SvmSettings(kind="svm"), LABELS, 0, held_out_share=0.4
        )
        for i, (t, r) in enumerate([(table, rows), (replace(table, picture_labels=other_labels), spoilt)])
    ]

    assert 20 < out.sum() < 50
    for name, tensor in heads[0].network.state_dict().items():
        assert torch.equal(tensor, heads[1].network.state_dict()[name]), name
    assert heads[0].facts.of_kind["svm"] == heads[1].facts.of_kind["svm"]


def test_difficult_pictures_are_left_out_of_their_class_alone(many, make, tmp_path):
    table, store, rows = many["train"]
    labels = table.picture_labels.copy()
    labels[:30, 0] = 0
    with_difficult = replace(table, picture_labels=labels)

    head = fit_head(store, with_difficult, "svm", PLAIN, LABELS, 0)

    x = pooled_slowly(table, rows)
    alone = LinearSVC(C=1.0, dual="auto", tol=1e-6, random_state=0).fit(x[30:], labels[30:, 0] == 1)
    np.testing.assert_allclose(head.network.weight[0].numpy(), alone.coef_[0], atol=5e-3)
    full = fit_head(store, table, "svm", PLAIN, LABELS, 0)
    assert torch.equal(head.network.weight[1:], full.network.weight[1:])


def test_c_is_chosen_by_mean_ap_over_folds(many):
    table, store, rows = many["train"]
    costs = (1e-3, 1.0, 1e3)

    head = fit_head(store, table, "svm", SvmSettings(kind="svm", standardise=False, costs=costs), LABELS, 0)

    x, fold = pooled_slowly(table, rows), fold_of(list(table.ids))
    assert sorted(set(fold)) == list(range(FOLDS))
    expected = {}
    for cost in costs:
        found = []
        for k in range(FOLDS):
            scores = [
                LinearSVC(C=cost, tol=1e-3, random_state=0, max_iter=10_000)
                .fit(x[fold != k], y[fold != k] == 1)
                .decision_function(x[fold == k])
                for y in table.picture_labels.T
            ]
            found.append(mean_average_precision(np.column_stack(scores), table.picture_labels[fold == k], "voc12")[0])
        expected[cost] = np.mean(found)
    facts = head.facts.of_kind["svm"]
    for cost in costs:
        assert facts["cross_validated_mAP"][f"{cost:g}"] == pytest.approx(expected[cost], abs=0.02)
    assert facts["cost"] == max(costs, key=lambda c: facts["cross_validated_mAP"][f"{c:g}"])
    assert facts["unsettled"] == []


def test_the_same_seed_gives_the_same_bytes_also_from_other_parts(many, make, tmp_path):
    table, store, rows = many["train"]
    settings = SvmSettings(kind="svm")
    path = tmp_path / "head.safetensors"
    digest = save_head(fit_head(store, table, "svm", settings, LABELS, 5), path)
    again = save_head(fit_head(store, table, "svm", settings, LABELS, 5), tmp_path / "again.safetensors")
    elsewhere = fit_head(make.store(tmp_path / "s.zarr", table, rows, part_rows=17), table, "svm", settings, LABELS, 5)

    assert digest == again
    loaded = load_head(path)
    assert isinstance(loaded.network, Svm) and loaded.score_kind == "pooled"
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor, elsewhere.network.state_dict()[name]), name
    np.testing.assert_array_equal(decisions(loaded, store, table), decisions(elsewhere, store, table))


def test_a_class_that_is_never_there_says_no(many):
    table, store, _ = many["train"]
    labels = np.column_stack([table.picture_labels[:, 0], np.full(90, -1), np.full(90, 1)]).astype(np.int8)

    head = fit_head(store, replace(table, picture_labels=labels), "svm", PLAIN, LABELS, 0)

    assert head.facts.of_kind["svm"]["never_both"] == ["dog", "fish"]
    assert (decisions(head, store, table)[0, :, 1:] == [-1, 1]).all()


def test_a_picture_without_rows_has_no_decision(many):
    table, store, rows = many["train"]
    head = fit_head(store, table, "svm", PLAIN, LABELS, 0)
    accumulator = head.network.accumulator(range(3))
    accumulator.add(rows[:8], np.full(8, 1))

    decided = head.network.picture_scores(accumulator.columns())

    assert np.isnan(decided).all(1).tolist() == [True, False, True]
    expected = head.network.decide(pooled_slowly(table, rows)[:1])
    np.testing.assert_allclose(decided[1], expected[0], rtol=1e-4)


def test_nothing_to_fit_on(many):
    table, store, _ = many["train"]
    unlabelled = replace(table, picture_labels=np.zeros((90, 0), np.int8))
    never = replace(table, picture_labels=np.full((90, 3), -1, np.int8))

    with pytest.raises(HeadError, match="made train: the pictures have no labels"):
        fit_head(store, unlabelled, "svm", PLAIN, LABELS, 0)
    with pytest.raises(HeadError, match="no class has both a positive and a negative picture among 90"):
        fit_head(store, never, "svm", PLAIN, LABELS, 0)


def test_settings():
    for wrong in ({"costs": (0.0,)}, {"costs": (1.0, 1.0)}, {"pooling": ("mean", "mean")}, {"pooling": ()}):
        with pytest.raises(ValidationError):
            SvmSettings(kind="svm", **wrong)


def test_joined_vectors_of_one_pooling():
    x = np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32)

    np.testing.assert_allclose(np.linalg.norm(join_pooled(x, True), axis=1), 1, rtol=1e-6)


def test_classes_in_threads_are_the_classes_in_turn(many, monkeypatch):
    """More pictures than columns: liblinear draws nothing, and threads change no bit."""
    table, store, _ = many["train"]
    settings = SvmSettings(kind="svm", pooling=("mean",), costs=(0.3, 3.0))
    alone = fit_head(store, table, "svm", settings, LABELS, 0)
    said = []
    monkeypatch.setattr("pipeline.head.svm.torch.get_num_threads", lambda: 3)
    reader = RowReader(store, budget=MemoryBudget(None, say=said.append))
    in_threads = fit_head(store, table, "svm", settings, LABELS, 0, reader=reader)
    assert "3 classes at a time" in said[-1]
    for name, tensor in alone.network.state_dict().items():
        assert torch.equal(tensor, in_threads.network.state_dict()[name]), name
    # With fewer pictures than columns its order of pictures is drawn from what all threads have in common.
    few = SvmSettings(kind="svm", costs=(1.0,))
    fit_head(store, table, "svm", few, LABELS, 0, held_out_share=0.9, reader=reader)
    assert "at a time" not in said[-1]


ROWS = SvmSettings(kind="svm", pooling=("mean",), examples="rows", root=True, standardise=False, costs=(0.2,))


@pytest.mark.parametrize(("root", "normalise"), [(True, True), (False, True), (False, False)])
def test_rows_as_examples_are_fitted_one_by_one_and_their_scores_averaged(many, root, normalise):
    """The protocol of augmentation: each view is an example, and a picture's score is the mean over its views."""
    (table, store, rows), (other, other_store, other_rows) = many["train"], many["val"]
    settings = ROWS.model_copy(update={"root": root, "normalise": normalise})

    got = decisions(fit_head(store, table, "svm", settings, LABELS, 0, held_out_share=0.3), other_store, other)

    def prepared(values):
        values = values.astype(np.float64)
        values = np.sign(values) * np.sqrt(np.abs(values)) if root else values
        return Normalizer().fit_transform(values) if normalise else values

    inside = ~hold_out_pictures(table.picture_sha256, 0.3)[table.picture]
    x, labels = prepared(rows[inside]), table.picture_labels[table.picture[inside]]
    fits = [LinearSVC(C=0.2, dual="auto", tol=1e-6, random_state=0).fit(x, y == 1) for y in labels.T]
    of_rows = np.column_stack([each.decision_function(prepared(other_rows)) for each in fits])
    expected = of_rows.reshape(len(other.ids), 8, 3).mean(1)
    np.testing.assert_allclose(got[0], expected, atol=1e-2)
    assert not np.allclose(got[0], decisions(fit_head(store, table, "svm", PLAIN, LABELS, 0), other_store, other)[0])


def test_rows_as_examples_give_the_same_bits_wherever_parts_end(many, make, tmp_path):
    (table, store, _), (other, other_store, other_rows) = many["train"], many["val"]
    head = fit_head(store, table, "svm", ROWS, LABELS, 0)
    parts = make.store(tmp_path / "val.zarr", other, other_rows, part_rows=13)
    assert np.array_equal(decisions(head, other_store, other), decisions(head, parts, other))
    save_head(head, tmp_path / "svm.safetensors")
    again = load_head(tmp_path / "svm.safetensors")
    assert np.array_equal(decisions(head, other_store, other), decisions(again, other_store, other))


def test_pooled_vectors_by_their_signed_root(many):
    table, store, rows = many["train"]
    head = fit_head(store, table, "svm", PLAIN.model_copy(update={"root": True}), LABELS, 0)
    by_picture = rows.astype(np.float64).reshape(len(table.ids), 8, 8)
    pooled = by_picture.mean(1), by_picture.max(1)
    x = np.hstack([Normalizer().fit_transform(np.sign(v) * np.sqrt(np.abs(v))) for v in pooled])
    expected = LinearSVC(C=1.0, dual="auto", tol=1e-6, random_state=0).fit(x, table.picture_labels[:, 0] == 1)
    np.testing.assert_allclose(decisions(head, store, table)[0][:, 0], expected.decision_function(x), atol=5e-3)


@pytest.mark.parametrize("changes", [{"pooling": ("max",)}, {"costs": (0.1, 1.0)}])
def test_rows_as_examples_have_one_cost_and_the_mean(changes):
    with pytest.raises(ValidationError, match="examples: rows goes with pooling"):
        SvmSettings(**{**ROWS.model_dump(), **changes})
    assert not {"examples", "root"} & set(SvmSettings(kind="svm").model_dump())
