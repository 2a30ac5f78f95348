"""Ensembles: better than their members, whatever the members' scales; a stack against its ablations."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.average_precision import mean_average_precision
from pipeline.scoring.ensemble import COSTS, FOLDS, fit_stack, mean_rank

N_CLASSES = 4


def drawn(n: int, seed: int, noise_of: tuple[float, float] = (1.6, 0.8)) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels, and two scorers with noise of their own, on scales that have nothing in common."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((n, N_CLASSES)) < 0.2, 1, -1)
    weak, strong = (1.5 * (labels == 1) + rng.normal(0, d, labels.shape) for d in noise_of)
    # As fifth powers of odds, and as margins of any size.
    return labels, [(1 / (1 + np.exp(-weak))) ** 5, 40 * strong - 300]


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 1]).normal(size=(n, N_CLASSES))


def measure(scores: np.ndarray, labels: np.ndarray) -> float:
    return mean_average_precision(scores, labels, "voc12")[0]


@pytest.fixture(scope="module")
def held_out():
    return drawn(250, 0)


@pytest.fixture(scope="module")
def shown():
    return drawn(1500, 1)


@pytest.fixture(scope="module")
def stack(held_out):
    return fit_stack(held_out[1], held_out[0])


# ---- mean rank -------------------------------------------------------------------------------------


def test_the_mean_rank_of_two_equals_beats_both():
    labels, members = drawn(1500, 1, (1.2, 1.2))

    assert measure(mean_rank(members), labels) > max(measure(m, labels) for m in members) + 0.05


@pytest.mark.parametrize(
    ("members", "expect"),
    [
        pytest.param([[1, 2, 3]], [0, 0.5, 1], id="one member"),
        pytest.param([[1, 2, 3], [30, 20, 10]], [0.5, 0.5, 0.5], id="they contradict each other"),
        pytest.param([[5, 5, 9, 1]], [0.5, 0.5, 1, 0], id="ties share their mean rank"),
        pytest.param([[np.nan, -9, 4]], [np.nan, 0.5, 1], id="no score from any"),
        pytest.param([[np.nan, -9, 4], [3, 1, 2]], [0.5, 0.25, 0.75], id="no score from one ranks last"),
        pytest.param([[7]], [0], id="one picture"),
    ],
)
def test_ranks_by_hand(members, expect):
    ours = mean_rank([np.array(m, float)[:, None] for m in members])

    np.testing.assert_allclose(ours[:, 0], expect)


def rank_slowly(values: np.ndarray) -> np.ndarray:
    return np.array([((values < v).sum() + (values <= v).sum() - 1) / 2 for v in values]) / max(1, len(values) - 1)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_same_as_counting(seed, n):
    members = np.random.default_rng(seed).integers(-3, 3, (3, n, 2)).astype(float)

    ours = mean_rank(list(members))

    for c in range(2):
        np.testing.assert_allclose(ours[:, c], np.mean([rank_slowly(m[:, c]) for m in members], 0))
    # Ranks do not know the scale.
    np.testing.assert_allclose(mean_rank([np.exp(members[0]), members[1] * 7 - 100, members[2] ** 3]), ours)


# ---- stack -----------------------------------------------------------------------------------------


def test_a_stack_of_two_beats_both_and_their_mean_rank(stack, shown):
    labels, members = shown

    stacked = measure(stack.apply(members), labels)

    assert stacked > max(measure(m, labels) for m in members) + 0.01
    assert stacked > measure(mean_rank(members), labels) + 0.01  # the better member counts for more


def test_a_stack_learns_to_ignore_noise(held_out, stack, shown):
    labels, members = shown
    with_noise = fit_stack([*held_out[1], noise(250, 0)], held_out[0])

    stacked = measure(with_noise.apply([*members, noise(1500, 1)]), labels)

    assert stacked == pytest.approx(measure(stack.apply(members), labels), abs=0.01)
    assert stacked > measure(mean_rank([*members, noise(1500, 1)]), labels) + 0.05
    weights = np.array(with_noise.facts["weights"])[:, :3].mean(0)
    assert abs(weights[2]) < 0.15 * min(weights[:2])
    # The ablation: where it may not learn, noise weighs as much as the others.
    mean_only = fit_stack([*held_out[1], noise(250, 0)], held_out[0], costs=[1e-6])
    assert measure(mean_only.apply([*members, noise(1500, 1)]), labels) < stacked - 0.05


def test_labels_matter(held_out, shown):
    labels, members = shown
    shuffled = np.random.default_rng(0).permutation(held_out[0])

    lost = fit_stack(held_out[1], shuffled)

    assert measure(lost.apply(members), labels) < max(measure(m, labels) for m in members)


def test_the_scale_of_a_member_changes_nothing(held_out, stack, shown):
    _, (odds, margins) = shown
    as_log_odds = [np.log(held_out[1][0] / (1 - held_out[1][0])), held_out[1][1] * 0.01 + 5]

    other = fit_stack(as_log_odds, held_out[0])

    np.testing.assert_allclose(other.apply([np.log(odds / (1 - odds)), margins * 0.01 + 5]), stack.apply(shown[1]))
    assert (stack.facts["log_odds_taken"], other.facts["log_odds_taken"]) == ([True, False], [False, False])


def test_a_single_member_keeps_its_order(held_out, shown):
    labels, (odds, _) = shown

    alone = fit_stack([held_out[1][0]], held_out[0]).apply([odds])

    np.testing.assert_array_equal(np.argsort(alone, 0, "stable"), np.argsort(odds, 0, "stable"))


def test_the_constant_and_the_weights_are_log_odds(held_out, stack):
    """Held-out pictures get, on the mean over them, the share of positives: the regression's own law."""
    odds = 1 / (1 + np.exp(-stack.apply(held_out[1])))

    np.testing.assert_allclose(odds.mean(0), (held_out[0] == 1).mean(0), atol=1e-4)


def test_the_cost_is_the_best_of_cross_validation(stack):
    tried = stack.facts["cross_validated_mAP"]

    assert set(tried) == {f"{cost:g}" for cost in COSTS}
    assert tried[f"{stack.facts['C']:g}"] == max(tried.values())
    assert json.loads(json.dumps(stack.facts, allow_nan=False)) == stack.facts


def test_the_same_again_and_other_folds(held_out, stack, shown):
    again, other = fit_stack(held_out[1], held_out[0]), fit_stack(held_out[1], held_out[0], seed=1)

    np.testing.assert_array_equal(again.apply(shown[1]), stack.apply(shown[1]))
    assert again.facts == stack.facts
    assert other.facts["cross_validated_mAP"] != stack.facts["cross_validated_mAP"]


def test_a_class_with_too_few_positives_has_the_mean_rank(held_out, shown):
    labels = held_out[0].copy()
    labels[np.flatnonzero(labels[:, 1] == 1)[FOLDS - 1 :], 1] = -1
    labels[:, 3] = 1

    stack = fit_stack(held_out[1], labels)

    assert stack.facts["classes_by_mean_rank"] == [1, 3]
    assert [w is None for w in stack.facts["weights"]] == [False, True, False, True]
    ours = stack.apply(shown[1])
    np.testing.assert_array_equal(ours[:, [1, 3]], mean_rank(shown[1])[:, [1, 3]])
    assert np.isfinite(ours).all()


def test_no_class_with_enough_positives(shown):
    labels, members = shown

    stack = fit_stack([m[:6] for m in members], np.ones((6, N_CLASSES), int))

    assert stack.facts["C"] is None and stack.facts["classes_by_mean_rank"] == [0, 1, 2, 3]
    np.testing.assert_array_equal(stack.apply(members), mean_rank(members))


def test_difficult_pictures_are_not_learnt_from(held_out, stack, shown):
    labels, members = held_out
    lies = np.random.default_rng(9).random(labels.shape) < 0.5
    told = fit_stack(members, np.where(lies, -labels, labels))

    hidden = fit_stack(members, np.where(lies, 0, labels))

    good, bad = measure(stack.apply(shown[1]), shown[0]), measure(told.apply(shown[1]), shown[0])
    assert measure(hidden.apply(shown[1]), shown[0]) == pytest.approx(good, abs=0.02)
    assert bad < good - 0.05


def test_pictures_without_a_score(held_out, stack, shown):
    members = [m.copy() for m in shown[1]]
    members[0][0] = np.nan
    members[0][1] = members[1][1] = np.nan

    ours = stack.apply(members)

    assert np.isfinite(ours[0]).all() and np.isnan(ours[1]).all()
    np.testing.assert_array_equal(ours[2:], stack.apply(shown[1])[2:])
    missing = [m.copy() for m in held_out[1]]
    missing[0][:20] = np.nan
    assert np.isfinite(fit_stack(missing, held_out[0]).apply(shown[1])).all()


def test_odds_of_exactly_0_and_1(held_out, shown):
    rounded = [held_out[1][0].round(1), held_out[1][1]]
    assert (rounded[0] == 0).any()

    ours = fit_stack(rounded, held_out[0]).apply([np.clip(shown[1][0].round(1) * 2, 0, 1), shown[1][1]])

    assert np.isfinite(ours).all()


# ---- refused ---------------------------------------------------------------------------------------


def test_members_of_other_shapes(held_out, stack):
    labels, (odds, margins) = held_out
    for members in ([], [odds, margins[:-1]], [odds[:, 0]]):
        with pytest.raises(ValueError, match="of one shape"):
            mean_rank(members)
        with pytest.raises(ValueError, match="of one shape"):
            fit_stack(members, labels)
    with pytest.raises(ValueError, match="fitted on 2 members and 4 classes, got 1 and 4"):
        stack.apply([odds])
    with pytest.raises(ValueError, match=r"labels of shape \(250, 4\) expected"):
        fit_stack([odds], labels[:-1])
