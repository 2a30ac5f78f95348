"""From patch scores to picture scores, in one pass for all aggregations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.head.settings import HIGHEST_PROBABILITY
from pipeline.scoring.aggregation import Aggregation, AggregationLike


class WholePictures:
    """Regroup patch scores by picture, however they arrive; the last picture waits for rows that may follow.

    Attributes
    ----------
    rest : scores (n, n_classes) and pictures (n,) of the last picture
    """

    def __init__(self, n_classes: int) -> None:
        self.rest: tuple[np.ndarray, np.ndarray] = np.zeros((0, n_classes), np.float32), np.zeros(0, np.int64)

    def add(self, patch_scores: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add patches, and return the scores and pictures of all pictures that are now complete.

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
    """Aggregate patch scores picture by picture.

    A picture is aggregated once all of its patches have arrived. So the result does not depend, to the last bit, on
    how the patches are split into calls. Memory holds the patches of one picture.

    Parameters
    ----------
    n_pictures, n_classes : int
    aggregations : functions of patch scores; powers need scores in 0..1

    Raises
    ------
    ValueError
        An unknown aggregation, or ``pooled``, which is no function of patch scores.
    """

    def __init__(self, n_pictures: int, n_classes: int, aggregations: Sequence[AggregationLike]) -> None:
        self.aggregations = tuple(map(Aggregation.parse, aggregations))
        for aggregation in self.aggregations:
            if not aggregation.applies_to("softmax"):
                raise ValueError(f"{aggregation} is no aggregation of patch scores")
        self._out = np.full((len(self.aggregations), n_pictures, n_classes), np.nan)
        self._pictures = WholePictures(n_classes)

    def add(self, patch_scores: np.ndarray, picture: np.ndarray) -> None:
        """Add patches.

        Parameters
        ----------
        patch_scores : float ndarray of shape (n, n_classes), finite; in 0..1 for powers
        picture : int ndarray of shape (n,), rising, also from call to call; a picture may continue in the next call

        Raises
        ------
        ValueError
            Pictures do not rise, or scores lie outside the range of an aggregation.
        """
        if not len(picture):
            return
        self._check(patch_scores)
        self._aggregate_into(self._out, *self._pictures.add(patch_scores, picture))

    def result(self) -> np.ndarray:
        """Return a float64 ndarray of shape (n_aggregations, n_pictures, n_classes); NaN where there is no patch."""
        out = self._out.copy()
        self._aggregate_into(out, *self._pictures.rest)
        return out

    def _check(self, patch_scores: np.ndarray) -> None:
        if not np.isfinite(patch_scores).all():
            raise ValueError("patch scores must be finite")
        bounded = [a for a in self.aggregations if not a.applies_to("log-odds")]
        lowest, highest = patch_scores.min(initial=0), patch_scores.max(initial=0)
        if bounded and (lowest < 0 or highest > HIGHEST_PROBABILITY):
            raise ValueError(
                f"the mean of powers (k={bounded[0]}) takes scores in 0..1, got {lowest:g}..{highest:g}; "
                "for other scores use max, top:T or lme:R"
            )

    def _aggregate_into(self, out: np.ndarray, patch_scores: np.ndarray, picture: np.ndarray) -> None:
        """Aggregate complete pictures; those with equally many patches form one array."""
        pictures, starts, counts = np.unique(picture, return_index=True, return_counts=True)
        for count in np.unique(counts):
            of_count = np.flatnonzero(counts == count)
            # A few thousand patches at a time stay in the processor's cache.
            for chunk in np.array_split(of_count, -(-len(of_count) * count // 4096)):
                values = patch_scores[starts[chunk][:, None] + np.arange(count)].astype(np.float64)
                for index, aggregation in enumerate(self.aggregations):
                    out[index, pictures[chunk]] = aggregation.apply(values)
