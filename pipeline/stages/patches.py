"""Patch tables of a workspace: kept while the dataset is what it was, else made again.

Apart from the other stages because it needs no network: a command that finds nothing to do is over
before torch would be imported.
"""

from __future__ import annotations

import os

from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.digests import DigestMemory
from pipeline.io.errors import MissingDataError, StoreError
from pipeline.io.progress import Say
from pipeline.patches.build import make_table
from pipeline.patches.table import PatchTable
from pipeline.patches.table_file import read_table, why_stale, write_table
from pipeline.stages.workspace import Workspace


def why_table_is_due(
    ws: Workspace, dataset: str, split: str, rehash: bool = False
) -> tuple[PatchTable | None, str | None]:
    """The kept patch table of a split, if one can be read, and why it must be made (again), or None.

    Where the pictures are not at hand, the kept table is taken as it is: heads need no pictures.
    """
    path = ws.table_path(dataset, split)
    memory = DigestMemory(ws.digest_memory)
    if rehash:
        memory.forget()
    try:
        content = read_split(load_manifest(dataset), split, ws.settings.data_root)
    except MissingDataError:
        if path.is_file():
            return read_table(path), None
        raise
    if not path.is_file():
        return None, "there is none yet"
    try:
        table = read_table(path)
    except StoreError as error:
        return None, str(error)
    return table, why_stale(table, content, memory)


def current_table(ws: Workspace, dataset: str, split: str, say: Say, rehash: bool = False) -> PatchTable:
    """The patch table of a split: as kept if the dataset has not changed since, else made anew."""
    path = ws.table_path(dataset, split)
    table, reason = why_table_is_due(ws, dataset, split, rehash)
    if table is not None and reason is None:
        return table
    if path.is_file():
        say(f"{path}: {reason}; making it again")
    table = make_table(
        read_split(load_manifest(dataset), split, ws.settings.data_root),
        ws.settings.sources,
        on_error=ws.settings.on_error,
        max_skipped=ws.settings.max_skipped,
        workers=ws.settings.threads or len(os.sched_getaffinity(0)),
        say=say,
    )
    write_table(table, path)
    say(f"{path}: {table.n_rows:,} patches of {len(table.ids):,} pictures")
    return table
