"""Class folders: ``<class>/<picture>``, one label per picture."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pipeline.dataset.file_state import is_dir
from pipeline.dataset.listing import Listing, id_of, name_clashes
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.split import is_picture_name
from pipeline.io.names import normalise


def list_class_folders(folder: Path) -> dict[str, list[str]]:
    """List the pictures directly in each folder below `folder`, both sorted; folders without any are left out."""
    pictures_by_class = {}
    with os.scandir(folder) as listing:
        names = sorted(entry.name for entry in listing if is_dir(entry) and not entry.name.startswith((".", "__")))
    for name in names:
        with os.scandir(folder / name) as listing:
            pictures = sorted(entry.name for entry in listing if is_picture_name(entry.name) and not is_dir(entry))
        if pictures:
            pictures_by_class[name] = pictures
    return pictures_by_class


def read_folders(manifest: Manifest, folder: Path) -> Listing:
    """List all pictures of the manifest's classes, classes and files in the order of their names."""
    column = {name: index for index, name in enumerate(manifest.classes)}
    found = list_class_folders(folder)
    class_of = {name: normalise(name) for name in found}  # macOS writes names decomposed
    problems = [
        f"{name}/: a folder of pictures that is no class of the manifest"
        for name in found
        if class_of[name] not in column
    ]
    problems += [
        f"{name}/: another folder has the same name in another of Unicode's forms; rename one, or join them"
        for name in found
        if [*class_of.values()].count(class_of[name]) > 1
    ]
    pairs = [
        (f"{name}/{file}", column[class_of[name]])
        for name, files in found.items()
        if class_of[name] in column
        for file in files
    ]
    paths = tuple(path for path, _ in pairs)
    labels = np.full((len(paths), len(column)), -1, np.int8)
    labels[np.arange(len(paths)), [index for _, index in pairs]] = 1
    ids = tuple(map(id_of, paths))
    return Listing(paths, ids, labels, None, (*problems, *name_clashes(paths, ids)))
