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
from pipeline.io.names import is_word, normalise

MAX_ID = 200


def id_of(path: str) -> str:
    """Make the id of a picture, from its path below the dataset's (or the split's) folder.

    Folders are joined by ``__``. Spaces, control characters and the signs of ASCII that file names are better
    without become ``_``, and a long id ends in a digest. The id is composed (NFC), however the file system writes it.

    >>> id_of("hot dog/img (1).jpg"), id_of("a/b/c.d.png")
    ('hot_dog__img__1_', 'a__b__c.d')
    """
    stem = normalise(os.path.splitext(path)[0]).replace("/", "__")
    plain = "".join(c if c in "_.+@=-" or _is_kept(c) else "_" for c in stem)
    # Two dots in a row lead out of a folder, and no id has them.
    return _shorten(re.sub(r"\.(?=\.)|^[.+@=-]", "_", plain), path)


def _is_kept(character: str) -> bool:
    """Whether a character is a letter, a mark or a digit, or any other visible one that is not in ASCII."""
    return is_word(character) or (not character.isascii() and unicodedata.category(character)[0] not in "CZ")


def former_id_of(path: str) -> str:
    """Make the id that earlier versions made, without marks and signs: lists that they wrote hold such ids."""
    stem = os.path.splitext(path)[0].replace("/", "__")
    return _shorten(re.sub(r"[^\w.+@=-]|\.(?=\.)|^\W", "_", stem), path)


def _shorten(plain: str, path: str) -> str:
    return plain if len(plain) <= MAX_ID else f"{plain[: MAX_ID - 17]}-{sha256_bytes(os.fsencode(path))[:16]}"


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


def absent_pictures(folder: Path, paths: Sequence[str]) -> list[str]:
    """List the paths below `folder` that do not exist. Costs one listing per folder and no stat per file."""
    located = locate_pictures(folder, paths)
    return [path for path, found in zip(paths, located, strict=True) if found is None]


def locate_pictures(folder: Path, paths: Sequence[str]) -> list[str | None]:
    """Find the paths below `folder` as the file system writes them; None for those that do not exist.

    A name in another of Unicode's forms than the file's is the same: macOS writes names decomposed. Costs one listing
    per folder and no stat per file.
    """
    names_in: dict[str, dict[str, str | None]] = {}

    def names_of(parent: str) -> dict[str, str | None]:
        """Map the names in a folder, and their composed forms, to the names as written; None for ambiguous ones."""
        if parent not in names_in:
            try:
                names = os.listdir(folder / parent)
            except OSError:
                names = []
            index: dict[str, str | None] = {}
            for name in names:
                normal = normalise(name)
                index[normal] = None if normal in index else name
            names_in[parent] = {**index, **{name: name for name in names}}
        return names_in[parent]

    def locate(path: str) -> str | None:
        parent, _, name = path.rpartition("/")
        written = names_of(parent).get(name) or names_of(parent).get(normalise(name))
        if written is not None:
            return f"{parent}/{written}" if parent else written
        if not parent or normalise(path) == path and path.isascii():
            return None
        written_parent = locate(parent)
        return None if written_parent in (None, parent) else locate(f"{written_parent}/{name}")

    return [locate(path) for path in paths]
