"""Near-duplicates: pictures whose whole-picture rows point almost the same way, within one split and across splits.

A picture's row is the mean of its rows of the largest scale, scaled to length 1: of source ``whole`` its only row. The
cosine of two such rows chooses the pairs that are worth comparing. Whether a pair is one photo, pixels decide
(`pipeline.dataset.same_photo`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.activations.match import check_joined
from pipeline.activations.pooling import PooledRows
from pipeline.activations.store import Store
from pipeline.io.errors import DatasetError
from pipeline.io.progress import Progress
from pipeline.patches.table import PatchTable
from pipeline.scoring.retrieval import BLOCK_VALUES, unit_rows

MOST_PAIRS = 200_000
"""More pairs than this are not compared: so many mean that the threshold does not tell pictures apart."""


ROUNDING = 1e-6
"""By so much the cosine of equal rows may miss 1."""


def picture_rows(store: Store, table: PatchTable) -> np.ndarray:
    """Compute the whole-picture row of each picture, in one pass over the store.

    Returns
    -------
    float32 ndarray of shape (n_pictures, width), each of length 1; zeros for a picture without rows

    Raises
    ------
    StoreError
        Store and table do not belong together.
    """
    check_joined(store, table)
    pooled = PooledRows(len(table.ids), store.width, ("mean",))
    with Progress(f"rows of pictures, {table.dataset} {table.split}", table.n_rows, "patches") as progress:
        for part, rows in store.iter_parts():
            of_part = table.rows_at(slice(part.start, part.stop))
            largest = of_part.scale == 0
            pooled.add(rows[largest], of_part.picture[largest])
            progress.advance(part.n_rows)
    return unit_rows(np.nan_to_num(pooled.result()[0], nan=0.0))


def similar_pairs(rows: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Find all pairs of rows whose cosine is at least a threshold; memory holds a block of cosines and the pairs.

    Parameters
    ----------
    rows : float32 ndarray of shape (n, width), of length 1, or zeros, which are in no pair
    threshold : above 0

    Returns
    -------
    pairs : int64 ndarray of shape (n_pairs, 2), the smaller index first, rising
    cosine : float32 ndarray of shape (n_pairs,)

    Raises
    ------
    DatasetError
        More than `MOST_PAIRS` pairs.

    Examples
    --------
    >>> pairs, cosine = similar_pairs(np.array([[1, 0], [0, 1], [1, 0]], np.float32), 0.9)
    >>> pairs.tolist(), cosine.tolist()
    ([[0, 2]], [1.0])
    """
    found, n_found = [(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))], 0
    for block, cosine in _blocks(rows):
        first, second = np.nonzero(np.triu(cosine >= threshold - ROUNDING, 1))
        n_found += len(first)
        if n_found > MOST_PAIRS:
            raise DatasetError(
                f"more than {MOST_PAIRS:,} pairs of pictures have a cosine of {threshold:g} or more: these rows do not "
                "tell the pictures apart at that threshold; give a higher one (--cosine), or rows of another trunk"
            )
        found.append((np.stack([first, second], axis=1) + block, cosine[first, second]))
    return np.concatenate([pairs for pairs, _ in found]), np.concatenate([values for _, values in found])


def _blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row of each block, and its cosines with that row and all later ones."""
    n = len(rows)
    step = max(1, BLOCK_VALUES // max(1, n))
    for start in range(0, n, step):
        yield start, rows[start : start + step] @ rows[start:].T


def group_pairs(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Join pairs that share a member into groups: each rising, ordered by their first member.

    >>> group_pairs([(4, 7), (0, 2), (2, 9)])
    [[0, 2, 9], [4, 7]]
    """
    leader: dict[int, int] = {}

    def find(member: int) -> int:
        leader.setdefault(member, member)
        while leader[member] != member:
            leader[member] = leader[leader[member]]
            member = leader[member]
        return member

    for first, second in pairs:
        a, b = find(first), find(second)
        leader[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for member in sorted(leader):
        groups.setdefault(find(member), []).append(member)
    return sorted(groups.values())
