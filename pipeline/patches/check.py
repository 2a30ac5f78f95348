"""Check a dataset as the stage ``patches`` would: under its settings, without a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.dataset.manifest import Manifest, dataset_folder
from pipeline.dataset.read import LAYOUTS, read_split
from pipeline.dataset.report import CheckReport, Depth, SplitCheck
from pipeline.dataset.split import Split
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.progress import Say, silent
from pipeline.patches.build import check_source, find_bad
from pipeline.patches.notes import report_bad
from pipeline.patches.settings import SourceSettings


def check_for_patches(
    manifest: Manifest,
    data_root: str | Path | None,
    sources: SourceSettings,
    *,
    on_error: str = "fail",
    max_skipped: float = 0.05,
    workers: int = 1,
    say: Say = silent,
) -> CheckReport:
    """Compare a dataset's folder with its manifest, decode every picture and plan its windows.

    A split without problems here is one of which `pipeline.patches.build.make_table` makes a table under the same
    settings; all problems are returned, never raised.

    Parameters
    ----------
    sources, on_error, max_skipped, workers : as of `make_table`
    say : takes lines about bad pictures that would be skipped
    """
    try:
        folder = dataset_folder(manifest, data_root)
    except MissingDataError as error:
        return CheckReport(manifest.name, None, missing=str(error))
    layout = LAYOUTS[manifest.layout]
    # Under "skip", annotations that cannot be used are left out, and counted with the pictures that are bad.
    skips = on_error == "skip"
    files, pictures = Depth(read_xml=not skips, decode=False), Depth(read_xml=True, decode=True)
    checks = []
    for split in manifest.splits:
        found = layout.check(manifest, split, folder, files)
        if skips:
            found = replace(found, missing_annotations=())
        try:
            content = read_split(manifest, split, data_root, on_error) if found.complete else None
        except DatasetError as error:
            content, found = None, replace(found, faults=(*found.faults, str(error)))
        if content is None:  # what can be read is decoded all the same
            deep = layout.check(manifest, split, folder, pictures)
            found = replace(found, faults=tuple(dict.fromkeys((*found.faults, *deep.faults))))
        else:
            found = _check_pictures(found, content, sources, on_error, max_skipped, workers, say)
        checks.append(found)
    return CheckReport(manifest.name, folder, tuple(checks))


def _check_pictures(
    found: SplitCheck,
    content: Split,
    sources: SourceSettings,
    on_error: str,
    max_skipped: float,
    workers: int,
    say: Say,
) -> SplitCheck:
    """Add what `make_table` would refuse to the result of a split."""
    try:
        check_source(content, sources.source)
        report_bad(content, find_bad(content, sources, workers, say), on_error, max_skipped, say)
    except DatasetError as error:
        return replace(found, faults=(*found.faults, str(error)))
    return found
