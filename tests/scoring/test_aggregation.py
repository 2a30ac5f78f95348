"""Aggregations as values: read and written without loss, and applied to the scores that have them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.aggregation import JOINED, MAXIMUM, POOLED, Aggregation, select_applicable

WRITTEN = st.one_of(
    st.floats(1, 100),
    st.integers(1, 100),
    st.floats(1, 100).map(str),
    st.integers(1, 1000).map("top:{}".format),
    st.floats(0.1, 100).map("lme:{}".format),
    st.sampled_from(["max", "pooled"]),
)


@given(WRITTEN)
def test_what_is_written_is_read_again(value):
    aggregation = Aggregation.parse(value)
    stored = json.loads(json.dumps(aggregation.to_json()))

    assert Aggregation.parse(stored) == Aggregation.from_json(stored) == Aggregation.parse(aggregation) == aggregation
    assert isinstance(stored, float) == (aggregation.kind == "power")
    # One form in files: what was read from a file is written as it was.
    assert Aggregation.parse(stored).to_json() == stored
    if aggregation.kind != "power":
        assert stored == str(aggregation)


@pytest.mark.parametrize(
    ("value", "stored", "text"),
    [
        (5, 5.0, "5"),
        ("5", 5.0, "5"),
        (2.5, 2.5, "2.5"),
        (2.123456789, 2.123456789, "2.12346"),
        ("max", "max", "max"),
        ("top:20", "top:20", "top:20"),
        ("top:20.0", "top:20", "top:20"),
        ("lme:8", "lme:8", "lme:8"),
        ("lme:0.12345678", "lme:0.123457", "lme:0.123457"),
        ("pooled", "pooled", "pooled"),
    ],
)
def test_forms(value, stored, text):
    aggregation = Aggregation.parse(value)

    assert (aggregation.to_json(), str(aggregation)) == (stored, text)
    assert type(aggregation.to_json()) is type(stored)


@pytest.mark.parametrize(
    "value", [0.5, 101, "nan", "inf", True, None, "", "mean", "top", "top:0", "top:1.5", "top:1001", "lme:0.05"]
)
def test_no_aggregation(value):
    with pytest.raises(ValueError, match="must be a power in 1..100"):
        Aggregation.parse(value)


def test_joined_scores_are_in_files_and_not_in_settings():
    assert Aggregation.from_json(JOINED.to_json()) is JOINED
    with pytest.raises(ValueError, match="must be a power"):
        Aggregation.parse("joined")


@pytest.mark.parametrize(
    ("score_kind", "expect"),
    [
        ("softmax", ["5", "max", "top:2", "lme:4"]),
        ("logistic", ["5", "max", "top:2", "lme:4"]),
        ("log-odds", ["max", "top:2", "lme:4"]),
        ("pooled", ["pooled"]),
    ],
)
def test_which_scores_have_which(score_kind, expect):
    asked = [Aggregation.parse(value) for value in (5, "max", "top:2", "pooled", "lme:4")]

    assert [str(each) for each in select_applicable(score_kind, asked)] == expect
    assert not JOINED.applies_to(score_kind)


@given(st.lists(WRITTEN.map(Aggregation.parse).filter(lambda each: each is not POOLED), min_size=1), st.integers(0, 99))
def test_an_aggregate_lies_between_the_scores(aggregations, seed):
    scores = np.random.default_rng(seed).random((2, 7, 3))

    for aggregation in aggregations:
        # A power k gives a mean of k-th powers: its k-th root lies between the scores.
        root = aggregation.amount if aggregation.kind == "power" else 1
        values = aggregation.apply(scores) ** (1 / root)
        assert (scores.min(1) - 1e-9 <= values).all() and (values <= MAXIMUM.apply(scores) + 1e-9).all()


@pytest.mark.parametrize("aggregation", [POOLED, JOINED])
def test_no_function_of_patch_scores(aggregation):
    with pytest.raises(ValueError, match="is no aggregation of patch scores"):
        aggregation.apply(np.zeros((1, 1, 1)))


def test_every_kind_has_words():
    for value in (5, "max", "top:20", "lme:8", "pooled"):
        assert Aggregation.parse(value).in_words().endswith(".")
    assert "mean of its 20 highest" in Aggregation.parse("top:20").in_words()
