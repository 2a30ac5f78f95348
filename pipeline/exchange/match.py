"""Which row of a file belongs to which row of a patch table."""

from __future__ import annotations

import numpy as np

from pipeline.exchange.read import GivenRows
from pipeline.io.errors import DatasetError
from pipeline.io.messages import enumerate_problems
from pipeline.patches.table import PatchTable

SHOWN = 5


def match_rows(given: GivenRows, table: PatchTable) -> np.ndarray:
    """Find the row of the file for each row of a table.

    Rows of pictures are matched by id; rows of patches by id, box, and scale, flip and turn as far as the file has
    them. The order of the file does not matter, and rows of pictures that the table does not have are left out.

    Returns
    -------
    int64 ndarray (table.n_rows,)

    Raises
    ------
    DatasetError
        Not exactly one row of the file for each row of the table.
    """
    index = {name: position for position, name in enumerate(table.ids)}
    picture = np.array([index.get(name, -1) for name in given.picture], np.int64)
    rows = np.flatnonzero(picture >= 0)
    missing = np.setdiff1d(np.arange(len(table.ids)), picture[rows])
    if len(missing):
        raise DatasetError(_lacks(given, table, missing, len(rows)))
    if given.per == "picture":
        return _match_pictures(given, table, picture, rows)
    return _match_windows(given, table, picture, rows)


def _lacks(given: GivenRows, table: PatchTable, missing: np.ndarray, n_matched: int) -> str:
    names = [table.ids[i] for i in missing[:SHOWN]]
    text = (
        f"{given.path}: no rows of {len(missing):,} of the {len(table.ids):,} pictures of {table.dataset} {table.split}"
        f"\n{enumerate_problems(names)}"
    )
    if n_matched:
        return text
    return f"{text}\nids in the file are like {given.picture[0]!r}; those of the split are like {table.ids[0]!r}"


def _match_pictures(given: GivenRows, table: PatchTable, picture: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if table.n_rows != len(table.ids):
        raise DatasetError(
            f"{given.path}: has a row per picture, and {table.dataset} {table.split} has {table.n_rows:,} patches with "
            f"source {table.source!r}; give source: whole, or rows with the columns x0, y0, x1, y1"
        )
    counts = np.bincount(picture[rows], minlength=len(table.ids))
    twice = np.flatnonzero(counts > 1)
    if len(twice):
        lines = [f"{table.ids[i]}: {counts[i]:,} rows" for i in twice[:SHOWN]]
        raise DatasetError(f"{given.path}: {len(twice):,} pictures have several rows\n{enumerate_problems(lines)}")
    order = np.empty(len(table.ids), np.int64)
    order[picture[rows]] = rows
    return order


def _match_windows(given: GivenRows, table: PatchTable, picture: np.ndarray, rows: np.ndarray) -> np.ndarray:
    own = table.rows_at(slice(None))
    expected = [*own.box_xyxy.T]
    found = [*given.windows["box_xyxy"][rows].T]
    if "scale" in given.windows:
        expected.append(own.scale)
        found.append(given.windows["scale"][rows])
    for name, values, what in (("flip", own.flip, "mirrored"), ("turn", own.turn, "turned")):
        if values is None:
            continue
        if name not in given.windows:
            raise DatasetError(
                f"{given.path}: {table.dataset} {table.split} has {what} patches, and the file has no column {name!r}"
            )
        expected.append(values)
        found.append(given.windows[name][rows])
    expected, found = [own.picture, *expected], [picture[rows], *found]
    of_table, of_file = (np.lexsort(keys[::-1]) for keys in (expected, found))
    counts = [np.bincount(keys[0], minlength=len(table.ids)) for keys in (expected, found)]
    differing = np.flatnonzero(counts[0] != counts[1])
    if len(differing):
        lines = [f"{table.ids[i]}: {counts[1][i]:,} rows, expected {counts[0][i]:,}" for i in differing[:SHOWN]]
        raise DatasetError(f"{_other_windows(given, table)}\n{enumerate_problems(lines)}")
    same = np.ones(len(rows), bool)
    repeats = np.ones(max(0, len(rows) - 1), bool)
    for of_expected, of_found in zip(expected, found, strict=True):
        ordered = of_expected[of_table]
        same &= ordered == of_found[of_file]
        repeats &= ordered[1:] == ordered[:-1]
    if not same.all():
        wrong = np.unique(own.picture[of_table[~same]])[:SHOWN]
        lines = [f"{table.ids[i]}: other boxes" for i in wrong]
        raise DatasetError(f"{_other_windows(given, table)}\n{enumerate_problems(lines)}")
    if repeats.any():
        name = table.ids[own.picture[of_table[np.flatnonzero(repeats)[0]]]]
        raise DatasetError(f"{given.path}: {name} has several windows with one box, and the file has no column 'scale'")
    order = np.empty(table.n_rows, np.int64)
    order[of_table] = rows[of_file]
    return order


def _other_windows(given: GivenRows, table: PatchTable) -> str:
    return (
        f"{given.path}: its patches are not those of {table.dataset} {table.split} with source {table.source!r} and "
        "these settings; the patches are in any export of the split, such as: pipeline export --to patches.parquet"
    )
