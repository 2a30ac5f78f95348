"""A split of a dataset: its pictures with their objects and labels, and lists of ids."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.manifest import Manifest
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief, enumerate_problems

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABELS = ("-1", "0", "1")
PICTURE_ID = re.compile(r"\w[\w.+@=-]{0,199}")


@dataclass(frozen=True)
class Annotation:
    """Objects of one picture.

    Attributes
    ----------
    size_wh : (width, height) as the XML states them, or None
    box_xyxy : float64 ndarray of shape (n, 4), continuous, 0-based
    class_index : int64 ndarray of shape (n,), index into the manifest's classes
    difficult : bool ndarray of shape (n,)
    sample_xyxy : float64 ndarray of shape (4,), box of the person, where the sample is a person of the picture; else
        None. The objects are then what this person does, each with the same box.
    """

    size_wh: tuple[int, int] | None
    box_xyxy: np.ndarray
    class_index: np.ndarray
    difficult: np.ndarray
    sample_xyxy: np.ndarray | None = None


EMPTY_ANNOTATION = Annotation(None, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))


@dataclass(frozen=True)
class Split:
    """One split of a dataset, annotations read, pictures not yet opened.

    Attributes
    ----------
    ids, paths : one entry a sample (a picture; in some datasets a person), in the order of the id list
    annotations : one `Annotation` a sample
    labels : int8 ndarray of shape (n_samples, n_classes), 1, 0 (only difficult objects), -1;
        None where the split has no labels
    annotation_digest : SHA-256 over all that was read: id list, XML files, class list files
    """

    manifest: Manifest
    name: str
    folder: Path
    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    annotations: tuple[Annotation, ...]
    labels: np.ndarray | None
    annotation_digest: str


def id_list_path(manifest: Manifest, split: str, folder: Path) -> Path:
    """The file with the ids of a split, one a line."""
    entry = manifest.splits.get(split)
    if entry is None:
        raise DatasetError(f"{manifest.name}: no split {split!r}; there are {', '.join(manifest.splits)}")
    if entry.ids is not None and manifest.path is not None:
        return manifest.path.parent / entry.ids
    return lists_folder(manifest, folder) / f"{split}.txt"


def lists_folder(manifest: Manifest, folder: Path) -> Path:
    """Where a dataset's id lists and class lists are."""
    return folder / "ImageSets" / ("Action" if manifest.layout == "voc-action" else "Main")


def read_list(path: Path) -> list[str]:
    """Lines of an id list.

    Raises
    ------
    DatasetError
        No such file, or not a text file.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: id list not found") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text file: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: the id list cannot be read: {error.strerror}") from error


def read_ids(path: Path) -> tuple[str, ...]:
    """Ids of a list file, in its order; a label (-1, 0 or 1) behind an id is passed over.

    Raises
    ------
    DatasetError
        No such file, no id, an id twice, or one that is no plain file name.
    """
    ids, problems = [], []
    for line in read_list(path):
        # Only a label may follow: the first word of "IMG 12" would be an id of some other picture.
        fields = line.split()
        i = fields[0] if len(fields) == 2 and fields[1] in LABELS else line.strip()
        if i:
            ids.append(i)
            if not PICTURE_ID.fullmatch(i) or ".." in i:
                problems.append(f"{brief(i)}: not a plain file name (letters, digits and _ . + @ = - without spaces)")
    seen: set[str] = set()
    for i in ids:
        if i in seen:
            problems.append(f"{brief(i)}: listed twice")
        seen.add(i)
    if not ids:
        problems.append("the list is empty")
    if problems:
        raise DatasetError(f"{path}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    return tuple(ids)


def find_pictures(folder: Path, ids: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Path of each id's picture, and what is missing; ids have no suffix. One listing, no stat a file."""
    by_stem: dict[str, str] = {}
    for name in sorted(os.listdir(folder / "JPEGImages"), reverse=True):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in PICTURE_SUFFIXES:
            by_stem[stem] = name
    paths, missing = [], []
    for i in ids:
        if i in by_stem:
            paths.append(folder / "JPEGImages" / by_stem[i])
        else:
            missing.append(f"{i}: no picture JPEGImages/{i}.jpg")
    return paths, missing


def refuse_split(manifest: Manifest, split: str, folder: Path, problems: list[str]) -> None:
    """Stop if there are problems, and name them.

    Raises
    ------
    DatasetError
    """
    if problems:
        raise DatasetError(
            f"{manifest.name} {split} in {folder}: {len(problems)} problem(s)\n{enumerate_problems(problems)}\n"
            f"mend them and check with: pipeline data check {manifest.name}"
        )
