"""Files of a VOC devkit's folder: ``JPEGImages``, ``Annotations`` and the lists in ``ImageSets``."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.dataset.file_state import FileState, is_dir, state_of_entry, state_of_file
from pipeline.dataset.formats.names import ANNOTATED
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.manifest_entries import SplitEntry
from pipeline.dataset.split import PICTURE_SUFFIXES, read_ids
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError
from pipeline.io.likeness import suggest_nearest
from pipeline.io.names import normalise


@dataclass(frozen=True)
class VocPlaces:
    """Folders of a split: of its pictures, and of its XML files; both may be the same."""

    pictures: Path
    annotations: Path


def places_of(manifest: Manifest, split: str, folder: Path) -> VocPlaces:
    """Name the folders of a split: the devkit's, or others that the manifest names."""
    base = folder / (_entry_of(manifest, split).folder or "")
    if manifest.layout in ANNOTATED:
        return VocPlaces(base, base)
    return VocPlaces(base / manifest.pictures_folder, base / manifest.annotations_folder)


def lists_folder(manifest: Manifest, folder: Path) -> Path:
    """Path of the folder with a dataset's id lists and class lists."""
    return folder / "ImageSets" / ("Action" if manifest.layout == "voc-action" else "Main")


def id_list_path(manifest: Manifest, split: str, folder: Path) -> Path:
    """Path of the file with the ids of a split, one per line."""
    entry = _entry_of(manifest, split)
    if entry.ids is not None and manifest.path is not None:
        return manifest.path.parent / entry.ids
    return lists_folder(manifest, folder) / f"{split}.txt"


def _entry_of(manifest: Manifest, split: str) -> SplitEntry:
    """Return the manifest's entry of a split; raise DatasetError with the splits that exist if there is none."""
    entry = manifest.splits.get(split)
    if entry is None:
        raise DatasetError(
            f"{manifest.name}: no split {split!r}; there are {', '.join(manifest.splits)}"
            f"{suggest_nearest(split, manifest.splits)}"
        )
    return entry


def class_list_paths(manifest: Manifest, split: str, folder: Path) -> list[Path]:
    """Path of ``<class>_<split>.txt`` of each class; the files may be absent."""
    return [lists_folder(manifest, folder) / f"{name}_{split}.txt" for name in manifest.classes]


@dataclass(frozen=True)
class FileIndex:
    """Files of one folder and of the folders in it, by id: their path in the folder, without suffix.

    Attributes
    ----------
    folder : such as ``JPEGImages``
    by_id : paths in the folder, with ``/``, of each id as the file system writes it
    """

    folder: Path
    by_id: Mapping[str, tuple[str, ...]]

    @cached_property
    def _by_normal_id(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for i, names in self.by_id.items():
            index.setdefault(normalise(i), []).extend(names)
        return index

    def __contains__(self, i: object) -> bool:
        return isinstance(i, str) and bool(self.names_of(i))

    def names_of(self, i: str) -> Sequence[str]:
        """Return the files of an id; an id in another of Unicode's forms than the file's name is the same."""
        exact = self.by_id.get(i)
        return exact if exact is not None else self._by_normal_id.get(normalise(i), ())


def index_files(folder: Path, suffixes: Collection[str]) -> FileIndex:
    """List the files with one of some suffixes in a folder and in the folders below it.

    Hidden files are passed over: ``._a.jpg`` next to ``a.jpg`` is written by macOS. Costs one listing per folder and
    no stat per file.
    """
    by_id: dict[str, list[str]] = {}
    for name in sorted(_walk(folder, "", suffixes, set())):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes:
            by_id.setdefault(stem, []).append(name)
    return FileIndex(folder, {i: tuple(names) for i, names in by_id.items()})


def _walk(folder: Path, prefix: str, suffixes: Collection[str], seen: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the paths of all files in a folder; folders that links lead to are entered once."""
    inner = []
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.name.startswith("."):
                continue
            # A folder with the name of a picture is named by what reads it, and so is a link that leads in a circle.
            if is_dir(entry) and os.path.splitext(entry.name)[1].lower() not in suffixes:
                inner.append(entry.name)
            else:
                yield prefix + entry.name
    if inner:
        stat = os.stat(folder)
        seen.add((stat.st_dev, stat.st_ino))
    for name in sorted(inner):
        stat = os.stat(folder / name)
        if (stat.st_dev, stat.st_ino) not in seen:
            seen.add((stat.st_dev, stat.st_ino))
            yield from _walk(folder / name, f"{prefix}{name}/", suffixes, seen)


def index_pictures(folder: Path) -> FileIndex:
    """List the pictures in a folder."""
    return index_files(folder, PICTURE_SUFFIXES)


def index_annotations(folder: Path) -> FileIndex:
    """List the annotations in a folder; none where there is no such folder."""
    return index_files(folder, (".xml",)) if folder.is_dir() else FileIndex(folder, {})


def read_split_ids(manifest: Manifest, split: str, folder: Path, pictures: FileIndex) -> tuple[str, ...]:
    """Read the ids of a split; raises as `pipeline.dataset.split.read_ids`."""
    path = id_list_path(manifest, split, folder)
    return read_ids(path, pictures, prefer_whole=manifest.splits[split].ids is not None)


def find_files(index: FileIndex, ids: Sequence[str], what: str) -> tuple[dict[str, Path], list[str]]:
    """Find each id's file.

    Parameters
    ----------
    what : for messages: what the file of an id is called, with ``{}`` for the id

    Returns
    -------
    paths : of the files that were found, by id, in the order of `ids`
    problems : one line per id without a file, or with several
    """
    paths, problems = {}, []
    for i in ids:
        names = index.names_of(i)
        if len(names) == 1:
            paths[i] = index.folder / names[0]
        elif names:
            several = ", ".join(f"{index.folder.name}/{name}" for name in names)
            problems.append(f"{i}: several files of one name: {several}; rename or remove all but one")
        else:
            problems.append(f"{i}: {what.format(i)}")
    return paths, problems


def find_pictures(index: FileIndex, ids: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Find each id's picture, as `find_files`; ids have no suffix."""
    return find_files(index, ids, f"no picture {index.folder.name}/{{}}.jpg")


def state_of_voc_files(manifest: Manifest, split: str, folder: Path, ids: Sequence[str]) -> list[FileState]:
    """Read the states of a split's id list, pictures, annotations and class lists."""
    list_path = id_list_path(manifest, split, folder)
    states = [("list", *state_of_file(list_path)[1:])]
    exif = [] if manifest.exif is None else [manifest.exif]
    states.append((digest_of([manifest.classes, manifest.splits[split].labelled, *exif]), 0, 0))
    places = places_of(manifest, split, folder)
    for index in (index_pictures(places.pictures), index_annotations(places.annotations)):
        states += states_of_ids(index, ids)
    return states + [state_of_file(path) for path in class_list_paths(manifest, split, folder) if path.is_file()]


def states_of_ids(index: FileIndex, ids: Sequence[str]) -> list[FileState]:
    """Read the states of the files of some ids. Costs one listing per folder."""
    by_folder: dict[str, set[str]] = {}
    for i in ids:
        for path in index.names_of(i):
            parent, _, name = path.rpartition("/")
            by_folder.setdefault(parent, set()).add(name)
    states: list[FileState] = []
    for parent, wanted in by_folder.items():
        prefix = f"{index.folder.name}/{parent}/" if parent else f"{index.folder.name}/"
        with os.scandir(index.folder / parent) as listing:
            states += [state_of_entry(entry, prefix + entry.name) for entry in listing if entry.name in wanted]
    return states
