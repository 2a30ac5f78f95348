"""Pictures of a folder or a table with their labels, and the ids that are made from their paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.io.digests import sha256_bytes

MAX_ID = 200


def id_of(path: str) -> str:
    """The id of a picture, from its path below the dataset's (or the split's) folder.

    Folders are joined by ``__``, and what an id may not hold becomes ``_``; a long one ends in a digest.

    >>> id_of("hot dog/img (1).jpg"), id_of("a/b/c.d.png")
    ('hot_dog__img__1_', 'a__b__c.d')
    """
    stem = os.path.splitext(path)[0].replace("/", "__")
    plain = re.sub(r"[^\w.+@=-]|\.(?=\.)|^\W", "_", stem)
    # Two dots in a row are a way out of a folder, and no id has them.
    return plain if len(plain) <= MAX_ID else f"{plain[: MAX_ID - 17]}-{sha256_bytes(path.encode())[:16]}"


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder or a table, each with what it is labelled.

    Attributes
    ----------
    paths : tuple of str, relative to the folder, with ``/``
    ids : tuple of str, made from them
    labels : int8 ndarray (n, n_classes), 1, 0 (unknown), -1
    split : name of each picture's split, or None where there are none
    problems : a line each
    """

    paths: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    split: tuple[str, ...] | None
    problems: tuple[str, ...] = ()


def name_clashes(paths: Iterable[str], ids: Iterable[str]) -> list[str]:
    """One line for each id that several pictures have, with all of their paths."""
    by_id: dict[str, list[str]] = {}
    for path, i in zip(paths, ids, strict=True):
        by_id.setdefault(i, []).append(path)
    return [f"{', '.join(found)}: one id for several pictures ({i}); rename" for i, found in by_id.items() if found[1:]]


def absent_pictures(folder: Path, paths: Sequence[str]) -> list[str]:
    """Those paths below `folder` that are not there. One listing a folder, no stat a file."""
    there: dict[str, set[str]] = {}
    absent = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in there:
            try:
                there[parent] = set(os.listdir(folder / parent))
            except OSError:
                there[parent] = set()
        if name not in there[parent]:
            absent.append(path)
    return absent
