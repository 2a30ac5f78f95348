"""Receipts: which store holds the activations of a split, and what it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.activations.extraction import Extraction
from pipeline.activations.store import Store
from pipeline.io.atomic import write_atomic
from pipeline.io.checksummed import checksummed_json, read_checksummed_json
from pipeline.io.errors import StoreError
from pipeline.stages.workspace import Workspace


def write_receipt(
    ws: Workspace, dataset: str, split: str, extraction: Extraction, store: Store, made: int | None
) -> None:
    table = extraction.table
    receipt = {
        "dataset": dataset,
        "split": split,
        "store": store.folder.name,
        "fingerprint": store.fingerprint,
        "rows": store.n_rows,
        "width": store.width,
        "bytes": store.n_bytes,
        "pictures": {"used": len(table.ids), "skipped": len(table.skipped)},
        "trunk": extraction.runner.trunk.card.name,
        "layer": store.identity["how.layer"],
        "weights": ws.weights_state(dataset),
        "made": made if made is not None else ws.store_making(dataset, split),
        # What `cache verify` and `cache repair` need to make rows again.
        "settings": ws.settings.model_dump(mode="json"),
    }
    write_atomic(ws.receipt_path(dataset, split), checksummed_json(receipt))


def read_receipt(path: Path) -> dict[str, Any]:
    """The receipt of an extraction.

    Raises
    ------
    StoreError
        It is not there or was changed.
    """
    try:
        return read_checksummed_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: missing or damaged receipt ({error}); run pipeline extract again") from error
