"""What every kind of head is fitted from, and what fitting gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from pipeline.activations.store import Store
from pipeline.patches.table import PatchTable
from pipeline.settings import LabelSettings
from pipeline.trunk.trunk import Trunk


@dataclass(frozen=True)
class FitTask:
    """Rows and labels of the fit split, and what else may decide a head.

    Attributes
    ----------
    store, table : joined already
    name : of the head, for messages
    labels : the reading under which patches get their labels
    seed : decides initialisation, order and samples
    held_out : bool ndarray (n_pictures,), pictures that the fit must not look at
    load_trunk : makes the trunk, for kinds that begin with its weights; costs nothing until called
    """

    store: Store
    table: PatchTable
    name: str
    labels: LabelSettings
    seed: int
    held_out: np.ndarray
    load_trunk: Callable[[], Trunk]

    @property
    def n_classes(self) -> int:
        return len(self.table.classes)


@dataclass(frozen=True)
class Fitted:
    """A network in eval mode, its loss curve (one entry an epoch), and facts of its kind, as JSON."""

    network: nn.Module
    epochs: list[dict[str, float]]
    facts: dict[str, Any] = field(default_factory=dict)
