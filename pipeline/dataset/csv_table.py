"""A CSV file of pictures and labels.

It has a column ``picture`` and either one column ``label`` or one column per class with 1, 0, -1 or nothing; a
column ``split`` is optional. Several rows of one picture in a table with a column ``label`` are several labels.
"""

from __future__ import annotations

import ast
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.csv_file import LABEL, PICTURE, SPLIT, CsvTable, read_table_file
from pipeline.dataset.listing import Listing, id_of, locate_pictures, name_clashes
from pipeline.dataset.manifest import Manifest
from pipeline.io.messages import brief

LIST = "list"
"""Separator of labels that are written as a list: ``['cat', 'dog']``."""
WORDS = {"": None, **dict.fromkeys(("nan", "na", "n/a", "null", "none", "<na>"))}
"""Fields in the column of a class that hold no value, in lower case: what libraries write in place of nothing."""
VALUES = {**WORDS, "true": 1, "false": 0}
"""Values in the column of a class, beside numbers. The manifest says what 0 means; no value is unknown."""


def picture_paths(table: CsvTable, folder: Path) -> tuple[list[str], list[str]]:
    """Read each row's picture relative to `folder`, with ``/``; return paths and problems, one line each.

    Absolute paths may lead to the folder through links, and a path may be composed (NFC) where the file's name is
    decomposed (NFD), or the other way round.
    """
    base, paths, problems = f"{folder}/", list[str](), []
    real, other_forms = _RealFolders(folder), []
    for text, line in zip(table.column(PICTURE), table.lines, strict=True):
        path = text.replace("\\", "/")
        if path and ".." not in path.split("/"):
            path = posixpath.normpath(path)  # one picture, one path: it is not counted twice
        path = path.removeprefix(base)
        if path.startswith("/"):
            path = real.inside(path)
        if not path:
            problems.append(f"line {line}: no picture")
        elif path.startswith("/") or ".." in path.split("/"):
            problems.append(f"line {line}: {brief(text)}: expected a path below {folder}")
        elif not path.isascii():
            other_forms.append(len(paths))
        paths.append(path)
    located = locate_pictures(folder, [paths[row] for row in other_forms])
    for row, found in zip(other_forms, located, strict=True):
        paths[row] = found or paths[row]
    return paths, problems


class _RealFolders:
    """Folders without the links that lead to them; each is resolved once."""

    def __init__(self, folder: Path) -> None:
        self._base = f"{os.path.realpath(folder)}/"
        self._known: dict[str, str] = {}

    def inside(self, path: str) -> str:
        """Return an absolute path relative to the folder, or as it is if it leads elsewhere."""
        parent, _, name = path.rpartition("/")
        if parent not in self._known:
            self._known[parent] = f"{os.path.realpath(parent)}/"
        real = self._known[parent] + name
        return real.removeprefix(self._base) if real.startswith(self._base) else path


@dataclass(frozen=True)
class LabelRule:
    """What a table's values mean.

    Attributes
    ----------
    zero, minus_one : ``absent`` or ``unknown``, of 0 and -1 in the column of a class
    separator : between several labels in one field; `LIST` for a list; None if a field is one label
    """

    zero: str = "absent"
    minus_one: str = "absent"
    separator: str | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> LabelRule:
        """Return the rule of a manifest."""
        return cls(manifest.zero, manifest.minus_one, manifest.label_separator)


def labels_in(text: str, separator: str | None) -> list[str]:
    """Split the field of a column ``label`` into labels.

    >>> labels_in("cat|pet", "|"), labels_in("['cat', 'pet']", "list"), labels_in("cat|pet", None), labels_in("", "|")
    (['cat', 'pet'], ['cat', 'pet'], ['cat|pet'], [])
    """
    if separator is None:
        return [text] if text else []
    parts: list[str] = text.split(separator)
    if separator == LIST:
        parts = re.split(r"[,\s]+", text[1:-1]) if text[:1] in "[({" else [text]
        try:
            value = ast.literal_eval(text)
            if isinstance(value, (list, tuple, set, frozenset)):
                parts = [str(item) for item in value]
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # words without quotes
            pass
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


@dataclass(frozen=True)
class TableRows:
    """The pictures of a table, each once.

    Attributes
    ----------
    paths : tuple of str, relative to the folder, in the order of their first rows
    lines : line of the first row of each
    labels : int8 ndarray (n, n_classes), 1, 0 (unknown), -1
    split : name of each picture's split, or None without splits
    problems : one line each
    repeated : rows that repeat an earlier one, one line each
    several : pictures whose rows have different labels, one line each
    """

    paths: tuple[str, ...]
    lines: tuple[int, ...]
    labels: np.ndarray
    split: tuple[str, ...] | None
    problems: tuple[str, ...]
    repeated: tuple[str, ...] = ()
    several: tuple[str, ...] = ()


def gather_pictures(table: CsvTable, folder: Path, classes: Sequence[str], rule: LabelRule) -> TableRows:
    """Read a table's pictures and labels; several rows of one picture are joined.

    With one column ``label``, rows of one picture with different labels are several labels. Rows that are equal count
    once. Rows with different values in the columns of classes, or of different splits, are problems.
    """
    paths, problems = picture_paths(table, folder)
    labels, wrong = _row_labels(table, classes, rule)
    problems += wrong
    split = table.column(SPLIT) if SPLIT in table.header else None
    first: dict[str, int] = {}
    repeated, several = [], {}
    for row, path in enumerate(paths):
        old = first.setdefault(path, row)
        if old == row or not path:
            continue
        lines = f"line {table.lines[row]}: {path}"
        if split is not None and split[row] != split[old]:
            problems.append(f"{lines}: split {brief(split[row])}, on line {table.lines[old]} {brief(split[old])}")
        elif (labels[row] == labels[old]).all():
            repeated.append(f"line {table.lines[row]} repeats line {table.lines[old]}: {path}")
        elif not table.one_label:
            problems.append(f"{lines}: other values than on line {table.lines[old]}")
        else:
            several[path] = f"{path}: lines {table.lines[old]} and {table.lines[row]}"
            labels[old] = np.where(labels[old] == 0, labels[row], np.maximum(labels[old], labels[row]))
    rows = list(first.values())
    return TableRows(
        tuple(paths[row] for row in rows),
        tuple(table.lines[row] for row in rows),
        labels[rows],
        None if split is None else tuple(split[row] for row in rows),
        tuple(problems),
        tuple(repeated),
        tuple(several.values()),
    )


def _row_labels(table: CsvTable, classes: Sequence[str], rule: LabelRule) -> tuple[np.ndarray, list[str]]:
    """Read the labels of each row, int8 (n_rows, n_classes), and problems."""
    if not table.one_label:
        known = set(table.class_columns)
        if missing := [name for name in classes if name not in known]:
            problem = f"no column for {', '.join(map(brief, missing))}"
            return np.zeros((len(table.rows), len(classes)), np.int8), [problem]
        labels, empty, problems = column_values(table, classes)
        is_zero = (labels == 0) & ~empty
        if rule.minus_one == "unknown":
            labels[labels == -1] = 0
        if rule.zero == "absent":
            labels[is_zero] = -1
        return labels, problems
    column = {name: index for index, name in enumerate(classes)}
    labels = np.full((len(table.rows), len(classes)), -1, np.int8)
    problems = []
    for row, (text, line) in enumerate(zip(table.column(LABEL), table.lines, strict=True)):
        names = labels_in(text, rule.separator)
        if not names:
            labels[row] = 0
        for name in names:
            if name in column:
                labels[row, column[name]] = 1
            else:
                problems.append(f"line {line}: label {brief(name)} is no class of the manifest")
    return labels, problems


def column_values(table: CsvTable, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read the values of the columns of classes.

    Returns
    -------
    values : int8 ndarray (n_rows, n_classes), as in the file, 0 for an empty field
    empty : bool ndarray of the same shape
    problems : one line each
    """
    values = np.zeros((len(table.rows), len(classes)), np.int8)
    empty = np.zeros(values.shape, bool)
    problems = []
    for column, name in enumerate(classes):
        texts = table.column(name)
        known = {text: _value_of(text) for text in set(texts)}
        numbers = [known[text] for text in texts]
        problems += [
            f"line {line}: column {name or 'without a name'}: expected 1, 0, -1 or nothing, got {brief(text)}"
            for text, number, line in zip(texts, numbers, table.lines, strict=True)
            if number == BAD_VALUE
        ]
        empty[:, column] = [number is None for number in numbers]
        values[:, column] = [number or 0 for number in numbers]
    return values, empty, problems


BAD_VALUE = 2


def _value_of(text: str) -> int | None:
    """Read a field in the column of a class: 1, 0, -1, None for no value, `BAD_VALUE` for any other.

    >>> [_value_of(text) for text in ("1.00", "-1", "True", "NaN", "", "0.8", "1_0")]
    [1, -1, 1, None, None, 2, 2]
    """
    if text.lower() in VALUES:
        return VALUES[text.lower()]
    try:
        number = float(text) if "_" not in text else BAD_VALUE
    except ValueError:
        return BAD_VALUE
    return int(number) if number in (1, 0, -1) else BAD_VALUE


def read_rows(manifest: Manifest, folder: Path) -> Listing:
    """List all pictures of the manifest's table, in its order, with their labels."""
    table = read_table_file(table_path(manifest, folder))
    rows = gather_pictures(table, folder, manifest.classes, LabelRule.of(manifest))
    ids = tuple(map(id_of, rows.paths))
    return Listing(rows.paths, ids, rows.labels, rows.split, (*rows.problems, *name_clashes(rows.paths, ids)))


def table_path(manifest: Manifest, folder: Path) -> Path:
    """Return the path of a dataset's table."""
    return folder / (manifest.table or "")
