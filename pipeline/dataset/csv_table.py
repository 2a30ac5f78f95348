"""A CSV file of pictures and labels.

It has a column ``picture`` and either one column ``label`` or one column per class with 1, 0, -1 or nothing; a
column ``split`` is optional.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.listing import Listing, id_of, name_clashes
from pipeline.dataset.manifest import Manifest
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.names import normalise

PICTURE, LABEL, SPLIT = "picture", "label", "split"
DELIMITERS = ",;\t"
VALUES = {"1": 1, "1.0": 1, "+1": 1, "-1": -1, "-1.0": -1, "0": 0, "0.0": 0, "": None}
"""Values in the column of a class. The manifest says what 0 means; an empty field is unknown."""


@dataclass(frozen=True)
class CsvTable:
    """Content of a CSV file: its header, and its rows with the number of the line on which each ends."""

    path: Path
    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]

    @property
    def one_label(self) -> bool:
        """Whether the table has one column ``label``; if not, each further column is a class."""
        return LABEL in self.header

    @property
    def class_columns(self) -> tuple[str, ...]:
        """Names of the columns that are neither picture nor split."""
        return tuple(name for name in self.header if name not in (PICTURE, SPLIT))

    def column(self, name: str) -> list[str]:
        """Return the values of one column, stripped."""
        index = self.header.index(name)
        values = [row[index].strip() for row in self.rows]
        return values if name == PICTURE else [normalise(value) for value in values]


def read_table_file(path: Path) -> CsvTable:
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
            header = tuple(normalise(name.strip()) for name in next(reader, []))
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
    return CsvTable(path, header, rows, lines)


def picture_paths(table: CsvTable, folder: Path) -> tuple[list[str], list[str]]:
    """Read each row's picture relative to `folder`, with ``/``; return paths and problems, one line each."""
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
        try:
            numbers = [VALUES[text] for text in texts]
        except KeyError:
            numbers = [VALUES.get(text) for text in texts]
            problems += [
                f"line {line}: column {name}: expected 1, 0, -1 or nothing, got {brief(text)}"
                for text, line in zip(texts, table.lines, strict=True)
                if text not in VALUES
            ]
        empty[:, column] = [number is None for number in numbers]
        values[:, column] = [number or 0 for number in numbers]
    return values, empty, problems


def read_rows(manifest: Manifest, folder: Path) -> Listing:
    """List all pictures of the manifest's table, in its order, with their labels."""
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
    """Return the path of a dataset's table."""
    return folder / (manifest.table or "")
