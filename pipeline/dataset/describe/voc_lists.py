"""Id lists that a user's own VOC folder has: read, or refused; never replaced in silence."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from pipeline.dataset.describe.names import role_of
from pipeline.dataset.describe.write import PAIRS, IdList
from pipeline.dataset.manifest import SPLIT_NAME
from pipeline.dataset.split import LABELS, PICTURE_SUFFIXES, read_ids
from pipeline.dataset.voc_folder import FileIndex
from pipeline.io.errors import DatasetError
from pipeline.io.messages import enumerate_problems
from pipeline.io.names import normalise
from pipeline.io.progress import Say

ROLES = frozenset(split for pair in PAIRS for split in pair)
"""Lists that decide what is fitted and scored."""


def found_lists(root: Path, pictures: FileIndex, annotated: set[str], say: Say) -> dict[str, IdList]:
    """Read the id lists in ``ImageSets/Main``, else ``train.txt`` and the like in ``ImageSets`` or the folder itself.

    Unusable ids are left out and reported. A suffix behind an id (``p00.jpg``) is passed over if there is such a
    picture, and so are the folders before it (``/data/JPEGImages/p00.jpg``). Such a list, and one that lies elsewhere,
    is written again next to the manifest.

    Parameters
    ----------
    pictures, annotated : ids of all pictures, and of those with an XML file

    Raises
    ------
    DatasetError
        A list of a split to fit or to score on that cannot be used.
    """
    lists = {}
    normal = {normalise(i) for i in annotated}
    for path in _list_files(root):
        if not path.is_file() or not SPLIT_NAME.fullmatch(path.stem) or ".." in path.stem:
            say(f"not used: {path}: not a file whose name has only letters, digits and _ . + -")
            continue
        lines = [line.strip() for line in path.read_text("utf-8-sig", "replace").splitlines() if line.strip()]
        rows = [line.rsplit(maxsplit=1) for line in lines]
        are_labels = bool(rows) and all(len(row) == 2 and row[1] in LABELS for row in rows)
        if path.stem not in ROLES and are_labels and not all(line in pictures for line in lines):
            continue  # labels of one class
        try:
            from_paths = ids_of_paths(lines, pictures)
            ids, n_bare = without_suffixes(from_paths or read_ids(path, pictures), pictures)
        except DatasetError as error:
            if rows and role_of(path.stem) is not None:
                raise DatasetError(f"{error}\nfix or remove the list; without any, train and val are made") from error
            say(f"not used: {error}")
            continue
        if n_bare:
            say(f"{path.name}: {n_bare} of {len(ids)} ids have a file suffix, which is passed over")
        is_elsewhere = path.parent != root / "ImageSets" / "Main"
        if is_elsewhere:
            say(f"{path.relative_to(root)} is the list of {path.stem}")
        labelled = any(normalise(i) in normal for i in ids)
        usable = tuple(i for i in ids if (normalise(i) in normal if labelled else i in pictures))
        left_out = sorted(set(ids) - set(usable))
        unused = enumerate_problems(left_out)
        if not usable and role_of(path.stem) is not None:
            raise DatasetError(
                f"{path}: none of its {len(ids)} ids has a picture:\n{unused}\n"
                "fix or remove the list; without any, train and val are made"
            )
        if not usable:
            say(f"not used: {path}: no line names a picture:\n{unused}")
            continue
        if left_out:
            say(f"left out of {path.name}, {len(left_out)} of {len(ids)} ids:\n{unused}")
        lists[path.stem] = IdList(usable, labelled, own=bool(left_out or n_bare or from_paths or is_elsewhere))
    return lists


def _list_files(root: Path) -> Iterator[Path]:
    """Yield the files that are id lists by their place and name."""
    main = sorted(path for path in (root / "ImageSets" / "Main").glob("*.txt") if not path.name.startswith("."))
    yield from main
    for folder in () if any(path.stem in ROLES for path in main) else (root / "ImageSets", root):
        if found := [path for split in sorted(ROLES) if (path := folder / f"{split}.txt").is_file()]:
            yield from found
            return


def ids_of_paths(lines: Sequence[str], pictures: FileIndex) -> tuple[str, ...]:
    """Return the ids of a list whose lines all are paths through the folder of the pictures; else none.

    >>> ids_of_paths(["/data/JPEGImages/a.jpg"], FileIndex(Path("JPEGImages"), {"a": ("a.jpg",)}))
    ('a.jpg',)
    """
    parts = [line.replace("\\", "/").rpartition(f"{pictures.folder.name}/") for line in lines]
    inside = [before[-1:] in ("", "/") and bool(sign) and bool(name) for before, sign, name in parts]
    return tuple(name for _, _, name in parts) if all(inside) else ()


def without_suffixes(ids: Sequence[str], pictures: Container[str]) -> tuple[tuple[str, ...], int]:
    """Take the suffix of a picture from ids that name no picture as they are; return ids, and how many had one.

    >>> without_suffixes(["a.jpg", "b", "c.d"], {"a", "b", "c.d"})
    (('a', 'b', 'c.d'), 1)
    """
    bare, n_bare = [], 0
    for i in ids:
        stem, suffix = os.path.splitext(i)
        if i not in pictures and stem in pictures and suffix.lower() in (*PICTURE_SUFFIXES, ".xml"):
            i, n_bare = stem, n_bare + 1
        bare.append(i)
    if len(set(bare)) < len(bare):
        twice = sorted({i for i in bare if bare.count(i) > 1})
        raise DatasetError(f"ids that differ by their suffix alone:\n{enumerate_problems(twice)}")
    return tuple(bare), n_bare
