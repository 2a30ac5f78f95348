"""Scores of a split: one pass through the store for all heads and all aggregations, and their file."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.activations.store import Store
from pipeline.errors import HeadError, StoreError
from pipeline.files import USER_BLOCK, check_hdf5, sign_hdf5, write_whole
from pipeline.head.head import Head, check_joined
from pipeline.patches.table import PatchTable
from pipeline.progress import Progress
from pipeline.scoring.aggregation import PictureScores
from pipeline.settings import Aggregation

FORMAT = "scores-2"


@dataclass(frozen=True)
class SplitScores:
    """Picture scores of one head over one split.

    Attributes
    ----------
    scores : float64 ndarray of shape (n_aggregations, n_pictures, n_classes)
    aggregations : k or "max" of each first axis
    ids, classes : names of the other axes
    facts : JSON object: what the head says of itself, fingerprint and dataset of the rows
    """

    scores: np.ndarray
    aggregations: tuple[Aggregation, ...]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    facts: dict[str, Any]

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


def format_aggregation(k: Aggregation) -> str:
    """``5`` for 5.0, ``max`` for the maximum."""
    return k if isinstance(k, str) else f"{k:g}"


def score_split(
    store: Store, table: PatchTable, heads: Sequence[Head], aggregations: Sequence[Aggregation]
) -> list[SplitScores]:
    """Score all pictures of a split with all heads; the store is read once.

    Raises
    ------
    StoreError, HeadError
        Store and table, or store and a head, do not belong together.
    """
    check_joined(store, table)
    for head in heads:
        head.check_rows(store)
        if head.classes != table.classes:
            raise HeadError(
                f"head {head.facts['name']!r} knows {len(head.classes)} classes, {table.dataset} has "
                f"{len(table.classes)}: they must be the same, in the same order"
            )
    sums = [PictureScores(len(table.ids), len(table.classes), aggregations) for _ in heads]
    with Progress(f"score {table.dataset} {table.split}", table.n_rows, "patches") as progress:
        for part, rows in store.iter_parts():
            picture = table.picture[part.start : part.stop]
            for head, accumulated in zip(heads, sums, strict=True):
                accumulated.add(head.patch_scores(rows), picture)
            progress.advance(part.stop - part.start)
    return [
        SplitScores(
            accumulated.result(),
            tuple(aggregations),
            table.ids,
            table.classes,
            {
                "dataset": table.dataset,
                "split": table.split,
                "fingerprint": store.fingerprint,
                "rows": table.rows_digest,
                "pictures": table.pictures_digest(),
                "head": head.facts,
            },
        )
        for head, accumulated in zip(heads, sums, strict=True)
    ]


def save_scores(scores: SplitScores, path: Path) -> None:
    """Write scores as HDF5, whole or not at all; equal scores give equal bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        file.create_dataset("scores", data=scores.scores, chunks=True, fletcher32=True)
        file.create_dataset("id", data=np.array(scores.ids, object), dtype=h5py.string_dtype())
        file.attrs["format"] = FORMAT
        file.attrs["aggregations"] = json.dumps(scores.aggregations)
        file.attrs["classes"] = json.dumps(scores.classes)
        # As a dataset: attributes are limited to 64 KiB.
        file.create_dataset("facts", data=json.dumps(scores.facts, sort_keys=True), dtype=h5py.string_dtype())
    write_whole(path, sign_hdf5(buffer.getvalue()))


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
            )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: damaged: {error}; make it again with: pipeline score") from error
