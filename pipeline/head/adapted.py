"""FC6 (and FC7) trained with FCa and FCb, on cached pool5: the convolutions do not run again.

They begin with the trunk's own weights, or, where its weights end at pool5, with random ones.

Source: Oquab et al. (CVPR 2014) section 4, "Action recognition", row PRE-1512U of table 3: the weights of
C1 to FC7 are copied, and FC6, FCa and FCb are trained on the target task. C1 to C5 end in pool5 and are not trained,
so rows of pool5 are all that is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from pipeline.head.dropout import Dropout
from pipeline.head.joint_fit import JointFit
from pipeline.head.networks import STANDARDISED_ROWS, HeadNetwork
from pipeline.head.settings import AdaptedSettings, PatchScoreKind
from pipeline.head.strong import choose_training_patches
from pipeline.head.task import FitTask, Fitted, HeadKind, trunk_of_rows
from pipeline.io.errors import HeadError
from pipeline.trunk.alexnet import AlexNetConfig
from pipeline.trunk.trunk import LayeredNetwork

ROWS = "pool5"
COPIED = ("fc6", "fc7")
LEAST_DEVIATION = 0.1


class AdaptedNetwork(HeadNetwork):
    """FC6 and FC7 with ReLU, then standardisation, FCa and FCb; outputs are logits.

    Dropout is applied as by Krizhevsky et al. (2012): to the outputs of FC6, FC7 and FCa, not to pool5.

    Parameters
    ----------
    width : columns of pool5
    fc_widths : of FC6 and FC7; their weights are not initialised
    n_classes, settings, score_kind : as of `HeadNetwork`
    """

    def __init__(
        self,
        width: int,
        fc_widths: tuple[int, int],
        n_classes: int,
        settings: AdaptedSettings,
        score_kind: PatchScoreKind,
    ) -> None:
        super().__init__(fc_widths[1], n_classes, settings, score_kind)
        self.fc6 = skip_init(nn.Linear, width, fc_widths[0])
        self.fc7 = skip_init(nn.Linear, *fc_widths)
        self.dropout = Dropout(settings.fc7_dropout)
        self._retrained = [self.get_submodule(name) for name in COPIED if name in settings.retrain]
        self._trunk_rate = settings.trunk_rate
        for name in COPIED:
            self.get_submodule(name).requires_grad_(name in settings.retrain)

    @property
    def widths(self) -> list[int]:
        """Columns of pool5, and of every layer's output."""
        return [self.fc6.in_features, self.fc6.out_features, *super().widths]

    def standardising_bytes(self, n_rows: int) -> int:
        """As for any network, and FC6 and FC7 of one chunk."""
        pool5, fc6, fc7, *_ = self.widths
        return super().standardising_bytes(n_rows) + min(n_rows, STANDARDISED_ROWS) * 8 * (pool5 + fc6 + fc7)

    def fc7_rows(self, rows: Tensor) -> Tensor:
        """Compute FC7 (n, fc_widths[1]) of pool5 rows (n, width), any float dtype."""
        with self.arithmetic():
            fc6 = torch.relu(self.fc6(rows.float()))
            return torch.relu(self.fc7(self.dropout(fc6))).float()

    def standardise_over(self, chunks: Iterable[Tensor]) -> None:
        """Set mean and inverse deviation once, from FC7 of the fit rows under the weights of the trunk.

        A column with a small deviation now may vary much once FC6 is trained. So deviations below a tenth of their
        root mean square are set to that value.
        """
        self.eval()
        with torch.no_grad():
            super().standardise_over(self.fc7_rows(chunk) for chunk in chunks)
        deviation = 1 / self.inv_std[self.inv_std > 0]
        if len(deviation):
            self.inv_std.clamp_(max=float(1 / (LEAST_DEVIATION * deviation.square().mean().sqrt())))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return FCa and FCb, and the retrained copied layers with their share of the learning rate."""
        copied = [parameter for layer in self._retrained for parameter in layer.parameters()]
        return [*super().parameter_groups(), {"params": copied, "share": self._trunk_rate}]

    def prepare(self, rows: Tensor) -> Tensor:
        """Compute standardised FC7, float32, of pool5 rows (n, width), any float dtype."""
        return super().prepare(self.fc7_rows(rows))


def make_network(width: int, n_classes: int, settings: AdaptedSettings, fc_widths: tuple[int, int]) -> AdaptedNetwork:
    """Make the network of an adapted head, without weights."""
    score_kind: PatchScoreKind = "softmax" if settings.targets == "single" else "logistic"
    return AdaptedNetwork(width, (fc_widths[0], fc_widths[1]), n_classes, settings, score_kind)


def first_layers(task: FitTask, start: Literal["trunk", "random"]) -> dict[str, nn.Linear]:
    """Return FC6 and FC7 as they begin: those of the trunk that computed the rows of a task, or random ones like them.

    Raises
    ------
    HeadError
        The rows are not pool5, or the trunk is another one, or of another family, or its weights end at pool5.
    """
    layers = ", ".join(COPIED)
    trunk = trunk_of_rows(task, ROWS, f"trains {layers} again from rows of {ROWS}", "begins with the weights of")
    if not isinstance(trunk.network, LayeredNetwork):
        raise HeadError(
            f"head {task.name!r} trains {layers} again, and trunk {trunk.card.name!r} has no such layers; "
            "use a trunk of the AlexNet family (alexnet64, alexnet, krizhevsky, or a card of one)"
        )
    if start == "random":
        return draw_layers(trunk.network.network.config, task.seed)
    own = {name: getattr(trunk.network.network, name) for name in COPIED}
    lacking = [name for name, layer in own.items() if layer is None]
    if lacking:
        raise HeadError(
            f"head {task.name!r} begins with the weights of {layers}, and those of trunk {trunk.card.name!r} have no "
            f"{', '.join(lacking)}; train them from random ones: head {{kind: adapted, start: random, "
            "retrain: [fc6, fc7], trunk_rate: 1}, or recipe fc6-fc7-new"
        )
    return own


def draw_layers(config: AlexNetConfig, seed: int) -> dict[str, nn.Linear]:
    """Draw FC6 and FC7 of a configuration, by He et al., with biases of 0."""
    generator = torch.Generator().manual_seed(seed)
    sides = (config.widths["pool5"], *config.fc_widths)
    drawn = {}
    for name, n_inputs, n_outputs in zip(COPIED, sides, sides[1:], strict=False):
        drawn[name] = skip_init(nn.Linear, n_inputs, n_outputs)
        nn.init.kaiming_normal_(drawn[name].weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(drawn[name].bias)
    return drawn


def fit(task: FitTask, settings: AdaptedSettings) -> Fitted:
    """Fit on the rows that a strong head is fitted on, at pool5.

    Raises
    ------
    HeadError
        As `first_layers`; no positive patch at all.
    """
    layers = first_layers(task, settings.start)
    patches = choose_training_patches(task, settings)
    widths = layers["fc6"].out_features, layers["fc7"].out_features
    network = make_network(task.store.width, task.n_classes, settings, widths)
    for name, layer in layers.items():
        network.get_submodule(name).load_state_dict(layer.state_dict())
    joint = JointFit(task.seed, patches.loss, task.device)
    joint.add(network, settings, task.name)
    (curve,) = joint.run(joint.read_rows(task.reader, patches.row_index, patches.peak), patches.targets)
    facts = {"patches": patches.facts, **joint.facts, "network": {"fc_widths": list(widths)}}
    return Fitted(network, curve, facts)


KIND: HeadKind[AdaptedSettings] = HeadKind.of_single(make_network, fit)
