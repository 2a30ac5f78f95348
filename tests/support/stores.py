"""Sealed stores of rows that a test makes up, and patch tables for them without pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations.store import Store
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.patches.settings import GridSettings
from pipeline.patches.table import PatchTable


@dataclass
class Made:
    """A table, its store and the rows in it."""

    table: PatchTable
    store: Store
    rows: np.ndarray


def make_table(split: str, classes: Sequence[str], picture_class: np.ndarray, **columns: Any) -> PatchTable:
    """A patch table of pictures that are not there; picture i shows one object, of class ``picture_class[i]``.

    Parameters
    ----------
    columns : those of a row: ``picture``, ``box_xyxy``, ``scale``, and the overlaps
    """
    n_pictures = len(picture_class)
    table = PatchTable(
        dataset="made",
        split=split,
        classes=tuple(classes),
        source="grid",
        grid=GridSettings(),
        ids=tuple(f"{split}{i:03d}" for i in range(n_pictures)),
        size_wh=np.full((n_pictures, 2), 100, np.int32),
        apply_exif=np.zeros(n_pictures, bool),
        picture_sha256=tuple(f"{i:064d}" for i in range(n_pictures)),
        picture_labels=np.where(picture_class[:, None] == np.arange(len(classes)), 1, -1).astype(np.int8),
        skipped=(),
        annotation_digest="0" * 64,
        **columns,
    )
    return replace(table, rows_digest=table.compute_rows_digest())


def make_store(path: Path, table: PatchTable, rows: np.ndarray, part_rows: int, **changes: Any) -> Store:
    """Seal a store of a table's rows.

    Parameters
    ----------
    changes : of the identity's fields
    """
    identity = {
        "seen.pictures": table.pictures_digest(),
        "seen.rows": table.rows_digest,
        "seen.which": "all",
        "seen.n_rows": table.n_rows,
        "seen.skipped": [],
        "how.layer": "fc7",
        "how.dtype": "float16",
        "how.width": rows.shape[1],
        "how.precision": "cpu-fp32",
        "how.part_rows": part_rows,
        **changes,
    }
    create_store(path, identity, table.ids, {})
    writer = StoreWriter(path)
    for part in writer.parts:
        chosen = slice(part.start, part.stop)
        columns = {name: getattr(table, name)[chosen] for name in ("picture", "box_xyxy", "scale")}
        writer.write_part(part, {"activations": rows[chosen], **columns})
    writer.seal()
    return Store(path)
