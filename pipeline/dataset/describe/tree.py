"""A folder that a user has, as it is: pictures, other files and folders, and what cannot be read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.dataset.file_state import is_dir, is_file
from pipeline.dataset.split import PICTURE_SUFFIXES

MAX_DEPTH = 6
_NO_PICTURES = (
    ".txt .csv .tsv .json .jsonl .ndjson .xml .md .rst .yaml .yml .html .htm .pdf .py .ipynb .sh .log .ini .cfg .names "
    ".db .lnk .url .npy .npz .mat .pt .pth .h5 .hdf5 .pkl .pickle .parquet .arrow .tfrecord .record .lmdb .mdb .zip "
    ".tar .gz .tgz .7z .rar .doc .docx .xls .xlsx .odt .data .cache .sha256 .md5 .caption .license"
)
NO_PICTURES = frozenset(_NO_PICTURES.split())
"""Suffixes of files that nobody means as pictures. A file with any other suffix may be a picture in another format."""


@dataclass(frozen=True)
class Folder:
    """Content of one folder; names are sorted.

    Attributes
    ----------
    inside : path below the root, with ``/``; empty for the root
    pictures : names of files with a suffix of a picture that can be read
    others : names of all other plain files
    broken : names of links that lead nowhere, of folders that cannot be listed, and of files that are no plain files
    n_hidden : count of files and folders whose names begin with a dot, and of a Mac's ``__MACOSX``
    """

    path: Path
    inside: str = ""
    pictures: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    n_hidden: int = 0
    folders: tuple[Folder, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def n_pictures(self) -> int:
        """Count of the pictures in this folder and all folders below it."""
        return len(self.pictures) + sum(folder.n_pictures for folder in self.folders)

    @cached_property
    def strangers(self) -> tuple[str, ...]:
        """Names of files that may be pictures in a format that is not read."""
        return tuple(name for name in self.others if os.path.splitext(name)[1].lower() not in NO_PICTURES)

    @property
    def holds_classes(self) -> bool:
        """Whether folders directly below this one hold pictures."""
        return any(folder.pictures for folder in self.folders)

    def below(self, name: str) -> str:
        """Return the path of an entry below the root."""
        return f"{self.inside}/{name}" if self.inside else name

    def walk(self, depth: int = MAX_DEPTH) -> Iterator[Folder]:
        """Return this folder and those below it, parents first."""
        yield self
        if depth:
            for folder in self.folders:
                yield from folder.walk(depth - 1)

    def child(self, name: str) -> Folder | None:
        """Return the folder of this name directly below."""
        return next((folder for folder in self.folders if folder.name == name), None)


def read_tree(path: Path, inside: str = "", depth: int = MAX_DEPTH, above: frozenset[str] = frozenset()) -> Folder:
    """List a folder and those below it, at most `depth` levels; no file is opened.

    Parameters
    ----------
    above : real paths of the folders that hold it: a link to one of them leads in a circle

    Raises
    ------
    OSError
        `path` itself cannot be listed.
    """
    pictures, others, broken, folders, n_hidden = [], [], [], [], 0
    here = above | {os.path.realpath(path)}
    with os.scandir(path) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith(".") or (entry.name.startswith("__") and is_dir(entry)):
            n_hidden += 1
        elif is_dir(entry):
            try:
                if entry.is_symlink() and os.path.realpath(entry.path) in here:
                    broken.append(f"{entry.name}/")
                elif depth:
                    below = f"{inside}/{entry.name}" if inside else entry.name
                    folders.append(read_tree(Path(entry.path), below, depth - 1, here))
            except OSError:
                broken.append(f"{entry.name}/")
        elif not is_file(entry):
            broken.append(entry.name)
        elif os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES:
            pictures.append(entry.name)
        else:
            others.append(entry.name)
    return Folder(path, inside, tuple(pictures), tuple(others), tuple(broken), n_hidden, tuple(folders))


@dataclass
class LeftOut:
    """Files and folders that are not used, by the reason."""

    by_reason: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, *paths: str) -> None:
        """Note files or folders that are left out for a reason."""
        if paths:
            self.by_reason.setdefault(reason, []).extend(paths)

    def remove(self, paths: Collection[str]) -> None:
        """Take back files or folders that are used after all."""
        kept = {reason: [path for path in some if path not in paths] for reason, some in self.by_reason.items()}
        self.by_reason = {reason: some for reason, some in kept.items() if some}

    def add_others(self, folder: Folder) -> None:
        """Note all files of a folder that are no pictures, and the links that lead nowhere."""
        self.add(NOT_READ, *(folder.below(name) for name in folder.strangers))
        strangers = set(folder.strangers)
        self.add("no pictures", *(folder.below(name) for name in folder.others if name not in strangers))
        self.add("links that lead nowhere, or cannot be read", *(folder.below(name) for name in folder.broken))

    def add_deeper(self, folder: Folder, reason: str) -> None:
        """Note a folder with all pictures in it and below it, in one line."""
        self.add(reason, f"{folder.inside}/: {folder.n_pictures} pictures")

    def lines(self) -> list[str]:
        """Return one message per reason, with counts by suffix and the first ten names."""
        lines = []
        for reason, paths in self.by_reason.items():
            text = [f"  - {path}" for path in paths[:10]]
            if len(paths) > 10:
                text.append(f"  ... and {len(paths) - 10} more")
            lines.append("\n".join([f"left out, {len(paths)}, {reason}{_by_suffix(paths)}:", *text]))
        return lines


NOT_READ = f"files whose suffix is not read ({' '.join(PICTURE_SUFFIXES)} are)"


def _by_suffix(paths: list[str]) -> str:
    """Count files by suffix: `` (3 .gif, 1 .txt)``; nothing for folders and for one suffix of one file."""
    counts: dict[str, int] = {}
    for path in paths:
        suffix = os.path.splitext(path)[1].lower()
        if not suffix or "/:" in path or " " in suffix:
            continue
        counts[suffix] = counts.get(suffix, 0) + 1
    return f" ({', '.join(f'{n} {suffix}' for suffix, n in sorted(counts.items()))})" if counts else ""
