"""A split of a dataset: its pictures with their objects and labels, and lists of ids."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.dataset.manifest import Manifest
from pipeline.io.errors import DatasetError
from pipeline.io.lfs import UNFETCHED, is_lfs_pointer
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.picture_file import PictureFile

PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif",
)  # fmt: skip
LABELS = ("-1", "0", "1")
MAX_ID = 200
_NO_ID = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\\]")
ID_RULE = (
    f"at most {MAX_ID} characters, no control character, no backslash, no space at an end, and no folder or file "
    "whose name begins with '.', '-' or '~'"
)
"""What `is_picture_id` demands, for messages."""


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
    n_clipped : number of objects whose box reached out of the picture and was clipped
    n_repeated : number of objects that were listed again, with the same class and box; each counts once
    """

    size_wh: tuple[int, int] | None
    box_xyxy: np.ndarray
    class_index: np.ndarray
    difficult: np.ndarray
    sample_xyxy: np.ndarray | None = None
    n_clipped: int = 0
    n_repeated: int = 0


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
    unusable : why the annotation of a sample cannot be used, by id; such samples are left out, see `read_split`
    """

    manifest: Manifest
    name: str
    folder: Path
    ids: tuple[str, ...]
    paths: tuple[PictureFile, ...]
    annotations: tuple[Annotation, ...]
    labels: np.ndarray | None
    annotation_digest: str
    unusable: Mapping[str, str] = field(default_factory=dict)

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
    def paths_by_id(self) -> dict[str, PictureFile]:
        """File of each sample."""
        return dict(zip(self.ids, self.paths, strict=True))

    @cached_property
    def annotations_by_id(self) -> dict[str, Annotation]:
        """Annotation of each sample."""
        return dict(zip(self.ids, self.annotations, strict=True))


def is_picture_name(name: str) -> bool:
    """Whether a file's name is that of a picture that can be read.

    >>> is_picture_name("a.JPG"), is_picture_name(".a.jpg"), is_picture_name("a.txt")
    (True, False, False)
    """
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES and not name.startswith(".")


def read_list(path: Path) -> list[str]:
    """Read the lines of an id list.

    Raises
    ------
    DatasetError
        No such file, or not a text file.
    """
    try:
        data = path.read_bytes()
        if is_lfs_pointer(data):
            raise DatasetError(f"{path}: {UNFETCHED}")
        return data.decode("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: id list not found") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text file: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: the id list cannot be read: {error.strerror}") from error


def is_picture_id(text: str) -> bool:
    r"""Whether a text can be the id of a picture: the path of its file below the dataset's folder, without suffix.

    >>> is_picture_id("cam1/photo (2)"), is_picture_id("../photo"), is_picture_id("a\n")
    (True, False, False)
    """
    if not 0 < len(text) <= MAX_ID or text != text.strip() or _NO_ID.search(text):
        return False
    return all(part and not part.startswith((".", "-", "~")) for part in text.split("/"))


def read_ids(path: Path, known: Container[str] = (), *, prefer_whole: bool = False) -> tuple[str, ...]:
    """Read the ids of a list file, in its order; a label (-1, 0 or 1) after an id is ignored.

    Ids may have spaces, so ``photo 1`` is an id or an id with a label. It is the one of both that is in `known`. If
    both are, it has a label where all lines of the file have one.

    Parameters
    ----------
    known : ids of the pictures that exist
    prefer_whole : a line that is in `known` is an id, whatever it ends in

    Raises
    ------
    DatasetError
        No such file, no id, an id twice, or an id that is no plain file name.
    """
    lines = [line.strip() for line in read_list(path) if line.strip()]
    labelled = {line: _without_label(line) for line in lines}
    all_labelled = all(labelled.values())
    ids, problems = [], []
    for line in lines:
        i, shorter = line, labelled[line]
        if shorter is not None and (line not in known or (shorter in known and all_labelled and not prefer_whole)):
            i = shorter
        ids.append(i)
        if not is_picture_id(i):
            problems.append(f"{brief(i)}: not the name of a picture: {ID_RULE}")
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


def _without_label(line: str) -> str | None:
    """Return the id of a line that ends in a label, else None."""
    i, *label = line.rsplit(maxsplit=1)
    return i if label and label[0] in LABELS else None


def refuse_split(
    manifest: Manifest, split: str, folder: Path | str, problems: Sequence[str], unusable: Sequence[str] = ()
) -> None:
    """Raise an error that lists the problems of a split, if there are any.

    Parameters
    ----------
    unusable : problems of single annotations, which may be left out

    Raises
    ------
    DatasetError
    """
    if problems or unusable:
        everything = [*problems, *unusable]
        ways = f"fix them and check with: pipeline data check {manifest.name}"
        if unusable:
            only = "" if not problems else f" (the {len(unusable)} of annotations)"
            ways += (
                f"\nor leave these pictures out{only} with --on-error skip (setting max_skipped: the largest share "
                "that may be left out)"
            )
        count = f"{len(everything)} problem(s)"
        raise DatasetError(f"{manifest.name} {split} in {folder}: {count}\n{enumerate_problems(everything)}\n{ways}")
