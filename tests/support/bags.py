"""Pictures of different numbers of patches, few of which carry a picture's class."""

from dataclasses import replace

import numpy as np

from pipeline.patches.labels import Overlap
from support.tables import TableOfRows, table_of_eights

WIDTH = 16


def draw_rows(seed: int, sizes: list[int], n_showing: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pictures, and labels of three classes; a picture may show none or several.

    Class c is high in column c of `n_showing` patches of a picture that shows it. All patches of a picture
    are moved together, in all columns: what a network would learn that took every patch for the class.
    """
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((len(sizes), 3)) < 0.35, 1, -1).astype(np.int8)
    rows = []
    for shown, size in zip(labels == 1, sizes, strict=True):
        values = rng.normal(0, 0.5, (size, WIDTH)) + rng.normal(0, 0.8, WIDTH)
        for c in np.flatnonzero(shown):
            values[rng.choice(size, min(n_showing, size), replace=False), c] += 4
        rows.append(values)
    return np.concatenate(rows).astype(np.float16), labels


def make_table(sizes: list[int], labels: np.ndarray) -> TableOfRows:
    """A table without any object: its pictures have labels, and its patches none."""
    n = sum(sizes)
    nothing = np.zeros(n, np.uint8)
    table = replace(
        table_of_eights(len(sizes)),
        picture=np.repeat(np.arange(len(sizes)), sizes).astype(np.int32),
        box_xyxy=np.tile(np.array([0, 0, 16, 16], np.float32), (n, 1)),
        scale=nothing,
        overlap=Overlap(
            n_filling=nothing,
            n_touching=nothing,
            filling_class=np.full(n, -1, np.int16),
            filling_difficult=np.zeros(n, bool),
            fill_row=np.zeros(0, np.int64),
            fill_class=np.zeros(0, np.int16),
            fill_difficult=np.zeros(0, bool),
        ),
        picture_labels=labels,
    )
    return replace(table, rows_digest=table.compute_rows_digest())
