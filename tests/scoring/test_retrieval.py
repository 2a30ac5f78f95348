"""Retrieval: distances against loops, wherever parts and blocks end; AP against its definition."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.scoring.retrieval as retrieval
from pipeline.io.errors import DatasetError, StoreError
from pipeline.scoring.retrieval import (
    NearestPatches,
    distances,
    evaluate_retrieval,
    query_blocks,
    relevance,
    retrieval_ap,
    rows_of_scales,
    unit_rows,
)


def slow_distances(rows, query, references, picture, n_pictures):
    """For each query and picture: mean over the query's patches of the distance to the nearest patch."""

    def unit(row):
        length = np.linalg.norm(row.astype(float))
        return row / length if length else row * 0.0

    out = np.full((query.max() + 1, n_pictures), np.inf)
    for q in range(len(out)):
        for p in range(n_pictures):
            patches = [unit(r) for r in references[picture == p]]
            if patches:
                out[q, p] = np.mean(
                    [min(np.sqrt(2 - 2 * min(unit(r) @ s, 1)) for s in patches) for r in rows[query == q]]
                )
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.lists(st.integers(0, 20), max_size=4), st.sampled_from([1, 7, 10_000]))
def test_distances_as_slowly_wherever_parts_and_blocks_end(seed, cuts, block):
    rng = np.random.default_rng(seed)
    rows, query = rng.normal(size=(5, 6)).astype(np.float16), np.array([0, 0, 1, 2, 2])
    picture = np.sort(rng.integers(0, 6, 20))
    references = rng.normal(size=(20, 6)).astype(np.float16)
    references[3] = 0
    before = retrieval.BLOCK_VALUES
    retrieval.BLOCK_VALUES = block
    try:
        nearest = NearestPatches(rows, query, 6)
        for chosen in np.split(np.arange(20), sorted(cuts)):
            nearest.add(references[chosen], picture[chosen])
        got = nearest.result()
    finally:
        retrieval.BLOCK_VALUES = before

    np.testing.assert_allclose(got, slow_distances(rows, query, references, picture, 6), atol=2e-3)


def test_rows_have_length_1_and_zero_stays_zero():
    rows = np.array([[3, 4], [0, 0], [60000, 60000]], np.float16)

    np.testing.assert_allclose(unit_rows(rows), [[0.6, 0.8], [0, 0], [0.5**0.5] * 2], rtol=1e-6)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 5))
def test_blocks_are_whole_queries_and_bounded(counts, n_pictures):
    query = np.repeat(np.arange(3, 3 + len(counts)), counts)
    before = retrieval.BLOCK_VALUES
    retrieval.BLOCK_VALUES = 20
    try:
        blocks = list(query_blocks(query, n_pictures))
    finally:
        retrieval.BLOCK_VALUES = before

    assert [i for b in blocks for i in range(b.start, b.stop)] == list(range(len(query)))
    for block in blocks:
        inside = query[block]
        assert not set(inside) & set(np.delete(query, np.arange(block.start, block.stop)))
        assert len(inside) * n_pictures <= 20 or len(set(inside)) == 1


@pytest.fixture
def scaled(val, make, tmp_path):
    """The split `val` with two scales: the first patch of a picture is of the first, all others of the second."""
    first = np.diff(val.table.picture, prepend=-1) > 0
    table = replace(val.table, scale=np.where(first, 0, 1).astype(np.uint8), rows_digest="")
    table = replace(table, rows_digest=table.compute_rows_digest())
    return make.store(tmp_path / "scaled.zarr", table)


def test_a_store_is_searched_in_blocks(scaled, monkeypatch):
    table, rows, n = scaled.table, scaled.rows, len(scaled.table.ids)
    chosen = rows_of_scales(table, 0)
    expected = slow_distances(rows, table.picture, rows, table.picture, n)

    for values in (2**25, 3 * n):
        monkeypatch.setattr(retrieval, "BLOCK_VALUES", values)
        got = distances(scaled.store, table, scaled.store.read_rows(chosen), table.picture)
        np.testing.assert_allclose(got, expected, atol=2e-3)


def test_first_scales_of_queries_and_of_references(scaled):
    table, rows, n = scaled.table, scaled.rows, len(scaled.table.ids)
    first = rows_of_scales(table, 1)
    assert len(first) == n

    got = distances(scaled.store, table, scaled.store.read_rows(first), table.picture[first], reference_scales=1)

    expected = slow_distances(rows[first], table.picture[first], rows[first], table.picture[first], n)
    np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize("values", [2**25, 100])
def test_evaluation_as_slowly(scaled, monkeypatch, values):
    monkeypatch.setattr(retrieval, "BLOCK_VALUES", values)
    labels = scaled.table.picture_labels.copy()
    labels[4], labels[5, 0] = [1, 0, -1], 0
    table = replace(scaled.table, picture_labels=labels)

    found = evaluate_retrieval(scaled.store, table, query_scales=1)

    first = np.flatnonzero(table.scale == 0)
    d = slow_distances(scaled.rows[first], table.picture[first], scaled.rows, table.picture, len(table.ids))
    for q in range(len(table.ids)):
        order = [p for p in np.argsort(d[q], kind="stable") if p != q]
        hits, seen, precisions = 0, 0, []
        for p in order:
            if any(a == b == 1 for a, b in zip(labels[q], labels[p], strict=True)):
                hits, seen = hits + 1, seen + 1
                precisions.append(hits / seen)
            elif not any(a >= 0 and b >= 0 for a, b in zip(labels[q], labels[p], strict=True)):
                seen += 1
        assert found.ap[q] == pytest.approx(np.mean(precisions), abs=0.02)
        assert found.chance[q] == pytest.approx(hits / seen)


def test_pictures_of_one_class_find_each_other_and_noise_does_not(scaled, make, tmp_path):
    learnt = evaluate_retrieval(scaled.store, scaled.table, query_scales=1)
    shuffled = np.random.default_rng(1).permutation(scaled.table.picture_labels)
    noise = evaluate_retrieval(scaled.store, replace(scaled.table, picture_labels=shuffled), query_scales=1)

    assert learnt.ap.mean() > 0.9
    assert noise.ap.mean() < 0.5  # 6 of 20 are relevant


def test_relevance():
    labels = np.array([[1, -1], [1, 1], [-1, 1], [0, -1], [-1, -1], [0, 1]])

    assert relevance(labels, 0).tolist() == [0, 1, -1, 0, -1, 0]
    assert relevance(labels, 2).tolist() == [-1, 1, 0, -1, -1, 1]
    assert relevance(labels, 4).tolist() == [-1, -1, -1, -1, 0, -1]


def test_ap_of_a_query():
    assert retrieval_ap(np.array([0.3, 0.1, 0.2, 0.4]), np.array([1, 0, -1, 1])) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert np.isnan(retrieval_ap(np.array([0.3, 0.1]), np.array([-1, 0])))


def test_nothing_to_evaluate_by(val, train):
    unlabelled = replace(val.table, picture_labels=np.zeros((21, 0), np.int8))

    with pytest.raises(DatasetError, match="made val: no labels"):
        evaluate_retrieval(val.store, unlabelled)
    with pytest.raises(StoreError, match="other rows than"):
        distances(train.store, val.table, val.rows[:1], np.zeros(1, int))
