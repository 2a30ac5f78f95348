"""Make the identity of rows that a trunk computes; the only part of identities that needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.activations import VERSION
from pipeline.activations.identity import FORMAT, Identity, source_fields, which_rows
from pipeline.dataset.picture import DECODER
from pipeline.patches.table import PatchTable
from pipeline.trunk import VERSION as TRUNK_VERSION
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import Trunk


def make_identity(
    table: PatchTable,
    trunk: Trunk,
    precision: str,
    batch: int,
    part_rows: int,
    window_fields: Mapping[str, str] = TrunkRunner.window_fields,
    dtype: str = "float16",
    rows: np.ndarray | None = None,
) -> Identity:
    """Make the identity of the activations of one layer over one patch table.

    Parameters
    ----------
    precision : arithmetic and backend, such as ``cpu-bf16``
    batch : rows per batch of the trunk; the last bits can depend on it
    part_rows : rows per part; batches start at a part's first row
    window_fields : `window_fields` of the runner, how windows are read
    dtype : ``float16``, or ``8bit`` for codes over each column's range
    rows : int64 ndarray, rising: rows of the table that are extracted; None for all
    """
    fields = {
        "seen.pictures": table.pictures_digest(),
        "seen.rows": table.rows_digest,
        "seen.which": which_rows(rows),
        "seen.n_rows": table.n_rows if rows is None else len(rows),
        "seen.skipped": [f"{name}: {reason}" for name, reason in table.skipped],
        **source_fields(table),
        **trunk_fields(trunk, precision, batch, part_rows, window_fields),
        "how.dtype": dtype,
    }
    return Identity(fields)


def trunk_fields(
    trunk: Trunk,
    precision: str,
    batch: int,
    part_rows: int,
    window_fields: Mapping[str, str] = TrunkRunner.window_fields,
) -> dict[str, Any]:
    """Return the fields that follow from the code and the trunk, which a worker can check by itself."""
    preprocessing = trunk.card.preprocessing
    return {
        "how.format": FORMAT,
        "how.extractor": f"{VERSION}.{TRUNK_VERSION}",
        "how.architecture": trunk.card.architecture,
        "how.weights": trunk.weights_sha256,
        "how.layer": trunk.layer,
        "how.width": trunk.width,
        "how.input_px": trunk.card.input_px,
        "how.decoder": DECODER,
        "how.resize": f"pillow-{preprocessing.interpolation}-antialiased, once a scale, uint8",
        "how.colour_order": preprocessing.colour_order,
        "how.mean": list(preprocessing.mean),
        "how.std": list(preprocessing.std),
        **{f"how.{name}": value for name, value in window_fields.items()},
        "how.precision": precision,
        "how.batch": batch,
        "how.part_rows": part_rows,
    }
