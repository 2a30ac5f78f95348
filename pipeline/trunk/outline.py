"""A trunk without its weights: what can be taken from it, and how wide it is. Nothing is read or downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from pipeline.trunk.attention import AttentionRecorder
from pipeline.trunk.card import TrunkCard

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Outline:
    """A trunk without its weights.

    Attributes
    ----------
    card : description of the trunk
    layer : the one that would be taken
    width : columns of it
    nodes : columns of every node at which activations can be taken, by its name
    """

    card: TrunkCard
    layer: str
    width: int
    nodes: Mapping[str, int]


def on_meta(make: Callable[[], N]) -> N:
    """Make a network of names and shapes alone; one that cannot be made so gets random weights."""
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError, ValueError, TypeError):
        return make()


@torch.inference_mode()
def run_blank(extractor: nn.Module, px: int) -> tuple[Any, Callable[[Any], bool]]:
    """Run an extractor on two black patches, on the device of its weights.

    Returns
    -------
    what it gives, and a function that tells which values are inside of attention
    """
    patches = torch.zeros(2, 3, px, px, device=next(extractor.parameters()).device)
    with AttentionRecorder(patches) as recorder:
        found = extractor(patches)
    return found, recorder.values()
