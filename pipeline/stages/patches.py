"""Stage ``patches``: the patch table of a split.

Needs no network: a command that finds nothing to do ends before torch would be imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.dataset.decode_memory import DecodeMemory
from pipeline.io.atomic import write_json
from pipeline.io.digests import DigestMemory
from pipeline.io.errors import MissingDataError, StoreError
from pipeline.io.picture_file import PictureFile
from pipeline.patches.build import check_source, make_table
from pipeline.patches.inspect import inspect_share
from pipeline.patches.table import PatchTable
from pipeline.patches.table_file import read_table, why_stale, write_table
from pipeline.stages.context import RunContext


class TableDueError(StoreError):
    """There is no current patch table of a split.

    Parameters
    ----------
    reason : why the table must be made
    """

    def __init__(self, run: RunContext, split: str, reason: str) -> None:
        super().__init__(f"{run.dataset} {split}: {reason}")
        self.reason = reason


def path(run: RunContext, split: str) -> Path:
    """Return the file of the patch table of a split."""
    return run.ws.table_path(run.dataset, split)


def why_due(run: RunContext, split: str, rehash: bool = False) -> str | None:
    """Return why the patch table must be made, or None if it is current; see `require`."""
    try:
        require(run, split, rehash)
    except TableDueError as due:
        return due.reason
    return None


def require(run: RunContext, split: str, rehash: bool = False) -> PatchTable:
    """Return the patch table of a split if it is current; nothing is made.

    Where the pictures are not available, the cached table counts as current: heads need no pictures.

    Parameters
    ----------
    rehash : forget the remembered digests of pictures and hash each again

    Raises
    ------
    TableDueError
        It must be made, and why.
    MissingDataError
        Neither the pictures nor a table.
    """
    file = path(run, split)
    if file in run.opened.tables and not rehash:
        return run.opened.tables[file]
    try:
        content = run.split(split)
    except MissingDataError:
        if not file.is_file():
            raise
        return run.opened.tables.setdefault(file, read_table(file))
    memory = DigestMemory(run.ws.digest_memory)
    if rehash:
        memory.forget()
    if not file.is_file():
        raise TableDueError(run, split, f"there is no patch table {file} yet")
    try:
        table = read_table(file)
    except StoreError as error:
        raise TableDueError(run, split, str(error)) from error
    reason = why_stale(table, content, memory)
    if reason is not None:
        raise TableDueError(run, split, reason)
    run.opened.tables[file] = table
    return table


def make(run: RunContext, split: str, rehash: bool = False) -> PatchTable:
    """Make the patch table of a split and write it.

    Parameters
    ----------
    rehash : read every picture, whatever is remembered of its file
    """
    s, file, content = run.settings, path(run, split), run.split(split)
    table = make_table(
        content,
        s.sources,
        on_error=s.on_error,
        max_skipped=s.max_skipped,
        workers=_count_threads(run),
        memory=DecodeMemory(run.ws.digest_memory, hash_again=rehash),
        say=run.say,
    )
    write_table(table, file)
    run.opened.tables[file] = table
    run.say(f"{file}: {table.n_rows:,} patches of {len(table.ids):,} pictures")
    return table


def current_table(run: RunContext, split: str, rehash: bool = False) -> PatchTable:
    """Return the patch table of a split, made again if the dataset changed since."""
    try:
        return require(run, split, rehash)
    except TableDueError as due:
        file = path(run, split)
        if file.is_file():
            run.say(f"{file}: {due.reason}; making it again")
    return make(run, split, rehash)


def open_pictures(run: RunContext, split: str, rehash: bool = False) -> tuple[PatchTable, Mapping[str, PictureFile]]:
    """Return the patch table of a split, made again if the dataset changed since, and its pictures' files by id.

    Raises
    ------
    MissingDataError
        The pictures are not available.
    """
    return current_table(run, split, rehash), run.split(split).paths_by_id


def make_share(run: RunContext, split: str, share: tuple[int, int], rehash: bool = False) -> Path:
    """Inspect one of several ranges of a split's pictures; `make` then decodes those alone that no share did.

    Parameters
    ----------
    share : (i, n) for the i-th (from 1) of n
    rehash : read every picture of the range, whatever is remembered of its file

    Returns
    -------
    A file that says that the share is done.

    Raises
    ------
    DatasetError
        The source does not go with the samples. Bad pictures are no error here: `make` names all of them at once.
    """
    index, count = share
    content, memory = run.split(split), DecodeMemory(run.ws.digest_memory, hash_again=rehash)
    check_source(content, run.settings.source)
    what = f"patches {run.dataset} {split} {index}/{count}"
    n, n_bad = inspect_share(content, run.settings.sources, _count_threads(run), what, share, memory)
    run.say(f"{run.dataset} {split}: share {index}/{count}, {n:,} pictures inspected, {n_bad:,} of them bad")
    file = run.ws.table_share_path(run.dataset, split, index, count)
    write_json(file, {"table": path(run, split).name, "share": f"{index}/{count}", "pictures": n, "bad": n_bad})
    return file


def _count_threads(run: RunContext) -> int:
    return run.settings.threads or len(os.sched_getaffinity(0))
