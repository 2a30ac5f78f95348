"""Accumulators of a scoring pass: what collects the rows of pictures, part by part, for each head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.head.head import Head
from pipeline.head.score_on_device import DeviceScorer, PendingScores, can_move
from pipeline.head.task import Accumulator, Columns, PooledScorer, ScaledAccumulator
from pipeline.patches.table import PatchTable
from pipeline.scoring.aggregation import AggregationLike
from pipeline.scoring.heat_maps import Peaks
from pipeline.scoring.picture_scores import PictureScores


class PatchwiseScores:
    """The accumulator of heads that score patches.

    Parameters
    ----------
    pictures : the range
    table : if given, the highest points of heat maps are computed too
    scorer : of a GPU; then the scores of a part are taken when the next one is given
    """

    def __init__(
        self,
        head: Head,
        pictures: range,
        aggregations: Sequence[AggregationLike],
        table: PatchTable | None = None,
        scorer: DeviceScorer | None = None,
    ) -> None:
        self._head, self._pictures, self._scorer = head, pictures, scorer
        self._pending: tuple[PendingScores, np.ndarray] | None = None
        self._scores = PictureScores(len(pictures), len(head.classes), aggregations)
        self._peaks = None if table is None else Peaks(table, pictures)

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        """See `Accumulator`."""
        # All rows, also those of other pictures: a product of fewer rows may have other last bits.
        if self._scorer is None:
            self._take(self._head.patch_scores(rows), picture)
            return
        launched = self._scorer.launch(self._head, rows), picture
        self._take_pending()
        self._pending = launched

    def _take_pending(self) -> None:
        if self._pending is not None:
            pending, picture = self._pending
            self._pending = None
            self._take(pending.result(), picture)

    def _take(self, scores: np.ndarray, picture: np.ndarray) -> None:
        inside = slice(*np.searchsorted(picture, [self._pictures.start, self._pictures.stop]))
        scores, picture = scores[inside], picture[inside]
        self._scores.add(scores, picture - self._pictures.start)
        if self._peaks is not None:
            self._peaks.add(scores, picture)

    def columns(self) -> Columns:
        """Return ``scores``, float64 (n_pictures, n_aggregations, n_classes), and ``peak_xy`` as in `SplitScores`."""
        self._take_pending()
        columns = {"scores": np.moveaxis(self._scores.result(), 1, 0)}
        return columns if self._peaks is None else {**columns, "peak_xy": self._peaks.result()}


class MappedPictures:
    """The accumulator of heads that score pictures in a way of their own, and patches for heat maps.

    Parameters
    ----------
    pictures : the range
    table : of the highest points of heat maps
    """

    def __init__(self, head: Head, pictures: range, of_pictures: Accumulator, table: PatchTable) -> None:
        self._head, self._pictures, self._of_pictures = head, pictures, of_pictures
        self._peaks = Peaks(table, pictures)

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        """See `Accumulator`."""
        self._of_pictures.add(rows, picture)
        inside = slice(*np.searchsorted(picture, [self._pictures.start, self._pictures.stop]))
        self._peaks.add(self._head.patch_scores(rows)[inside], picture[inside])

    def columns(self) -> Columns:
        """Return the head's own columns, and ``peak_xy`` as in `SplitScores`."""
        return {**self._of_pictures.columns(), "peak_xy": self._peaks.result()}


def make_accumulator(
    head: Head,
    pictures: range,
    aggregations: Sequence[AggregationLike],
    table: PatchTable | None = None,
    scorer: DeviceScorer | None = None,
) -> Accumulator | ScaledAccumulator:
    """Make the accumulator of a head.

    Parameters
    ----------
    pictures : the range
    aggregations : all apply to the head's scores
    table, scorer : as for `PatchwiseScores`
    """
    if isinstance(head.network, PooledScorer):
        accumulator = head.network.accumulator(pictures)
        if table is None or not head.scores_patches or isinstance(accumulator, ScaledAccumulator):
            return accumulator
        return MappedPictures(head, pictures, accumulator, table)
    return PatchwiseScores(head, pictures, aggregations, table, scorer if can_move(head) else None)
