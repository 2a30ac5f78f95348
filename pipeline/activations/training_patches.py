"""Training patches: pixels of chosen patches with their labels, for networks that are not frozen yet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pipeline.activations.prefetch import prefetch_patches
from pipeline.activations.row_plan import plan_rows
from pipeline.activations.run_log import StageClock
from pipeline.io.errors import PipelineError
from pipeline.io.memory import total_memory
from pipeline.io.picture_file import PictureFile
from pipeline.io.progress import Progress
from pipeline.patches.labels import BACKGROUND
from pipeline.patches.table import PatchTable
from pipeline.trunk.pretrain.images import LabelledPictures

MEMORY_SHARE = 0.8
BACKGROUND_CLASS = "background"


def cut_labelled(
    table: PatchTable, picture_paths: Mapping[str, PictureFile], labels: np.ndarray, rows: np.ndarray, px: int
) -> LabelledPictures:
    """Cut chosen patches of a table as extraction would cut them.

    Parameters
    ----------
    picture_paths : file of each id of the table
    labels : int ndarray of shape (table.n_rows,), a class or BACKGROUND
    rows : int64 ndarray of shape (n,), rising
    px : side of a patch in pixels

    Returns
    -------
    LabelledPictures
        In the order of `rows`; its classes are the table's and, last, ``background``.

    Raises
    ------
    PipelineError
        They do not fit into memory, or a picture changed since the table was made.
    """
    n_bytes = len(rows) * px * px * 3
    memory = total_memory()
    if n_bytes > MEMORY_SHARE * memory:
        raise PipelineError(
            f"{len(rows):,} patches of {px} px take {n_bytes / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB; "
            "use fewer with --background-share, or an architecture with smaller patches"
        )
    pixels = np.empty((len(rows), px, px, 3), np.uint8)
    filled = 0
    with Progress("cut", len(rows), "patches") as progress:
        for patches in prefetch_patches(plan_rows(table, picture_paths, rows), px, StageClock()):
            pixels[filled : filled + len(patches)] = patches
            filled += len(patches)
            progress.advance(len(patches))
    chosen = labels[rows].astype(np.int64)
    targets = np.where(chosen == BACKGROUND, len(table.classes), chosen)
    return LabelledPictures(torch.from_numpy(pixels), torch.from_numpy(targets), (*table.classes, BACKGROUND_CLASS))
