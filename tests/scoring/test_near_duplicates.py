"""Pairs of near rows as by comparing each with each, wherever blocks end; a picture's row as by its definition."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import seal_store

import pipeline.scoring.near_duplicates as near_duplicates
from pipeline.io.errors import DatasetError
from pipeline.scoring.near_duplicates import group_pairs, picture_rows, similar_pairs
from pipeline.scoring.retrieval import unit_rows


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 12), st.sampled_from([1, 5, 30, 10_000]), st.floats(0.1, 1.0))
def test_pairs_as_by_comparing_each_with_each(seed, n, block, threshold):
    rng = np.random.default_rng(seed)
    rows = unit_rows(rng.integers(0, 3, (n, 4)).astype(np.float16))  # at times equal, at times zero
    before = near_duplicates.BLOCK_VALUES
    near_duplicates.BLOCK_VALUES = block
    try:
        pairs, cosine = similar_pairs(rows, threshold)
    finally:
        near_duplicates.BLOCK_VALUES = before

    slow = {(i, j): float(rows[i] @ rows[j]) for i in range(n) for j in range(i + 1, n)}
    doubtful = {pair for pair, value in slow.items() if abs(value - threshold) < 1e-6}
    got = list(map(tuple, pairs.tolist()))
    assert set(got) - doubtful == {pair for pair, value in slow.items() if value >= threshold} - doubtful
    assert got == sorted(got) and len(set(got)) == len(got)
    np.testing.assert_allclose(cosine, [slow[pair] for pair in got], atol=1e-6)


def test_too_many_pairs_are_refused_with_what_helps(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MOST_PAIRS", 5)
    rows = unit_rows(np.ones((4, 3), np.float16))

    with pytest.raises(DatasetError, match="more than 5 pairs .* cosine of 0.9 .*--cosine"):
        similar_pairs(rows, 0.9)


def test_the_row_of_a_picture_is_the_mean_of_its_rows_of_the_largest_scale(make, tmp_path):
    table = make.table("train", 9)
    scale = (np.arange(table.n_rows) - table.first_row[table.picture]).astype(np.uint8) // 2
    table = replace(table, scale=scale)
    table = replace(table, rows_digest=table.compute_rows_digest())
    rows = np.random.default_rng(0).normal(size=(table.n_rows, 6)).astype(np.float16)
    store = seal_store(tmp_path / "train.zarr", table, rows, part_rows=16)

    got = picture_rows(store, table)

    for index in range(9):
        own = (table.picture == index) & (scale == 0)
        assert own.sum() == 2
        mean = rows[own].astype(float).mean(0)
        np.testing.assert_allclose(got[index], mean / np.linalg.norm(mean), atol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda p: p[0] < p[1]), max_size=12))
def test_groups_are_what_pairs_connect(pairs):
    connected = {i: {i} for pair in pairs for i in pair}
    for _ in connected:  # as often as the longest chain could be
        for a, b in pairs:
            both = connected[a] | connected[b]
            for i in both:
                connected[i] = connected[i] | both

    expected = {tuple(sorted(group)) for group in connected.values()}
    assert group_pairs(pairs) == [list(group) for group in sorted(expected)]
