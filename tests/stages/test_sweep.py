"""Sweeps over heads, label rules and aggregations: chosen on held-out fit pictures alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.stores import draw_rows, seal_store
from support.tables import table_of_two_to_five
from support.threads import one_thread  # noqa: F401

from pipeline.head.settings import HeadSettings
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.aggregation import Aggregation
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


def grid(heads, aggregations, held_out_share: float, rules=None) -> Grid:
    return Grid(
        heads, rules or [LabelSettings()], tuple(map(Aggregation.parse, aggregations)), held_out_share, 0, "voc12"
    )


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
    assert result["chosen"]["held_out_mAP"] == max(r["held_out_mAP"] for r in result["rows"])
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
