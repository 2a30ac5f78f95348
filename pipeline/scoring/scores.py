"""Scores of a split: one pass through the store for all heads and all aggregations, and their file.

In that pass every head has an accumulator, which is shown the rows part by part. For heads that score
patches it is `PatchwiseScores`; a head of scale ``pooled`` looks at one vector a picture and brings its own.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import h5py
import numpy as np

from pipeline.activations.store import Store
from pipeline.head.head import Head, check_joined
from pipeline.io.atomic import write_atomic
from pipeline.io.checksummed import USER_BLOCK, check_hdf5, checksum_hdf5
from pipeline.io.errors import HeadError, StoreError
from pipeline.io.progress import Progress
from pipeline.patches.table import PatchTable
from pipeline.scoring.aggregation import POOLED, Aggregation
from pipeline.scoring.maps import Peaks
from pipeline.scoring.picture_scores import PictureScores

if TYPE_CHECKING:
    from pipeline.head.svm import Svm

FORMAT = "scores-3"


@dataclass(frozen=True)
class SplitScores:
    """Picture scores of one head over one split.

    Attributes
    ----------
    scores : float64 ndarray of shape (n_aggregations, n_pictures, n_classes)
    aggregations : of the first axis: those that apply to the head's scores, ``pooled`` alone where it has no
        patch scores
    ids, classes : names of the other axes
    facts : JSON object: what the head says of itself, fingerprint and dataset of the rows
    peak_xy : float32 ndarray of shape (n_pictures, n_classes, 2), highest points of the maps (`maps.Peaks`); None
        for heads that score whole pictures, and for splits without boxes or labels
    """

    scores: np.ndarray
    aggregations: tuple[Aggregation, ...]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    facts: dict[str, Any]
    peak_xy: np.ndarray | None = None

    def by(self, aggregation: Aggregation) -> np.ndarray:
        """Scores (n_pictures, n_classes) of one aggregation.

        Raises
        ------
        HeadError
            It was not computed; those that were are named.
        """
        if aggregation not in self.aggregations:
            known = ", ".join(map(format_aggregation, self.aggregations))
            raise HeadError(f"no scores for k={format_aggregation(aggregation)}, there are k={known}; score again")
        return self.scores[self.aggregations.index(aggregation)]


def effective(k: Aggregation, aggregations: Sequence[Aggregation]) -> Aggregation:
    """The aggregation that is meant by `k`: a head without patch scores has but one.

    >>> effective(5.0, ("pooled",)), effective(5.0, (1.0, 5.0))
    ('pooled', 5.0)
    """
    return POOLED if tuple(aggregations) == (POOLED,) else k


def format_aggregation(k: Aggregation) -> str:
    """``5`` for 5.0, ``max`` for the maximum."""
    return k if isinstance(k, str) else f"{k:g}"


class Accumulator(Protocol):
    """Sees the rows of a split once, part by part, and then has the scores of its pictures.

    A head of scale ``pooled`` has one by ``head.network.accumulator(n_pictures)``.
    """

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        """Take rows (n, width), float16, of pictures (n,), int, rising, also from call to call."""

    def result(self) -> np.ndarray:
        """float64 ndarray of shape (n_aggregations, n_pictures, n_classes); NaN for a picture without rows.

        The first axis may be missing where there is but one aggregation.
        """


class PatchwiseScores:
    """The accumulator of heads that score patches.

    Parameters
    ----------
    table : if the highest points of maps shall be found, too
    """

    def __init__(
        self, head: Head, n_pictures: int, aggregations: Sequence[Aggregation], table: PatchTable | None = None
    ) -> None:
        self._head = head
        self._scores = PictureScores(n_pictures, len(head.classes), aggregations)
        self._peaks = None if table is None else Peaks(table)

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        scores = self._head.patch_scores(rows)
        self._scores.add(scores, picture)
        if self._peaks is not None:
            self._peaks.add(scores, picture)

    def result(self) -> np.ndarray:
        return self._scores.result()

    def peak_xy(self) -> np.ndarray | None:
        """As in `SplitScores`."""
        return None if self._peaks is None else self._peaks.result()


def applicable(scale: str, aggregations: Sequence[Aggregation]) -> tuple[Aggregation, ...]:
    """Those aggregations that a head's scores have: powers only for scores in 0..1.

    >>> applicable("softmax", [5.0, "max"]), applicable("log-odds", [5.0, "max"]), applicable("pooled", [5.0, "max"])
    ((5.0, 'max'), ('max',), ('pooled',))
    """
    if scale == POOLED:
        return (POOLED,)
    odds = scale in ("softmax", "logistic")
    return tuple(k for k in aggregations if k != POOLED and (odds or isinstance(k, str)))


def make_accumulator(
    head: Head, n_pictures: int, aggregations: Sequence[Aggregation], table: PatchTable | None = None
) -> Accumulator:
    """What collects a head's scores; `aggregations` are those that it has, `table` as for `PatchwiseScores`."""
    if head.scale == POOLED:
        return cast("Svm", head.network).accumulator(n_pictures)
    return PatchwiseScores(head, n_pictures, aggregations, table)


def _check_heads(
    store: Store, table: PatchTable, heads: Sequence[Head], aggregations: Sequence[Aggregation]
) -> list[tuple[Aggregation, ...]]:
    """Refuse heads that cannot score this store; the aggregations of the others."""
    for head in heads:
        head.check_rows(store)
        if head.classes != table.classes:
            raise HeadError(
                f"head {head.facts['name']!r} knows {len(head.classes)} classes, {table.dataset} has "
                f"{len(table.classes)}: they must be the same, in the same order"
            )
        if not applicable(head.scale, aggregations):
            got = ", ".join(map(format_aggregation, aggregations)) or "none"
            known = "max, top:T or lme:R" + " or a power" * (head.scale != "log-odds")
            raise HeadError(
                f"head {head.facts['name']!r} gives {head.scale} scores: expected an aggregation {known}, got {got}; "
                "add one to 'aggregations'"
            )
    return [applicable(head.scale, aggregations) for head in heads]


def score_split(
    store: Store,
    table: PatchTable,
    heads: Sequence[Head],
    aggregations: Sequence[Aggregation],
    wanted: np.ndarray | None = None,
) -> list[SplitScores]:
    """Score the pictures of a split with all heads; the store is read once.

    Parameters
    ----------
    aggregations : each head has those that apply to its scores (`applicable`)
    wanted : bool ndarray of shape (n_pictures,): pictures to score, the others get NaN; None for all

    Returns
    -------
    one a head, in their order; ``facts["scored"]`` counts the pictures where only some were wanted

    Raises
    ------
    StoreError, HeadError
        Store and table, or store and a head, do not belong together; a head has none of the aggregations.
    """
    check_joined(store, table)
    kinds = _check_heads(store, table, heads, aggregations)
    # Where it is known what there is to be found.
    mapped = table if table.source == "grid" and table.labelled and table.has_boxes and wanted is None else None
    accumulators = [make_accumulator(head, len(table.ids), own, mapped) for head, own in zip(heads, kinds, strict=True)]
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
    facts = {
        "dataset": table.dataset,
        "split": table.split,
        "fingerprint": store.fingerprint,
        "rows": table.rows_digest,
        "pictures": table.pictures_digest(),
        **({} if wanted is None else {"scored": int(wanted.sum())}),
    }
    shape = (len(table.ids), len(table.classes))
    return [
        SplitScores(
            accumulator.result().reshape(len(own), *shape),
            own,
            table.ids,
            table.classes,
            {**facts, "head": head.facts},
            accumulator.peak_xy() if isinstance(accumulator, PatchwiseScores) else None,
        )
        for head, own, accumulator in zip(heads, kinds, accumulators, strict=True)
    ]


def save_scores(scores: SplitScores, path: Path) -> None:
    """Write scores as HDF5, whole or not at all; equal scores give equal bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        file.create_dataset("scores", data=scores.scores, chunks=True, fletcher32=True)
        if scores.peak_xy is not None:
            file.create_dataset("peak_xy", data=scores.peak_xy, chunks=True, fletcher32=True)
        file.create_dataset("id", data=np.array(scores.ids, object), dtype=h5py.string_dtype())
        file.attrs["format"] = FORMAT
        file.attrs["aggregations"] = json.dumps(scores.aggregations)
        file.attrs["classes"] = json.dumps(scores.classes)
        # As a dataset: attributes are limited to 64 KiB.
        file.create_dataset("facts", data=json.dumps(scores.facts, sort_keys=True), dtype=h5py.string_dtype())
    write_atomic(path, checksum_hdf5(buffer.getvalue()))


def load_scores(path: Path) -> SplitScores:
    """Read a file of scores.

    Raises
    ------
    StoreError
        No such file, not one of scores, or changed since it was written.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such scores; make them with: pipeline score")
    try:
        with h5py.File(io.BytesIO(check_hdf5(path.read_bytes())), "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise StoreError(f"{path}: not a file of scores; make it again with: pipeline score")
            return SplitScores(
                file["scores"][:],
                tuple(json.loads(file.attrs["aggregations"])),
                tuple(file["id"].asstr()[:]),
                tuple(json.loads(file.attrs["classes"])),
                json.loads(file["facts"].asstr()[()]),
                file["peak_xy"][:] if "peak_xy" in file else None,
            )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: damaged: {error}; make it again with: pipeline score") from error
