"""Pictures with labels and no boxes: class folders, and a table of pictures and labels.

Class folders are ``<class>/<picture>``, one label a picture. A table is a CSV file with a column ``picture``
and either one column ``label`` or one column a class with 1, 0, -1 or nothing; a column ``split`` may stand
in it. A picture's id is made from its path: `id_of`.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.dataset.manifest import Manifest, dataset_folder
from pipeline.dataset.split import EMPTY_ANNOTATION, PICTURE_SUFFIXES, Split, read_ids
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief, enumerate_problems

MAX_ID = 200
PICTURE, LABEL, SPLIT = "picture", "label", "split"
DELIMITERS = ",;\t"
VALUES = {"1": 1, "1.0": 1, "+1": 1, "-1": -1, "-1.0": -1, "0": 0, "0.0": 0, "": None}
"""What may stand in the column of a class; what 0 means, the manifest says, and nothing is unknown."""


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


# ---- class folders


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES and not name.startswith(".")


def list_class_folders(folder: Path) -> dict[str, list[str]]:
    """File names of the pictures directly in each folder below `folder`, both sorted; folders without any left out."""
    found = {}
    with os.scandir(folder) as listing:
        names = sorted(entry.name for entry in listing if entry.is_dir() and not entry.name.startswith((".", "__")))
    for name in names:
        if pictures := sorted(file for file in os.listdir(folder / name) if is_picture(file)):
            found[name] = pictures
    return found


def read_folders(manifest: Manifest, folder: Path) -> Listing:
    """All pictures of the manifest's classes in class folders, classes and files in the order of their names."""
    column = {name: index for index, name in enumerate(manifest.classes)}
    found = list_class_folders(folder)
    problems = [
        f"{name}/: a folder of pictures that is no class of the manifest" for name in found if name not in column
    ]
    pairs = [(f"{name}/{file}", column[name]) for name, files in found.items() if name in column for file in files]
    paths = tuple(path for path, _ in pairs)
    labels = np.full((len(paths), len(column)), -1, np.int8)
    labels[np.arange(len(paths)), [index for _, index in pairs]] = 1
    ids = tuple(map(id_of, paths))
    return Listing(paths, ids, labels, None, (*problems, *name_clashes(paths, ids)))


# ---- a table


@dataclass(frozen=True)
class Table:
    """A CSV file: its header, and its rows with the number of the line on which each ends."""

    path: Path
    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]

    @property
    def one_label(self) -> bool:
        """Whether there is one column ``label``; if not, each further column is a class."""
        return LABEL in self.header

    @property
    def class_columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.header if name not in (PICTURE, SPLIT))

    def column(self, name: str) -> list[str]:
        index = self.header.index(name)
        return [row[index].strip() for row in self.rows]


def read_table_file(path: Path) -> Table:
    """Read a CSV file (UTF-8; comma, semicolon or tab).

    Raises
    ------
    DatasetError
        It cannot be read, has no column ``picture``, names a column twice, or has rows of another length.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            first = stream.readline()
            stream.seek(0)
            delimiter = max(DELIMITERS, key=first.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            header = tuple(name.strip() for name in next(reader, []))
            rows, lines = [], []
            for row in reader:
                if any(row):
                    rows.append(row)
                    lines.append(reader.line_num)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such table") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: the table cannot be read: {error.strerror}") from error
    problems = []
    if PICTURE not in header:
        problems.append(f"no column {PICTURE!r}; the first line names the columns, got {brief(list(header))}")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        problems.append(f"columns named twice: {', '.join(map(brief, twice))}")
    problems += [
        f"line {line}: {len(row)} fields, expected {len(header)}"
        for row, line in zip(rows, lines, strict=True)
        if len(row) != len(header)
    ]
    if not rows:
        problems.append("no row below the header")
    if problems:
        raise DatasetError(f"{path}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    return Table(path, header, rows, lines)


def picture_paths(table: Table, folder: Path) -> tuple[list[str], list[str]]:
    """Path of each row's picture relative to `folder`, with ``/``, and what is wrong with them."""
    base, paths, problems = f"{folder}/", [], []
    for text, line in zip(table.column(PICTURE), table.lines, strict=True):
        path = text.replace("\\", "/").removeprefix(base)
        while path.startswith("./"):
            path = path[2:]
        if not path:
            problems.append(f"line {line}: no picture")
        elif path.startswith("/") or ".." in path.split("/"):
            problems.append(f"line {line}: {brief(text)}: expected a path below {folder}")
        paths.append(path)
    return paths, problems


def column_values(table: Table, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Values of the columns of classes.

    Returns
    -------
    values : int8 ndarray (n_rows, n_classes), as they stand, 0 where nothing does
    empty : bool ndarray of the same shape
    problems : a line each
    """
    values = np.zeros((len(table.rows), len(classes)), np.int8)
    empty = np.zeros(values.shape, bool)
    problems = []
    for column, name in enumerate(classes):
        texts = table.column(name)
        try:
            found = [VALUES[text] for text in texts]
        except KeyError:
            found = [VALUES.get(text) for text in texts]
            problems += [
                f"line {line}: column {name}: expected 1, 0, -1 or nothing, got {brief(text)}"
                for text, line in zip(texts, table.lines, strict=True)
                if text not in VALUES
            ]
        empty[:, column] = [value is None for value in found]
        values[:, column] = [value or 0 for value in found]
    return values, empty, problems


def read_rows(manifest: Manifest, folder: Path) -> Listing:
    """All pictures of the manifest's table, in its order, with their labels."""
    table = read_table_file(table_path(manifest, folder))
    paths, problems = picture_paths(table, folder)
    if table.one_label:
        column = {name: index for index, name in enumerate(manifest.classes)}
        labels = np.full((len(paths), len(column)), -1, np.int8)
        for row, (text, line) in enumerate(zip(table.column(LABEL), table.lines, strict=True)):
            if text in column:
                labels[row, column[text]] = 1
            elif text:
                problems.append(f"line {line}: label {brief(text)} is no class of the manifest")
            else:
                labels[row] = 0
    elif missing := [name for name in manifest.classes if name not in table.class_columns]:
        problems.append(f"no column for {', '.join(map(brief, missing))}")
        labels = np.zeros((len(paths), len(manifest.classes)), np.int8)
    else:
        labels, empty, wrong = column_values(table, manifest.classes)
        problems += wrong
        if manifest.zero == "absent":
            labels[(labels == 0) & ~empty] = -1
    ids = tuple(map(id_of, paths))
    split = tuple(table.column(SPLIT)) if SPLIT in table.header else None
    return Listing(tuple(paths), ids, labels, split, (*problems, *name_clashes(paths, ids)))


def table_path(manifest: Manifest, folder: Path) -> Path:
    """Where a dataset's table is."""
    return folder / (manifest.table or "")


# ---- splits


def _folder_of(manifest: Manifest, split: str, folder: Path) -> Path:
    """The folder with the class folders of a split."""
    inside = manifest.splits[split].folder
    return folder / inside if inside else folder


def _list_path(manifest: Manifest, split: str) -> Path | None:
    """The file with the ids of a split, beside the manifest; None where all pictures of its folder belong to it."""
    ids = manifest.splits[split].ids
    return manifest.path.parent / ids if ids is not None and manifest.path is not None else None


def list_split(manifest: Manifest, split: str, folder: Path) -> tuple[Listing, Path]:
    """Pictures and labels of one split, and the folder to which their paths are relative; no picture is opened.

    Problems stand in the listing.

    Raises
    ------
    DatasetError
        No such split, or a list or table that cannot be read.
    """
    if split not in manifest.splits:
        raise DatasetError(f"{manifest.name}: no split {split!r}; there are {', '.join(manifest.splits)}")
    base = _folder_of(manifest, split, folder)
    if manifest.layout == "folders" and not base.is_dir():
        raise DatasetError(f"{base}: no such folder")
    listing = read_folders(manifest, base) if manifest.layout == "folders" else read_rows(manifest, folder)
    problems = list(listing.problems)
    list_path = _list_path(manifest, split)
    if list_path is not None:
        row_of = {i: row for row, i in enumerate(listing.ids)}
        listed = read_ids(list_path)
        problems += [f"{i}: listed, and no picture has this id" for i in listed if i not in row_of]
        chosen = [row_of[i] for i in listed if i in row_of]
    elif listing.split is not None:
        chosen = [row for row, name in enumerate(listing.split) if name == split]
    else:
        chosen = list(range(len(listing.ids)))
    if not chosen:
        problems.append("no picture")
    paths = tuple(listing.paths[row] for row in chosen)
    if manifest.layout == "table":
        problems += [f"{path}: no such picture" for path in absent_pictures(folder, paths)]
    return Listing(
        paths, tuple(listing.ids[row] for row in chosen), listing.labels[chosen], None, tuple(problems)
    ), base


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


def read_labelled_split(manifest: Manifest, split: str, folder: Path) -> Split:
    """One split of a dataset without boxes: ids, paths and labels; every annotation is empty.

    Raises
    ------
    DatasetError
        Everything wrong with it, in one message.
    """
    listing, base = list_split(manifest, split, folder)
    if listing.problems:
        raise DatasetError(
            f"{manifest.name} {split} in {folder}: {len(listing.problems)} problem(s)\n"
            f"{enumerate_problems(listing.problems)}\n"
            f"mend them and check with: pipeline data check {manifest.name}"
        )
    labels = listing.labels if manifest.splits[split].labelled else None
    content = None if labels is None else sha256_bytes(labels.tobytes())
    n = len(listing.ids)
    # joinpath a picture costs seconds for a hundred thousand; text does not.
    paths = tuple(Path(f"{base}/{path}") for path in listing.paths)
    digest = digest_of([manifest.layout, listing.ids, content])
    return Split(manifest, split, folder, listing.ids, paths, (EMPTY_ANNOTATION,) * n, labels, digest)


State = tuple[str, int, int]


def state_of_labelled(manifest: Manifest, split: str, data_root: str | Path | None = None) -> list[State]:
    """Name, size and time of every file that a split is read from; reads table and list, opens no picture."""
    folder = dataset_folder(manifest, data_root)
    listing, base = list_split(manifest, split, folder)
    # A list that cannot be read in full is read again when it changes; so is what else is wrong.
    entries = [("problems", len(listing.problems), 0)]
    files = [path for path in (_list_path(manifest, split),) if path is not None]
    if manifest.layout == "table":
        files.append(table_path(manifest, folder))
    entries += [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    by_folder: dict[str, set[str]] = {}
    for path in listing.paths:
        parent, _, name = path.rpartition("/")
        by_folder.setdefault(parent, set()).add(name)
    for parent, wanted in by_folder.items():
        try:
            with os.scandir(base / parent) as found:
                for entry in found:
                    if entry.name in wanted:
                        entries.append(_state_of(entry, f"{PurePosixPath(parent) / entry.name}"))
        except OSError:
            entries.append((parent, -1, 0))
    return entries


def _state_of(entry: os.DirEntry[str], name: str) -> State:
    try:
        stat = entry.stat()
    except OSError:  # a dangling link, say: the patch table names it
        return name, -1, 0
    return name, stat.st_size, stat.st_mtime_ns
