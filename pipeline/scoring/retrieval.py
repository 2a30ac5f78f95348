"""Instance retrieval: pictures of a split in the order of their distance to a query, patch against patch.

Source: Razavian et al. (CVPR Workshops 2014) section 4, on visual instance retrieval. Rows are scaled to length 1.
The distance of a query's patch to a reference picture is the smallest L2 distance to any patch of that picture. The
distance of the query is the mean over its patches. So an object may be anywhere in the reference picture, and of
another size (spatial search).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.activations.match import check_joined
from pipeline.activations.store import Store
from pipeline.io.errors import DatasetError
from pipeline.io.progress import Progress
from pipeline.metrics.average_precision import precision_recall
from pipeline.patches.table import PatchTable

BLOCK_VALUES = 2**25
"""Limit of the similarities (float32) in memory: 128 MiB, twice."""


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; a row of zeros stays zero.

    Parameters
    ----------
    rows : float ndarray of shape (n, width)

    Returns
    -------
    float32 ndarray of shape (n, width)
    """
    values = rows.astype(np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return values * np.where(length == 0, 0, 1 / np.where(length == 0, 1, length)).astype(np.float32)[:, None]


class NearestPatches:
    """Compute distances of queries to pictures, whose rows arrive part by part.

    Parameters
    ----------
    rows : float16 ndarray of shape (n, width), patches of the queries
    query : int ndarray of shape (n,), the query of each, rising without gaps from 0
    n_pictures : reference pictures

    Notes
    -----
    Rows have length 1, so a distance is ``sqrt(2 - 2 cosine)`` and the nearest patch is the one of the
    largest cosine: one matrix product per block of rows. Memory holds ``n * n_pictures`` float32.
    """

    def __init__(self, rows: np.ndarray, query: np.ndarray, n_pictures: int) -> None:
        self._rows, self._query = unit_rows(rows), np.asarray(query)
        self._highest = np.full((len(rows), n_pictures), -np.inf, np.float32)

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        """Add rows (n, width) of reference pictures (n,), rising; a picture may continue in the next call."""
        n_block = max(1, BLOCK_VALUES // max(1, len(self._rows)))
        for start in range(0, len(picture), n_block):
            chosen = slice(start, start + n_block)
            cosine = self._rows @ unit_rows(rows[chosen]).T
            starts = np.flatnonzero(np.diff(picture[chosen], prepend=-1))
            pictures = picture[chosen][starts]
            highest = np.maximum.reduceat(cosine, starts, axis=1)
            self._highest[:, pictures] = np.maximum(self._highest[:, pictures], highest)

    def result(self) -> np.ndarray:
        """Return a float64 ndarray of shape (n_queries, n_pictures), 0..2; infinite for a picture without a row."""
        distance = np.sqrt(np.maximum(2 - 2 * self._highest.astype(np.float64), 0))
        starts = np.flatnonzero(np.diff(self._query, prepend=-1))
        counts = np.diff(np.append(starts, len(self._query)))
        return np.add.reduceat(distance, starts, axis=0) / counts[:, None]


def rows_of_scales(table: PatchTable, n_scales: int) -> np.ndarray:
    """Return the int64 indices of rows of the first `n_scales` scales, which have the largest patches; 0 for all."""
    if not n_scales:
        return np.arange(table.n_rows)
    chosen = [np.zeros(0, np.int64)]
    for pictures in table.ranges():
        rows = table.slice_of(pictures)
        chosen.append(rows.start + np.flatnonzero(table.rows_at(rows).scale < n_scales))
    return np.concatenate(chosen)


def distances(
    store: Store, table: PatchTable, rows: np.ndarray, query: np.ndarray, reference_scales: int = 0
) -> np.ndarray:
    """Compute the distance of each query to each picture of a split.

    The store is read part by part, once per block of queries whose distances fit into `BLOCK_VALUES`.

    Parameters
    ----------
    rows : float16 ndarray of shape (n, width), made in the same way as the store's
    query : int ndarray of shape (n,), the query of each, rising without gaps from 0
    reference_scales : number of first scales whose patches are compared in each picture; 0 for all

    Returns
    -------
    float64 ndarray of shape (n_queries, n_pictures)
    """
    check_joined(store, table)
    blocks = [
        _search(store, table, rows[block], query[block] - query[block.start], reference_scales)
        for block in query_blocks(query, len(table.ids))
    ]
    return np.concatenate(blocks)


def _search(store: Store, table: PatchTable, rows: np.ndarray, query: np.ndarray, reference_scales: int) -> np.ndarray:
    nearest = NearestPatches(rows, query, len(table.ids))
    with Progress(f"search {table.dataset} {table.split}", table.n_rows, "patches") as progress:
        for part, values in store.iter_parts():
            picture = table.picture_of(slice(part.start, part.stop))
            if reference_scales:
                chosen = table.rows_at(slice(part.start, part.stop)).scale < reference_scales
                values, picture = values[chosen], picture[chosen]
            nearest.add(values, picture)
            progress.advance(part.n_rows)
    return nearest.result()


def query_blocks(query: np.ndarray, n_pictures: int) -> Iterator[slice]:
    """Yield ranges of rows of whole queries whose distances fit into memory together.

    Parameters
    ----------
    query : int ndarray of shape (n,), rising: the query of each row
    """
    starts = np.flatnonzero(np.diff(query, prepend=query[0] - 1)) if len(query) else np.zeros(0, int)
    ends = np.append(starts[1:], len(query))
    most = max(1, BLOCK_VALUES // n_pictures)
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + most, side="right")))
        yield slice(int(starts[first]), int(ends[last - 1]))
        first = last


def relevance(labels: np.ndarray, query: int) -> np.ndarray:
    """Return which pictures are relevant for one of them.

    Returns
    -------
    int8 ndarray of shape (n_pictures,)
        1 shares a class, -1 does not, 0 is left out: the query itself, and a picture that would share
        one if what is difficult (or unknown) were sure.
    """
    sure = (labels == 1) @ (labels[query] == 1)
    possible = (labels >= 0) @ (labels[query] >= 0)
    out = np.where(sure, 1, np.where(possible, 0, -1)).astype(np.int8)
    out[query] = 0
    return out


def retrieval_ap(distance: np.ndarray, relevant: np.ndarray) -> float:
    """Average precision of one query: the mean, over all relevant pictures, of the precision at their rank.

    Pictures at one distance enter together, so that their order changes nothing.

    Parameters
    ----------
    distance : float ndarray of shape (n,), the smaller the better
    relevant : int ndarray of shape (n,), 1, -1, or 0 to be left out

    Returns
    -------
    float
        NaN where nothing is relevant, or nothing is irrelevant: every ranking would have 1.

    Examples
    --------
    >>> round(retrieval_ap(np.array([0.1, 0.2, 0.3]), np.array([1, -1, 1])), 4)
    0.8333
    """
    if not ((relevant == 1).any() and (relevant == -1).any()):
        return float("nan")
    precision, recall = precision_recall(-distance, relevant)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


@dataclass(frozen=True)
class Retrieval:
    """How well pictures of the same classes of a split are ranked for each other.

    Attributes
    ----------
    ap : float64 ndarray of shape (n_pictures,), of each picture as a query; NaN as in `retrieval_ap`
    chance : float64 ndarray of the same shape, share of the relevant pictures among those that count
    """

    ap: np.ndarray
    chance: np.ndarray


def evaluate_retrieval(store: Store, table: PatchTable, query_scales: int = 1, reference_scales: int = 0) -> Retrieval:
    """Rank all other pictures of a split for each picture; pictures that share a class are relevant.

    Queries are processed in blocks of bounded memory, and the store is read once per block.

    Parameters
    ----------
    query_scales, reference_scales : number of first scales whose patches represent a picture; 0 for all

    Raises
    ------
    DatasetError
        The split has no labels.
    """
    if not table.labelled:
        raise DatasetError(f"{table.dataset} {table.split}: no labels, so no picture is known to be relevant")
    check_joined(store, table)
    rows = rows_of_scales(table, query_scales)
    ap, chance = np.full((2, len(table.ids)), np.nan)
    of_picture = table.picture_of(rows)
    for block in query_blocks(of_picture, len(table.ids)):
        pictures, query = np.unique(of_picture[block], return_inverse=True)
        distance = distances(store, table, store.read_rows(rows[block]), query, reference_scales)
        for index, row in zip(pictures, distance, strict=True):
            relevant = relevance(table.picture_labels, int(index))
            ap[index] = retrieval_ap(row, relevant)
            if not np.isnan(ap[index]):
                chance[index] = (relevant == 1).sum() / (relevant != 0).sum()
    return Retrieval(ap, chance)
