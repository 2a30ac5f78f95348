"""Aggregation: against a slow loop, and the same however the rows are cut into calls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.aggregation import PictureScores

KS = (1.0, 2.5, 5.0, "max")


def aggregate_in_loops(scores, picture, n_pictures, k):
    out = np.full((n_pictures, scores.shape[1]), np.nan)
    for p in range(n_pictures):
        for c in range(scores.shape[1]):
            of_picture = [float(s) for s, q in zip(scores[:, c], picture, strict=True) if q == p]
            if of_picture and k == "max":
                out[p, c] = max(of_picture)
            elif of_picture:
                out[p, c] = sum(s**k for s in of_picture) / len(of_picture)
    return out


@st.composite
def patches(draw):
    """Scores of up to 30 patches of up to 6 pictures, some without any, and cuts between calls."""
    counts = draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    picture = np.repeat(np.arange(len(counts)), counts)
    seed = draw(st.integers(0, 2**32 - 1))
    scores = np.random.default_rng(seed).random((len(picture), 3)).astype(np.float32)
    cuts = sorted(draw(st.lists(st.integers(0, len(picture)), max_size=5)))
    return len(counts), picture, scores, cuts


@given(patches())
def test_same_as_loops_however_the_rows_are_cut(case):
    n_pictures, picture, scores, cuts = case
    sums = PictureScores(n_pictures, 3, KS)

    for start, stop in zip([0, *cuts], [*cuts, len(picture)], strict=True):
        sums.add(scores[start:stop], picture[start:stop])

    for k, ours in zip(KS, sums.result(), strict=True):
        np.testing.assert_allclose(ours, aggregate_in_loops(scores, picture, n_pictures, k), rtol=1e-12)


# Two patches of picture 0, one of picture 2, none of picture 1; two classes.
SCORES = np.array([[0.2, 1.0], [0.6, 0.0], [0.5, 0.5]], np.float32)
PICTURE = np.array([0, 0, 2])


@pytest.mark.parametrize(
    ("k", "first", "last"),
    [
        pytest.param(1.0, [0.4, 0.5], [0.5, 0.5], id="1 is the mean"),
        pytest.param(2.0, [0.2, 0.5], [0.25, 0.25], id="2 is the mean of squares"),
        pytest.param(5.0, [(0.2**5 + 0.6**5) / 2, 0.5], [0.5**5] * 2, id="the paper's 5"),
        pytest.param("max", [0.6, 1.0], [0.5, 0.5], id="max"),
    ],
)
def test_by_hand(k, first, last):
    sums = PictureScores(3, 2, [k])
    sums.add(SCORES, PICTURE)

    result = sums.result()

    assert result.shape == (1, 3, 2) and result.dtype == np.float64
    np.testing.assert_allclose(result[0, 0], first, rtol=1e-6)
    assert np.isnan(result[0, 1]).all()
    np.testing.assert_allclose(result[0, 2], last, rtol=1e-6)


def test_asking_twice_gives_the_same():
    sums = PictureScores(3, 2, [1.0, "max"])
    sums.add(SCORES, PICTURE)

    first = sums.result()

    np.testing.assert_array_equal(sums.result(), first)
    sums.add(SCORES[2:], PICTURE[2:])
    np.testing.assert_array_equal(sums.result(), first)  # the same patch once more leaves mean and maximum


def test_no_patch_at_all():
    assert np.isnan(PictureScores(2, 3, [5.0]).result()).all()
