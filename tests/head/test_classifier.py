"""The classifier for scikit-learn: its own checks of estimators, and agreement with the heads of the commands."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pipeline
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import HeadSettings

SMALL = pipeline.HeadClassifier(hidden=(16,), random_state=0)


@parametrize_with_checks([SMALL])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 60)
    return rng.normal(0, 1, (180, 6)) + 3 * np.eye(3, 6)[y], np.array(["cat", "dog", "fish"])[y]


def test_it_learns_and_gives_probabilities(blobs):
    X, y = blobs
    head = clone(SMALL).fit(X, y)
    probabilities = head.predict_proba(X)
    assert head.score(X, y) > 0.9
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (head.classes_[probabilities.argmax(1)] == head.predict(X)).all()
    assert [epoch["rate"] for epoch in head.epochs_] == sorted((e["rate"] for e in head.epochs_), reverse=True)


def test_probabilities_are_those_of_the_network_in_float64(blobs):
    X, y = blobs
    head = clone(SMALL).fit(X, y)
    state = {name: tensor.double().numpy() for name, tensor in head.network_.state_dict().items()}
    hidden = (X.astype(np.float32).astype(float) - state["mean"]) * state["inv_std"]
    hidden = np.maximum(hidden @ state["layers.1.weight"].T + state["layers.1.bias"], 0)
    logits = hidden @ state["layers.4.weight"].T + state["layers.4.bias"]
    expected = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(head.predict_proba(X), expected / expected.sum(1, keepdims=True), atol=1e-9)
    assert isinstance(head.network_, HeadNetwork)


def test_same_seed_same_probabilities_and_it_can_be_pickled(blobs):
    X, y = blobs
    one, other = clone(SMALL).fit(X, y), clone(SMALL).fit(X, y)
    assert np.array_equal(one.predict_proba(X), other.predict_proba(X))
    assert np.array_equal(pickle.loads(pickle.dumps(one)).predict_proba(X), one.predict_proba(X))
    third = clone(SMALL).set_params(random_state=1).fit(X, y)
    assert not np.array_equal(one.predict_proba(X), third.predict_proba(X))


def test_it_goes_where_classifiers_go(blobs):
    X, y = blobs
    search = GridSearchCV(
        make_pipeline(StandardScaler(), clone(SMALL)), {"headclassifier__hidden": [(), (8,)]}, cv=2
    ).fit(X, y)
    assert search.best_score_ > 0.8


def test_wrong_settings_are_refused(blobs):
    with pytest.raises(ValueError, match="rates"):
        pipeline.HeadClassifier(rates=(0.1, 0.01)).fit(*blobs)
    assert HeadSettings().rates == pipeline.HeadClassifier().rates
