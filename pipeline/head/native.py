"""The trunk's own last layer as a head, for trunks that were trained on the dataset's classes; nothing is fitted.

Source: Oquab et al. (CVPR 2014) section 4, NO PRETRAIN: one network from pixels to the target's classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from pipeline.head.settings import OwnSettings, PatchScoreKind
from pipeline.head.task import FitTask, Fitted, HeadKind, trunk_of_rows
from pipeline.io.errors import HeadError
from pipeline.trunk.trunk import Trunk

ROWS = "fc7"
BACKGROUND = "background"


class NativeNetwork(nn.Module):
    """FC8 with softmax over classes and background, which is the last.

    Parameters
    ----------
    width : columns of FC7
    n_classes : classes, background not counted
    """

    score_kind: PatchScoreKind = "softmax"

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.fc8 = skip_init(nn.Linear, width, n_classes + 1)

    def forward(self, rows: Tensor) -> Tensor:
        """Compute logits (n, n_classes + 1) of FC7 rows (n, width), any float dtype."""
        return self.fc8(rows.float())

    def patch_scores(self, rows: Tensor) -> Tensor:
        """Compute probabilities (n, n_classes) of rows (n, width), background left out."""
        return self(rows).softmax(1)[:, :-1]


def make_network(width: int, n_classes: int, settings: OwnSettings) -> NativeNetwork:
    """Make the network of a trunk's own outputs, without weights."""
    return NativeNetwork(width, n_classes)


def check_classes(trunk: Trunk, classes: tuple[str, ...]) -> None:
    """Refuse a trunk whose last layer is not one over these classes and background.

    Raises
    ------
    HeadError
    """
    trained, expected = trunk.card.trained.get("classes"), [*classes, BACKGROUND]
    if trained == expected:
        return
    ways = "make such a trunk with: pipeline pretrain --dataset; or fit a head, such as fca, on its activations"
    if not isinstance(trained, list):
        raise HeadError(f"trunk {trunk.card.name!r}: its card names no `trained.classes`; {ways}")
    missing = [name for name in expected if name not in trained]
    others = [str(name) for name in trained if name not in expected]
    if not missing and not others:
        difference = "the same in another order"
    else:
        difference = f"without {', '.join(missing[:10]) or 'none'}, with {', '.join(others[:10]) or 'no'} others"
    raise HeadError(
        f"trunk {trunk.card.name!r} was trained on {len(trained)} classes, expected {', '.join(expected[:3])}, ... "
        f"({len(expected)} of them, {BACKGROUND} last): {difference}; {ways}"
    )


def fit(task: FitTask, settings: OwnSettings) -> Fitted:
    """Return the trunk's FC8, with the weights of the trunk.

    Raises
    ------
    HeadError
        The rows are not FC7 of this trunk; it has no FC8, or one over other classes.
    """
    trunk = trunk_of_rows(task, ROWS, f"is the trunk's last layer, whose input is {ROWS}", "is the last layer of")
    if trunk.classifier is None:
        raise HeadError(f"trunk {trunk.card.name!r}: its weights hold no last layer (fc8.weight and fc8.bias)")
    check_classes(trunk, task.table.classes)
    network = make_network(task.store.width, task.n_classes, settings)
    for name, parameter in network.fc8.named_parameters():
        values = trunk.classifier[name]
        if values.shape != parameter.shape or not torch.isfinite(values).all():
            shape, expected = tuple(values.shape), tuple(parameter.shape)
            raise HeadError(
                f"trunk {trunk.card.name!r}: fc8.{name} has shape {shape}, expected {expected} of finite values"
            )
    network.fc8.load_state_dict(trunk.classifier)
    trained_on = trunk.card.trained.get("per_class")
    return Fitted(network.eval(), [], {"patches": {} if trained_on is None else {"per_class": trained_on}})


KIND: HeadKind[OwnSettings] = HeadKind.of_single(make_network, fit)
