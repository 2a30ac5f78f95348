"""Aggregation: against a slow loop, and the same however the rows are cut into calls."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scoring.picture_scores import PictureScores

POWERS = (1.0, 2.5, 5.0)
OTHERS = ("max", "top:1", "top:3", "top:1000", "lme:0.5", "lme:8", "lme:100")


def aggregate_one(of_picture: list[float], k) -> float:
    if k == "max":
        return max(of_picture)
    if isinstance(k, float):
        return sum(s**k for s in of_picture) / len(of_picture)
    name, number = k.split(":")
    if name == "top":
        best = sorted(of_picture, reverse=True)[: int(number)]
        return sum(best) / len(best)
    # In 60 digits an exponential of anything fits.
    with localcontext(prec=60):
        r = Decimal(number)
        return float((sum((r * Decimal(s)).exp() for s in of_picture) / len(of_picture)).ln() / r)


def aggregate_in_loops(scores, picture, n_pictures, k):
    out = np.full((n_pictures, scores.shape[1]), np.nan)
    for p in range(n_pictures):
        for c in range(scores.shape[1]):
            of_picture = [float(s) for s, q in zip(scores[:, c], picture, strict=True) if q == p]
            if of_picture:
                out[p, c] = aggregate_one(of_picture, k)
    return out


def add_in_pieces(sums: PictureScores, scores, picture, cuts) -> np.ndarray:
    for start, stop in zip([0, *cuts], [*cuts, len(picture)], strict=True):
        sums.add(scores[start:stop], picture[start:stop])
    return sums.result()


@st.composite
def patches(draw, spread=0.0):
    """Scores of up to 30 patches of up to 6 pictures, some without any, and cuts between calls.

    In 0..1, or of any sign and size where a spread is given.
    """
    counts = draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    picture = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (len(picture), 3)
    scores = (rng.normal(-spread, spread, shape) if spread else rng.random(shape)).astype(np.float32)
    cuts = sorted(draw(st.lists(st.integers(0, len(picture)), max_size=5)))
    return len(counts), picture, scores, cuts


@given(patches())
def test_same_as_loops_however_the_rows_are_cut(case):
    n_pictures, picture, scores, cuts = case

    ours = add_in_pieces(PictureScores(n_pictures, 3, POWERS + OTHERS), scores, picture, cuts)

    for k, one in zip(POWERS + OTHERS, ours, strict=True):
        np.testing.assert_allclose(one, aggregate_in_loops(scores, picture, n_pictures, k), rtol=1e-10, atol=1e-14)
    at_once = add_in_pieces(PictureScores(n_pictures, 3, POWERS + OTHERS), scores, picture, [])
    np.testing.assert_array_equal(ours, at_once)


@pytest.mark.parametrize("spread", [1.0, 50.0, 5000.0])
@settings(max_examples=30)
@given(data=st.data())
def test_scores_of_any_sign_and_size(spread, data):
    n_pictures, picture, scores, cuts = data.draw(patches(spread))

    ours = add_in_pieces(PictureScores(n_pictures, 3, OTHERS), scores, picture, cuts)

    for k, one in zip(OTHERS, ours, strict=True):
        expected = aggregate_in_loops(scores, picture, n_pictures, k)
        np.testing.assert_allclose(one, expected, rtol=1e-10, atol=1e-10 * spread)


def test_pictures_of_many_sizes_are_not_mixed_up():
    counts = np.random.default_rng(0).integers(1, 60, 300)
    picture = np.repeat(np.arange(300), counts)
    scores = np.random.default_rng(1).random((len(picture), 2), np.float32)

    ours = add_in_pieces(PictureScores(300, 2, [5.0, "top:7", "max"]), scores, picture, [1000, 5000])

    for p in (0, 1, 150, 298, 299):
        of_picture = np.sort(scores[picture == p].astype(float), axis=0)
        np.testing.assert_allclose(ours[:, p], [(of_picture**5).mean(0), of_picture[-7:].mean(0), of_picture[-1]])


@given(patches())
def test_the_mean_of_the_best_and_log_mean_exp_lie_between_mean_and_maximum(case):
    n_pictures, picture, scores, _ = case
    ks = [1.0, "lme:0.1", "lme:3", "lme:100", "max", "top:1000", "top:2", "top:1"]

    mean, low, middle, high, highest, everything, two, one = add_in_pieces(
        PictureScores(n_pictures, 3, ks), scores, picture, []
    )

    there = ~np.isnan(mean)
    for below, above in ((mean, low), (low, middle), (middle, high), (high, highest), (mean, two), (two, one)):
        assert (below[there] <= above[there] + 1e-12).all()
    np.testing.assert_array_equal(everything, mean)
    np.testing.assert_array_equal(one, highest)


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
        pytest.param("top:1", [0.6, 1.0], [0.5, 0.5], id="best one"),
        pytest.param("top:20", [0.4, 0.5], [0.5, 0.5], id="fewer patches than 20"),
        pytest.param("lme:2", [np.log((np.exp(0.4) + np.exp(1.2)) / 2) / 2, np.log((np.e**2 + 1) / 2) / 2], [0.5] * 2),
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


def test_the_maximum_of_negative_scores_is_negative():
    sums = PictureScores(2, 1, ["max"])
    sums.add(np.array([[-3.0], [-2.0]]), np.array([0, 0]))

    assert sums.result()[0, 0, 0] == -2


# ---- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "score", "expect"),
    [
        pytest.param(5.0, -0.1, r"mean of powers \(k=5\) takes scores in 0..1, got -0.1..0", id="negative"),
        pytest.param(1.0, 1.5, r"mean of powers \(k=1\) takes scores in 0..1, got 0..1.5", id="more than 1"),
        pytest.param("max", np.nan, "must be finite", id="no number"),
        pytest.param("lme:8", -np.inf, "must be finite", id="infinite"),
    ],
)
def test_scores_that_an_aggregation_does_not_take(k, score, expect):
    with pytest.raises(ValueError, match=expect):
        PictureScores(1, 1, ["max", k]).add(np.array([[score]]), np.array([0]))


def test_probabilities_that_rounding_brought_above_1_are_accepted():
    sums = PictureScores(1, 1, [5.0])
    sums.add(np.array([[np.nextafter(np.float32(1), np.float32(2))]]), np.array([0]))

    assert sums.result()[0, 0, 0] == pytest.approx(1)


@pytest.mark.parametrize("pictures", [[1, 0], [2, 2, 1], [0]])
def test_pictures_out_of_order(pictures):
    sums = PictureScores(3, 1, ["max"])
    sums.add(np.zeros((2, 1)), np.array([0, 1]))

    with pytest.raises(ValueError, match="in the order of their pictures"):
        sums.add(np.zeros((len(pictures), 1)), np.array(pictures))


@pytest.mark.parametrize("k", ["pooled", "median", "top:0", 0.5])
def test_unknown_aggregations(k):
    with pytest.raises(ValueError, match="pooled is no aggregation of patch scores|must be a power in"):
        PictureScores(1, 1, [k])
