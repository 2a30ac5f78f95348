"""Scoring a split: one pass over the store for all heads and all aggregations.

In that pass every head has an accumulator, which receives the rows part by part. For heads that score patches it is
`PatchwiseScores`; a head that scores one vector per picture brings its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.activations.match import check_joined
from pipeline.activations.store import Store
from pipeline.head.head import Head
from pipeline.head.task import Accumulator, PooledScorer
from pipeline.io.errors import HeadError
from pipeline.io.progress import Progress
from pipeline.patches.table import PatchTable
from pipeline.scoring.aggregation import Aggregation, AggregationLike, natural_aggregation, select_applicable
from pipeline.scoring.maps import Peaks
from pipeline.scoring.picture_scores import PictureScores
from pipeline.scoring.scores import ScoreFacts, SplitScores


class PatchwiseScores:
    """The accumulator of heads that score patches.

    Parameters
    ----------
    table : if given, the highest points of maps are computed too
    """

    def __init__(
        self, head: Head, n_pictures: int, aggregations: Sequence[AggregationLike], table: PatchTable | None = None
    ) -> None:
        self._head = head
        self._scores = PictureScores(n_pictures, len(head.classes), aggregations)
        self._peaks = None if table is None else Peaks(table)

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        """Add float16 rows (n, width) of pictures (n,), rising; a picture may continue in the next call."""
        scores = self._head.patch_scores(rows)
        self._scores.add(scores, picture)
        if self._peaks is not None:
            self._peaks.add(scores, picture)

    def result(self) -> np.ndarray:
        """Return a float64 ndarray of shape (n_aggregations, n_pictures, n_classes)."""
        return self._scores.result()

    def peak_xy(self) -> np.ndarray | None:
        """Return the highest points, as in `SplitScores`."""
        return None if self._peaks is None else self._peaks.result()


def make_accumulator(
    head: Head, n_pictures: int, aggregations: Sequence[AggregationLike], table: PatchTable | None = None
) -> Accumulator:
    """Make the accumulator of a head.

    Parameters
    ----------
    aggregations : all apply to the head's scores
    table : as for `PatchwiseScores`
    """
    if isinstance(head.network, PooledScorer):
        return head.network.accumulator(n_pictures)
    return PatchwiseScores(head, n_pictures, aggregations, table)


def _aggregations_of(head: Head, aggregations: Sequence[Aggregation]) -> tuple[Aggregation, ...]:
    """Return the aggregations that apply to a head's scores; its natural one is among them always."""
    natural = natural_aggregation(head.facts.settings)
    added = () if natural is None or natural in aggregations else (natural,)
    return select_applicable(head.score_kind, (*aggregations, *added))


def _check_heads(
    store: Store, table: PatchTable, heads: Sequence[Head], aggregations: Sequence[Aggregation]
) -> list[tuple[Aggregation, ...]]:
    """Refuse heads that cannot score this store; return the aggregations of each head."""
    for head in heads:
        head.check_rows(store)
        if head.classes != table.classes:
            raise HeadError(
                f"head {head.name!r} has {len(head.classes)} classes, {table.dataset} has "
                f"{len(table.classes)}: they must be the same, in the same order"
            )
        if not _aggregations_of(head, aggregations):
            got = ", ".join(map(str, aggregations)) or "none"
            powers = Aggregation("power", 1).applies_to(head.score_kind)
            raise HeadError(
                f"head {head.name!r} gives {head.score_kind} scores: expected an aggregation max, top:T or lme:R"
                f"{' or a power' * powers}, got {got}; add one to 'aggregations'"
            )
    return [_aggregations_of(head, aggregations) for head in heads]


def score_split(
    store: Store,
    table: PatchTable,
    heads: Sequence[Head],
    aggregations: Sequence[AggregationLike],
    wanted: np.ndarray | None = None,
) -> list[SplitScores]:
    """Score the pictures of a split with all heads; the store is read once.

    Parameters
    ----------
    aggregations : each head has those that apply to its scores (`select_applicable`), and its natural one
    wanted : bool ndarray of shape (n_pictures,): pictures to score, the others get NaN; None for all

    Returns
    -------
    one per head, in their order; ``facts.n_scored`` is set where only some pictures were wanted

    Raises
    ------
    StoreError, HeadError
        Store and table, or store and a head, do not belong together; a head has none of the aggregations.
    """
    check_joined(store, table)
    of_heads = _check_heads(store, table, heads, tuple(map(Aggregation.parse, aggregations)))
    # Where boxes and labels tell what a map should show.
    mapped = table if table.source == "grid" and table.labelled and table.has_boxes and wanted is None else None
    accumulators = [
        make_accumulator(head, len(table.ids), of_head, mapped) for head, of_head in zip(heads, of_heads, strict=True)
    ]
    _read_store(store, table, accumulators, wanted)
    shape = (len(table.ids), len(table.classes))
    return [
        SplitScores(
            accumulator.result().reshape(len(of_head), *shape),
            of_head,
            table.ids,
            table.classes,
            ScoreFacts(
                dataset=table.dataset,
                split=table.split,
                fingerprint=store.fingerprint,
                rows_digest=table.rows_digest,
                pictures_digest=table.pictures_digest(),
                head=head.facts,
                n_scored=None if wanted is None else int(wanted.sum()),
            ),
            accumulator.peak_xy() if isinstance(accumulator, PatchwiseScores) else None,
        )
        for head, of_head, accumulator in zip(heads, of_heads, accumulators, strict=True)
    ]


def _read_store(
    store: Store, table: PatchTable, accumulators: Sequence[Accumulator], wanted: np.ndarray | None
) -> None:
    """Read the store once, and add the rows of the wanted pictures to all accumulators."""
    with Progress(f"score {table.dataset} {table.split}", table.n_rows, "patches") as progress:
        for part, rows in store.iter_parts():
            picture = table.picture[part.start : part.stop]
            if wanted is not None:
                chosen = wanted[picture]
                rows, picture = rows[chosen], picture[chosen]
            if len(picture):
                for accumulator in accumulators:
                    accumulator.add(rows, picture)
            progress.advance(part.stop - part.start)
