"""Nested random subsets of the fit pictures: by number, or by positive pictures per class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipeline.io.numbers import parse_count

ALL = 0
"""The size that stands for all pictures."""
By = Literal["pictures", "shots"]
"""Whether a size is a number of pictures, or of positive pictures per class."""


def order_of_draw(file_sha256: Sequence[str], seed: int) -> np.ndarray:
    """Return the order in which pictures come into the subsets of a draw, by hashes of the digests of their files.

    Returns
    -------
    int64 ndarray (n_pictures,): no id and no place in a list decides it
    """
    keys = [hashlib.sha256(f"curve {seed} {digest}".encode()).digest() for digest in file_sha256]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def choose_subset(order: np.ndarray, labels: np.ndarray, by: By, size: int) -> np.ndarray:
    """Choose the pictures of a subset; a smaller one of the same draw is part of a larger one.

    Parameters
    ----------
    order : of the draw
    labels : int8 ndarray (n_pictures, n_classes), 1, -1, or 0
    size : pictures; or positive pictures per class, of which a picture may count for several; `ALL` for all

    Returns
    -------
    bool ndarray (n_pictures,)

    Examples
    --------
    >>> choose_subset(np.array([2, 0, 1]), np.array([[1, -1], [1, -1], [-1, 1]]), "shots", 1).tolist()
    [True, False, True]
    """
    chosen = np.zeros(len(order), bool)
    if size == ALL:
        return ~chosen
    if by == "pictures":
        chosen[order[:size]] = True
        return chosen
    for of_class in labels[order].T:
        chosen[order[np.flatnonzero(of_class == 1)[:size]]] = True
    return chosen


def parse_part(text: str) -> tuple[By, int]:
    """Read a subset such as ``pictures:100`` or ``shots:4``.

    Raises
    ------
    ValueError
    """
    by, _, size = text.partition(":")
    n = parse_count(size)
    if by not in ("pictures", "shots") or n is None:
        raise ValueError(f"expected pictures:N or shots:N with N above 0, got {text!r}")
    return ("pictures" if by == "pictures" else "shots"), n
