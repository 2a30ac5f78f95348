"""Dropout that draws one random byte per value."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def draw_words(like: Tensor) -> Tensor:
    """Draw a random byte for each value of `like`, as int64 words, from torch's global generator."""
    return torch.empty(-(-like.numel() // 8), dtype=torch.int64).random_(-(2**63), None)


def drop(x: Tensor, words: Tensor, threshold: int) -> Tensor:
    """Set the values of `x` whose byte is below the threshold to 0; scale the others to keep the expectation."""
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return x * (kept.to(x.dtype) * (256 / (256 - threshold)))


def draw_and_drop(x: Tensor, threshold: int) -> Tensor:
    """Apply `drop` with newly drawn words."""
    return drop(x, draw_words(x), threshold)


class Dropout(nn.Module):
    """Dropout whose share is a multiple of 1/256: one byte per value is enough.

    torch's own dropout took half the time of a fit.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.threshold = round(256 * share)
        self.drop: Callable[[Tensor, int], Tensor] = draw_and_drop

    def forward(self, x: Tensor) -> Tensor:
        """Drop about a share of the values and scale the others; return `x` itself in eval mode."""
        if not self.training or not self.threshold:
            return x
        return self.drop(x, self.threshold)
