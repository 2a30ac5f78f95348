"""Layouts of pictures without boxes: ``folders`` (class folders), ``table`` (a CSV file), ``pictures`` (no labels).

A picture's id is made from its path: `pipeline.dataset.listing.id_of`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath

from pipeline.dataset.class_folders import read_folders
from pipeline.dataset.csv_table import read_rows, table_path
from pipeline.dataset.file_state import FileState, state_of_entry, state_of_file
from pipeline.dataset.listing import Listing, former_id_of, locate_pictures
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.report import Depth, SplitCheck, picture_faults
from pipeline.dataset.split import EMPTY_ANNOTATION, Split, read_ids, refuse_split
from pipeline.dataset.unlabelled import list_pictures
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError
from pipeline.io.likeness import suggest_nearest
from pipeline.io.progress import track


def read(manifest: Manifest, split: str, folder: Path, on_error: str = "fail") -> Split:
    """Read one split of a dataset without boxes: ids, paths and labels; every annotation is empty.

    Parameters
    ----------
    on_error : without effect, as there is no annotation that could be left out

    Raises
    ------
    DatasetError
        Everything wrong with it, in one message.
    """
    listing, base = list_split(manifest, split, folder)
    refuse_split(manifest, split, folder, listing.problems)
    labels = listing.labels if manifest.splits[split].labelled else None
    content = None if labels is None else sha256_bytes(labels.tobytes())
    n = len(listing.ids)
    # joinpath per picture costs seconds for a hundred thousand; text does not.
    paths = tuple(Path(f"{base}/{path}") for path in listing.paths)
    digest = digest_of([manifest.layout, listing.ids, content])
    return Split(manifest, split, folder, listing.ids, paths, (EMPTY_ANNOTATION,) * n, labels, digest)


def state(manifest: Manifest, split: str, folder: Path) -> str:
    """Digest the states of all files that `read` reads; table and list are read, no picture is opened."""
    facts: list[object] = [manifest.layout, manifest.classes, manifest.zero, manifest.splits[split].labelled]
    if (more := [manifest.minus_one, manifest.label_separator]) != ["absent", None]:
        facts += more
    facts += [] if manifest.exif is None else [manifest.exif]
    about = digest_of(facts)
    return digest_of(sorted([(about, 0, 0), *_states(manifest, split, folder)]))


def _states(manifest: Manifest, split: str, folder: Path) -> list[FileState]:
    listing, base = list_split(manifest, split, folder)
    # A list that cannot be read in full is read again when it changes; so is everything else that is wrong.
    states = [("problems", len(listing.problems), 0)]
    files = [path for path in (_list_path(manifest, split),) if path is not None]
    if manifest.layout == "table":
        files.append(table_path(manifest, folder))
    states += [state_of_file(path) for path in files]
    by_folder: dict[str, set[str]] = {}
    for path in listing.paths:
        parent, _, name = path.rpartition("/")
        by_folder.setdefault(parent, set()).add(name)
    for parent, wanted in by_folder.items():
        try:
            with os.scandir(base / parent) as entries:
                states += [
                    state_of_entry(entry, f"{PurePosixPath(parent) / entry.name}")
                    for entry in entries
                    if entry.name in wanted
                ]
        except OSError:
            states.append((parent, -1, 0))
    return states


def check(manifest: Manifest, split: str, folder: Path, depth: Depth) -> SplitCheck:
    """Compare the files of a split with its list."""
    entry = manifest.splits[split]
    try:
        listing, base = list_split(manifest, split, folder)
    except DatasetError as error:
        return SplitCheck(split, entry.labelled, None, entry.pictures, faults=(str(error),), boxes=False)
    faults = list(listing.problems)
    if depth.decode:
        for path in track(listing.paths, f"check {split}", len(listing.paths), "pictures"):
            faults += picture_faults(base / path)
    return SplitCheck(split, entry.labelled, len(listing.ids), entry.pictures, faults=tuple(faults), boxes=False)


def list_split(manifest: Manifest, split: str, folder: Path) -> tuple[Listing, Path]:
    """List pictures and labels of one split, and the folder to which their paths are relative.

    No picture is opened.

    Problems are part of the listing.

    Raises
    ------
    DatasetError
        No such split, or a list or table that cannot be read.
    """
    if split not in manifest.splits:
        raise DatasetError(
            f"{manifest.name}: no split {split!r}; there are {', '.join(manifest.splits)}"
            f"{suggest_nearest(split, manifest.splits)}"
        )
    base = _folder_of(manifest, split, folder)
    if manifest.layout != "table" and not base.is_dir():
        raise DatasetError(f"{base}: no such folder")
    if manifest.layout == "pictures":
        listing = list_pictures(base)
    else:
        listing = read_folders(manifest, base) if manifest.layout == "folders" else read_rows(manifest, folder)
    problems = list(listing.problems)
    list_path = _list_path(manifest, split)
    ids = listing.ids
    if list_path is not None:
        row_of = _rows_by_id(listing)
        ids = read_ids(list_path, row_of, prefer_whole=True)
        problems += [f"{i}: listed, and no picture has this id" for i in ids if i not in row_of]
        ids = tuple(i for i in ids if i in row_of)
        chosen = [row_of[i] for i in ids]
    elif listing.split is not None:
        chosen = [row for row, name in enumerate(listing.split) if name == split]
        ids = tuple(listing.ids[row] for row in chosen)
    else:
        chosen = list(range(len(listing.ids)))
    if not chosen:
        problems.append("no picture")
    paths = tuple(listing.paths[row] for row in chosen)
    if manifest.layout == "table":
        located = locate_pictures(folder, paths)
        problems += [f"{path}: no such picture" for path, found in zip(paths, located, strict=True) if found is None]
        paths = tuple(found or path for path, found in zip(paths, located, strict=True))
    return Listing(paths, ids, listing.labels[chosen], None, tuple(problems)), base


def _rows_by_id(listing: Listing) -> dict[str, int]:
    """Map ids to rows: those of the listing, and ids that earlier versions made of the same paths."""
    former = list(map(former_id_of, listing.paths))
    count = Counter(former)
    rows = {i: row for row, i in enumerate(former) if count[i] == 1}
    return {**rows, **{i: row for row, i in enumerate(listing.ids)}}


def _folder_of(manifest: Manifest, split: str, folder: Path) -> Path:
    """Return the folder with the class folders of a split."""
    inside = manifest.splits[split].folder
    return folder / inside if inside else folder


def _list_path(manifest: Manifest, split: str) -> Path | None:
    """Return the id list of a split, next to the manifest; None if all pictures of its folder belong to it."""
    ids = manifest.splits[split].ids
    return manifest.path.parent / ids if ids is not None and manifest.path is not None else None
