"""Files of a VOC devkit's folder: ``JPEGImages``, ``Annotations`` and the lists in ``ImageSets``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.dataset.file_state import FileState, state_of_entry, state_of_file
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.split import PICTURE_SUFFIXES
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError
from pipeline.io.likeness import suggest_nearest


@dataclass(frozen=True)
class VocPlaces:
    """Folders of a split: of its pictures, and of its XML files; both may be the same."""

    pictures: Path
    annotations: Path


def places_of(manifest: Manifest, split: str, folder: Path) -> VocPlaces:
    """Name the folders of a split: the devkit's, or others that the manifest names."""
    base = folder / (manifest.splits[split].folder or "")
    return VocPlaces(base / manifest.pictures_folder, base / manifest.annotations_folder)


def lists_folder(manifest: Manifest, folder: Path) -> Path:
    """Path of the folder with a dataset's id lists and class lists."""
    return folder / "ImageSets" / ("Action" if manifest.layout == "voc-action" else "Main")


def id_list_path(manifest: Manifest, split: str, folder: Path) -> Path:
    """Path of the file with the ids of a split, one per line."""
    entry = manifest.splits.get(split)
    if entry is None:
        raise DatasetError(
            f"{manifest.name}: no split {split!r}; there are {', '.join(manifest.splits)}"
            f"{suggest_nearest(split, manifest.splits)}"
        )
    if entry.ids is not None and manifest.path is not None:
        return manifest.path.parent / entry.ids
    return lists_folder(manifest, folder) / f"{split}.txt"


def class_list_paths(manifest: Manifest, split: str, folder: Path) -> list[Path]:
    """Path of ``<class>_<split>.txt`` of each class; the files may be absent."""
    return [lists_folder(manifest, folder) / f"{name}_{split}.txt" for name in manifest.classes]


def find_pictures(pictures: Path, ids: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Find each id's picture in a folder; ids have no suffix. Costs one listing and no stat per file.

    Returns
    -------
    paths : of the pictures that were found, in the order of `ids`
    problems : one line per id without a picture
    """
    by_stem: dict[str, str] = {}
    for name in sorted(os.listdir(pictures), reverse=True):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in PICTURE_SUFFIXES:
            by_stem[stem] = name
    paths, problems = [], []
    for i in ids:
        if i in by_stem:
            paths.append(pictures / by_stem[i])
        else:
            problems.append(f"{i}: no picture {pictures.name}/{i}.jpg")
    return paths, problems


def state_of_voc_files(manifest: Manifest, split: str, folder: Path, ids: Sequence[str]) -> list[FileState]:
    """Read the states of a split's id list, pictures, annotations and class lists."""
    list_path = id_list_path(manifest, split, folder)
    wanted = set(ids)
    states = [("list", *state_of_file(list_path)[1:])]
    states.append((digest_of([manifest.classes, manifest.splits[split].labelled]), 0, 0))
    places = places_of(manifest, split, folder)
    for sub in dict.fromkeys((places.pictures, places.annotations)):
        if not sub.is_dir():
            continue
        with os.scandir(sub) as listing:
            states += [
                state_of_entry(entry, f"{sub.name}/{entry.name}")
                for entry in listing
                if os.path.splitext(entry.name)[0] in wanted
            ]
    return states + [state_of_file(path) for path in class_list_paths(manifest, split, folder) if path.is_file()]
