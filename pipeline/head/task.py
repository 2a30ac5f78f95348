"""What every kind of head implements: from a task to a fitted network, which scores patches or whole pictures."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor

from pipeline.activations.store import Store
from pipeline.head.device import HeadDevice
from pipeline.head.rows import RowReader
from pipeline.head.settings import ScoreKind
from pipeline.io.errors import HeadError
from pipeline.patches.settings import LabelSettings
from pipeline.patches.table import PatchTable
from pipeline.trunk.trunk import Trunk

SettingsT = TypeVar("SettingsT")


class HeadModule(Protocol):
    """The network of a head; it also is a `PatchScorer` or a `PooledScorer`.

    One that is both scores pictures as a `PooledScorer`, and its `patch_scores` are the values of patches in heat maps.
    """

    @property
    def score_kind(self) -> ScoreKind:
        """What its scores are."""

    def state_dict(self) -> dict[str, Any]:
        """Return its tensors by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any:
        """Set its tensors."""

    def eval(self) -> Self:
        """Switch dropout off."""


@runtime_checkable
class PatchScorer(Protocol):
    """A network that scores patches."""

    def patch_scores(self, rows: Tensor) -> Tensor:
        """Compute scores (n, n_classes), background left out, of rows (n, width), any float dtype."""


Columns: TypeAlias = dict[str, np.ndarray]
"""What a head computes of a range of pictures, by name; the first axis of each ndarray is the picture.

Columns of ranges that follow one another are joined along that axis.
"""


class Accumulator(Protocol):
    """Collects the rows of a range of pictures, part by part."""

    def add(self, rows: np.ndarray, picture: np.ndarray) -> None:
        """Add float16 rows (n, width) of pictures (n,), rising, also from call to call.

        Rows of pictures outside of the range may be among them, and are left out.
        """

    def columns(self) -> Columns:
        """Return the columns of the range, after the last row."""


@runtime_checkable
class ScaledAccumulator(Protocol):
    """An accumulator that tells the scales of patches apart."""

    def add_scaled(self, rows: np.ndarray, picture: np.ndarray, scale: np.ndarray) -> None:
        """Add as `Accumulator` does, of scales (n,), uint8: the index of each row's scale in the grid."""

    def columns(self) -> Columns:
        """Return the columns of the range, after the last row."""


@runtime_checkable
class PooledScorer(Protocol):
    """A network that scores one vector per picture, pooled over its rows."""

    def accumulator(self, pictures: range) -> Accumulator | ScaledAccumulator:
        """Return an accumulator for one pass over the parts that hold rows of a range of pictures."""

    def picture_scores(self, columns: Columns) -> np.ndarray:
        """Compute scores, float64 (n_pictures, n_classes), from the joined columns of all pictures of a split.

        NaN for a picture without rows.
        """


@dataclass(frozen=True)
class FitTask:
    """Rows and labels of the fit split, and everything else that determines a head.

    Attributes
    ----------
    store, table : checked to match
    name : of the head, for messages
    label_rule : decides the labels of patches
    seed : decides initialisation, order and samples
    is_held_out : bool ndarray (n_pictures,), pictures that must not influence the fit
    load_trunk : makes the trunk, for kinds that begin with its weights; costs nothing until called
    reader : reads rows of the store
    device : on which to fit
    """

    store: Store
    table: PatchTable
    name: str
    label_rule: LabelSettings
    seed: int
    is_held_out: np.ndarray
    load_trunk: Callable[[], Trunk]
    reader: RowReader
    device: HeadDevice = HeadDevice()

    @property
    def n_classes(self) -> int:
        """Classes, background not counted."""
        return len(self.table.classes)


@dataclass(frozen=True)
class Fitted:
    """A fitted network.

    Attributes
    ----------
    network : in eval mode
    epochs : loss curve, one ``{rate, loss}`` per epoch
    facts : JSON object, facts of its kind
    """

    network: HeadModule
    epochs: list[dict[str, float]]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadKind(Generic[SettingsT]):
    """The implementation of one kind of head.

    Attributes
    ----------
    make_network : from width, number of classes and settings to a network without weights
        Further arguments, by name, are the fact ``network`` of a fit.
    fit : from tasks, which differ in the name alone, and the settings of each, to one fitted network per task
    joint_key : heads whose settings have equal keys are fitted by one call of `fit`; None: each has its own
    """

    make_network: Callable[..., HeadModule]
    fit: Callable[[Sequence[FitTask], Sequence[SettingsT]], list[Fitted]]
    joint_key: Callable[[SettingsT], Hashable] | None = None

    @classmethod
    def of_single(
        cls, make_network: Callable[..., HeadModule], fit: Callable[[FitTask, SettingsT], Fitted]
    ) -> HeadKind[SettingsT]:
        """Return a kind whose heads are fitted one at a time."""
        return cls(make_network, lambda tasks, settings: list(map(fit, tasks, settings)))


def trunk_of_rows(task: FitTask, layer: str, on_layer: str, on_weights: str) -> Trunk:
    """Load the trunk that computed the rows of a task.

    Parameters
    ----------
    layer : the layer of which the rows must be
    on_layer, on_weights : what the head does with that layer, and with the trunk's weights, for messages

    Raises
    ------
    HeadError
        The rows are of another layer, or the available trunk has other weights.
    """
    store, table = task.store, task.table
    again = f"pipeline extract --dataset {table.dataset} --split {table.split} --layer {layer}"
    stored_layer = store.identity["how.layer"]
    if stored_layer != layer:
        raise HeadError(
            f"head {task.name!r} {on_layer}, and {store.folder} holds {stored_layer}; "
            f"set layer: {layer}, and make the rows with: {again}"
        )
    trunk = task.load_trunk()
    weights = store.identity["how.weights"]
    if trunk.weights_sha256 != weights:
        raise HeadError(
            f"head {task.name!r} {on_weights} the trunk that made its rows: trunk {trunk.card.name!r} has weights "
            f"{trunk.weights_sha256[:16]}..., {store.folder} was made with {weights[:16]}...; "
            f"give that trunk, or extract the rows again with: {again}"
        )
    return trunk
