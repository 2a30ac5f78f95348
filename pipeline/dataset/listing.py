"""Pictures of a folder or a table with their labels, and the ids that are made from their paths."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.io.digests import sha256_bytes

MAX_ID = 200


def id_of(path: str) -> str:
    """Make the id of a picture, from its path below the dataset's (or the split's) folder.

    Folders are joined by ``__``, characters that an id may not have become ``_``, and a long id ends in a digest.

    >>> id_of("hot dog/img (1).jpg"), id_of("a/b/c.d.png")
    ('hot_dog__img__1_', 'a__b__c.d')
    """
    stem = os.path.splitext(path)[0].replace("/", "__")
    plain = re.sub(r"[^\w.+@=-]|\.(?=\.)|^\W", "_", stem)
    # Two dots in a row lead out of a folder, and no id has them.
    return plain if len(plain) <= MAX_ID else f"{plain[: MAX_ID - 17]}-{sha256_bytes(path.encode())[:16]}"


@dataclass(frozen=True)
class Listing:
    """Pictures of a folder or a table, with their labels.

    Attributes
    ----------
    paths : tuple of str, relative to the folder, with ``/``
    ids : tuple of str, made from them
    labels : int8 ndarray (n, n_classes), 1, 0 (unknown), -1
    split : name of each picture's split, or None without splits
    problems : one line each
    """

    paths: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    split: tuple[str, ...] | None
    problems: tuple[str, ...] = ()


def name_clashes(paths: Iterable[str], ids: Iterable[str]) -> list[str]:
    """List the ids that several pictures share, one line each, with all of their paths."""
    by_id: dict[str, list[str]] = {}
    for path, i in zip(paths, ids, strict=True):
        by_id.setdefault(i, []).append(path)
    return [f"{', '.join(same)}: one id for several pictures ({i}); rename" for i, same in by_id.items() if same[1:]]


class FileNames:
    """Names of files below a folder; a name is found in its other Unicode form (NFC or NFD), too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[str, tuple[frozenset[str], dict[str, str]]] = {}

    def actual(self, path: str) -> str:
        """Return a path as the files below the folder are named, or as given if there is no such file."""
        actual = ""
        for name in path.split("/"):
            names, composed = self._names_in(actual)
            found = name if name in names else composed.get(unicodedata.normalize("NFC", name), name)
            actual = f"{actual}/{found}" if actual else found
        return actual

    def _names_in(self, inside: str) -> tuple[frozenset[str], dict[str, str]]:
        """List a folder, once: its names, and the names by their composed forms."""
        if inside not in self._listed:
            try:
                names = sorted(os.listdir(self._folder / inside))
            except OSError:
                names = []
            self._listed[inside] = frozenset(names), {unicodedata.normalize("NFC", name): name for name in names}
        return self._listed[inside]


def absent_pictures(folder: Path, paths: Sequence[str]) -> list[str]:
    """List the paths below `folder` that do not exist. Costs one listing per folder and no stat per file."""
    names_in: dict[str, set[str]] = {}
    absent = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in names_in:
            try:
                names_in[parent] = set(os.listdir(folder / parent))
            except OSError:
                names_in[parent] = set()
        if name not in names_in[parent]:
            absent.append(path)
    return absent
