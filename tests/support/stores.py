"""Sealed stores of given rows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.activations.store import Store
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.patches.table import PatchTable


@dataclass
class SplitData:
    """A table, its store and the rows in it."""

    table: PatchTable
    store: Store
    rows: np.ndarray


def draw_rows(table: PatchTable, width: int, seed: int = 0) -> np.ndarray:
    """Draw float16 rows of noise; column c is high in a patch that an object of class c fills."""
    rows = np.random.default_rng(seed).normal(0, 0.3, (table.n_rows, width))
    filled = np.flatnonzero(table.overlap.filling_class >= 0)
    rows[filled, table.overlap.filling_class[filled]] += 2
    return rows.astype(np.float16)


def seal_store(path: Path, table: PatchTable, rows: np.ndarray, part_rows: int = 50, **changes) -> Store:
    """Write and seal a store of a table's rows.

    Parameters
    ----------
    changes : other or further fields of the identity, such as ``**{"how.layer": "fc6"}``
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
        "how.mean": [0.5, 0.5, 0.5],
        "how.precision": "cpu-fp32",
        "how.part_rows": part_rows,
        **changes,
    }
    create_store(path, identity, table.ids, {})
    writer = StoreWriter(path)
    for part in writer.parts:
        chosen = slice(part.start, part.stop)
        geometry = {name: getattr(table.rows_at(chosen), name) for name in ("picture", "box_xyxy", "scale")}
        writer.write_part(part, {"activations": rows[chosen], **geometry})
    writer.seal()
    return Store(path)
