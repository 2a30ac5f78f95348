"""Rows as examples: each row of a fit picture, with the labels of its picture, is a vector of an SVM.

Source: Razavian et al. (CVPR Workshops 2014) section 3: augmented pictures are examples of their own.
"""

from __future__ import annotations

import numpy as np

from pipeline.head.fit_memory import SLACK, reading_bytes
from pipeline.head.pooled import fit_pictures
from pipeline.head.svm_network import prepare_rows
from pipeline.head.svm_settings import SvmSettings
from pipeline.head.task import FitTask
from pipeline.io.progress import Progress


def pictures_of_rows(task: FitTask) -> np.ndarray:
    """Return the picture of each row of the fit pictures: int64 ndarray (n,), rising.

    Raises
    ------
    HeadError
        Pictures without labels.
    """
    used = fit_pictures(task)
    return np.repeat(used, np.diff(task.table.first_row)[used])


def read_examples(task: FitTask, settings: SvmSettings, n: int) -> np.ndarray:
    """Read the rows of the fit pictures in one pass, and prepare them: float64 ndarray (n, width)."""
    task.reader.require_all_rows()
    table, vectors, start = task.table, np.empty((n, task.store.width)), 0
    with Progress(f"read {table.dataset} {table.split}", table.n_rows, "patches") as progress:
        for part, rows in task.store.iter_parts():
            kept = ~task.is_held_out[table.picture_of(slice(part.start, part.stop))]
            chosen = prepare_rows(rows[kept], settings)
            vectors[start : start + len(chosen)] = chosen
            start += len(chosen)
            progress.advance(part.n_rows)
            del rows
    return vectors


def bytes_of_rows(task: FitTask, n: int, bytes_per_value: int) -> int:
    """Return the most bytes that a fit on so many rows takes: with all vectors, and while those of a part are read."""
    part = max((part.n_rows for part in task.store.parts), default=0)
    # Of the values of a part: float16 twice, and what `prepare_rows` has at once in float32 and float64.
    return (n * bytes_per_value + 24 * part) * task.store.width + reading_bytes(task.store) + SLACK
