"""Choose training rows and held-out pictures. Both are fixed by hashes, not by order."""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline.patches.labels import BACKGROUND


def hold_out_pictures(ids: tuple[str, ...], share: float) -> np.ndarray:
    """Choose pictures that are held out of the fit split, by a hash of their id.

    Adding or removing a picture moves no other one between the two sides; equal ids are on the same side.

    Returns
    -------
    bool ndarray of shape (n_pictures,)
    """
    hashes = [hashlib.sha256(f"held out {i}".encode()).digest() for i in ids]
    values = np.array([int.from_bytes(digest[:8], "big") for digest in hashes], float) / 2.0**64
    return values < share


def choose_rows(labels: np.ndarray, background_share: float, seed: int) -> np.ndarray:
    """Choose all positive rows and a seeded share of the background rows.

    Parameters
    ----------
    labels : int ndarray of shape (n_rows,), a class, BACKGROUND or UNUSED
    background_share : 0..1

    Returns
    -------
    int64 ndarray of chosen rows, rising
    """
    background = np.flatnonzero(labels == BACKGROUND)
    n = round(background_share * len(background))
    chosen = np.random.default_rng([seed, 1]).permutation(background)[:n]
    return np.sort(np.concatenate([np.flatnonzero(labels >= 0), chosen]))
