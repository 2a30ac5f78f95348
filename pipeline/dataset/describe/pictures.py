"""Describe pictures without labels by a manifest: a folder with all folders below it, or a list of pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.dataset.csv_file import CsvTable
from pipeline.dataset.csv_table import picture_paths
from pipeline.dataset.describe.tree import Folder, LeftOut, read_tree
from pipeline.dataset.describe.write import (
    IdList,
    NewDataset,
    check_new,
    refuse,
    say_to_stderr,
    write_manifest,
)
from pipeline.dataset.elsewhere import list_files
from pipeline.dataset.listing import absent_pictures, id_of, name_clashes
from pipeline.dataset.manifest_entries import EVERY
from pipeline.dataset.manifest_places import known_datasets
from pipeline.dataset.places import ARCHIVE, absolute_place, is_elsewhere, name_of_place
from pipeline.dataset.split import PICTURE_SUFFIXES
from pipeline.dataset.unlabelled import DEPTH, list_pictures
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import DatasetError, MissingDataError, SettingsError
from pipeline.io.model import refuse_credentials
from pipeline.io.names import expand_home
from pipeline.io.progress import Say
from pipeline.io.remote import redact_url
from pipeline.io.yaml import read_mapping

ROLES = (EVERY, EVERY)


def new_pictures_manifest(
    root: Path | str,
    name: str,
    manifests: Path,
    seed: int = 0,
    metric: str = "voc12",
    overwrite: bool = False,
    say: Say = say_to_stderr,
) -> Path:
    """Write ``<manifests>/<name>.yaml`` for all pictures in a folder and below it, without labels.

    The manifest names the folder and no picture: what the folder holds counts whenever it is read.

    Parameters
    ----------
    seed, metric : without effect, as nothing is divided or measured

    Raises
    ------
    SettingsError
        A bad name, or a name that is taken.
    DatasetError
        No picture, a folder that cannot be listed, or several pictures with one id.
    """
    path = check_new(name, manifests, metric, overwrite)
    root = Path(root).resolve()
    listing = list_pictures(root)
    refuse(root, listing.problems)
    left_out = LeftOut()
    for folder in read_tree(root, depth=DEPTH).walk(DEPTH):
        left_out.add_others(folder)
    if not listing.paths:
        is_archives = any(name.lower().endswith(ARCHIVE) for name in os.listdir(root))
        hint = f"; for pictures in archives give --root '{root}/*{ARCHIVE}'" if is_archives else ""
        raise DatasetError("\n".join([f"{root}: no picture in it, nor in a folder below{hint}", *left_out.lines()]))
    for line in left_out.lines():
        say(line)
    about: dict[str, object] = {"layout": "pictures", "title": f"pictures without labels in {root.name}"}
    lists = {EVERY: IdList(listing.ids, labelled=False, own=False)}
    return write_manifest(path, NewDataset(root, about, (), metric, ROLES, lists), say)


def describe_list(table: CsvTable, root: Path, path: Path, say: Say) -> Path:
    """Write the manifest `path` for the pictures of a table whose only column is ``picture``.

    Raises
    ------
    DatasetError
        Pictures that are not there, or several with one id.
    """
    paths, problems = picture_paths(table, root)
    paths = list(dict.fromkeys(paths))
    ids = tuple(map(id_of, paths))
    problems += [f"{p}: no such picture in {root}" for p in absent_pictures(root, paths)]
    refuse(table.path, [*problems, *name_clashes(paths, ids)])
    about: dict[str, object] = {"layout": "pictures", "title": f"pictures of {table.path.name}, without labels"}
    lists = {EVERY: IdList(ids, labelled=False, own=True)}
    return write_manifest(path, NewDataset(root, about, (), "voc12", ROLES, lists), say)


def manifest_of_folder(root: str, manifests: Path, say: Say = say_to_stderr) -> Path:
    """Return the manifest of layout ``pictures`` that describes a folder; write it if there is none.

    A new one has the name of the folder in lower case, followed by a digest of its path where that name is taken.

    Raises
    ------
    MissingDataError
        No such folder.
    DatasetError
        As `new_pictures_manifest`.
    """
    if is_elsewhere(root) or "*" in root:
        return _manifest_of(absolute_place(root), manifests, say)
    folder = Path(expand_home(root)).resolve()
    if not folder.is_dir():
        what = "a file, not a folder" if folder.is_file() else "no such folder"
        raise MissingDataError(f"{root}: {what}; --root names the folder of the pictures")
    return _manifest_of(str(folder), manifests, say)


def _manifest_of(place: str, manifests: Path, say: Say) -> Path:
    """Return the manifest of a folder or of a place elsewhere; write it if there is none."""
    for path in sorted(manifests.glob("*.yaml")):
        if _describes(path, place):
            say(f"{path}: dataset {path.stem}, the pictures in {redact_url(place)}")
            return path
    own_name = name_of_place(place) if is_elsewhere(place) else Path(place).name
    name = re.sub("[^a-z0-9]+", "_", own_name.lower()).strip("_")[:50] or "pictures"
    if name in known_datasets() or name == "published":
        name = f"{name}_{sha256_bytes(place.encode())[:8]}"
    say(f"{manifests / name}.yaml: a new dataset, {name}, of all pictures in {redact_url(place)}; labels are not read")
    new = new_elsewhere_manifest if is_elsewhere(place) else new_pictures_manifest
    return new(place, name, manifests, overwrite=True, say=say)


def new_elsewhere_manifest(
    place: str, name: str, manifests: Path, overwrite: bool = False, say: Say = say_to_stderr
) -> Path:
    """Write ``<manifests>/<name>.yaml`` for pictures at a URL, in a list of URLs or in tar archives.

    Raises
    ------
    SettingsError
        A bad name, or one that is taken; a URL with credentials in it, or whose file system is not installed.
    DatasetError
        It cannot be listed, or holds no picture.
    """
    refuse_credentials(place, "folder")
    path = check_new(name, manifests, "voc12", overwrite)
    place = absolute_place(place)
    files = list_files(place, manifests / name / "index")
    if not files:
        raise DatasetError(f"{place}: no picture in it, or no such place; read are {' '.join(PICTURE_SUFFIXES)}")
    about: dict[str, object] = {"layout": "pictures", "title": f"pictures without labels in {name_of_place(place)}"}
    lists = {EVERY: IdList(tuple(map(id_of, (inside for inside, _ in files))), labelled=False, own=False)}
    return write_manifest(path, NewDataset(place, about, (), "voc12", ROLES, lists), say)


def _describes(path: Path, folder: str) -> bool:
    """Whether a manifest is of all pictures in a folder; one that cannot be read is not."""
    try:
        content = read_mapping(path)
    except SettingsError:
        return False
    whole = content.get("splits", {EVERY: {}}) == {EVERY: {}}
    return content.get("layout") == "pictures" and content.get("folder") == folder and whole


def labels_may_lie_in(tree: Folder) -> tuple[str, ...]:
    """Name the tables that lie next to pictures: they may hold labels."""
    return tuple(file for file in tree.others if file.lower().endswith((".csv", ".tsv")))
