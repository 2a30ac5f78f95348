"""Several heads of one shape as one stack of products, for a GPU, which waits for launches more than it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.head.device import upload_numbers
from pipeline.head.dropout import Dropout, draw_words
from pipeline.head.network_settings import SgdSettings
from pipeline.head.networks import HeadNetwork


class StackedHeads:
    """Heads of one shape that learn from the same rows, on one device.

    Each head has its own weights, dropout, rate, momentum and weight decay. Products are those of the heads alone up to
    rounding.

    Parameters
    ----------
    networks : plain `HeadNetwork`, of settings with one `JointFit.key`, on the device
    settings : of each
    """

    def __init__(self, networks: Sequence[HeadNetwork], settings: Sequence[SgdSettings]) -> None:
        self._networks = list(networks)
        self._device = networks[0].mean.device
        linear = [[layer for layer in network.layers if isinstance(layer, nn.Linear)] for network in networks]
        dropout = [[layer for layer in network.layers if isinstance(layer, Dropout)] for network in networks]
        self._weights, self._biases = [], []
        for layers in zip(*linear, strict=True):
            self._weights.append(torch.stack([layer.weight.detach() for layer in layers]).requires_grad_())
            self._biases.append(torch.stack([layer.bias.detach() for layer in layers])[:, None].requires_grad_())
        self._thresholds: list[Tensor | None] = []
        for thresholds in ([layer.threshold for layer in layers] for layers in zip(*dropout, strict=True)):
            self._thresholds.append(self._per_head(thresholds, torch.int32) if any(thresholds) else None)
        self._momentum = self._per_head([s.momentum for s in settings])
        self._decay = self._per_head([s.weight_decay for s in settings])
        self._buffers: list[Tensor] = []
        self._rates = self._per_head([0.0] * len(networks))

    def _per_head(self, numbers: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return upload_numbers(numbers, self._device, dtype)[:, None, None]

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rate of each head; with 0 its weights stay."""
        self._rates = self._per_head(rates)

    def logits(self, prepared: Tensor) -> Tensor:
        """Compute logits (n_heads, n, n_outputs) of prepared rows (n, width), with dropout."""
        hidden, last = prepared.expand(len(self._networks), *prepared.shape), len(self._weights) - 1
        for index, (weight, bias, threshold) in enumerate(
            zip(self._weights, self._biases, self._thresholds, strict=True)
        ):
            if threshold is not None:
                hidden = _drop(hidden, draw_words(hidden[0]), threshold)
            if index == last:
                return torch.baddbmm(bias, hidden.float(), weight.mT)
            with self._networks[0].arithmetic():
                hidden = torch.baddbmm(bias, hidden, weight.mT).relu()
        raise AssertionError("a head has a layer")

    def step(self, losses: Tensor) -> None:
        """Take a step of each head by its loss (n_heads,)."""
        parameters = [*self._weights, *self._biases]
        gradients = torch.autograd.grad(losses.sum(), parameters)
        with torch.no_grad():
            first = not self._buffers
            for index, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                moved = gradient + self._decay * parameter
                if first:
                    self._buffers.append(moved)
                else:
                    self._buffers[index].mul_(self._momentum).add_(moved)
                parameter.sub_(self._rates * self._buffers[index])

    def write_back(self) -> None:
        """Copy the weights into the networks."""
        with torch.no_grad():
            for number, network in enumerate(self._networks):
                layers = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
                for layer, weight, bias in zip(layers, self._weights, self._biases, strict=True):
                    layer.weight.copy_(weight[number])
                    layer.bias.copy_(bias[number, 0])


def _drop(x: Tensor, words: Tensor, thresholds: Tensor) -> Tensor:
    """Apply `dropout.drop` to x (n_heads, n, width) with the same words, and each head's threshold (n_heads, 1, 1)."""
    kept = words.view(torch.uint8)[: x[0].numel()].view(x.shape[1:]) >= thresholds
    return x * (kept.to(x.dtype) * (256 / (256 - thresholds.to(x.dtype))))
