"""Rows of a batch that a device may still compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PendingBatch:
    """Rows of a batch that the device may still compute.

    Attributes
    ----------
    rows : layer -> float16 Tensor (n, width) in the CPU's memory, page-locked for a GPU
    done : recorded after the last copy; None if everything is done
    """

    rows: Mapping[str, Tensor]
    done: torch.cuda.Event | None = None

    def result(self) -> dict[str, np.ndarray]:
        """Wait for the device, and return the rows of each layer: float16 ndarray (n, width)."""
        if self.done is not None:
            self.done.synchronize()
        return {layer: rows.numpy() for layer, rows in self.rows.items()}

    def first(self, n: int) -> PendingBatch:
        """Return the first `n` rows alone."""
        return PendingBatch({layer: rows[:n] for layer, rows in self.rows.items()}, self.done)
