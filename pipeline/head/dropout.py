"""Dropout that draws one random byte per value.

On a GPU the same bytes are drawn on the CPU, in the same order, and copied there: a seed drops the same values on
every device. Where only the GPU knows which rows are learnt from, nothing can be drawn for them on the CPU; there bytes
follow from a count (`CountedDropout`), by integer arithmetic that is the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.trunk.windows import page_locked

GOLDEN = 0x9E3779B97F4A7C15
FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def draw_words(like: Tensor) -> Tensor:
    """Draw a random byte for each value of `like`, as int64 words on its device, from the CPU's global generator."""
    n = -(-like.numel() // 8)
    if like.device.type == "cpu":
        return torch.empty(n, dtype=torch.int64).random_(-(2**63), None)
    return page_locked((n,), torch.int64).random_(-(2**63), None).to(like.device, non_blocking=True)


def drop(x: Tensor, words: Tensor, threshold: int) -> Tensor:
    """Set the values of `x` whose byte is below the threshold to 0; scale the others to keep the expectation."""
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return x * (kept.to(x.dtype) * (256 / (256 - threshold)))


def draw_and_drop(x: Tensor, threshold: int) -> Tensor:
    """Apply `drop` with newly drawn words."""
    return drop(x, draw_words(x), threshold)


def count_words(n: int, seed: int, call: int, device: torch.device) -> Tensor:
    """Return `n` random int64 words that follow from a seed and the number of a call, the same on every device.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), SplitMix64.

    >>> count_words(2, 7, 0, torch.device("cpu")).tolist()
    [-7205399239080518280, 7548029490970160968]
    """
    start = _signed(_mix(_mix(seed) ^ call))
    words = torch.arange(1, n + 1, device=device).mul_(_signed(GOLDEN)).add_(start)
    for bits, factor in FACTORS:
        words ^= (words >> bits) & (2 ** (64 - bits) - 1)  # shifts of int64 keep the sign
        words *= _signed(factor)
    return words ^ ((words >> 31) & (2**33 - 1))


def _mix(value: int) -> int:
    """Return the word that follows a state of SplitMix64."""
    value = (value + GOLDEN) % 2**64
    for bits, factor in FACTORS:
        value = (value ^ value >> bits) * factor % 2**64
    return value ^ value >> 31


def _signed(word: int) -> int:
    return (word + 2**63) % 2**64 - 2**63


class CountedDropout:
    """Drops by words that follow from a seed and the number of calls before; see `count_words`."""

    def __init__(self, seed: int) -> None:
        self._seed, self._calls = seed, 0

    def __call__(self, x: Tensor, threshold: int) -> Tensor:
        words = count_words(-(-x.numel() // 8), self._seed, self._calls, x.device)
        self._calls += 1
        return drop(x, words, threshold)


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
