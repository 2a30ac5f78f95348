"""Sweeps over heads, label rules and aggregations: chosen on held-out fit pictures alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from support.stores import draw_rows, seal_store
from support.tables import table_of_two_to_five
from support.threads import one_thread  # noqa: F401

from pipeline.head import pooled
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.logistic_settings import LogisticSettings
from pipeline.head.points import in_words, points_of
from pipeline.head.settings import HeadSettings, KnnSettings, NcmSettings, SvmSettings, WeakSettings
from pipeline.io.errors import HeadError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.aggregation import Aggregation
from pipeline.stages import sweep
from pipeline.stages.held_out import HeldOutMeasure, changed_choice
from pipeline.stages.settings import RunSettings
from pipeline.stages.sweep import Grid, LabelledRows, sweep_grid


def labelled_rows(folder, split: str, n_pictures: int) -> LabelledRows:
    table = table_of_two_to_five(split, n_pictures)
    return LabelledRows(
        table, seal_store(folder / f"{split}.zarr", table, draw_rows(table, 6, n_pictures), part_rows=16)
    )


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> LabelledRows:
    return labelled_rows(tmp_path_factory.mktemp("stores"), "train", 36)


@pytest.fixture(scope="module")
def val(tmp_path_factory) -> LabelledRows:
    return labelled_rows(tmp_path_factory.mktemp("stores"), "val", 21)


def grid(heads, aggregations, held_out_share: float, rules=None, seeds=(0,)) -> Grid:
    parsed = tuple(map(Aggregation.parse, aggregations))
    return Grid(heads, rules or [LabelSettings()], parsed, held_out_share, seeds, "voc12")


def test_a_sweep_chooses_by_held_out_pictures_and_shows_the_rest(train, val):
    heads = {"fcb": HeadSettings(hidden=(), batch=8, max_epochs=(4, 1, 1))}

    rules = [LabelSettings(), LabelSettings(single_object="touches")]
    result = sweep_grid(train, val, grid(heads, (1.0, "max"), 0.3, rules))

    assert [(r["head"], r["single_object"], r["k"]) for r in result["rows"]] == [
        ("fcb", "fills", "1"),
        ("fcb", "fills", "max"),
        ("fcb", "touches", "1"),
        ("fcb", "touches", "max"),
    ]
    assert result["chosen_by"] == "accuracy"  # every picture shows one class
    assert result["chosen"]["held_out_accuracy"] == max(r["held_out_accuracy"] for r in result["rows"])
    assert 0 < result["held_out_pictures"] < 36
    assert all(0 < r["mAP"] <= 1 and r["positive"] == 36 for r in result["rows"])


def test_a_sweep_is_not_taught_by_held_out_pictures(train, val):
    # Patches of held-out pictures, here most of all, carry the name of the next class. A head that
    # learnt from them would rank the classes wrongly.
    out = hold_out_pictures(train.table.picture_sha256, 0.6)
    assert 19 <= out.sum() <= 30
    named = train.table.overlap.filling_class
    lies = np.where((named >= 0) & out[train.table.picture], (named + 1) % 3, named).astype(np.int16)

    lying = replace(train, table=replace(train.table, overlap=replace(train.table.overlap, filling_class=lies)))
    heads = {"fcb": HeadSettings(hidden=(), batch=4, max_epochs=(30, 1, 1))}
    result = sweep_grid(lying, val, grid(heads, (1.0,), 0.6))

    assert result["held_out_pictures"] == out.sum()
    assert result["chosen"]["held_out_mAP"] > 0.9
    assert result["chosen"]["mAP"] < 0.7  # fitted on all pictures, lies included


def test_a_sweep_gives_the_same_choice_whatever_the_evaluation_split_says(train, val):
    chosen = []
    for labels in (val.table.picture_labels, -val.table.picture_labels):
        heads = {"a": HeadSettings(hidden=(), batch=8, max_epochs=(1, 0, 0)), "b": HeadSettings(hidden=(4,), batch=8)}
        relabelled = replace(val, table=replace(val.table, picture_labels=labels))
        result = sweep_grid(train, relabelled, grid(heads, (1.0, 5.0), 0.3))
        chosen.append({k: v for k, v in result["chosen"].items() if k != "mAP"})

    assert chosen[0] == chosen[1]


def test_a_class_without_a_negative_held_out_picture_decides_nothing(train):
    """Its AP is 1 whatever the scores."""
    out = hold_out_pictures(train.table.picture_sha256, 0.4)
    labels = train.table.picture_labels.copy()
    labels[out, 0] = 1
    table, values = replace(train.table, picture_labels=labels), np.random.default_rng(0).random(labels.shape)
    measure, scores = HeldOutMeasure.of_share(table, 0.4, "voc12"), SimpleNamespace(by=lambda k: values)

    each = mean_average_precision(values[out], labels[out])[1]
    found = measure.of([scores], None)["held_out_mAP"]
    assert each[0] == 1 and found == pytest.approx(each[1:].mean(), abs=1e-6)
    assert measure.spread_of([scores], None, (0,))["runs"] == [{"seed": 0, "mAP": found}]
    assert changed_choice(table, 0.4, True) == ["classes without a negative left out"]
    assert changed_choice(train.table, 0.4, True) == ["by accuracy"] and not changed_choice(train.table, 0.4, False)
    labels[out] = 1
    nothing = HeldOutMeasure.of_share(table, 0.4, "voc12")
    with pytest.raises(HeadError, match="no class has both a positive and a negative picture among the 1. held out"):
        nothing.choose([{"k": 1, **nothing.of([scores], None)}])


# ---- grids of heads


def several_classes(rows: LabelledRows) -> LabelledRows:
    """The same rows, where every seventh picture shows a second class, so that mAP decides."""
    labels = rows.table.picture_labels.copy()
    labels[::7] = 1
    return replace(rows, table=replace(rows.table, picture_labels=labels))


DECAYS, POOLINGS = (10.0, 1e-2, 1e-4), (("mean",), ("mean", "max"))
PROBE = LogisticSettings(kind="logistic", grid={"pooling": POOLINGS, "weight_decay": DECAYS})


def test_each_point_of_a_grid_is_measured_as_scikit_learn_measures_it(train, val):
    fit, shown = several_classes(train), several_classes(val)
    result = sweep_grid(fit, shown, grid({"probe": PROBE}, (), 0.4))

    out, labels = hold_out_pictures(fit.table.picture_sha256, 0.4), fit.table.picture_labels
    found = {(tuple(r["point"]["pooling"]), r["point"]["weight_decay"]): r for r in result["rows"]}
    assert list(found) == [(pooling, decay) for pooling in POOLINGS for decay in DECAYS]
    rows_of = [fit.store.read_rows(np.arange(*span)) for span in pairwise(fit.table.first_row)]
    for (pooling, decay), row in found.items():
        pooled = [normalize([getattr(np.asarray(r, float), name)(0) for r in rows_of]) for name in pooling]
        x = np.hstack(pooled)
        x = (x - x[~out].mean(0)) / x[~out].std(0) / np.sqrt(x.shape[1])
        fits = [LogisticRegression(C=1 / (decay * (~out).sum()), tol=1e-8).fit(x[~out], y[~out]) for y in labels.T]
        scores = np.column_stack([each.decision_function(x[out]) for each in fits])
        assert row["held_out_mAP"] == pytest.approx(mean_average_precision(scores, labels[out], "voc12")[0], abs=1e-6)
        assert row["interval"]["low"] <= row["held_out_mAP"] <= row["interval"]["high"]
    # A grid that did nothing would give one figure.
    assert len({row["held_out_mAP"] for row in result["rows"]}) > 2
    best = max(row["held_out_mAP"] for row in result["rows"])
    assert result["chosen"] == next(row for row in result["rows"] if row["held_out_mAP"] == best)
    assert "chosen_by" not in result


GRIDDED = {
    "logistic": PROBE,
    "svm": SvmSettings(kind="svm", grid={"pooling": POOLINGS, "costs": [[0.1], [10.0]]}),
    "knn": KnnSettings(kind="knn", grid={"k": [1, 5], "pooling": POOLINGS}),
    "ncm": NcmSettings(kind="ncm", grid={"centre": [True, False]}),
    "weak": WeakSettings(kind="weak", hidden=(), batch=8, max_epochs=(2, 1), grid={"top": [1, 3], "hidden": [[], [4]]}),
    "strong": HeadSettings(
        hidden=(),
        batch=8,
        max_epochs=(2, 1, 1),
        grid={"rates": [[0.1, 0.01, 0.001], [0.01, 0.001, 1e-4]], "dropout": [0, 0.5], "background_share": [0.1, 1]},
    ),
}


@pytest.mark.parametrize("kind", GRIDDED)
def test_a_grid_is_the_list_of_heads_that_would_be_written_by_hand(train, val, kind):
    head = GRIDDED[kind]
    by_hand = {in_words(point): settings for point, settings in points_of(head)}
    ks = (1.0, "max") if kind == "strong" else ("max",)

    of_grid = sweep_grid(train, val, grid({"it": head}, ks, 0.3, seeds=(0, 1)))
    listed = [sweep_grid(train, val, grid(by_hand, ks, 0.3, seeds=(seed,))) for seed in (0, 1)]

    assert [in_words(row["point"]) for row in of_grid["rows"]] == [row["head"] for row in listed[0]["rows"]]
    for row, *each in zip(of_grid["rows"], *(one["rows"] for one in listed), strict=True):
        for name in ("held_out_mAP", "held_out_accuracy", "mAP"):
            assert row[name] == pytest.approx(np.mean([one[name] for one in each]), abs=2e-6)
        assert [run["accuracy"] for run in row["runs"]] == [one["held_out_accuracy"] for one in each]
    assert of_grid["chosen"] == max(of_grid["rows"], key=lambda row: row["held_out_accuracy"])


def test_of_equal_points_the_first_is_chosen(train, val):
    # Nearest neighbours of all pictures: the temperature is so high that all vote alike.
    head = KnnSettings(kind="knn", k=100, grid={"temperature": [100.0, 99.0, 98.0]})
    result = sweep_grid(train, None, grid({"knn": head}, (), 0.3))
    assert len({row["held_out_accuracy"] for row in result["rows"]}) == 1
    assert result["chosen"]["point"] == {"temperature": 100.0} and "mAP" not in result["chosen"]


def test_the_choice_among_points_is_blind_to_the_evaluation_split_and_to_ids(train, val):
    first = sweep_grid(train, val, grid({"probe": PROBE}, (), 0.4))
    relabelled = replace(val, table=replace(val.table, picture_labels=-val.table.picture_labels))
    second = sweep_grid(train, relabelled, grid({"probe": PROBE}, (), 0.4))
    none = sweep_grid(train, None, grid({"probe": PROBE}, (), 0.4))
    assert first["chosen"]["point"] == second["chosen"]["point"] == none["chosen"]["point"]
    without = [{k: v for k, v in row.items() if k != "mAP"} for row in first["rows"]]
    assert without == none["rows"] == [{k: v for k, v in row.items() if k != "mAP"} for row in second["rows"]]


def test_rows_are_pooled_once_for_all_points(train, val, monkeypatch):
    passes = []
    monkeypatch.setattr(pooled, "_pool_rows", lambda store, *args: passes.append(args[1]) or pool(store, *args))
    all_at_once = grid({"probe": PROBE, "knn": GRIDDED["knn"]}, (), 0.4, seeds=(0, 1))
    shared = sweep_grid(train, None, all_at_once)
    assert passes == [("mean", "max")]

    # Where memory has no room for vectors of all heads, each pools its own: the same, to the bit.
    monkeypatch.setattr(MemoryBudget, "has_room", lambda budget, n_bytes: False)
    assert sweep_grid(train, None, all_at_once) == shared and len(passes) > 9


pool = pooled._pool_rows


def test_the_order_of_heads_and_of_settings_is_of_the_digest_as_it_decides_ties(train, monkeypatch):
    monkeypatch.setattr(sweep, "require_rows", lambda run, split: (train.table, train.store))
    manifest = SimpleNamespace(fit="train", eval="val", has_boxes=True)
    grid_of = {"pooling": [["mean"], ["max"]], "standardise": [True, False]}

    def digest(compare, names):
        heads = {"a": {"kind": "ncm"}, "b": {"kind": "svm", "grid": {name: grid_of[name] for name in names}}}
        settings = RunSettings(heads=heads, compare=compare)
        return sweep._digest_of_inputs(SimpleNamespace(settings=settings, manifest=manifest, facts_of_roles=list))

    orders = [
        (compare, names) for compare in (["a", "b"], ["b", "a"]) for names in (list(grid_of), list(grid_of)[::-1])
    ]
    assert len({digest(*order) for order in orders}) == 4
