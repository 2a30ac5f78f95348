"""Memory that fits take at their peak, from counts: rows, columns, layers, parameters and batches.

Each function returns an upper bound of what is added to what the process holds once the network is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.activations.arrays import ROW_DTYPE
from pipeline.activations.store import Store
from pipeline.head.networks import SCORED_ROWS, STANDARDISED_ROWS, HeadNetwork

SLACK = 32 * 2**20
"""For what the allocator keeps, and everything that no count covers."""
STEP_BYTES = 32
"""Per value of a row or of a layer's output in a step: float32 and bfloat16 forms, dropped form, and gradients."""
SCORING_BYTES = 12
"""Per value without gradients: float32 and bfloat16 forms before and after ReLU."""
TRAINING_BYTES = 16
"""Per parameter: gradient, momentum, the temporary value of an update, and the bfloat16 form in two layouts."""


def rows_bytes(n_rows: int, width: int) -> int:
    """Bytes of rows as a store gives them."""
    return n_rows * width * np.dtype(ROW_DTYPE).itemsize


def choosing_bytes(n_rows: int, n_background: int, n_chosen: int, n_targets: int) -> int:
    """Bytes of choosing the rows of a fit out of a table: labels, the draw, the chosen rows and their targets.

    Parameters
    ----------
    n_rows, n_background, n_chosen : rows of the table, its background rows, and the chosen rows
    n_targets : classes per row that the targets tell apart; 1 for one class per row
    """
    of_row = 4 if n_rows < 2**32 else 8
    targets = 24 if n_targets == 1 else 8 + 3 * n_targets
    return 2 * n_rows + of_row * n_background + n_chosen * (8 + targets) + SLACK


def reading_bytes(store: Store) -> int:
    """Bytes of a pass over a store: parts that are read ahead, and a copy of the chosen rows of one.

    They count for the whole fit: the allocator may keep what other threads have freed.
    """
    return store.bytes_ahead + max((rows_bytes(part.n_rows, store.width) for part in store.parts), default=0)


def training_bytes(network: HeadNetwork) -> int:
    """Bytes of gradients and of the optimizer."""
    return TRAINING_BYTES * sum(parameter.numel() for parameter in network.parameters())


def device_bytes(networks: Sequence[HeadNetwork], n_rows: int) -> int:
    """Bytes of a GPU's memory for networks that learn side by side from `n_rows` per step; weights twice: stacked."""
    steps = sum(step_bytes(network, n_rows) for network in networks)
    weights = sum(8 * sum(parameter.numel() for parameter in network.parameters()) for network in networks)
    return weights + sum(map(training_bytes, networks)) + max(steps, networks[0].standardising_bytes(STANDARDISED_ROWS))


def fit_operations(networks: Iterable[HeadNetwork], n_rows: int, epochs: int) -> int:
    """Multiplications of a fit: forwards once, backwards twice, per row and weight, at the most."""
    return sum(3 * epochs * n_rows * sum(p.numel() for p in network.parameters()) for network in networks)


def step_bytes(network: HeadNetwork, n_rows: int) -> int:
    """Bytes of a step on so many rows, and of the batch that is read meanwhile."""
    return n_rows * (STEP_BYTES * sum(network.widths) + 2 * np.dtype(ROW_DTYPE).itemsize * network.widths[0])


def scoring_bytes(network: HeadNetwork, n_rows: int) -> int:
    """Bytes of scoring so many rows, chunk by chunk: one chunk, and the logits of all twice."""
    return min(n_rows, SCORED_ROWS) * SCORING_BYTES * sum(network.widths) + 8 * n_rows * network.widths[-1]
