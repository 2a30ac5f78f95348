"""The stored activations of a split: which rows the settings ask for, and their store, opened by its receipt."""

from __future__ import annotations

import numpy as np

from pipeline.activations.features import Features
from pipeline.activations.match import check_joined
from pipeline.activations.store import Store
from pipeline.head.strong import rows_to_learn
from pipeline.io.errors import SettingsError, StoreError, StoreNotExtractedError
from pipeline.patches.table import PatchTable
from pipeline.stages.context import RunContext
from pipeline.stages.hints import name_command
from pipeline.stages.other_settings import name_other_stores
from pipeline.stages.patches import current_table, require
from pipeline.stages.receipt import read_receipt
from pipeline.trunk.registry import is_imported


def rows_to_extract(run: RunContext, table: PatchTable) -> np.ndarray | None:
    """Return the rows of a table that the settings ask for: int64 ndarray, rising; None for all.

    Raises
    ------
    SettingsError
        The main head is of a kind that needs all of them.
    """
    s = run.settings
    if s.rows == "all" or table.split != run.manifest.fit or is_imported(s.trunk):
        return None
    head = s.head_settings(s.head)
    if head.kind not in ("strong", "adapted"):
        raise SettingsError(f"rows: labelled is for strong heads, and head {s.head!r} uses all rows; use rows: all")
    return rows_to_learn(table, head, s.labels, s.all_seeds)


def sealed_store(run: RunContext, split: str) -> Store:
    """Open the store that the receipt of a split names; needs neither pictures nor the trunk's weights.

    Raises
    ------
    StoreError
        Not extracted with these settings yet, or the trunk's weights changed since.
    """
    ws, s, file = run.ws, run.settings, run.ws.receipt_path(run.dataset, split)
    again = name_command("extract", "--dataset", run.dataset, "--split", split, "--trunk", s.trunk)
    if not file.is_file() and is_imported(s.trunk):
        name = s.trunk.partition("/")[2]
        raise StoreNotExtractedError(
            f"{run.dataset} {split}: no rows {name!r} of source {s.source!r} were imported with these settings yet (no "
            f"{file}); import them with: pipeline import-features FILE --dataset {run.dataset} --split {split} "
            f"--name {name}; rows of patches also need their source in the settings, such as source: grid"
        )
    if not file.is_file():
        raise StoreNotExtractedError(
            f"{run.dataset} {split}: no activations of trunk {s.trunk!r}, layer {s.layer!r} with these settings yet "
            f"(no {file}); make them with: {again}{name_other_stores(run, split)}"
        )
    receipt = read_receipt(file)
    store = Store(ws.stores.child(receipt.store))
    # Where the weights are not available there is nothing to compare: heads need none.
    if ws.has_weights() and receipt.weights != ws.weights_state(run.dataset):
        raise StoreError(
            f"{store.folder}: the trunk's weights or card changed since it was made (trunk {s.trunk!r}); "
            f"extract again: {again}"
        )
    if store.fingerprint != receipt.fingerprint:
        raise StoreError(
            f"{file}: names the store {store.folder} with another fingerprint than it has; run pipeline extract again"
        )
    return store


def open_rows(run: RunContext, split: str) -> tuple[PatchTable, Store]:
    """Open the patch table of a split, made again if the dataset changed since, and its store.

    Raises
    ------
    StoreError
        As `sealed_store`.
    """
    return current_table(run, split), sealed_store(run, split)


def require_rows(run: RunContext, split: str) -> tuple[PatchTable, Store]:
    """Open the patch table of a split and its store if both are current; nothing is made.

    Raises
    ------
    StoreError
        As `sealed_store`; or it was made from other rows or pictures.
    TableDueError
        The table must be made.
    MissingDataError
        Neither the pictures nor a table.
    """
    store = sealed_store(run, split)
    table = require(run, split)
    stored = (store.identity["seen.rows"], store.identity["seen.pictures"])
    if stored != (table.rows_digest, table.pictures_digest()):
        raise StoreError(f"{store.folder}: made from other rows or pictures than the patch table has now")
    return table, store


def open_features(run: RunContext, split: str) -> Features:
    """Open the cached activations of a split, joined with its patch table.

    Raises
    ------
    StoreError
        Not extracted with these settings yet, or the store is of other rows than the table.
    """
    table, store = open_rows(run, split)
    rows = rows_to_extract(run, table)
    check_joined(store, table, rows)
    return Features(store, table, rows)
