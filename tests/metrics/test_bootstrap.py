"""Bootstrap over pictures: against AP of resamples that are written out, and by its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.average_precision import METRICS, average_precision, mean_average_precision
from pipeline.metrics.bootstrap import (
    bootstrap_class_ap,
    bootstrap_mean_ap,
    interval,
    paired_difference,
    resample_counts,
    resampled_average_precision,
    spread,
)

NAN = float("nan")


def drawn(n: int, n_classes: int, seed: int, ties: int = 0, lift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Scores that tell positives from negatives by `lift` deviations; with `ties`, of so many values only."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1], (n, n_classes), p=[0.7, 0.1, 0.2])
    scores = rng.normal(size=(n, n_classes)) + lift * (labels == 1)
    return (np.round(scores * ties) / ties if ties else scores), labels


# ---- one class, one resample -----------------------------------------------------------------------

# Few distinct scores and high counts, so that ties and copies are common.
SAMPLES = st.lists(
    st.tuples(
        st.sampled_from([NAN, -np.inf, -1.0, 0.0, 0.25, 0.5, 1.0]), st.sampled_from([-1, 0, 1]), st.integers(0, 4)
    ),
    max_size=30,
)


@pytest.mark.parametrize("metric", METRICS)
@given(samples=SAMPLES)
def test_counts_are_as_good_as_copies(metric, samples):
    scores = np.array([s for s, _, _ in samples], float)
    labels = np.array([y for _, y, _ in samples], int)
    counts = np.array([n for _, _, n in samples], int)
    copies = np.repeat(np.arange(len(samples)), counts)

    ours = resampled_average_precision(scores, labels, counts[:, None], metric)

    assert ours.shape == (1,)
    assert ours[0] == pytest.approx(average_precision(scores[copies], labels[copies], metric), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("metric", METRICS)
def test_each_picture_once_is_average_precision(metric):
    scores, labels = drawn(200, 1, 0, ties=3)

    ours = resampled_average_precision(scores[:, 0], labels[:, 0], np.ones((200, 1), int), metric)

    assert ours[0] == pytest.approx(average_precision(scores[:, 0], labels[:, 0], metric))


# Ranked + - + with two copies of the first, none of the second, three of the last: all positive.
# With two of the second: precision 1, 1, 3/7 (made monotone: 5/7 at the last copy).
@pytest.mark.parametrize(
    ("counts", "expect"),
    [
        pytest.param([2, 0, 3], 1.0, id="the negative is not drawn"),
        pytest.param([2, 2, 3], (2 * 1 + 3 * 5 / 7) / 5, id="copies share the precision of the last"),
        pytest.param([0, 2, 0], NAN, id="no positive is drawn"),
        pytest.param([0, 1, 1], 0.5, id="the first is not drawn"),
    ],
)
def test_by_hand(counts, expect):
    ours = resampled_average_precision(np.array([3.0, 2, 1]), np.array([1, -1, 1]), np.array(counts)[:, None], "voc12")

    assert ours[0] == pytest.approx(expect, nan_ok=True)


# ---- mAP -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ties", [0, 2])
def test_same_as_mean_average_precision_of_copies(metric, ties):
    scores, labels = drawn(40, 4, 1, ties)
    labels[:, 3] = -1
    labels[7, 3] = 1  # in about one resample of three this picture is not drawn, and the class left out

    ours = bootstrap_mean_ap(scores, labels, metric, n_resamples=50, seed=3)

    slow = []
    for counts in resample_counts(40, 50, 3).T:
        copies = np.repeat(np.arange(40), counts)
        slow.append(mean_average_precision(scores[copies], labels[copies], metric)[0])
    np.testing.assert_allclose(ours, slow, rtol=1e-12)
    assert len(set(slow)) > 40


def test_several_seeds_are_their_mean_on_the_same_resamples():
    labels = drawn(60, 3, 2)[1]
    seeds = np.stack([drawn(60, 3, 2)[0] + np.random.default_rng(s).normal(0, 0.5, (60, 3)) for s in range(3)])

    together = bootstrap_mean_ap(seeds, labels, "voc12", 30)

    each = [bootstrap_mean_ap(one, labels, "voc12", 30) for one in seeds]
    np.testing.assert_allclose(together, np.mean(each, 0), rtol=1e-12)


def test_chunks_change_nothing(monkeypatch):
    scores, labels = drawn(50, 2, 4)
    whole = bootstrap_mean_ap(scores, labels, "voc07", 20)

    monkeypatch.setattr("pipeline.metrics.bootstrap.CHUNK", 170)

    np.testing.assert_array_equal(bootstrap_mean_ap(scores, labels, "voc07", 20), whole)


def test_no_class_that_has_a_positive():
    assert np.isnan(bootstrap_mean_ap(np.zeros((5, 2)), -np.ones((5, 2), int), "voc12", 7)).all()


def test_resamples_are_of_all_pictures_and_repeat():
    counts = resample_counts(30, 200, 0)

    assert (counts.sum(0) == 30).all()
    np.testing.assert_array_equal(counts, resample_counts(30, 200, 0))
    assert (counts != resample_counts(30, 200, 1)).any()
    # A picture is missing in (1 - 1/30)^30 = 36 % of the resamples.
    assert (counts == 0).mean() == pytest.approx(0.362, abs=0.02)


def test_other_shapes():
    with pytest.raises(ValueError, match=r"got \(1, 5, 2\), \(5, 3\)"):
        bootstrap_mean_ap(np.zeros((5, 2)), np.zeros((5, 3), int), "voc12")


# ---- intervals -------------------------------------------------------------------------------------


def test_the_interval_is_as_wide_as_other_pictures_would_have_it():
    """The deviation over resamples of one split against the deviation over splits drawn anew."""
    measured, deviations = [], []
    for seed in range(40):
        scores, labels = drawn(200, 5, seed)
        measured.append(mean_average_precision(scores, labels, "voc12")[0])
        deviations.append(bootstrap_mean_ap(scores, labels, "voc12", 200).std())

    assert np.mean(deviations) == pytest.approx(np.std(measured, ddof=1), rel=0.25)


def test_intervals_cover_what_splits_drawn_anew_give_on_average():
    splits = [drawn(150, 5, 100 + seed) for seed in range(60)]
    measured = [mean_average_precision(*split, "voc12")[0] for split in splits]

    inside = 0
    for split, value in zip(splits, measured, strict=True):
        low, high = interval(bootstrap_mean_ap(*split, "voc12", 200), measured=value)
        inside += low <= np.mean(measured) <= high

    assert 52 <= inside <= 60  # 57 of 60 expected


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_level_is_the_share_inside(level):
    values = np.random.default_rng(0).normal(size=2000)

    low, high = interval(values, level)

    assert ((values >= low) & (values <= high)).mean() == pytest.approx(level, abs=0.002)


def test_resamples_without_a_value_are_left_out():
    values = np.append(np.arange(101.0), [NAN] * 5)

    assert interval(values) == (2.5, 97.5)
    assert all(np.isnan(interval(np.full(4, NAN))))


# ---- differences -----------------------------------------------------------------------------------


def test_a_recipe_beside_itself():
    values = bootstrap_mean_ap(*drawn(80, 3, 0), "voc12", 100)

    assert paired_difference(values, values) == {"difference": 0, "low": 0, "high": 0, "p_two_sided": 1}


def test_pairing_finds_what_two_intervals_would_hide():
    scores, labels = drawn(300, 5, 7)
    better = scores + 0.15 * (labels == 1)
    a, b = (bootstrap_mean_ap(s, labels, "voc12", 400) for s in (better, scores))

    found = paired_difference(a, b)

    assert found["low"] > 0 and found["p_two_sided"] < 0.05
    assert interval(b)[1] > interval(a)[0]  # the two intervals overlap
    # Pictures drawn apart lose it.
    apart = paired_difference(a, bootstrap_mean_ap(scores, labels, "voc12", 400, seed=1))
    assert apart["low"] < 0


def test_noise_is_not_read_as_progress():
    """Two recipes that are equally good: p under 0.05 in about one of twenty splits, not in most."""
    small = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores, labels = drawn(150, 4, seed)
        a, b = (scores + rng.normal(0, 0.5, scores.shape) for _ in range(2))
        found = paired_difference(*(bootstrap_mean_ap(s, labels, "voc12", 200) for s in (a, b)))
        small += found["p_two_sided"] < 0.05

    assert small <= 8


def test_the_measured_difference_stands_in_the_middle():
    a, b = np.array([0.5, 0.6, 0.7]), np.array([0.4, 0.4, 0.4])

    found = paired_difference(a, b, measured=0.25)

    assert found["difference"] == pytest.approx(0.25)
    assert (found["low"] + found["high"]) / 2 == pytest.approx(0.25)
    assert paired_difference(a, b)["difference"] == pytest.approx(0.2)


def test_swapping_two_recipes_turns_the_sign():
    a, b = (bootstrap_mean_ap(*drawn(80, 3, seed), "voc12", 100) for seed in (0, 1))

    there, back = paired_difference(a, b), paired_difference(b, a)

    assert there["difference"] == pytest.approx(-back["difference"])
    assert there["low"] == pytest.approx(-back["high"]) and there["p_two_sided"] == back["p_two_sided"]


def test_differences_that_are_none():
    assert paired_difference(np.full(3, NAN), np.ones(3))["difference"] is None
    with pytest.raises(ValueError, match=r"must be the same, got \(3,\) and \(4,\)"):
        paired_difference(np.ones(3), np.ones(4))


def test_spread():
    assert spread([0.41, 0.43, 0.45]) == 0.02
    assert spread([0.4]) is None
    assert spread([0.4, 0.4]) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_the_mean_of_the_classes_is_that_of_the_map(metric, monkeypatch):
    monkeypatch.setattr("pipeline.metrics.bootstrap.CHUNK", 200)  # several chunks
    scores, labels = drawn(40, 5, seed=3, ties=4)
    labels[:, 4] = np.where(np.arange(40) == 0, 1, -1)  # in some resamples nowhere
    each = bootstrap_class_ap(scores, labels, metric, n_resamples=60)
    assert each.shape == (60, 5) and np.isnan(each[:, 4]).any()
    np.testing.assert_allclose(np.nanmean(each, 1), bootstrap_mean_ap(scores, labels, metric, n_resamples=60))
