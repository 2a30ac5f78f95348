"""One line of a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
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
