"""Export: the activations of a split into a file of another program."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.exchange.contents import Block, Contents
from pipeline.exchange.formats import Format, files_of, find_format
from pipeline.io.atomic import make_folder, replacing
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.io.numbers import format_bytes
from pipeline.io.progress import Progress, Say, silent
from pipeline.stages import extract
from pipeline.stages.context import RunContext
from pipeline.stages.stored import open_features


def export(contents: Contents, target: str, *, command: str = "", overwrite: bool = False, say: Say = silent) -> Path:
    """Write rows into a file or folder whose ending says the format.

    Memory depends on the size of one part of the store. A file appears when it is complete, and an interrupted export
    begins again; a folder of shards resumes at the first missing shard.

    Parameters
    ----------
    target : path; see `pipeline.exchange.formats`
    command : recorded in the provenance
    overwrite : replace existing files

    Returns
    -------
    The file or folder.

    Raises
    ------
    SettingsError
        The ending is unknown.
    MissingDataError
        A library is not installed.
    PipelineError
        A file exists already, or the disk will not hold the new one.
    """
    kind = check_target(target, overwrite)
    write = kind.import_writer()
    path = Path(target)
    paths = kind.paths(path)
    provenance = contents.provenance(command)
    table = contents.features.table
    name = f"export {table.dataset} {table.split}" if table is not None else "export"
    if kind.ending == "/":
        if overwrite:
            raise SettingsError(f"{target}: a folder is resumed and never overwritten; remove it, or give another one")
        _check_room(path, contents.n_bytes)
        with Progress(name, contents.features.store.n_rows, "patches") as progress:
            write(contents, path, provenance, progress.advance)
        _announce(contents, path, say)
        return path
    _check_room(path, int(contents.n_bytes * kind.bytes_per_byte))
    with Progress(name, contents.features.store.n_rows, "patches") as progress, ExitStack() as stack:
        # In this order the file itself takes its name last, when those next to it are there.
        partial = [stack.enter_context(_replacing(kind, item)) for item in paths]
        write(contents, _counted(contents, progress), partial, provenance)
    _announce(contents, path, say)
    return path


def check_target(target: str, overwrite: bool = False) -> Format:
    """Return the format of a file or folder to be written, before any row is made.

    Raises
    ------
    SettingsError
        The ending is unknown.
    MissingDataError
        A library is not installed.
    PipelineError
        A file exists already.
    """
    kind = find_format(target)
    kind.import_writer()
    existing = files_of(kind.paths(Path(target))) if kind.ending != "/" else []
    if existing and not overwrite:
        raise PipelineError(f"{', '.join(map(str, existing))}: exists already; give --overwrite, or another name")
    return kind


def holds_already(contents: Contents, target: str) -> bool:
    """Whether a file says of itself that it holds these rows and columns; False for formats that cannot be asked."""
    kind, path = find_format(target), Path(target)
    if len(files_of(kind.paths(path))) < len(kind.paths(path)):
        return False
    found = kind.read_provenance(path)
    wanted = json.loads(json.dumps(contents.provenance()))
    of_the_run = {"command", "pipeline"}
    return found is not None and {**found, **dict.fromkeys(of_the_run)} == {**wanted, **dict.fromkeys(of_the_run)}


def why_due(run: RunContext, split: str, target: str) -> str | None:
    """Return why the rows of patches of a split must be exported, or None if a file holds what would be written now.

    Raises
    ------
    PipelineError
        The rows are not extracted, or pictures and patch table are both missing.
    """
    if not Path(target).exists():
        return "it has not been exported yet"
    reason = extract.why_due(run, split)
    if reason is not None:
        return reason
    contents = Contents(open_features(run, split), "patch", "mean", run.settings.labels, False)
    return None if holds_already(contents, target) else "it holds other rows or labels"


def _counted(contents: Contents, progress: Progress) -> Iterator[Block]:
    n_rows = 0
    for block in contents.blocks():
        n_rows += len(block.features)
        yield block
        progress.advance(block.n_stored)
        del block
    if n_rows != contents.n_rows:
        raise AssertionError(f"{n_rows:,} of {contents.n_rows:,} rows were written")


@contextmanager
def _replacing(kind: Format, path: Path) -> Iterator[Path]:
    if not kind.is_folder:
        with replacing(path) as partial:
            yield partial
        return
    # No system replaces a folder that is not empty: the old one goes before the new one takes its name.
    partial = path.with_name(f".{path.name}.partial")
    make_folder(path.parent)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_room(path: Path, n_bytes: int) -> None:
    """Stop before anything is read if the disk will not hold so many bytes."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise PipelineError(
            f"{path}: {format_bytes(n_bytes)} may be needed and {format_bytes(free)} are free; free some space, or "
            "export to another disk"
        )


def _announce(contents: Contents, path: Path, say: Say) -> None:
    what = "patches" if contents.per == "patch" else "pictures"
    say(f"{path}: {contents.n_rows:,} {what}, {contents.width:,} columns of {contents.dtype.name}")
    features = contents.features
    if not features.has_picture_labels:
        say(f"note: no labels are in it: the split {features.table.split if features.table else ''} has none")
    elif contents.per == "patch" and not features.has_patch_labels:
        say(
            "note: no labels of patches are in it, since the dataset has no boxes; labels of pictures are in an export "
            "of pictures: --per picture"
        )
