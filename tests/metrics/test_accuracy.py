"""Accuracy of pictures that show one class each: by hand, and without a say of names or order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.accuracy import measure_confusion, shows_one_class

NAN = float("nan")


def one_of(classes, n_classes=3):
    return np.where(np.arange(n_classes) == np.array(classes)[:, None], 1, -1)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param(one_of([0, 2, 1]), True, id="one each"),
        pytest.param([[1, 1, -1]], False, id="two"),
        pytest.param([[-1, -1, -1]], False, id="none"),
        pytest.param([[1, 0, -1]], False, id="another may be there"),
        pytest.param([[1], [1]], False, id="a single class"),
        pytest.param(np.zeros((0, 3)), False, id="no picture"),
    ],
)
def test_where_accuracy_says_something(labels, expected):
    assert shows_one_class(np.array(labels)) is expected


def test_by_hand():
    scores = np.array(
        [[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.5, 0.5, 0.1], [0, 0.1, 0.2], [NAN, NAN, NAN], [NAN, 0.1, NAN]]
    )

    found = measure_confusion(scores, one_of([0, 0, 1, 2, 2, 1]))

    assert found.counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found.undecided.tolist() == [0, 1, 1]
    assert found.accuracy == pytest.approx(3 / 6)
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)


def test_classes_without_a_picture_do_not_count_and_some_are_no_answer():
    found = measure_confusion(np.array([[3, 2, 1], [1, 2, 3]]), one_of([1, 2]), np.array([False, True, True]))

    assert found.counts.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert (found.accuracy, found.balanced_accuracy) == (1, 1)


@given(st.integers(0, 99))
def test_neither_names_nor_order_decide_anything(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, (20, 4)).astype(float), one_of(rng.integers(0, 4, 20), 4)
    pictures, classes = rng.permutation(20), rng.permutation(4)

    before = measure_confusion(scores, labels)
    after = measure_confusion(scores[pictures][:, classes], labels[pictures][:, classes])

    np.testing.assert_array_equal(after.counts, before.counts[classes][:, classes])
    assert (after.accuracy, after.balanced_accuracy) == pytest.approx((before.accuracy, before.balanced_accuracy))


def test_refused_where_a_picture_shows_two():
    with pytest.raises(ValueError, match="exactly one|one positive class"):
        measure_confusion(np.zeros((1, 2)), np.ones((1, 2), int))
