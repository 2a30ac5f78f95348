"""Which store an extraction is for: its identity, its name, and one that is there already with other parts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.activations import SEAL
from pipeline.activations.donor import Donor
from pipeline.activations.folder import Folder
from pipeline.activations.identity import Identity, fingerprint, value_fields
from pipeline.activations.part_size import rows_per_part
from pipeline.activations.settings import StoredDtype
from pipeline.activations.store import read_attributes
from pipeline.activations.trunk_identity import make_identity
from pipeline.io.errors import StoreError
from pipeline.io.names import make_file_part
from pipeline.patches.table import PatchTable
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import Trunk

PartRows = Callable[[int], int]
"""Rows per part, from the width of a row."""


@dataclass(frozen=True)
class RequestedStore:
    """A store of an extraction: of one layer, in one folder."""

    layer: str
    identity: Identity
    folder: Folder


def identity_of(
    table: PatchTable,
    runner: TrunkRunner,
    batch: int | None = None,
    trunk: Trunk | None = None,
    dtype: StoredDtype = "float16",
    rows: np.ndarray | None = None,
    part_rows: PartRows | None = None,
) -> Identity:
    """Return the identity of the store of an extraction.

    Parameters
    ----------
    trunk : the runner's trunk at another layer; None for its own
    part_rows : None for the rule of `rows_per_part`
    """
    trunk = trunk or runner.trunk
    batch = batch or runner.batch_rows
    if part_rows is None:
        n = rows_per_part(trunk.width, runner.operations_per_row(trunk), batch, runner.device.type)
    else:
        n = part_rows(trunk.width)
    return make_identity(table, trunk, runner.precision_name, batch, n, runner.window_fields, dtype, rows)


def store_name(table: PatchTable, runner: TrunkRunner, identity: Identity) -> str:
    """Return ``<dataset>-<split>-<trunk>-<layer>-<first 12 of the fingerprint>.zarr``."""
    return f"{_beginning_of_name(table, runner, identity.layer)}{fingerprint(identity)[:12]}.zarr"


def _beginning_of_name(table: PatchTable, runner: TrunkRunner, layer: str) -> str:
    return f"{table.dataset}-{table.split}-{runner.trunk.slug}-{make_file_part(layer, '._+')}-"


def request_store(
    stores: Folder,
    table: PatchTable,
    runner: TrunkRunner,
    batch: int | None,
    dtype: StoredDtype,
    rows: np.ndarray | None,
    part_rows: PartRows | None,
    layer: str,
) -> RequestedStore:
    """Return the store of one layer of an extraction.

    Where the rule gives the size of parts, and a store of the same rows is there with parts of another size, it is that
    one: versions before had other sizes. A sealed one is complete; of others, the one of most recorded rows is resumed.
    """
    identity = identity_of(table, runner, batch, runner.trunk.at(layer), dtype, rows, part_rows)
    folder = stores.child(store_name(table, runner, identity))
    own = RequestedStore(layer, identity, folder)
    if part_rows is not None or folder.exists(SEAL):
        return own
    beginning = _beginning_of_name(table, runner, layer)
    others = [of for of in _of_other_parts(stores, beginning, own) if folder.name != of.folder.name]
    sealed = [of for of in others if of.folder.exists(SEAL)]
    if sealed:
        return sealed[0]
    return max((own, *others), key=lambda of: _recorded_rows(of.folder)) if others else own


def _of_other_parts(stores: Folder, beginning: str, own: RequestedStore) -> Iterator[RequestedStore]:
    for name in sorted(stores.folders()):
        if not (name.startswith(beginning) and name.endswith(".zarr")):
            continue
        folder = stores.child(name)
        with contextlib.suppress(StoreError):
            identity = read_attributes(folder).identity
            if value_fields(identity) == value_fields(own.identity):
                yield RequestedStore(own.layer, identity, folder)


def _recorded_rows(folder: Folder) -> int:
    """Return the number of rows in parts with a sound record; none of a store that is not there."""
    with contextlib.suppress(StoreError):
        return sum(part.n_rows for part in Donor(folder).parts)
    return 0
