"""Fisher vectors against loops, a derivative and another library; and the laws that they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.feature import fisher_vector
from sklearn.mixture import GaussianMixture

from pipeline.trunk.fisher.trunk import fisher_gradients, normalise_fisher, posteriors


def draw_mixture(words=5, columns=4, seed=0):
    """Weights, means and deviations, float64."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(words, 3.0))
    means = rng.normal(size=(words, columns))
    return tuple(map(torch.from_numpy, (weights, means, rng.uniform(0.4, 1.5, (words, columns)))))


def draw_descriptors(n=40, columns=4, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, columns)))


def as_sklearn(weights, means, deviations):
    """The same mixture as scikit-learn's."""
    mixture = GaussianMixture(len(weights), covariance_type="diag")
    mixture.weights_, mixture.means_ = weights.numpy(), means.numpy()
    mixture.covariances_, mixture.precisions_cholesky_ = deviations.numpy() ** 2, 1 / deviations.numpy()
    return mixture


def slow_gradients(x, weights, means, deviations):
    """The formulas of Perronnin et al. (2010), one number at a time."""
    n, words, columns = len(x), len(weights), x.shape[1]
    out = np.zeros((2, words, columns))
    for row in x.tolist():
        density = []
        for k in range(words):
            value = weights[k].item()
            for d in range(columns):
                z = (row[d] - means[k, d].item()) / deviations[k, d].item()
                value *= math.exp(-z * z / 2) / (deviations[k, d].item() * math.sqrt(2 * math.pi))
            density.append(value)
        for k in range(words):
            share = density[k] / sum(density)
            for d in range(columns):
                z = (row[d] - means[k, d].item()) / deviations[k, d].item()
                out[0, k, d] += share * z / (n * math.sqrt(weights[k].item()))
                out[1, k, d] += share * (z * z - 1) / (n * math.sqrt(2 * weights[k].item()))
    return out


def test_gradients_are_those_of_the_loops():
    x, mixture = draw_descriptors(), draw_mixture()
    assert np.allclose(fisher_gradients(x, *mixture).numpy(), slow_gradients(x, *mixture), rtol=1e-9, atol=1e-12)


def test_gradients_are_derivatives_of_the_likelihood():
    x, (weights, means, deviations) = draw_descriptors(), draw_mixture()
    means.requires_grad_()
    deviations.requires_grad_()
    log_density = torch.distributions.Normal(means, deviations).log_prob(x[:, None]).sum(2) + weights.log()
    log_density.logsumexp(1).mean().backward()
    expected = torch.stack([means.grad, deviations.grad / math.sqrt(2)]) * deviations / weights.sqrt()[:, None]
    assert torch.allclose(fisher_gradients(x, weights, means, deviations), expected, atol=1e-12)


def test_vectors_are_those_of_scikit_image():
    x, mixture = draw_descriptors(), draw_mixture()
    theirs = fisher_vector(x.numpy(), as_sklearn(*mixture))
    by_means, by_deviations = fisher_gradients(x, *mixture).flatten(1).numpy()
    # It puts gradients by the weights in front, and counts those by deviations downwards.
    assert np.allclose(theirs[5:], np.concatenate([by_means, -by_deviations]), atol=1e-12)
    improved = fisher_vector(x.numpy(), as_sklearn(*mixture), improved=True)[5:]
    ours = normalise_fisher(fisher_gradients(x, *mixture)).numpy()
    signs = np.repeat([1, -1], len(ours) // 2)
    assert np.allclose(signs * improved / np.linalg.norm(improved), ours, atol=1e-9)


def test_posteriors_are_those_of_scikit_learn():
    x, mixture = draw_descriptors(), draw_mixture()
    share = posteriors(x, *mixture)
    assert torch.allclose(share.sum(1), torch.ones(40, dtype=torch.float64))
    assert np.allclose(share.numpy(), as_sklearn(*mixture).predict_proba(x.numpy()), atol=1e-12)


def test_a_descriptor_far_from_every_word_is_still_shared_out():
    share = posteriors(torch.full((1, 4), 1e4, dtype=torch.float64), *draw_mixture())
    assert torch.isfinite(share).all()
    assert share.sum() == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 4))
def test_neither_order_nor_repetition_matters(seed, n, times):
    x, mixture = draw_descriptors(n, seed=seed), draw_mixture(seed=seed + 1)
    order = np.random.default_rng(seed).permutation(n)
    once, again = fisher_gradients(x, *mixture), fisher_gradients(x[order].repeat(times, 1), *mixture)
    assert torch.allclose(once, again, atol=1e-10)


def test_descriptors_as_the_mixture_has_them_say_nothing():
    weights, means, deviations = draw_mixture()
    rng = np.random.default_rng(0)
    word = rng.choice(5, 200_000, p=weights.numpy())
    x = torch.from_numpy(rng.normal(means.numpy()[word], deviations.numpy()[word]))
    usual, other = (
        fisher_gradients(x, weights, means, deviations),
        fisher_gradients(x + 0.4, weights, means, deviations),
    )
    assert usual.abs().max() < 0.02 < 0.1 < other.abs().max()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(0.01, 100))
def test_normalised_vectors_keep_signs_and_forget_size(values, gain):
    gradients = torch.tensor(values, dtype=torch.float64)
    flat = normalise_fisher(gradients)
    large = gradients.abs() > 1e-200
    assert (flat.sign() == gradients.sign())[large].all()
    if large.any():
        assert flat.norm() == pytest.approx(1)
        assert torch.allclose(normalise_fisher(gain * gradients), flat)
        # Square roots: four times the gradient is twice the value.
        assert torch.allclose(flat**2 * gradients.abs().sum(), gradients.abs())
    else:
        assert torch.isfinite(flat).all()
