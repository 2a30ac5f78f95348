"""From patch scores to picture scores, in one pass for all aggregations at once.

Sources: Oquab et al. (CVPR 2014) section 3.4, ``score(C) = mean_i y(C|P_i)^k``, k = 5; the maximum is
the one of their follow-up on weak supervision; the mean of the best and log-mean-exp lie between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.scoring.aggregation import POOLED, Aggregation, check_aggregation

# A score of softmax may pass 1 by a rounding of float32.
HIGHEST_ODDS = 1 + 1e-6


class WholePictures:
    """Hands patch scores on picture by picture, however they come: those of the last one wait for what may follow.

    Attributes
    ----------
    rest : scores (n, n_classes) and pictures (n,) of the last picture
    """

    def __init__(self, n_classes: int) -> None:
        self.rest: tuple[np.ndarray, np.ndarray] = np.zeros((0, n_classes), np.float32), np.zeros(0, np.int64)

    def add(self, patch_scores: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and pictures of all pictures that are complete now.

        Raises
        ------
        ValueError
            Pictures do not rise.
        """
        scores, picture = np.concatenate([self.rest[0], patch_scores]), np.concatenate([self.rest[1], picture])
        if (np.diff(picture) < 0).any():
            raise ValueError("patches must come in the order of their pictures")
        last = np.searchsorted(picture, picture[-1]) if len(picture) else 0
        self.rest = scores[last:].copy(), picture[last:].copy()
        return scores[:last], picture[:last]


class PictureScores:
    """Accumulates patch scores picture by picture.

    A picture is aggregated when all of its patches are there, so the result does not depend, to the
    last bit, on how its patches were cut into calls; what is kept is one picture's patches.

    Parameters
    ----------
    n_pictures, n_classes : int
    aggregations : powers k >= 1 of the mean of k-th powers, for scores in 0..1; for any scores ``max``;
        ``top:T``, the mean of the T highest of a picture and class (of all, where there are fewer);
        ``lme:R``, ``log(mean(exp(R s))) / R``: near the mean for small R, near the maximum for large

    Raises
    ------
    ValueError
        Another aggregation, ``pooled`` included: it is no function of patch scores.
    """

    def __init__(self, n_pictures: int, n_classes: int, aggregations: Sequence[Aggregation]) -> None:
        self.aggregations = tuple(map(check_aggregation, aggregations))
        if POOLED in self.aggregations:
            raise ValueError("pooled is no aggregation of patch scores")
        self._out = np.full((len(self.aggregations), n_pictures, n_classes), np.nan)
        self._pictures = WholePictures(n_classes)

    def add(self, patch_scores: np.ndarray, picture: np.ndarray) -> None:
        """Add patches.

        Parameters
        ----------
        patch_scores : float ndarray of shape (n, n_classes), finite; 0..1 where a power is asked for
        picture : int ndarray of shape (n,), rising, also from call to call; a picture may go on in the next call

        Raises
        ------
        ValueError
            Pictures do not rise, or scores lie outside of what an aggregation takes.
        """
        if not len(picture):
            return
        self._check(patch_scores)
        self._aggregate_into(self._out, *self._pictures.add(patch_scores, picture))

    def result(self) -> np.ndarray:
        """float64 ndarray of shape (n_aggregations, n_pictures, n_classes); NaN for no patch at all."""
        out = self._out.copy()
        self._aggregate_into(out, *self._pictures.rest)
        return out

    def _check(self, patch_scores: np.ndarray) -> None:
        if not np.isfinite(patch_scores).all():
            raise ValueError("patch scores must be finite")
        powers = [k for k in self.aggregations if not isinstance(k, str)]
        lowest, highest = patch_scores.min(initial=0), patch_scores.max(initial=0)
        if powers and (lowest < 0 or highest > HIGHEST_ODDS):
            raise ValueError(
                f"the mean of powers (k={powers[0]:g}) takes scores in 0..1, got {lowest:g}..{highest:g}; "
                "scores of another size have max, top:T and lme:R"
            )

    def _aggregate_into(self, out: np.ndarray, patch_scores: np.ndarray, picture: np.ndarray) -> None:
        """Aggregate whole pictures: those with equally many patches together, as one array."""
        pictures, starts, counts = np.unique(picture, return_index=True, return_counts=True)
        for count in np.unique(counts):
            alike = np.flatnonzero(counts == count)
            # A few thousand patches at a time stay in the processor's cache.
            for some in np.array_split(alike, -(-len(alike) * count // 4096)):
                values = patch_scores[starts[some][:, None] + np.arange(count)].astype(np.float64)
                for index, k in enumerate(self.aggregations):
                    out[index, pictures[some]] = aggregate(values, k)


def aggregate(values: np.ndarray, k: Aggregation) -> np.ndarray:
    """One aggregation over the patches of pictures.

    Parameters
    ----------
    values : float64 ndarray of shape (n_pictures, n_patches, n_classes), one patch at least

    Returns
    -------
    float64 ndarray of shape (n_pictures, n_classes)

    Examples
    --------
    >>> scores = np.array([[[0.1], [0.2], [0.9]]])
    >>> [round(float(aggregate(scores, k)[0, 0]), 3) for k in (1.0, 5.0, "lme:8", "top:2", "max")]
    [0.4, 0.197, 0.763, 0.55, 0.9]
    """
    if not isinstance(k, str):
        return (values if k == 1 else values**k).mean(1)
    name, _, number = k.partition(":")
    highest = values.max(1)
    if name == "max":
        return highest
    if name == "top":
        amount, n_patches = int(number), values.shape[1]
        if amount < n_patches:
            values = np.partition(values, n_patches - amount, axis=1)[:, n_patches - amount :]
        return values.mean(1)
    # Beside the maximum no exponential can overflow, and the sum is 1 at least.
    sharpness = float(number)
    return highest + np.log(np.exp(sharpness * (values - highest[:, None])).mean(1)) / sharpness
