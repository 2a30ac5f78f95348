"""Fit the codebook of Fisher vectors: principal components, then a mixture of Gaussians."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from pipeline.io.errors import DatasetError
from pipeline.trunk.fisher.descriptors import CHANNELS, describe
from pipeline.trunk.fisher.trunk import PLACE_GAIN
from pipeline.trunk.settings import FisherSettings

ROUNDS = 60
"""Maximum iterations of the mixture; later ones change nothing that matters to a classifier."""
LEAST_VARIANCE = 1e-3
"""Of a Gaussian along each axis, where 1 is that of all descriptors: none shrinks to a few of them."""
SAMPLES_PER_WORD = 10


def choose_windows(n_windows: int, settings: FisherSettings) -> np.ndarray:
    """Choose the windows that are described: rising indices, all or a seeded sample."""
    order = np.random.default_rng(settings.seed).permutation(n_windows)
    return np.sort(order[: settings.windows])


@torch.inference_mode()
def sample_descriptors(
    pictures: Iterable[np.ndarray], settings: FisherSettings
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw a seeded sample of each picture's descriptors.

    Parameters
    ----------
    pictures : uint8 ndarrays of shape (px, px, 3), RGB

    Returns
    -------
    rows : by kind of descriptor, float32 ndarray of shape (n, columns)
    places : float32 ndarray of shape (n, 2), x and y in -0.5..0.5
    """
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in CHANNELS}
    places = []
    for index, picture in enumerate(pictures):
        found, where = describe(torch.tensor(picture).permute(2, 0, 1).float() / 255)
        rng = np.random.default_rng([settings.seed, index])
        chosen = np.sort(rng.choice(len(where), min(settings.samples, len(where)), replace=False))
        for kind in CHANNELS:
            rows[kind].append(found[kind].numpy()[chosen])
        places.append(where.numpy()[chosen])
    return {kind: np.concatenate(parts) for kind, parts in rows.items()}, np.concatenate(places)


def fit_book(rows: np.ndarray, places: np.ndarray, settings: FisherSettings) -> dict[str, Tensor]:
    """Fit components of deviation 1, and a mixture over them and the places.

    Parameters
    ----------
    rows : float32 ndarray of shape (n, columns)
    places : float32 ndarray of shape (n, 2)

    Returns
    -------
    float32 tensors by the names of the buffers of `Codebook`
    """
    # Imported here, as the import takes a second and most commands do not need it.
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    # One thread: several would add up in an order that differs from run to run.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        pca = PCA(settings.components, whiten=True, svd_solver="covariance_eigh").fit(rows.astype(np.float64))
        x = np.concatenate([pca.transform(rows.astype(np.float64)), PLACE_GAIN * places], 1)
        mixture = GaussianMixture(
            settings.words,
            covariance_type="diag",
            reg_covar=LEAST_VARIANCE,
            max_iter=ROUNDS,
            init_params="k-means++",
            random_state=settings.seed,
        ).fit(x)
    arrays = {
        "centre": pca.mean_,
        "components": pca.components_.T / np.sqrt(pca.explained_variance_),
        "weights": mixture.weights_,
        "means": mixture.means_,
        "deviations": np.sqrt(mixture.covariances_),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for name, array in arrays.items()}


def fit_codebooks(pictures: Iterable[np.ndarray], settings: FisherSettings) -> dict[str, Tensor]:
    """Fit the tensors of a `FisherNetwork`, by name, from pictures alone; labels and boxes are not used.

    Parameters
    ----------
    pictures : uint8 ndarrays of shape (px, px, 3), RGB

    Raises
    ------
    DatasetError
        Too few descriptors for so many words.
    """
    rows, places = sample_descriptors(pictures, settings)
    needed = SAMPLES_PER_WORD * max(settings.words, settings.components)
    if len(places) < needed:
        raise DatasetError(
            f"{len(places):,} descriptors for {settings.words} words of {settings.components} components, at least "
            f"{needed:,} are needed; give more --samples, or fewer --words"
        )
    state = {}
    for kind in CHANNELS:
        for name, tensor in fit_book(rows[kind], places, settings).items():
            state[f"books.{kind}.{name}"] = tensor
    return state
