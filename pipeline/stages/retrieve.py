"""Retrieval from files to files: queries that may be in no dataset, against a split's store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pipeline.activations.compute import compute_layers
from pipeline.activations.identity import explain_differences, how_part, value_fields
from pipeline.activations.request import identity_of
from pipeline.activations.row_plan import plan_rows
from pipeline.activations.run_log import StageClock
from pipeline.activations.store import Store
from pipeline.dataset.split import Split
from pipeline.io.errors import StoreError
from pipeline.patches.build import make_table
from pipeline.patches.table import PatchTable
from pipeline.scoring.results import number, versions
from pipeline.scoring.retrieval import distances, evaluate_retrieval, rows_of_scales
from pipeline.stages.boxes import refuse_without_labels
from pipeline.stages.context import RunContext
from pipeline.stages.runner import make_runner, set_threads
from pipeline.stages.stored import open_rows
from pipeline.trunk.runner import TrunkRunner

DEFINITION = (
    "AP of a query: mean over the relevant pictures of the precision at their rank; relevant: shares a class with "
    "the query; left out: the query itself, and pictures that share one only if a difficult or unknown label counts"
)


def query_table(
    run: RunContext, pictures: Sequence[Path], known_turns: Mapping[str, bool] = MappingProxyType({})
) -> PatchTable:
    """The patch table of pictures that may be in no dataset, planned as those of the datasets are.

    They are turned by their EXIF orientation, unless the manifest says ``exif: ignore``.

    Parameters
    ----------
    known_turns : whether pictures of the split that is searched are turned, by the SHA-256 of their bytes: the same
        file as a query is read in the same way

    Raises
    ------
    DatasetError
        Pictures that are not there or cannot be decoded; all are named.
    """
    ids = tuple(f"query {n}" for n in range(1, len(pictures) + 1))
    split = Split.of_files(run.manifest, [Path(picture) for picture in pictures], ids, "query")
    return make_table(split, run.settings.sources, known_turns=known_turns)


def extract_queries(
    table: PatchTable, pictures: Sequence[Path], runner: TrunkRunner, store: Store, rows: np.ndarray
) -> np.ndarray:
    """Activations of some rows of a query table, made in the same way as those of a store.

    Returns
    -------
    float16 ndarray of shape (len(rows), width)

    Raises
    ------
    StoreError
        The settings would make other rows than the store's; the fields that differ are named.
    """
    stored = store.identity
    identity = identity_of(
        table, runner, stored.batch, dtype=stored["how.dtype"], part_rows=lambda width: stored.part_rows
    )
    got, expected = value_fields(how_part(identity)), value_fields(how_part(store.identity))
    if got != expected:
        raise StoreError(
            f"{store.folder}: its rows were made in another way than the query's would be\n"
            f"{explain_differences(got, expected)}\ngive the settings with which it was extracted"
        )
    paths = dict(zip(table.ids, map(Path, pictures), strict=True))
    plan = plan_rows(table, paths, rows)
    (activations,) = compute_layers(plan, runner, store.identity.batch, StageClock()).values()
    return activations


def find_nearest(
    run: RunContext,
    split: str | None,
    pictures: Sequence[Path],
    *,
    top: int,
    query_scales: int,
    reference_scales: int,
) -> dict[str, Any]:
    """Return the pictures of a split that are nearest to each query.

    Returns
    -------
    JSON object: ``queries``, each with its ``results`` (rank, id, path where known, distance)
    """
    split = split or run.manifest.eval
    table, store = open_rows(run, split)
    set_threads(run.settings.threads)
    queries = query_table(run, pictures, table.turns)
    rows = rows_of_scales(queries, query_scales)
    runner = make_runner(run.ws, run.dataset)
    activations = extract_queries(queries, pictures, runner, store, rows)
    found = distances(store, table, activations, queries.picture_of(rows), reference_scales)
    order = np.argsort(found, axis=1, kind="stable")[:, :top]
    return {
        "dataset": run.dataset,
        "split": split,
        "query_scales": query_scales,
        "reference_scales": reference_scales,
        "queries": [
            {
                "query": str(picture),
                "results": [
                    {"rank": rank, "id": table.ids[i], "distance": round(float(row[i]), 6)}
                    for rank, i in enumerate(nearest, start=1)
                ],
            }
            for picture, row, nearest in zip(pictures, found, order, strict=True)
        ],
    }


def evaluate_split(run: RunContext, split: str | None, *, query_scales: int, reference_scales: int) -> dict[str, Any]:
    """Take every picture of a split as a query against the others; mAP, and AP over the queries of each class.

    Returns
    -------
    JSON object; ``chance`` is what a random order comes to, but for a small excess with few pictures
    """
    refuse_without_labels(run.manifest, "a measure of retrieval")
    split = split or run.manifest.eval
    table, store = open_rows(run, split)
    set_threads(run.settings.threads)
    found = evaluate_retrieval(store, table, query_scales, reference_scales)
    counted = ~np.isnan(found.ap)
    if not counted.all():
        n_left_out = int((~counted).sum())
        where = f"{run.dataset} {split}: {n_left_out} pictures"
        run.say(f"{where} share a class with no other one, or with all, and are no queries")

    def mean_over(queries: np.ndarray) -> float | None:
        return number(float(found.ap[queries].mean())) if queries.any() else None

    return {
        "dataset": run.dataset,
        "split": split,
        "metric": "retrieval",
        "definition": DEFINITION,
        "trunk": run.settings.trunk,
        "layer": store.identity["how.layer"],
        "source": table.source,
        "query_scales": query_scales,
        "reference_scales": reference_scales,
        "queries": int(counted.sum()),
        "mAP": mean_over(counted),
        "chance": number(float(found.chance[counted].mean())) if counted.any() else None,
        "AP": {
            name: mean_over(counted & (table.picture_labels[:, column] == 1))
            for column, name in enumerate(table.classes)
        },
        "fingerprint": store.fingerprint,
        "versions": versions(),
    }
