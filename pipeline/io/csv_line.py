"""CSV: a line to write, and columns to read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def csv_line(values: Iterable[Any]) -> str:
    """Return values as a line of CSV, without its end; every reader gives texts with line ends back.

    >>> csv_line(["a", 1, "b,c"])
    'a,1,"b,c"'
    """
    stream = io.StringIO()
    # Both characters in the line's end: those are the ones that Python quotes.
    csv.writer(stream, lineterminator="\r\n").writerow(values)
    return stream.getvalue()[:-2]


def read_csv_columns(path: Path) -> dict[str, list[str]]:
    """Read a CSV with a header: texts by column.

    Raises
    ------
    OSError, ValueError
        It cannot be read, or a line has another number of fields than the header.
    """
    with open(path, encoding="utf-8-sig", newline="") as stream:
        try:
            header, *lines = csv.reader(stream, strict=True)
        except csv.Error as error:
            raise ValueError(str(error)) from error
    columns = zip(*lines, strict=True) if lines else ([] for _ in header)
    return dict(zip(header, map(list, columns), strict=True))
