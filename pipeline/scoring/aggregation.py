"""From patch scores to picture scores, in one pass for all aggregations at once.

Source: Oquab et al. (CVPR 2014) section 3.4: ``score(C) = mean_i y(C|P_i)^k``, k = 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.settings import Aggregation


class PictureScores:
    """Accumulates patch scores picture by picture.

    Parameters
    ----------
    n_pictures, n_classes : int
    aggregations : powers k >= 1 of the mean of k-th powers, or "max"
    """

    def __init__(self, n_pictures: int, n_classes: int, aggregations: Sequence[Aggregation]) -> None:
        self.aggregations = tuple(aggregations)
        self._sums = np.zeros((len(self.aggregations), n_pictures, n_classes))
        self._counts = np.zeros(n_pictures, np.int64)

    def add(self, patch_scores: np.ndarray, picture: np.ndarray) -> None:
        """Add patches.

        Parameters
        ----------
        patch_scores : float ndarray of shape (n, n_classes), 0..1
        picture : int ndarray of shape (n,), rising; a picture may go on in the next call
        """
        if not len(picture):
            return
        starts = np.flatnonzero(np.diff(picture, prepend=picture[0] - 1))
        pictures = picture[starts]
        values = patch_scores.astype(np.float64)
        for sums, k in zip(self._sums, self.aggregations, strict=True):
            if k == "max":
                sums[pictures] = np.maximum(sums[pictures], np.maximum.reduceat(values, starts))
            else:
                sums[pictures] += np.add.reduceat(values**k, starts)
        self._counts[pictures] += np.diff(np.append(starts, len(picture)))

    def result(self) -> np.ndarray:
        """float64 ndarray of shape (n_aggregations, n_pictures, n_classes); NaN for no patch at all."""
        out = self._sums.copy()
        with np.errstate(invalid="ignore", divide="ignore"):
            for sums, k in zip(out, self.aggregations, strict=True):
                if k != "max":
                    sums /= self._counts[:, None]
        out[:, self._counts == 0] = np.nan
        return out
