"""Which rows are drawn, and which pictures are held out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.patches.labels import BACKGROUND, UNUSED
from pipeline.patches.sampling import choose_rows, hold_out_pictures

LABELS = np.array([0, BACKGROUND, UNUSED, 2, BACKGROUND, BACKGROUND, BACKGROUND, UNUSED, 1], np.int16)


@pytest.mark.parametrize(
    ("share", "n"), [pytest.param(1.0, 4, id="all"), pytest.param(0.5, 2, id="half"), pytest.param(0.1, 0, id="few")]
)
def test_all_positives_and_a_share_of_the_background(share, n):
    rows = choose_rows(LABELS, share, seed=0)

    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()
    assert {0, 3, 8} <= set(rows)
    assert (LABELS[rows] == BACKGROUND).sum() == n
    assert len(rows) == 3 + n


@given(
    st.lists(st.integers(-2, 5), max_size=80),
    st.floats(0, 1),
    st.integers(0, 100),
)
def test_rows_are_positives_and_background_only(labels, share, seed):
    labels = np.array(labels, np.int16)

    rows = choose_rows(labels, share, seed)

    assert sorted(set(rows.tolist())) == rows.tolist()
    assert UNUSED not in labels[rows]
    assert (labels[rows] >= 0).sum() == (labels >= 0).sum()
    assert (labels[rows] == BACKGROUND).sum() == round(share * (labels == BACKGROUND).sum())


def test_the_seed_decides_which_background():
    labels = np.full(1000, BACKGROUND, np.int16)
    first, again, other = choose_rows(labels, 0.1, 3), choose_rows(labels, 0.1, 3), choose_rows(labels, 0.1, 4)

    assert first.tolist() == again.tolist()
    assert len(first) == len(other) == 100
    assert len(set(first) & set(other)) < 40  # about 10 by chance


def test_the_sample_is_spread_over_all_rows():
    rows = choose_rows(np.full(10_000, BACKGROUND, np.int16), 0.1, seed=0)

    tenths = np.bincount(rows // 1000, minlength=10)
    assert tenths.min() > 60 and tenths.max() < 140  # 100 each, deviation about 9


IDS = tuple(f"2008_{i:06d}" for i in range(2000))
ALL_OUT = hold_out_pictures(IDS, 0.25)


def test_held_out_pictures_are_near_their_share():
    out = hold_out_pictures(IDS, 0.25)

    assert out.dtype == bool and out.shape == (2000,)
    assert 0.2 < out.mean() < 0.3
    assert not hold_out_pictures(IDS, 0.0).any()
    assert hold_out_pictures(IDS, 1.0).all()


@given(st.lists(st.sampled_from(range(2000)), min_size=1, max_size=20, unique=True))
def test_other_pictures_move_none_between_the_sides(chosen):
    some = hold_out_pictures(tuple(IDS[i] for i in chosen), 0.25)

    assert some.tolist() == ALL_OUT[chosen].tolist()


def test_a_larger_share_holds_out_the_same_and_more():
    small, large = hold_out_pictures(IDS, 0.1), hold_out_pictures(IDS, 0.4)

    assert (large | ~small).all() and large.sum() > small.sum()
