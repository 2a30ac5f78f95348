"""FCa + FCb and its variants: a small network on standardised rows.

Source: Oquab et al. (CVPR 2014) section 3.1: FCa with ReLU, FCb with softmax over the target's
classes and background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.head.settings import NetworkSettings
from pipeline.trunk.runner import cpu_has_bf16

Output = Literal["softmax", "logistic", "log-odds"]
SCORED_ROWS = 2048
"""Rows that are only scored at once: few enough that what layers give stays in the processor's cache."""


def draw_words(like: Tensor) -> Tensor:
    """A random byte for each value of `like`, as int64 words, from torch's global generator."""
    return torch.empty(-(-like.numel() // 8), dtype=torch.int64).random_(-(2**63), None)


def drop(x: Tensor, words: Tensor, threshold: int) -> Tensor:
    """`x` with those values 0 whose byte is under the threshold, the others raised to keep the expectation."""
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return x * (kept.to(x.dtype) * (256 / (256 - threshold)))


def draw_and_drop(x: Tensor, threshold: int) -> Tensor:
    """`drop` by words of its own."""
    return drop(x, draw_words(x), threshold)


class SharedDrops:
    """Dropout of one step of a fit: networks that are fitted side by side get the same random words in turn."""

    def __init__(self) -> None:
        self._words: list[Tensor] = []
        self._dropped: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._used = self._prepared = 0

    def begin_step(self) -> None:
        """What comes until `end_preparation` is for the rows, which all networks have in common."""
        self._words, self._used = [], 0
        self._dropped.clear()

    def end_preparation(self) -> None:
        self._prepared = self._used

    def begin_network(self) -> None:
        self._used = self._prepared

    def __call__(self, x: Tensor, threshold: int) -> Tensor:
        """As `draw_and_drop`; words are drawn for the first network, and used again for the others."""
        place = self._used
        self._used += 1
        if place == len(self._words):
            self._words.append(draw_words(x))
        if x.requires_grad:
            return drop(x, self._words[place], threshold)
        # The rows themselves: where networks drop the same share of them, once for all.
        known = self._dropped.get((place, threshold))
        if known is None or known[0] is not x:
            known = self._dropped[place, threshold] = x, drop(x, self._words[place], threshold)
        return known[1]


class Dropout(nn.Module):
    """Dropout that draws one byte a value, so that its share is one of 256: torch's own took half the time of a fit."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.threshold = round(256 * share)
        self.drop: Callable[[Tensor, int], Tensor] = draw_and_drop

    def forward(self, x: Tensor) -> Tensor:
        """`x` with about a share of its values 0 and the others raised to keep the expectation; in eval `x` itself."""
        if not self.training or not self.threshold:
            return x
        return self.drop(x, self.threshold)


class HeadNetwork(nn.Module):
    """Standardise, then hidden layers with ReLU, then FCb; outputs are logits.

    Parameters
    ----------
    width : columns of the input
    n_classes : classes, background not counted
    settings : NetworkSettings
    output : what a patch's scores are: ``softmax``, the odds of the classes beside background, which is one
        more output, the last; ``logistic``, the odds of each class by itself; ``log-odds``, the logits
    """

    mean: Tensor
    gain: Tensor

    def __init__(self, width: int, n_classes: int, settings: NetworkSettings, output: Output = "softmax") -> None:
        super().__init__()
        self.output = output
        # One layer alone gains nothing.
        halved = settings.precision == "bf16" or (settings.precision == "auto" and cpu_has_bf16())
        self.precision = "bf16" if settings.hidden and halved else "fp32"
        n_outputs = n_classes + (output == "softmax")
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("gain", torch.ones(width))
        first = settings.dropout if settings.input_dropout is None else settings.input_dropout
        layers: list[nn.Module] = []
        n_inputs = width
        # Layers draw from torch's global generator when they are made; the caller's state is put back.
        with torch.random.fork_rng(devices=[]):
            for index, n_hidden in enumerate(settings.hidden):
                layers += [Dropout(settings.dropout if index else first), nn.Linear(n_inputs, n_hidden), nn.ReLU()]
                n_inputs = n_hidden
            layers += [Dropout(settings.dropout if layers else first), nn.Linear(n_inputs, n_outputs)]
        self.layers = nn.Sequential(*layers)

    def initialise(self, generator: torch.Generator) -> None:
        """He initialisation of hidden layers, a tenth of it for FCb, zero biases; from one generator."""
        linear = [m for m in self.layers if isinstance(m, nn.Linear)]
        for layer in linear:
            deviation = (2.0 / layer.in_features) ** 0.5
            # A small FCb starts every class at equal odds, so that the first steps are gentle.
            deviation *= 0.1 if layer is linear[-1] else 1.0
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * deviation)
                layer.bias.zero_()

    def drop_by(self, drop: Callable[[Tensor, int], Tensor]) -> None:
        """Let all dropout be done so."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.drop = drop

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, for an optimizer; ``share`` is of the learning rate."""
        return [{"params": list(self.layers.parameters()), "share": 1.0}]

    def standardise_to(self, rows: Tensor) -> None:
        """Set mean and gain from the fit rows; a column without deviation becomes 0.

        Parameters
        ----------
        rows : float16 Tensor of shape (n, width)
        """
        self.standardise_over(rows.split(8192))

    def standardise_over(self, chunks: Iterable[Tensor]) -> None:
        """`standardise_to` rows that come chunk by chunk, each looked at once.

        Parameters
        ----------
        chunks : float16 Tensors of shape (any, width), which together are the fit rows
        """
        n = 0
        mean = torch.zeros(len(self.mean), dtype=torch.float64)
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
        gain = torch.where(deviation > 1e-6 * (1 + mean.abs()), 1 / deviation, torch.zeros_like(deviation))
        self.mean.copy_(mean)
        self.gain.copy_(gain)

    def arithmetic(self) -> torch.autocast:
        """Within it, products of matrices are computed in the head's precision."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")

    def patch_scores(self, rows: Tensor) -> Tensor:
        """Scores (n, n_classes) of rows (n, width): in 0..1, but for ``log-odds``."""
        logits = self(rows)
        if self.output == "softmax":
            return logits.softmax(1)[:, :-1]
        return logits.sigmoid() if self.output == "logistic" else logits

    def forward(self, rows: Tensor) -> Tensor:
        """Logits (n, n_outputs) of rows (n, width), any float dtype."""
        return self.logits(self.prepare(rows))

    def prepare(self, rows: Tensor) -> Tensor:
        """What the layers look at, of rows (n, width): float32, standardised."""
        # Before it is rounded: a column of large mean and small deviation would be all rounding.
        return (rows.float() - self.mean) * self.gain

    def logits(self, prepared: Tensor) -> Tensor:
        """Logits (n, n_outputs) of prepared rows."""
        with self.arithmetic():
            hidden = self.layers[:-1](prepared)
        return self.layers[-1](hidden.float())

    @torch.no_grad()
    def score(self, rows: Tensor) -> Tensor:
        """Logits (n, n_outputs) of rows (n, width) without dropout or gradient, chunk by chunk."""
        was_training = self.training
        self.eval()
        logits = torch.cat([self(chunk) for chunk in rows.split(SCORED_ROWS)])
        self.train(was_training)
        return logits
