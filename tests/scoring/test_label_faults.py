"""Contradicted labels against the rule written out, and against cleanlab where it is installed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scoring.label_faults import FEWEST, find_faults, to_probabilities


def draw_class(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of which some are wrong, some difficult and some without a score."""
    rng = np.random.default_rng(seed)
    shown = rng.random(n) < rng.uniform(0.2, 0.8)
    odds = np.where(shown, 1.5, -1.5) + rng.normal(0, 1.5, n)
    labels = np.where(shown ^ (rng.random(n) < 0.1), 1, -1).astype(np.int8)
    labels[:2], labels[2:4] = 1, -1
    return 1 / (1 + np.exp(-odds)), labels


def slow_faults(probability, labels) -> dict[int, float]:
    """Index and margin, picture by picture."""
    counted = [i for i in range(len(labels)) if labels[i] != 0 and not np.isnan(probability[i])]
    with_it = np.mean([probability[i] for i in counted if labels[i] == 1])
    without = np.mean([1 - probability[i] for i in counted if labels[i] == -1])
    found = {}
    for i in counted:
        other, given_, threshold = (
            (1 - probability[i], probability[i], without)
            if labels[i] == 1
            else (probability[i], 1 - probability[i], with_it)
        )
        if other >= threshold and other > given_:
            found[i] = other - given_
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_faults_as_by_the_rule_written_out(seed):
    probability, labels = draw_class(seed)
    labels[5], probability[6] = 0, np.nan

    found = find_faults(probability, labels)

    expected = slow_faults(probability, labels)
    assert set(found.picture.tolist()) == set(expected)
    np.testing.assert_allclose(found.margin, [expected[i] for i in found.picture.tolist()])
    assert (np.diff(found.margin) <= 0).all() and (found.margin > 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_faults_are_those_of_cleanlab(seed):
    find_label_issues = pytest.importorskip("cleanlab.filter").find_label_issues
    probability, labels = draw_class(seed)

    theirs = find_label_issues(
        (labels == 1).astype(int),
        np.stack([1 - probability, probability], axis=1),
        filter_by="confident_learning",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )

    assert find_faults(probability, labels).picture.tolist() == theirs.tolist()


def test_a_class_without_both_kinds_of_pictures_is_refused():
    with pytest.raises(ValueError, match="with the label, and without it"):
        find_faults(np.array([0.2, 0.3]), np.array([1, 0]))
    with pytest.raises(ValueError, match=f"4 pictures with the label and 9 without, expected {FEWEST}"):
        to_probabilities(np.arange(13.0), np.repeat([1, -1], [4, 9]))


@pytest.mark.parametrize("seed", range(5))
def test_probabilities_are_those_of_a_regression_on_platts_targets(seed):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(80) < 0.3, 1, -1).astype(np.int8)
    scores = labels + rng.normal(0, 1.5, 80)
    labels[3], scores[4] = 0, np.nan

    got = to_probabilities(scores, labels)

    # A soft target is two weighted pictures, one of each label.
    counted = (labels != 0) & ~np.isnan(scores)
    positive, x = labels[counted] == 1, scores[counted][:, None]
    n, m = positive.sum(), (~positive).sum()
    target = np.where(positive, (n + 1) / (n + 2), 1 / (m + 2))
    regression = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000)
    regression.fit(
        np.concatenate([x, x]), np.repeat([1, 0], len(x)), sample_weight=np.concatenate([target, 1 - target])
    )
    usable = ~np.isnan(scores)
    np.testing.assert_allclose(got[usable], regression.predict_proba(scores[usable][:, None])[:, 1], atol=1e-4)
    assert np.isnan(got[4])


def test_probabilities_of_scores_that_separate_labels_are_platts_targets():
    labels = np.repeat(np.array([1, -1], np.int8), 10)

    apart = to_probabilities(np.repeat([50.0, -50.0], 10), labels)

    np.testing.assert_allclose(apart, np.repeat([11 / 12, 1 / 12], 10), atol=1e-6)
    assert len(find_faults(apart, labels).picture) == 0


@pytest.mark.parametrize("scores", [np.zeros(20), np.repeat([-1.0, 1.0], 10)], ids=["even", "falling"])
def test_scores_that_say_nothing_of_a_label_judge_nothing(scores):
    with pytest.raises(ValueError, match="do not rise with the label"):
        to_probabilities(scores, np.repeat(np.array([1, -1], np.int8), 10))
