"""Orderless encodings of rows: how the rows of a picture deviate from usual ones, scale by scale.

Sources: Jegou et al. (CVPR 2010) for VLAD; Gong, Wang, Guo and Lazebnik, "Multi-scale orderless pooling of deep
convolutional activation features" (ECCV 2014), for VLAD of principal components of activations, level by level;
Perronnin, Sanchez and Mensink (ECCV 2010) for Fisher vectors, the signed square root and the length.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.activations.pooling import PooledRows, join_pooled
from pipeline.head.networks import SCORED_ROWS
from pipeline.head.svm_settings import VladSettings
from pipeline.head.task import Columns
from pipeline.trunk.fisher.codebook import LEAST_VARIANCE, ROUNDS
from pipeline.trunk.fisher.trunk import gradients_of_moments, normalise_fisher, posteriors

N_SCALES = 256
"""Scales that a row can be of: its index is uint8."""
WORDS_OF_ROWS = 10
"""Rows of the sample per word at the least; with fewer there are fewer words."""


class Codebook(nn.Module):
    """Components of rows, and the words of each level.

    Parameters
    ----------
    width : columns of a row
    settings : VladSettings
    shape : numbers of levels, words and components

    Attributes
    ----------
    level : int64 Tensor (N_SCALES,), the level of each scale
    centre, components : float32 Tensors (width,) and (width, n_components)
    means : float32 Tensor (n_levels, n_words, n_components)
    weights, deviations : of Gaussians: (n_levels, n_words) and as `means`; without `settings.encoding` fisher, empty
    """

    level: Tensor
    centre: Tensor
    components: Tensor
    means: Tensor
    weights: Tensor
    deviations: Tensor

    def __init__(self, width: int, settings: VladSettings, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.width, self.settings = width, settings
        n_levels, n_words, n_components = shape
        self.register_buffer("level", torch.zeros(N_SCALES, dtype=torch.int64))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("components", torch.zeros(width, n_components))
        self.register_buffer("means", torch.zeros(shape))
        gaussian = n_levels if settings.encoding == "fisher" else 0
        self.register_buffer("weights", torch.zeros(gaussian, n_words))
        self.register_buffer("deviations", torch.ones(gaussian, n_words, n_components))

    @property
    def n_columns(self) -> int:
        """Columns of a picture's vector: of each level its encoding and its pooled rows."""
        encoded = self.means.numel() * (2 if self.settings.encoding == "fisher" else 1)
        return encoded + len(self.means) * self.width * len(self.settings.pooling)

    def project(self, rows: Tensor) -> Tensor:
        """Compute components, float64 (n, n_components), of rows (n, width), each scaled to length 1."""
        return torch.cat([self._project(chunk) for chunk in rows.split(SCORED_ROWS)])

    def _project(self, rows: Tensor) -> Tensor:
        return ((unit_rows(rows) - self.centre) @ self.components).double()

    def shares(self, x: Tensor, level: int) -> Tensor:
        """Compute how much each row counts for each word of a level: float64 (n, n_words), each row of sum 1.

        Parameters
        ----------
        x : float64 Tensor (n, n_components)
        """
        means = self.means[level].double()
        if self.settings.encoding == "fisher":
            return posteriors(x, self.weights[level].double(), means, self.deviations[level].double())
        nearest = (x @ means.T - means.square().sum(1) / 2).argmax(1)
        return nn.functional.one_hot(nearest, len(means)).double()

    def encode(self, moments: Sequence[Tensor], n_rows: float, level: int) -> Tensor:
        """Compute the vector of a level, float32, of length 1; zeros for a level without rows.

        Parameters
        ----------
        moments : float64, sums over rows of the shares (n_words,), and of shares times x and x**2
        """
        means = self.means[level].double()
        zeroth, first, second = (moment / max(n_rows, 1) for moment in moments)
        if self.settings.encoding == "fisher":
            weights, deviations = self.weights[level].double(), self.deviations[level].double()
            vector = gradients_of_moments(zeroth, first, second, weights, means, deviations)
        else:
            vector = first - zeroth[:, None] * means
        return normalise_fisher(vector).float()


def unit_rows(rows: Tensor) -> Tensor:
    """Scale rows to length 1, in float32; a zero row stays zero."""
    return nn.functional.normalize(rows.float(), dim=1, eps=1e-30)


class EncodedPictures:
    """Encode the pictures of a range, each once its rows have arrived; memory holds the sums of one picture.

    Parameters
    ----------
    book : Codebook
    pictures : the range
    """

    COLUMN = "encoded"

    def __init__(self, book: Codebook, pictures: range) -> None:
        self._book, self._pictures, self._pooling = book, pictures, book.settings.pooling
        self._vectors = np.full((len(pictures), book.n_columns), np.nan, np.float32)
        self._begin(-1)

    def _begin(self, index: int) -> None:
        n_levels, n_words, n_components = self._book.means.shape
        shapes = (n_words,), (n_words, n_components), (n_words, n_components)
        self._at = index
        self._n_rows = np.zeros(n_levels)
        self._moments = [[torch.zeros(shape, dtype=torch.float64) for shape in shapes] for _ in range(n_levels)]
        self._pooled = [PooledRows(1, self._book.width, self._pooling) for _ in range(n_levels) if self._pooling]

    @torch.inference_mode()
    def add_scaled(self, rows: np.ndarray, picture: np.ndarray, scale: np.ndarray) -> None:
        """Add float16 rows (n, width) of pictures (n,), rising, and of scales (n,)."""
        if not len(rows):
            return
        inside = slice(*np.searchsorted(picture, [self._pictures.start, self._pictures.stop]))
        # All rows, also those of other pictures: a product of fewer rows may have other last bits.
        x = self._book.project(torch.from_numpy(rows))
        level = self._book.level.numpy()[scale]
        own = np.zeros(len(rows), bool)
        own[inside] = True
        found = []
        for index in range(len(self._n_rows)):
            of_level = np.flatnonzero(level == index)
            share = self._book.shares(x[of_level], index)
            kept = np.flatnonzero(own[of_level])
            chosen = of_level[kept]
            found.append((picture[chosen] - self._pictures.start, chosen, x[chosen], share[kept]))
        for number in np.unique(picture[inside] - self._pictures.start).tolist():
            if number != self._at:
                self._end()
                self._begin(number)
            for index, (of_row, chosen, values, share) in enumerate(found):
                here = slice(*np.searchsorted(of_row, [number, number + 1]))
                self._sum(index, values[here], share[here])
                if self._pooling:
                    self._pooled[index].add(rows[chosen[here]], np.zeros(len(chosen[here]), np.int64))

    def _sum(self, level: int, x: Tensor, share: Tensor) -> None:
        self._n_rows[level] += len(x)
        for total, of_rows in zip(self._moments[level], (share.sum(0), share.T @ x, share.T @ x.square()), strict=True):
            total += of_rows

    @torch.inference_mode()
    def _end(self) -> None:
        """Encode the picture at which the sums are."""
        if self._at < 0:
            return
        levels = enumerate(zip(self._moments, self._n_rows, strict=True))
        vectors = [self._book.encode(moments, n, index).numpy() for index, (moments, n) in levels]
        for pooled in self._pooled:
            (joined,) = join_pooled(pooled.result(), self._book.settings.normalise)
            vectors.append(np.nan_to_num(joined))  # of a level without rows
        self._vectors[self._at] = np.concatenate(vectors)

    def columns(self) -> Columns:
        """Return the vectors: float32 ndarray (n_pictures, n_columns); NaN for a picture without rows."""
        self._end()
        return {self.COLUMN: self._vectors}


def fit_codebook(book: Codebook, rows: np.ndarray, level: np.ndarray, seed: int) -> None:
    """Learn components and words from a sample of rows.

    Parameters
    ----------
    rows : float16 ndarray (n, width)
    level : int64 ndarray (n,), of each row
    """
    # Imported here, as the import takes a second and most commands do not need it.
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    fisher = book.settings.encoding == "fisher"
    n_levels, n_words, n_components = book.means.shape
    # One thread: several would add up in an order that differs from run to run.
    # Rows that are all equal have no variance, and scikit-learn divides by it for a ratio that nothing uses.
    with threadpool_limits(1), warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        unit = torch.cat([unit_rows(chunk) for chunk in torch.from_numpy(rows).split(SCORED_ROWS)]).numpy()
        pca = PCA(n_components, svd_solver="randomized", random_state=seed).fit(unit)
        # So that deviations are near 1, as `LEAST_VARIANCE` takes them to be.
        variance = pca.explained_variance_
        gain = np.sqrt(np.maximum(variance, max(1e-6 * variance.max(), 1e-12))) if fisher else 1.0
        book.centre.copy_(torch.from_numpy(pca.mean_))
        book.components.copy_(torch.from_numpy(pca.components_.T / gain))
        x = book.project(torch.from_numpy(rows)).numpy()
        for index in range(n_levels):
            of_level = x[level == index]
            if len(of_level) == 1:  # a mixture is fitted on two rows at least
                of_level = np.repeat(of_level, 2, axis=0)
            if fisher:
                mixture = GaussianMixture(
                    n_words,
                    covariance_type="diag",
                    reg_covar=LEAST_VARIANCE,
                    max_iter=ROUNDS,
                    init_params="k-means++",
                    random_state=seed,
                ).fit(of_level)
                book.weights[index] = torch.from_numpy(mixture.weights_)
                book.deviations[index] = torch.from_numpy(np.sqrt(mixture.covariances_))
                means = mixture.means_
            else:
                words = KMeans(n_words, n_init=1, max_iter=ROUNDS, tol=0, random_state=seed)
                means = words.fit(of_level).cluster_centers_
            book.means[index] = torch.from_numpy(means)
