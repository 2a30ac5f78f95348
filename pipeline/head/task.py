"""What every kind of head is fitted from, and what fitting gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pipeline.activations.store import Store
from pipeline.head.bags import Pictures
from pipeline.io.errors import HeadError
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.trunk.trunk import Trunk

if TYPE_CHECKING:
    from pipeline.head.native import OwnNetwork
    from pipeline.head.networks import HeadNetwork
    from pipeline.head.svm import Svm

    HeadModule: TypeAlias = HeadNetwork | OwnNetwork | Svm


class RowReader:
    """Reads a store for heads that are fitted one after the other: what the last one asked for is not read again.

    Parameters
    ----------
    held : int64 ndarray, rising: the rows of the table that the store holds; None for all
    """

    def __init__(self, store: Store, held: np.ndarray | None = None) -> None:
        self._store, self.held = store, held
        self._rows: tuple[np.ndarray, np.ndarray] | None = None
        self._pictures: Pictures | None = None

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Chosen rows of the table: float16 ndarray (n, width), not to be changed.

        Parameters
        ----------
        rows : int64 ndarray, rising

        Raises
        ------
        HeadError
            The store was made without some of them.
        """
        if self._rows is None or not np.array_equal(self._rows[0], rows):
            self._rows = None  # before others take its place in memory
            there = rows
            if self.held is not None:
                there = np.searchsorted(self.held, rows)
                lacking = int((self.held[np.minimum(there, len(self.held) - 1)] != rows).sum())
                if lacking:
                    raise HeadError(self._needs(f"{lacking:,} of its {len(rows):,} rows are not there"))
            self._rows = rows, self._store.read_rows(there)
        return self._rows[1]

    def need_all(self) -> None:
        """Refuse a store that was made for strong heads alone.

        Raises
        ------
        HeadError
        """
        if self.held is not None:
            raise HeadError(self._needs("this kind of head looks at all patches of a picture"))

    def _needs(self, what: str) -> str:
        assert self.held is not None  # else nothing is lacking
        return (
            f"{self._store.folder}: {what}, and the store holds {len(self.held):,} rows, those that the main head "
            "learns from with the seeds of its settings\n"
            "make all rows with: pipeline extract --rows all, and fit with --rows all"
        )

    def pictures(self, first_row: np.ndarray, wanted: np.ndarray) -> Pictures:
        """Whole pictures; arguments as for `Pictures`."""
        self.need_all()
        asked = Pictures(self._store, first_row, wanted)
        if self._pictures is None or not np.array_equal(self._pictures.wanted, asked.wanted):
            self._pictures = asked
        return self._pictures


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
    read : reads rows of the store
    """

    store: Store
    table: PatchTable
    name: str
    labels: LabelSettings
    seed: int
    held_out: np.ndarray
    load_trunk: Callable[[], Trunk]
    read: RowReader

    @property
    def n_classes(self) -> int:
        return len(self.table.classes)


def trunk_of_rows(task: FitTask, layer: str, on_layer: str, on_weights: str) -> Trunk:
    """The trunk that made the rows of a task, which must be of one layer.

    Parameters
    ----------
    on_layer, on_weights : what the head does with that layer, and with the trunk's weights, for messages

    Raises
    ------
    HeadError
        The rows are of another layer, or the trunk at hand has other weights.
    """
    store, table = task.store, task.table
    again = f"pipeline extract --dataset {table.dataset} --split {table.split} --layer {layer}"
    found = store.identity["how.layer"]
    if found != layer:
        raise HeadError(
            f"head {task.name!r} {on_layer}, and {store.folder} holds {found}; "
            f"set layer: {layer}, and make the rows with: {again}"
        )
    trunk = task.load_trunk()
    made_with = store.identity["how.weights"]
    if trunk.weights_sha256 != made_with:
        raise HeadError(
            f"head {task.name!r} {on_weights} the trunk that made its rows: trunk {trunk.card.name!r} has weights "
            f"{trunk.weights_sha256[:16]}..., {store.folder} was made with {made_with[:16]}...; "
            f"give that trunk, or make the rows again with: {again}"
        )
    return trunk


@dataclass(frozen=True)
class Fitted:
    """A network in eval mode, its loss curve (one entry an epoch), and facts of its kind, as JSON."""

    network: HeadModule
    epochs: list[dict[str, float]]
    facts: dict[str, Any] = field(default_factory=dict)
