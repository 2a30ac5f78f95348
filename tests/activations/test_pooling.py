"""Pooling: one vector a picture, wherever the parts of a store end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.activations.pooling import PooledRows, join_pooled


def slowly(rows: np.ndarray, picture: np.ndarray, n_pictures: int) -> np.ndarray:
    """Mean and maximum, one picture and one column at a time."""
    out = np.full((2, n_pictures, rows.shape[1]), np.nan, np.float32)
    for i in range(n_pictures):
        for column in range(rows.shape[1]):
            values = [float(v) for v in rows[picture == i, column]]
            if values:
                out[:, i, column] = sum(values) / len(values), max(values)
    return out


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 36), max_size=6),
    seed=st.integers(0, 99),
)
def test_as_slowly_wherever_parts_end(counts, cuts, seed):
    picture = np.repeat(np.arange(len(counts)), counts)
    rows = np.random.default_rng(seed).normal(0, 9, (len(picture), 3)).astype(np.float16)
    pooled = PooledRows(len(counts), 3)
    for chosen in np.split(np.arange(len(picture)), sorted(min(c, len(picture)) for c in cuts)):
        pooled.add(rows[chosen], picture[chosen])

    # To the last bit: sums in float64 are exact, so their order cannot matter.
    np.testing.assert_array_equal(pooled.result(), slowly(rows, picture, len(counts)))


def test_sums_beyond_float16_are_means_all_the_same():
    rows = np.full((3000, 1), 60000, np.float16)
    pooled = PooledRows(1, 1, ("mean",))
    pooled.add(rows, np.zeros(3000, int))

    assert pooled.result().tolist() == [[[60000 - 60000 % 32]]]


def test_poolings_come_in_the_order_asked_for_and_alone():
    rows, picture = np.array([[1], [3]], np.float16), np.array([0, 0])
    got = {}
    for pooling in (("max", "mean"), ("mean",), ("max",)):
        pooled = PooledRows(1, 1, pooling)
        pooled.add(rows, picture)
        got[pooling] = pooled.result().ravel().tolist()

    assert got == {("max", "mean"): [3, 2], ("mean",): [2], ("max",): [3]}


def test_each_pooled_vector_has_length_1_and_zero_stays_zero():
    pooled = np.array([[[3, 4], [0, 0], [np.nan, np.nan]], [[0, 5], [1, 0], [np.nan, np.nan]]], np.float32)

    joined = join_pooled(pooled, normalise=True)

    np.testing.assert_allclose(joined[:2], [[0.6, 0.8, 0, 1], [0, 0, 1, 0]], rtol=1e-6)
    assert np.isnan(joined[2]).all()
    assert join_pooled(pooled, normalise=False)[0].tolist() == [3, 4, 0, 5]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_nothing_to_add(dtype):
    pooled = PooledRows(2, 4)
    pooled.add(np.zeros((0, 4), np.float16), np.zeros(0, dtype))

    assert np.isnan(pooled.result()).all()
