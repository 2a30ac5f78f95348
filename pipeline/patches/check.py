"""Check a dataset as the stage ``patches`` would: under its settings, without a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.dataset.manifest import Manifest, dataset_folder
from pipeline.dataset.read import find_reader, read_split
from pipeline.dataset.report import CheckReport, Depth
from pipeline.dataset.split import Split
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.progress import Say, silent
from pipeline.patches.build import check_source, find_bad
from pipeline.patches.inspect import Bad
from pipeline.patches.notes import list_remedies, may_pass
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
    layout = find_reader(manifest)
    # Under "skip", annotations that cannot be used are left out, and counted with the pictures that are bad.
    skips = on_error == "skip"
    files, pictures = Depth(read_xml=not skips, decode=False), Depth(read_xml=True, decode=True)
    checks, bad = [], []
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
            try:
                check_source(content, sources.source)
            except DatasetError as error:
                found = replace(found, faults=(*found.faults, str(error)))
            else:
                inspected = find_bad(content, sources, workers, say)
                if not may_pass(inspected, on_error, max_skipped):
                    found = replace(found, faults=(*found.faults, *_faults(content, inspected)))
                    bad += inspected
                elif any(inspected):
                    n_bad = sum(item is not None for item in inspected)
                    say(f"{split}: {n_bad} pictures are bad and would be left out, as on_error: skip says")
        checks.append(found)
    advice = list_remedies(bad).splitlines() if bad else []
    if bad and skips:
        advice.append(f"more than may be skipped (setting max_skipped: {max_skipped:g} of all, and never all)")
    elsewhere = manifest.folder if manifest.is_elsewhere else ""
    return CheckReport(manifest.name, folder, tuple(checks), advice=tuple(advice), elsewhere=elsewhere)


def _faults(content: Split, inspected: Sequence[Bad | None]) -> list[str]:
    """Name each bad picture by its id and its path below the dataset's folder."""
    faults = []
    for i, path, item in zip(content.ids, content.paths, inspected, strict=True):
        if item is not None:
            below = isinstance(path, Path) and path.is_relative_to(content.folder)
            inside = path.relative_to(content.folder) if isinstance(path, Path) and below else path
            faults.append(f"{i}: {inside}: {item.problem}")
    return faults
