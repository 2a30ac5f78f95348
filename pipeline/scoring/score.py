"""Scoring a split: one pass over the store for all heads and all aggregations, whole or range by range.

In that pass every head has an accumulator, which receives the rows part by part. For heads that score patches it is
`PatchwiseScores`; a head that scores one vector per picture brings its own.

Ranges are ranges of pictures, and the parts of a store are always scored whole: the last bits of a product of matrices
depend on how many rows it has, so that a part that was cut at a picture would give other scores. A picture that
straddles two parts belongs to the range in whose parts it begins. The part after the last one of a range is read for
both ranges, and nothing of a picture has to be joined.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from pipeline.activations.match import check_joined
from pipeline.activations.partition import Part, share_bounds
from pipeline.activations.store import Store
from pipeline.head.device import HeadDevice, Place, explain_full_memory
from pipeline.head.fit_memory import SLACK
from pipeline.head.fit_rows import MemoryBudget, halvings
from pipeline.head.head import Head
from pipeline.head.pooled import PooledNetwork
from pipeline.head.score_on_device import DeviceScorer, can_move, device_bytes, scoring_operations
from pipeline.head.task import Accumulator, Columns, PooledScorer, ScaledAccumulator
from pipeline.io.errors import HeadError
from pipeline.io.progress import Progress
from pipeline.patches.table import PatchTable
from pipeline.scoring.accumulators import make_accumulator
from pipeline.scoring.aggregation import Aggregation, AggregationLike, natural_aggregation, select_applicable
from pipeline.scoring.scores import ScoreFacts, SplitScores

SMALL_COLUMNS = 2**20
"""Bytes of columns of a head that need no pass of their own."""


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


def pools(head: Head) -> bool:
    """Whether a head scores pooled vectors, which are the same for all heads that pool alike."""
    return getattr(type(head.network), "accumulator", None) is PooledNetwork.accumulator


class SplitScoring:
    """The scoring of a split by several heads, whole or range by range.

    Parameters
    ----------
    aggregations : each head has those that apply to its scores (`select_applicable`), and its natural one
    wanted : bool ndarray of shape (n_pictures,): pictures to score, the others get NaN; None for all
    device : on which patches are scored; None for the CPU
    pooled : columns of heads on pooled vectors, by their pooling, from passes before over the same store, table and
        wanted pictures; those of this pass are added where all pictures are scored

    Raises
    ------
    StoreError, HeadError
        Store and table, or store and a head, do not belong together; a head has none of the aggregations.
    """

    def __init__(
        self,
        store: Store,
        table: PatchTable,
        heads: Sequence[Head],
        aggregations: Sequence[AggregationLike],
        wanted: np.ndarray | None = None,
        device: HeadDevice | None = None,
        pooled: dict[Hashable, Columns] | None = None,
    ) -> None:
        check_joined(store, table)
        self.store, self.table, self.heads, self._wanted = store, table, tuple(heads), wanted
        self._pooled = pooled
        self._aggregations = _check_heads(store, table, heads, tuple(map(Aggregation.parse, aggregations)))
        self._first_row = table.first_row
        # Where boxes and labels tell what a heat map should show.
        has_maps = table.source == "grid" and table.labelled and table.has_boxes and wanted is None
        self._mapped = table if has_maps else None
        self.place = self._choose_place(device or HeadDevice())

    def _choose_place(self, device: HeadDevice) -> Place:
        """Choose where patches are scored, by the work of the whole split, so that all shares are scored alike."""
        operations = scoring_operations(self.heads, self.store.n_rows)
        if not operations:
            return Place()
        most = max((part.n_rows for part in self.store.parts), default=0)
        what = f"score {self.table.dataset} {self.table.split}"
        return device.choose(what, operations, device_bytes(self.heads, most, self.store.width))

    @property
    def pictures(self) -> range:
        """All pictures of the split."""
        return range(len(self.table.ids))

    def share(self, index: int, count: int) -> range:
        """Return the pictures that begin in the parts of the `index`-th (from 1) of `count` shares of the store."""
        bounds = share_bounds(len(self.store.parts), index, count)
        return range(self._first_picture_of(bounds.start), self._first_picture_of(bounds.stop))

    def _first_picture_of(self, part: int) -> int:
        """Return the first picture that begins in a part or after it."""
        if part == len(self.store.parts):  # pictures without rows may follow
            return len(self.table.ids)
        return int(np.searchsorted(self._first_row[:-1], self.store.parts[part].start))

    def n_rows(self, pictures: range) -> int:
        """Return the number of rows of a range of pictures."""
        first, stop = self._rows_of(pictures)
        return stop - first

    def _rows_of(self, pictures: range) -> tuple[int, int]:
        first, stop = self._first_row[[pictures.start, pictures.stop]].tolist()
        return first, stop

    def _facts(self, head: Head) -> ScoreFacts:
        store, table, wanted = self.store, self.table, self._wanted
        return ScoreFacts(
            dataset=table.dataset,
            split=table.split,
            fingerprint=store.fingerprint,
            rows_digest=table.rows_digest,
            pictures_digest=table.pictures_digest(),
            head=head.facts,
            n_scored=None if wanted is None else int(wanted.sum()),
            device=self.place.device.type if can_move(head) else "cpu",
        )

    def made_from(self, index: int) -> dict[str, Any]:
        """Return all that decides the columns of one of the heads, as a JSON object."""
        head, of_head = self.heads[index], self._aggregations[index]
        return {
            **self._facts(head).to_dict(),
            "head": head.name,
            "settings": head.facts.settings,
            "weights": head.weights_digest(),
            "precision": getattr(head.network, "precision", None),
            "aggregations": [aggregation.to_json() for aggregation in of_head],
            "annotations": self.table.annotation_digest,
        }

    def score(
        self,
        pictures: range,
        which: Sequence[int] | None = None,
        advance: Callable[[int], None] = lambda n_rows: None,
    ) -> list[Columns]:
        """Score a range of pictures; the parts that hold their rows are read once.

        Parameters
        ----------
        which : indices of some of the heads; None for all
        advance : called with numbers of rows that sum up to those of the range

        Returns
        -------
        columns of each head: the same bits, whatever the range and the other heads
        """
        scorer = DeviceScorer(self.heads, self.place) if self.place.on_gpu else None
        # Heads that pool alike have one accumulator.
        accumulators: dict[Hashable, Accumulator | ScaledAccumulator] = {}
        keys: list[Hashable] = []
        known = {} if self._pooled is None or pictures != self.pictures else self._pooled
        for index in range(len(self.heads)) if which is None else which:
            network: Any = self.heads[index].network
            keys.append(network.settings.pooling if pools(self.heads[index]) else index)
            if keys[-1] not in accumulators and keys[-1] not in known:
                accumulators[keys[-1]] = make_accumulator(
                    self.heads[index], pictures, self._aggregations[index], self._mapped, scorer
                )
        with explain_full_memory(self.place, f"score {self.table.dataset} {self.table.split}"):
            self._score_parts(pictures, list(accumulators.values()), advance)
            columns = {key: accumulator.columns() for key, accumulator in accumulators.items()}
            known.update({key: of_key for key, of_key in columns.items() if not isinstance(key, int)})
            return [{**known, **columns}[key] for key in keys]

    def _score_parts(
        self, pictures: range, accumulators: Sequence[Accumulator | ScaledAccumulator], advance: Callable[[int], None]
    ) -> None:
        first, stop = self._rows_of(pictures)
        if not accumulators:
            advance(stop - first)
            return
        parts = [part for part in self.store.parts if part.start < stop and first < part.stop] if first < stop else []
        scaled = any(isinstance(accumulator, ScaledAccumulator) for accumulator in accumulators)
        for part, values in self.store.iter_parts(parts):
            rows, picture, chosen = self._choose(part, values)
            scale = self.store.read_object("scale", part)[chosen] if scaled else np.zeros(0, np.uint8)
            if len(picture):
                for accumulator in accumulators:
                    if isinstance(accumulator, ScaledAccumulator):
                        accumulator.add_scaled(rows, picture, scale)
                    else:
                        accumulator.add(rows, picture)
            del values, rows
            advance(min(part.stop, stop) - max(part.start, first))

    def _choose(self, part: Part, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | slice]:
        """Return the rows of the wanted pictures in a part, their pictures, and which rows of the part they are."""
        picture = self.table.picture_of(slice(part.start, part.stop))
        if self._wanted is None:
            return rows, picture, slice(None)
        chosen = self._wanted[picture]
        return rows[chosen], picture[chosen], chosen

    def join(self, ranges: Sequence[Sequence[Columns]]) -> list[SplitScores]:
        """Join the columns of ranges that follow one another from the first picture to the last.

        Parameters
        ----------
        ranges : of each range the columns of every head

        Returns
        -------
        one per head, in their order; ``facts.n_scored`` is set where only some pictures were wanted
        """
        joined = []
        for index, (head, of_head) in enumerate(zip(self.heads, self._aggregations, strict=True)):
            of_ranges = [columns[index] for columns in ranges]
            columns = {name: np.concatenate([each[name] for each in of_ranges]) for name in of_ranges[0]}
            if isinstance(head.network, PooledScorer):
                scores = head.network.picture_scores(columns)[None]
            else:
                scores = np.ascontiguousarray(np.moveaxis(columns["scores"], 1, 0))
            joined.append(
                SplitScores(
                    scores, of_head, self.table.ids, self.table.classes, self._facts(head), columns.get("peak_xy")
                )
            )
        return joined


def score_split(
    store: Store,
    table: PatchTable,
    heads: Sequence[Head],
    aggregations: Sequence[AggregationLike],
    wanted: np.ndarray | None = None,
    device: HeadDevice | None = None,
    pooled: dict[Hashable, Columns] | None = None,
    budget: MemoryBudget | None = None,
) -> list[SplitScores]:
    """Score the pictures of a split with all heads; the store is read once, or more often where memory is short.

    Parameters, errors as for `SplitScoring`.

    Parameters
    ----------
    budget : of the memory for what is collected of pictures; None for as much as that takes

    Raises
    ------
    HeadError
        What one head collects does not fit into the budget.

    Returns
    -------
    one per head, in their order; ``facts.n_scored`` is set where only some pictures were wanted
    """
    found: dict[int, SplitScores] = {}
    for indices in _plan_passes(heads, table, budget):
        of_pass = [heads[index] for index in indices]
        scoring = SplitScoring(store, table, of_pass, aggregations, wanted, device, pooled)
        with Progress(f"score {table.dataset} {table.split}", table.n_rows, "patches") as progress:
            joined = scoring.join([scoring.score(scoring.pictures, advance=progress.advance)])
        found.update(zip(indices, joined, strict=True))
    return [found[index] for index in range(len(heads))]


def _plan_passes(heads: Sequence[Head], table: PatchTable, budget: MemoryBudget | None) -> list[list[int]]:
    """Divide heads, by their indices, into passes for whose columns memory has room; say how much they take.

    Heads that encode pictures in a way of their own have columns of their own, up to tens of KiB per picture.
    """
    everything = list(range(len(heads)))
    sizes = {index: len(table.ids) * _bytes_per_picture(heads[index]) for index in everything}
    own = [index for index in everything if sizes[index] > SMALL_COLUMNS]
    if budget is None or sum(sizes.values()) <= SLACK:
        return [everything]
    # While those of one head become scores: a copy of them, and their differences and products in float64.
    largest = max(sizes.values())
    counts = {}
    for n in halvings(len(own)):
        passes = -(-len(own) // n)
        counts[f"read {passes} times" if passes > 1 else "read once"] = n
    text = f"score {table.dataset} {table.split}, {len(own)} heads that encode pictures"
    way = budget.choose(text, {way: n * largest + 5 * largest + SLACK for way, n in counts.items()})
    size = counts[way]
    first, *others = (own[start : start + size] for start in range(0, len(own), size))
    return [sorted({*everything} - {*own} | {*first}), *others]


def _bytes_per_picture(head: Head) -> int:
    """Return the bytes of the columns of one picture that a head does not share with others."""
    if not isinstance(head.network, PooledScorer) or pools(head):
        return 0
    return sum(column.nbytes for column in head.network.accumulator(range(1)).columns().values())
