"""FCa + FCb and its variants: small networks on standardised rows.

Source: Oquab et al. (CVPR 2014) section 3.1: FCa with ReLU, FCb with softmax over the target's
classes and background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from pipeline.head.dropout import Dropout
from pipeline.head.network_settings import NetworkSettings
from pipeline.head.settings import PatchScoreKind, ScoreKind
from pipeline.trunk.runner import cpu_has_bf16

SCORED_ROWS = 2048
"""Rows per inference batch: few enough for hidden activations to stay in the processor's cache."""
STANDARDISED_ROWS = 8192
"""Rows of one chunk: the last bits of mean and deviation depend on it."""


class HeadNetwork(nn.Module):
    """A network that standardises rows; hidden layers with ReLU and FCb follow. Outputs are logits.

    Parameters
    ----------
    width : columns of the input
    n_classes : classes, background not counted
    settings : NetworkSettings
    score_kind : what patch scores are
        ``softmax``, probabilities of the classes and background, which is one more output, the last; ``logistic``,
        the probability of each class by itself; ``log-odds``, the logits.

    Attributes
    ----------
    mean, inv_std : float32 Tensors of shape (width,), mean and inverse standard deviation of the fit rows
    """

    score_kind: ScoreKind
    mean: Tensor
    inv_std: Tensor

    def __init__(
        self, width: int, n_classes: int, settings: NetworkSettings, score_kind: PatchScoreKind = "softmax"
    ) -> None:
        super().__init__()
        self.score_kind = score_kind
        self._asked = settings.precision if settings.hidden else "fp32"  # one layer alone gains nothing
        self.precision = self._resolve_precision(torch.device("cpu"))
        n_outputs = n_classes + (score_kind == "softmax")
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("inv_std", torch.ones(width))
        first = settings.dropout if settings.input_dropout is None else settings.input_dropout
        layers: list[nn.Module] = []
        n_inputs = width
        # Layers draw from torch's global generator when they are made; the caller's state is restored.
        with torch.random.fork_rng(devices=[]):
            for index, n_hidden in enumerate(settings.hidden):
                layers += [Dropout(settings.dropout if index else first), nn.Linear(n_inputs, n_hidden), nn.ReLU()]
                n_inputs = n_hidden
            layers += [Dropout(settings.dropout if layers else first), nn.Linear(n_inputs, n_outputs)]
        self.layers = nn.Sequential(*layers)

    def _resolve_precision(self, device: torch.device) -> Literal["bf16", "fp32"]:
        if self._asked == "auto":
            has_bf16 = torch.cuda.is_bf16_supported(False) if device.type == "cuda" else cpu_has_bf16()
            return "bf16" if has_bf16 else "fp32"
        return self._asked

    def move(self, device: torch.device) -> Self:
        """Move the network to a device, and compute in the precision that ``auto`` is there."""
        self.precision = self._resolve_precision(device)
        return self.to(device)

    @property
    def widths(self) -> list[int]:
        """Columns of a row, and of every layer's output."""
        return [len(self.mean), *(m.out_features for m in self.layers if isinstance(m, nn.Linear))]

    def standardising_bytes(self, n_rows: int) -> int:
        """Most bytes that `standardise_over` takes, of rows in chunks of `STANDARDISED_ROWS`."""
        return min(n_rows, STANDARDISED_ROWS) * 12 * len(self.mean)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights from one generator: He initialisation for hidden layers, a tenth of it for FCb, zero biases."""
        linear = [m for m in self.layers if isinstance(m, nn.Linear)]
        for layer in linear:
            deviation = (2.0 / layer.in_features) ** 0.5
            # A small FCb starts all classes at about equal probability, so that the first steps are gentle.
            deviation *= 0.1 if layer is linear[-1] else 1.0
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * deviation)
                layer.bias.zero_()

    def drop_by(self, drop: Callable[[Tensor, int], Tensor]) -> None:
        """Set the function that drops, of all dropout modules."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.drop = drop

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters, for an optimizer; ``share`` is the share of the learning rate."""
        return [{"params": list(self.layers.parameters()), "share": 1.0}]

    def standardise_to(self, rows: Tensor) -> None:
        """Set mean and inverse deviation from the fit rows; a column without deviation becomes 0.

        Parameters
        ----------
        rows : float16 Tensor of shape (n, width)
        """
        self.standardise_over(rows.split(STANDARDISED_ROWS))

    def standardise_over(self, chunks: Iterable[Tensor]) -> None:
        """Apply `standardise_to` to chunks of rows, in a single pass.

        Parameters
        ----------
        chunks : float16 Tensors of shape (any, width), together the fit rows
        """
        n = 0
        mean = torch.zeros(len(self.mean), dtype=torch.float64, device=self.mean.device)
        squares = torch.zeros_like(mean)  # of deviations from the mean
        for chunk in filter(len, chunks):
            values = chunk.double()
            its_mean = values.mean(0)
            step = its_mean - mean
            n += len(values)
            # Sums of squares about two means become one about their joint mean (Chan, Golub and LeVeque, 1979).
            squares += values.sub_(its_mean).square_().sum(0) + step.square() * (len(values) * (n - len(values)) / n)
            mean += step * (len(values) / n)
        deviation = (squares / max(n, 1)).sqrt()
        inv_std = torch.where(deviation > 1e-6 * (1 + mean.abs()), 1 / deviation, torch.zeros_like(deviation))
        self.mean.copy_(mean)
        self.inv_std.copy_(inv_std)

    def arithmetic(self) -> torch.autocast:
        """Return a context in which products of matrices are computed in the head's precision."""
        return torch.autocast(self.mean.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def patch_scores(self, rows: Tensor) -> Tensor:
        """Compute scores (n, n_classes) of rows (n, width): in 0..1, except for ``log-odds``."""
        logits = self(rows)
        if self.score_kind == "softmax":
            return logits.softmax(1)[:, :-1]
        return logits.sigmoid() if self.score_kind == "logistic" else logits

    def forward(self, rows: Tensor) -> Tensor:
        """Compute logits (n, n_outputs) of rows (n, width), any float dtype."""
        return self.logits(self.prepare(rows))

    def prepare(self, rows: Tensor) -> Tensor:
        """Return the input of the layers for rows (n, width): float32, standardised."""
        # Before rounding to bf16: a column of large mean and small deviation would be all rounding.
        return (rows.float() - self.mean) * self.inv_std

    def logits(self, prepared: Tensor) -> Tensor:
        """Compute logits (n, n_outputs) of prepared rows."""
        with self.arithmetic():
            hidden = self.layers[:-1](prepared)
        return self.layers[-1](hidden.float())

    @torch.no_grad()
    def score(self, rows: Tensor) -> Tensor:
        """Compute logits (n, n_outputs) of rows (n, width) without dropout or gradient, chunk by chunk."""
        was_training = self.training
        self.eval()
        logits = torch.cat([self(chunk) for chunk in rows.split(SCORED_ROWS)])
        self.train(was_training)
        return logits
