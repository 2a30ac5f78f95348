"""What the settings ask for, and what of it is cached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.activations import SEAL
from pipeline.activations.identity import FieldDifference, Identity, differences
from pipeline.activations.writer import StoreWriter
from pipeline.cache.inventory import list_stores
from pipeline.dataset.manifest import load_manifest
from pipeline.stages.extract import extraction_of
from pipeline.stages.patches import why_table_is_due
from pipeline.stages.workspace import Workspace

# Explaining


@dataclass
class Explanation:
    """What the settings ask for, and what of it is there.

    Attributes
    ----------
    stages : (stage, file or store, state), in the order of the flow
    identity : of the store that is asked for; None while there is no patch table
    others : stores of the same split with the fields in which they differ (kept, asked for)
    """

    stages: list[tuple[str, str, str]]
    identity: Identity | None
    others: dict[str, list[FieldDifference]]


def explain(ws: Workspace, dataset: str, split: str) -> Explanation:
    """Which files the settings ask for, which are there, and what would be made."""
    table_path = ws.table_path(dataset, split)
    table, reason = why_table_is_due(ws, dataset, split)
    stages = [("patches", str(table_path), "there" if reason is None else f"would be made: {reason}")]
    identity, others = None, {}
    if table is None or reason is not None:
        stages.append(("extract", "a store", "would be made, after the patch table"))
        ready = False
    else:
        extraction = extraction_of(ws, table, {})
        identity = extraction.identity
        folder = extraction.folder
        ready = folder.exists(SEAL)
        if ready:
            state = "there, sealed"
        elif folder.exists("zarr.json"):
            writer = StoreWriter(folder)
            left = writer.missing()
            rows = sum(part.n_rows for part in left)
            state = f"would go on: {len(left)} of {len(writer.parts)} parts, {rows:,} rows through the trunk"
        else:
            state = f"would be made: {table.n_rows:,} rows through the trunk"
        stages.append(("extract", str(folder), state))
        for store in list_stores(ws):
            same = store.made_from.get("dataset") == dataset and store.made_from.get("split") == split
            if same and store.identity is not None and store.identity != identity:
                others[store.folder.name] = differences(store.identity, identity)
    entry = load_manifest(dataset)
    if split == entry.fit:
        path = ws.head_path(dataset, ws.settings.head)
        stages.append(("fit-head", str(path), _there(path, ready)))
    if split == entry.eval:
        path = ws.scores_path(dataset, ws.settings.head, split)
        stages.append(("score", str(path), _there(path, ready)))
        path = ws.run_dir(dataset) / "map.json"
        stages.append(("evaluate", str(path), _there(path, ready)))
    return Explanation(stages, identity, others)


def _there(path: Path, ready: bool) -> str:
    if not path.is_file():
        return "would be made"
    return "there" if ready else "there; made again if the new rows differ"
