"""Find files of annotations in a folder: which format, which splits, and where their pictures lie."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.dataset.describe.names import ROLES, role_of, words_of
from pipeline.dataset.describe.peek import head_of, json_kind
from pipeline.dataset.describe.tree import Folder
from pipeline.dataset.formats.picture_paths import PictureFinder, Place
from pipeline.dataset.voc_folder import FileIndex
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief

DEPTH = 3
SAMPLE = 200
COCO_NAME = re.compile(
    r"(_annotations\.coco|(instances|captions|person_keypoints|panoptic|stuff)_.*)\.json", re.IGNORECASE
)
OTHER_TASKS = re.compile(r"(captions|person_keypoints|panoptic|stuff)_", re.IGNORECASE)


@dataclass(frozen=True)
class FoundSource:
    """Annotations of one split, or of all pictures.

    Attributes
    ----------
    annotations : file or folder, below the root with ``/``, or absolute
    split : its name, None if nothing tells
    folder : of the pictures, below the root; None if the stated paths are to tell
    pictures : paths of the pictures below the root, where not all of the folder belong to it
    folders : of the split's files, where the folder `annotations` holds those of other splits, too
    """

    annotations: str
    split: str | None = None
    folder: str | None = None
    pictures: tuple[str, ...] | None = None
    folders: tuple[str, ...] | None = None

    def has(self, file: str) -> bool:
        """Whether a file of annotations, as shown in messages, is one of the split."""
        path = PurePosixPath(file)
        return self.folders is None or any(path.is_relative_to(folder) for folder in self.folders)


@dataclass(frozen=True)
class FoundFormat:
    """A format of annotations that a folder has.

    Attributes
    ----------
    boxes : whether objects have boxes, or pictures labels alone
    class_names : file with the names of classes
    notes : what is not used, one line each
    """

    layout: str
    sources: tuple[FoundSource, ...]
    boxes: bool = True
    class_names: str | None = None
    notes: tuple[str, ...] = ()


Finder = Callable[[Folder, Sequence[str]], FoundFormat | None]
"""Finds a format in a folder; the paths are of files that the user named, below the root or absolute."""


def find_coco(tree: Folder, named: Sequence[str] = ()) -> FoundFormat | None:
    """Find JSON files of COCO; of several tasks' files of one split, that of instances."""
    files = list(named) or [
        folder.below(name)
        for folder in tree.walk(DEPTH)
        for name in folder.others
        if name.lower().endswith(".json")
        and (COCO_NAME.fullmatch(name) or json_kind(head_of(folder.path / name)) == "coco")
    ]
    others = [file for file in files if OTHER_TASKS.match(PurePosixPath(file).name)]
    if not named and len(others) < len(files):
        files = [file for file in files if file not in others]
    else:
        others = []
    notes = (f"not used: {', '.join(others)}: other tasks than finding objects",) if others else ()
    return FoundFormat("coco", files_by_split(tree, files, "coco"), notes=notes) if files else None


def files_by_split(tree: Folder, files: Sequence[str], layout: str) -> tuple[FoundSource, ...]:
    """Tell the split of each file by its name, or by the names of its folders.

    Raises
    ------
    DatasetError
        Several files, and two of one split or one of none.
    """
    splits = [split_of(file) for file in files]
    twice = sorted(split for split, n in Counter(splits).items() if split is not None and n > 1)
    if len(files) > 1 and (twice or None in splits):
        told = "\n".join(f"  - {file}: {split or 'no split'}" for file, split in zip(files, splits, strict=True))
        raise DatasetError(
            f"{tree.path}: several files of annotations, and their names do not tell one split each:\n{told}\n"
            f"name those that are meant: --annotations FILE --layout {layout} (once per file; train, val or test in a "
            "name tells the split)"
        )
    return tuple(FoundSource(file, split) for file, split in zip(files, splits, strict=True))


def split_of(path: str) -> str | None:
    """Return the split that a path names: by the file's name, then by its folders, the innermost first.

    >>> [split_of(p) for p in ("annotations/instances_train2017.json", "valid/_annotations.coco.json", "a.json")]
    ['train', 'val', None]
    """
    *folders, name = PurePosixPath(path).parts
    words = words_of(PurePosixPath(name).stem)
    roles = {role for role, known in ROLES.items() if known & set(words)}
    if len(roles) == 1:
        return roles.pop()
    return role_of_path("/".join(folders))


def role_of_path(folder: str) -> str | None:
    """Return the split that a folder's path names, by the innermost part that names one.

    >>> role_of_path("val/images"), role_of_path("images")
    ('val', None)
    """
    return next((role for part in reversed(folder.split("/")) if (role := role_of(part)) is not None), None)


def folder_of_pictures(tree: Folder, source: FoundSource, stated: Sequence[str]) -> str | None:
    """Return the folder that holds the pictures of which paths are stated, below the root; None if none is there.

    Of all folders with pictures, that below which most of the paths are found; if several, the one with the longest
    paths, then that of the file. If the split is told, pictures in folders of its name come first, then those beside
    the file: train's folder may have pictures of the same names. All pictures that are found lie in the result.
    """
    sample = stated[:: max(len(stated) // SAMPLE, 1)]
    best: tuple[tuple[int, ...], PictureFinder, Folder] | None = None
    for folder in tree.walk():
        if not folder.n_pictures:
            continue
        finder = _finder_of(folder)
        found = [place for path, place in zip(sample, finder.places(sample), strict=True) if place is not None]
        key = _rank(source, folder, found)
        if found and (best is None or key > best[0]):
            best = key, finder, folder
    if best is None:
        return None
    _, finder, folder = best
    return common_folder(folder.below(i) for i in finder.find_all(stated) if i is not None)


def _rank(source: FoundSource, folder: Folder, found: Sequence[Place]) -> tuple[int, ...]:
    beside = PurePosixPath(source.annotations).parent.as_posix()
    paths = [folder.below(place.id) for place in found]
    n_parts = sum(place.id.count("/") for place in found)
    n_near = sum(path.startswith(f"{beside}/") for path in paths)
    n_split = sum(
        role_of_path(PurePosixPath(path).parent.as_posix()) == source.split
        and role_of_path("/".join(place.above)) in (None, source.split)
        for path, place in zip(paths, found, strict=True)
    )
    told = (0, 0) if source.split is None else (n_split, n_near)
    return (*told, len(found), n_parts, n_near, -folder.inside.count("/"))


def _finder_of(folder: Folder) -> PictureFinder:
    by_id: dict[str, list[str]] = {}
    prefix = f"{folder.inside}/" if folder.inside else ""
    for inner in folder.walk():
        for name in inner.pictures:
            path = inner.below(name).removeprefix(prefix)
            by_id.setdefault(os.path.splitext(path)[0], []).append(path)
    return PictureFinder(FileIndex(folder.path, {i: tuple(paths) for i, paths in by_id.items()}))


def common_folder(paths: Iterable[str]) -> str:
    """Return the deepest folder that holds all paths; empty for the root.

    >>> common_folder(["images/train/a.jpg", "images/train/cam/b.jpg"]), common_folder(["a.jpg"])
    ('images/train', '')
    """
    parents = {PurePosixPath(path).parent.as_posix() for path in paths}
    common = os.path.commonpath(parents) if parents else ""
    return "" if common == "." else common


def path_of(root: Path, path: str) -> str:
    """Return a path that the user named, below the root if it lies there; raise DatasetError if it does not exist."""
    real, root = Path(path).resolve(), root.resolve()
    if not real.exists():
        raise DatasetError(f"--annotations {brief(path)}: no such file or folder")
    return real.relative_to(root).as_posix() if real.is_relative_to(root) else str(real)
