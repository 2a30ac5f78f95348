"""Both rules of the devkit: by hand, against slow loops, against scikit-learn; and no name decides a number."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve

from pipeline.metrics.average_precision import average_precision, mean_average_precision, precision_recall

NAN = float("nan")

# ---- by hand ---------------------------------------------------------------------------------------

# Ranked labels + - + - + : precision at the positives is 1, 2/3, 3/5; it is monotone already.
# voc12: (1 + 2/3 + 3/5) / 3. voc07: recall 1/3 is reached by thresholds 0, .1, .2, .3 (precision 1),
# 2/3 by .4, .5, .6 (2/3), 1 by .7, .8, .9, 1 (3/5).
ZIGZAG = ([0.9, 0.8, 0.7, 0.6, 0.5], [1, -1, 1, -1, 1])
# Ranked labels - + + : precision 0, 1/2, 2/3, made monotone 2/3 everywhere.
LATE = ([0.9, 0.8, 0.7], [-1, 1, 1])


@pytest.mark.parametrize(
    ("scores", "labels", "voc12", "voc07"),
    [
        pytest.param(*ZIGZAG, (1 + 2 / 3 + 3 / 5) / 3, (4 + 3 * 2 / 3 + 4 * 3 / 5) / 11, id="one in two"),
        pytest.param(*LATE, 2 / 3, 2 / 3, id="the curve is made monotone"),
        pytest.param([3, 2, 1], [1, 1, 1], 1, 1, id="nothing negative: every ranking has 1"),
        pytest.param([3, 2, 1], [1, -1, -1], 1, 1, id="perfect"),
        pytest.param([1, 2, 3, 4], [1, -1, -1, -1], 1 / 4, 1 / 4, id="last of four"),
        pytest.param([1], [1], 1, 1, id="one sample"),
        pytest.param([1, 2, 3], [-1, -1, -1], NAN, NAN, id="nothing positive"),
        pytest.param([1, 2, 3], [0, 0, -1], NAN, NAN, id="only difficult ones"),
        pytest.param([], [], NAN, NAN, id="no sample"),
        pytest.param([9, 8, 7, 6, 5, 4], [0, 1, 0, -1, 1, 0], (1 + 2 / 3) / 2, (6 + 5 * 2 / 3) / 11, id="0 left out"),
        pytest.param([1, 1], [1, -1], 1 / 2, 1 / 2, id="tie, positive first in order"),
        pytest.param([1, 1], [-1, 1], 1 / 2, 1 / 2, id="tie, positive second in order"),
        pytest.param([-1] * 9, [1] * 3 + [-1] * 6, 1 / 3, 1 / 3, id="a constant: the share of positives"),
        pytest.param([2, 1, 1, 1], [1, 1, -1, -1], 3 / 4, (6 + 5 / 2) / 11, id="a tie after the first"),
        pytest.param([NAN, -5], [1, -1], 1 / 2, 1 / 2, id="no score ranks below the lowest score"),
        pytest.param([NAN, NAN], [-1, 1], 1 / 2, 1 / 2, id="no scores are ties, too"),
        pytest.param([NAN, 2, NAN, 1], [1, 1, -1, -1], 3 / 4, (6 + 5 / 2) / 11, id="some without"),
    ],
)
def test_by_hand(scores, labels, voc12, voc07):
    assert average_precision(scores, labels, "voc12") == pytest.approx(voc12, nan_ok=True)
    assert average_precision(scores, labels, "voc07") == pytest.approx(voc07, nan_ok=True)


@pytest.mark.parametrize("n", range(1, 41))
def test_recalls_of_tenths_meet_their_thresholds(n):
    # n positives first, one negative, n positives: precision 1 up to recall 1/2 and 2n/(2n+1) beyond;
    # 0.5 is a threshold, so six thresholds see precision 1 whatever n/2n rounds to.
    labels = [1] * n + [-1] + [1] * n
    scores = -np.arange(len(labels))

    assert average_precision(scores, labels, "voc07") == pytest.approx((6 + 5 * 2 * n / (2 * n + 1)) / 11)


def test_every_tenth_is_met_exactly():
    # Ten positives, a negative behind each: threshold j/10 must see the precision at the j-th positive.
    labels = [1, -1] * 10
    expected = np.mean([1] + [j / (2 * j - 1) for j in range(1, 11)])

    assert average_precision(-np.arange(20), labels, "voc07") == pytest.approx(expected)


def test_precision_and_recall_after_each_sample():
    precision, recall = precision_recall(*ZIGZAG)

    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 1 / 2, 3 / 5])
    np.testing.assert_allclose(recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])


def test_one_point_for_each_distinct_score():
    precision, recall = precision_recall([0.9, 0.5, 0.5, 0.5, NAN, NAN], [1, 1, -1, 0, -1, 1])

    np.testing.assert_allclose(precision, [1, 2 / 3, 3 / 5])
    np.testing.assert_allclose(recall, [1 / 3, 2 / 3, 1])


# ---- against the devkit's steps --------------------------------------------------------------------


def slow_ap(scores, labels, metric):
    """VOCevalcls and VOCap of the development kit in plain loops, once per threshold in place of once per sample.

    2007: for t = 0:0.1:1, p = max(prec(rec >= t)), ap += p / 11.
    2010 on: mrec = [0; rec; 1], mpre = [0; prec; 0], mpre(i) = max(mpre(i), mpre(i + 1)) from the
    end; ap = sum of (mrec(i) - mrec(i - 1)) mpre(i) where mrec changes.
    """
    samples = [(-math.inf if math.isnan(s) else s, y) for s, y in zip(scores, labels, strict=True) if y != 0]
    n_positive = sum(y == 1 for _, y in samples)
    if n_positive == 0:
        return NAN
    precision, right = [], []
    for threshold in sorted({s for s, _ in samples}, reverse=True):
        accepted = [y for s, y in samples if s >= threshold]
        right.append(sum(y == 1 for y in accepted))
        precision.append(right[-1] / len(accepted))
    if metric == "voc07":
        total = 0.0
        for tenth in range(11):
            # In whole numbers, rec >= t is 10 * right >= tenth * n_positive.
            reached = [p for p, n in zip(precision, right, strict=True) if n * 10 >= tenth * n_positive]
            total += max(reached, default=0.0) / 11
        return total
    mrec, mpre = [0.0, *(n / n_positive for n in right), 1.0], [0.0, *precision, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1])


def devkit_ap_to_the_bit(scores, labels, metric):
    """The sums of numpy over all samples in their ranked order, without a word on ties."""
    right = np.asarray(labels)[np.argsort(-np.asarray(scores, float), kind="stable")] == 1
    n_right = np.cumsum(right)
    precision, recall = n_right / np.arange(1, len(right) + 1), n_right / n_right[-1]
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "voc07":
        return float(np.mean(envelope[np.searchsorted(recall, np.arange(11) / 10 - 1e-12)]))
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


# Few distinct scores, so that ties are common.
SAMPLES = st.lists(
    st.tuples(st.sampled_from([NAN, -1.0, 0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.sampled_from([-1, 0, 1])), max_size=40
)


@pytest.mark.parametrize("metric", ["voc07", "voc12"])
@given(samples=SAMPLES)
def test_same_as_slow_loops(metric, samples):
    scores, labels = [s for s, _ in samples], [y for _, y in samples]

    ours = average_precision(np.array(scores), np.array(labels, int), metric)

    assert ours == pytest.approx(slow_ap(scores, labels, metric), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("metric", ["voc07", "voc12"])
@given(labels=st.lists(st.sampled_from([-1, 1]), min_size=2, max_size=60), seed=st.integers(0, 9))
def test_distinct_scores_have_the_devkits_ap_to_the_last_digit(metric, labels, seed):
    scores = np.random.default_rng(seed).permutation(len(labels)) / 7
    if len(set(labels)) == 2:
        assert average_precision(scores, np.array(labels), metric) == devkit_ap_to_the_bit(scores, labels, metric)


@pytest.mark.parametrize("metric", ["voc07", "voc12"])
@given(samples=SAMPLES, seed=st.integers(0, 99))
def test_the_order_of_samples_changes_nothing(metric, samples, seed):
    # Ids and names of folders decide nothing but this order.
    scores, labels = np.array([s for s, _ in samples]), np.array([y for _, y in samples], int)
    order = np.random.default_rng(seed).permutation(len(samples))

    before, after = (average_precision(s, y, metric) for s, y in ((scores, labels), (scores[order], labels[order])))

    np.testing.assert_equal(after, before)


@given(seed=st.integers(0, 99))
def test_the_order_of_pictures_and_classes_changes_no_ap(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 4, (30, 5)) / 4, rng.choice([-1, 0, 1], (30, 5))
    pictures, classes = rng.permutation(30), rng.permutation(5)

    mean, each = mean_average_precision(scores, labels, "voc12")
    mean_after, after = mean_average_precision(scores[pictures][:, classes], labels[pictures][:, classes], "voc12")

    np.testing.assert_equal(after, each[classes])
    assert mean_after == pytest.approx(mean)


@given(SAMPLES)
def test_a_rising_change_of_scores_changes_nothing(samples):
    scores, labels = np.array([s for s, _ in samples]), np.array([y for _, y in samples], int)

    before, after = average_precision(scores, labels), average_precision(np.exp(3 * scores) + 7, labels)

    assert after == pytest.approx(before, nan_ok=True)


# ---- against scikit-learn --------------------------------------------------------------------------
# Its curve has one point per distinct score, as here. Its AP is the sum of (recall step) x (precision),
# without interpolation: it meets `voc12` where the precision falls from one threshold to the next by
# itself; elsewhere it is never higher.


@given(samples=SAMPLES)
def test_voc12_is_the_area_under_scikit_learns_curve_made_monotone(samples):
    scores = np.array([-9.0 if math.isnan(s) else s for s, y in samples if y])
    positive = np.array([y == 1 for _, y in samples if y])
    if not positive.any():
        return

    precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=False)

    area = -np.sum(np.diff(recall) * np.maximum.accumulate(precision[:-1]))  # from recall 1 down to 0
    assert average_precision(scores, np.where(positive, 1, -1)) == pytest.approx(area)


@given(samples=SAMPLES)
def test_scikit_learn_is_never_higher(samples):
    scores = np.array([-9.0 if math.isnan(s) else s for s, y in samples if y])
    positive = np.array([y == 1 for _, y in samples if y])
    if not positive.any():
        return

    assert average_precision(scores, np.where(positive, 1, -1)) >= average_precision_score(positive, scores) - 1e-12


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_meets_scikit_learn_where_precision_is_monotone(extra):
    # One positive, then ever more negatives before the next one: precision falls at every positive.
    labels, gap = [], 0
    for more in extra:
        labels += [-1] * gap + [1]
        gap += 1 + more
    scores = -np.arange(len(labels), dtype=float)
    at_positives = precision_recall(scores, np.array(labels))[0][np.array(labels) == 1]
    assert (np.diff(at_positives) < 0).all()

    expected = average_precision_score(np.array(labels) == 1, scores)

    assert average_precision(scores, np.array(labels), "voc12") == pytest.approx(expected)


def test_differs_from_scikit_learn_where_precision_rises():
    assert average_precision(*LATE) == pytest.approx(2 / 3)
    assert average_precision_score([0, 1, 1], LATE[0]) == pytest.approx((1 / 2 + 2 / 3) / 2)


# ---- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "labels", "metric", "message"),
    [
        pytest.param([1, 2], [1], "voc12", r"equally long, got \(2,\) and \(1,\)", id="lengths"),
        pytest.param([[1], [2]], [[1], [1]], "voc12", r"must be 1-d .* got \(2, 1\)", id="two axes"),
        pytest.param(1.0, 1, "voc12", r"must be 1-d", id="no axis"),
        pytest.param([1, 2], [1, 2], "voc12", r"labels must be -1, 0 or 1, got \[2\]", id="label 2"),
        pytest.param([1, 2], [True, 0.5], "voc07", r"labels must be -1, 0 or 1, got \[0\.5\]", id="label of a half"),
        pytest.param([1, 2], [1, NAN], "voc07", r"labels must be -1, 0 or 1, got \[nan\]", id="label NaN"),
        pytest.param([1, 2], [1, -1], "voc2012", "metric must be one of voc07, voc12, got 'voc2012'", id="metric"),
    ],
)
def test_refused(scores, labels, metric, message):
    with pytest.raises(ValueError, match=message):
        average_precision(scores, labels, metric)


# ---- the mean --------------------------------------------------------------------------------------


def test_the_mean_leaves_out_classes_without_a_positive():
    scores = np.array([[3, 3, 1], [2, 2, 2], [1, 1, 3]])
    labels = np.array([[1, -1, 1], [-1, -1, -1], [-1, 0, -1]])

    mean, each = mean_average_precision(scores, labels, "voc12")

    np.testing.assert_allclose(each, [1, NAN, 1 / 3])
    assert mean == pytest.approx(2 / 3)


def test_no_class_at_all_has_no_mean():
    mean, each = mean_average_precision(np.ones((2, 2)), -np.ones((2, 2), int), "voc07")

    assert math.isnan(mean) and np.isnan(each).all()
