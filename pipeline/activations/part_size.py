"""How many rows a part has: about a minute of work, by a rule. Imports neither torch nor zarr.

The rule takes what a trunk's card and network say, and measures nothing: each run of the same trunk, on any machine,
divides the same rows in the same way.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.activations.arrays import ROW_DTYPE

PART_SECONDS = 60
OPERATIONS_PER_SECOND = {"cpu": 1e11, "cuda": 1e13}
"""Assumed, by the kind of device: two cores in fp32, and a GPU in fp16. Counted as in `pipeline.trunk.operations`."""
PART_BYTES = 64 * 2**20
"""Activations of a part at most, as float16."""
MOST_ROWS = 32_768
FEW_BATCHES = 4
"""Batches of a part at least: so that the ends of parts cost little beside what lies between."""


def rows_per_part(width: int, operations: int | None, batch: int, device: str = "cpu") -> int:
    """Return the number of rows of one part: a batch times a power of two.

    It is the power that comes nearest to a minute. A part has four batches at least; and `MOST_ROWS` and `PART_BYTES`
    at most, but one batch in any case. Steps of two leave the size as it is where a count differs a little.

    Parameters
    ----------
    width : columns of a row
    operations : per row; None where they cannot be told beforehand, so that only the bounds decide
    batch : rows per batch of the trunk
    device : kind of the device, ``cpu`` or ``cuda``

    >>> rows_per_part(1024, 85_000_000, 512), rows_per_part(4096, 848_000_000, 64)  # alexnet64, alexnet
    (32768, 8192)
    >>> rows_per_part(1280, 2_612_000_000, 64), rows_per_part(1280, 2_612_000_000, 64, "cuda")  # EfficientNet-Lite0
    (2048, 16384)
    >>> rows_per_part(768, 24_946_000_000, 64), rows_per_part(768, None, 64)  # ViT-B/16
    (256, 32768)
    """
    most = min(MOST_ROWS, PART_BYTES // (width * np.dtype(ROW_DTYPE).itemsize))
    rate = OPERATIONS_PER_SECOND.get(device, OPERATIONS_PER_SECOND["cpu"])
    wanted = math.inf if not operations else PART_SECONDS * rate / operations
    rows = batch
    while 2 * rows <= most and (rows < FEW_BATCHES * batch or rows * math.sqrt(2) <= wanted):
        rows *= 2
    return rows
