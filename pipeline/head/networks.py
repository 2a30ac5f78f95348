"""FCa + FCb and its variants: a small network on standardised rows.

Source: Oquab et al. (CVPR 2014) section 3.1: FCa with ReLU, FCb with softmax over the target's
classes and background.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.settings import HeadSettings


class HeadNetwork(nn.Module):
    """Standardise, then hidden layers with ReLU, then FCb; outputs are logits.

    Parameters
    ----------
    width : columns of the input
    n_outputs : classes, with background as the last
    settings : HeadSettings
    """

    def __init__(self, width: int, n_outputs: int, settings: HeadSettings) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("gain", torch.ones(width))
        first = settings.dropout if settings.input_dropout is None else settings.input_dropout
        layers: list[nn.Module] = []
        n_inputs = width
        for index, n_hidden in enumerate(settings.hidden):
            layers += [nn.Dropout(settings.dropout if index else first), nn.Linear(n_inputs, n_hidden), nn.ReLU()]
            n_inputs = n_hidden
        layers += [nn.Dropout(settings.dropout if layers else first), nn.Linear(n_inputs, n_outputs)]
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

    def standardise_to(self, rows: Tensor) -> None:
        """Set mean and gain from the fit rows; a column without deviation becomes 0.

        Parameters
        ----------
        rows : float16 Tensor of shape (n, width)
        """
        total = torch.zeros(rows.shape[1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in rows.split(8192):
            values = chunk.double()
            total += values.sum(0)
        mean = total / len(rows)
        for chunk in rows.split(8192):
            squares += (chunk.double() - mean).square().sum(0)
        deviation = (squares / len(rows)).sqrt()
        gain = torch.where(deviation > 1e-6 * (1 + mean.abs()), 1 / deviation, torch.zeros_like(deviation))
        self.mean.copy_(mean)
        self.gain.copy_(gain)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits (n, n_outputs) of rows (n, width), any float dtype."""
        return self.layers((rows.float() - self.mean) * self.gain)
