"""Whether a store holds the rows of a patch table."""

from __future__ import annotations

import numpy as np

from pipeline.activations.arrays import GEOMETRY
from pipeline.activations.identity import which_rows
from pipeline.activations.store import Store
from pipeline.io.errors import StoreError
from pipeline.patches.table import PatchTable


def check_joined(store: Store, table: PatchTable, rows: np.ndarray | None = None) -> None:
    """Refuse a store of other rows or pictures than this table's.

    Parameters
    ----------
    rows : int64 ndarray, rising: rows of the table that the store holds; None for all

    Raises
    ------
    StoreError
        The identity differs, or the stored geometry of a row does.
    """
    advice = f"extract again: pipeline extract --dataset {table.dataset} --split {table.split}"
    for field, value in (("seen.rows", table.rows_digest), ("seen.pictures", table.pictures_digest())):
        if store.identity[field] != value:
            raise StoreError(
                f"{store.folder}: made from other {field.removeprefix('seen.')} than the patch table of "
                f"{table.dataset} {table.split}\n  - {field}: got {store.identity[field][:16]}..., "
                f"expected {value[:16]}...\n{advice}"
            )
    if store.identity.which_rows != which_rows(rows):
        raise StoreError(
            f"{store.folder}: holds {store.n_rows:,} of the {table.n_rows:,} rows of {table.dataset} {table.split}, "
            f"the training rows of a strong head; other rows are needed\n"
            f"extract them with: pipeline extract --dataset {table.dataset} --split {table.split} --rows all"
        )
    for part in store.parts:
        own = slice(part.start, part.stop)
        expected = table.rows_at(own if rows is None else rows[own])
        for name in GEOMETRY:
            if not np.array_equal(store.read_object(name, part), getattr(expected, name)):
                raise StoreError(
                    f"{store.folder}: {name} of its rows disagrees with the patch table of {table.dataset} "
                    f"{table.split}; {advice}"
                )
