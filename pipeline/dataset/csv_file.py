"""The file of a table: a CSV file with a header, as spreadsheets and libraries write it."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.io.errors import DatasetError
from pipeline.io.lfs import UNFETCHED, is_lfs_pointer
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.names import normalise

PICTURE, LABEL, SPLIT = "picture", "label", "split"
DELIMITERS = ",;\t|"
LIKE_PICTURE = (
    "file_name", "filename", "image", "path", "file", "img", "image_path", "filepath", "image_name", "name",
    "file_path", "image_id", "imageid", "image_file", "img_path", "id",
)  # fmt: skip
LIKE_SPLIT = (
    "subset", "set", "partition", "phase", "fold", "kfold", "usage", "data_split", "dataset_split", "split_name",
    "splits", "is_train", "is_training", "is_val", "is_valid", "is_validation", "is_test", "is_eval", "in_train",
)  # fmt: skip
LIKE_LABEL = ("class", "labels", "category", "target", "class_name", "label_name", "tags", "tag", "classes")


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

    @property
    def like_split(self) -> str | None:
        """Name of a column that seems to tell the split, where there is no column ``split``."""
        return None if SPLIT in self.header else _first_like(self.header, LIKE_SPLIT)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.header)}

    def column(self, name: str) -> list[str]:
        """Return the values of one column, stripped."""
        index = self._places[name]
        values = [row[index].strip() for row in self.rows]
        return values if name == PICTURE else [normalise(value) for value in values]


def read_table_file(path: Path) -> CsvTable:
    """Read a CSV file (UTF-8, or UTF-16 with its mark; comma, semicolon, tab or ``|``).

    Columns without a name and without any value are passed over: spreadsheets write them.

    Raises
    ------
    DatasetError
        It cannot be read, has no column ``picture``, names a column twice, or has rows of another length.
    """
    try:
        data = path.read_bytes()
        if is_lfs_pointer(data):
            raise DatasetError(f"{path}: {UNFETCHED}")
        stream = io.StringIO(_decode_table(data), newline="")
        start, before, first = 0, 0, stream.readline()
        while first.isspace():
            start, before, first = stream.tell(), before + 1, stream.readline()
        # Excel's note on the delimiter, which is no part of the table.
        stated = re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"), re.IGNORECASE)
        if stated:
            before += 1
        else:
            stream.seek(start)
        delimiter = stated[1] if stated else max(DELIMITERS, key=first.count)
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        header = tuple(normalise(name.strip()) for name in next(reader, []))
        rows, lines = [], []
        for row in reader:
            if any(map(str.strip, row)):
                rows.append(row)
                lines.append(reader.line_num + before)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such table") from error
    except UnicodeError as error:
        raise DatasetError(
            f"{path}: not a CSV file in UTF-8: {error}; save it as 'CSV UTF-8', or: iconv -f ENCODING -t utf-8"
        ) from error
    except csv.Error as error:
        raise DatasetError(f"{path}: not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: the table cannot be read: {error.strerror}") from error
    header, rows = _without_empty_columns(header, rows)
    problems = []
    if PICTURE not in header:
        renames = [
            f"; rename {like!r} to {name!r}"
            for name, known in ((PICTURE, LIKE_PICTURE), (LABEL, LIKE_LABEL))
            if name not in header and (like := _first_like(header, (name, *known))) is not None
        ]
        hint = "".join(renames)
        problems.append(f"no column {PICTURE!r}; the first line names the columns, got {brief(list(header))}{hint}")
    if twice := sorted(name for name, n in Counter(header).items() if n > 1):
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


def _decode_table(data: bytes) -> str:
    """Decode a table; raise UnicodeError if it is neither UTF-8 nor UTF-16 with a mark."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = data.decode(encoding)
    if "\0" in text:
        raise UnicodeError("it holds NUL, as UTF-16 without its mark does")
    return text


def _without_empty_columns(header: tuple[str, ...], rows: list[list[str]]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Leave out the columns that have neither a name nor any value, those after the header's last included."""
    n_columns = max([len(header), *map(len, rows)])
    names = header + ("",) * (n_columns - len(header))
    named = [bool(name) or any(row[k].strip() for row in rows if k < len(row)) for k, name in enumerate(names)]
    if all(named):
        return header, rows
    return (
        tuple(name for name, has in zip(header, named, strict=False) if has),
        [[value for value, has in zip(row, named, strict=False) if has] for row in rows],
    )


def _first_like(header: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the first column whose name is one of some names, in any case."""
    return next((name for name in header if name.lower() in known), None)
