"""Choose training rows and held-out pictures. Both are fixed by hashes, not by order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.patches.labels import BACKGROUND
from pipeline.patches.rows import split_range

ROWS_AT_WORK = 2**20


def hold_out_pictures(file_sha256: Sequence[str], share: float) -> np.ndarray:
    """Choose pictures that are held out of the fit split, by a hash of the digest of their file.

    So no name decides a value. Adding or removing a picture moves no other one between the two sides; samples of one
    file are on the same side, copies of it too.

    Parameters
    ----------
    file_sha256 : of each picture, or sample of a picture
    share : 0..1

    Returns
    -------
    bool ndarray of shape (n_pictures,)
    """
    hashes = [hashlib.sha256(f"held out {i}".encode()).digest() for i in file_sha256]
    values = np.array([int.from_bytes(digest[:8], "big") for digest in hashes], float) / 2.0**64
    return values < share


def choose_rows(labels: np.ndarray, background_share: float, seed: int) -> np.ndarray:
    """Choose all positive rows and a seeded share of the background rows.

    Beside the labels and the chosen rows, memory holds four bytes per background row for the draw; see
    `pipeline.head.fit_memory.choosing_bytes`.

    Parameters
    ----------
    labels : int ndarray of shape (n_rows,), a class, BACKGROUND or UNUSED
    background_share : 0..1

    Returns
    -------
    int64 ndarray of chosen rows, rising
    """
    # Which elements a permutation takes does not depend on their type, so that small ones give the same rows.
    of_row = np.uint32 if len(labels) <= np.iinfo(np.uint32).max else np.int64
    background = _rows_where(labels, lambda some: some == BACKGROUND, of_row)
    n = round(background_share * len(background))
    np.random.default_rng([seed, 1]).shuffle(background)
    drawn = background[:n].astype(np.int64)
    del background  # before the rows are joined: it is the largest array
    rows = np.concatenate([_rows_where(labels, lambda some: some >= 0, np.int64), drawn])
    rows.sort()
    return rows


def count_rows(labels: np.ndarray, holds: Callable[[np.ndarray], np.ndarray]) -> int:
    """Count the rows whose label meets a condition; temporary arrays are of a range of rows."""
    ranges = split_range(len(labels), ROWS_AT_WORK)
    return sum(int(np.count_nonzero(holds(labels[some.start : some.stop]))) for some in ranges)


def _rows_where(labels: np.ndarray, holds: Callable[[np.ndarray], np.ndarray], dtype: type[np.integer]) -> np.ndarray:
    """Return the rows whose label meets a condition, as `dtype`; temporary arrays are of a range of rows."""
    rows = np.empty(count_rows(labels, holds), dtype)
    filled = 0
    for some in split_range(len(labels), ROWS_AT_WORK):
        found = some.start + np.flatnonzero(holds(labels[some.start : some.stop]))
        rows[filled : filled + len(found)] = found
        filled += len(found)
    return rows
