"""A split of a dataset: its pictures with their objects and labels, and lists of ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
    size_wh : (width, height) as stated by the XML, or None
    box_xyxy : float64 ndarray of shape (n, 4), continuous, 0-based
    class_index : int64 ndarray of shape (n,), index into the manifest's classes
    difficult : bool ndarray of shape (n,)
    sample_xyxy : float64 ndarray of shape (4,), box of the person, where the sample is a person of the picture; else
        None. The objects are then the actions of this person, each with the same box.
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
    ids, paths : one entry per sample (a picture; in some datasets a person), in the order of the id list
    annotations : one `Annotation` per sample
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

    @classmethod
    def of_files(
        cls, manifest: Manifest, paths: Sequence[Path], ids: Sequence[str] | None = None, name: str = "files"
    ) -> Split:
        """Make a split of plain picture files, without annotations and labels.

        Parameters
        ----------
        manifest : names the dataset and its classes
        ids : one per path; None for the names of the files without their suffixes
        """
        ids = tuple(path.stem for path in paths) if ids is None else tuple(ids)
        return cls(manifest, name, Path(), ids, tuple(paths), (EMPTY_ANNOTATION,) * len(ids), None, "")

    @cached_property
    def paths_by_id(self) -> dict[str, Path]:
        """File of each sample."""
        return dict(zip(self.ids, self.paths, strict=True))

    @cached_property
    def annotations_by_id(self) -> dict[str, Annotation]:
        """Annotation of each sample."""
        return dict(zip(self.ids, self.annotations, strict=True))


def read_list(path: Path) -> list[str]:
    """Read the lines of an id list.

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
    """Read the ids of a list file, in its order; a label (-1, 0 or 1) after an id is ignored.

    Raises
    ------
    DatasetError
        No such file, no id, an id twice, or an id that is no plain file name.
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


def refuse_split(manifest: Manifest, split: str, folder: Path, problems: Sequence[str]) -> None:
    """Raise an error that lists the problems of a split, if there are any.

    Raises
    ------
    DatasetError
    """
    if problems:
        raise DatasetError(
            f"{manifest.name} {split} in {folder}: {len(problems)} problem(s)\n{enumerate_problems(problems)}\n"
            f"fix them and check with: pipeline data check {manifest.name}"
        )
