"""Patch scores on a GPU: rows go there part by part, and the scores of a part come back while the next one is read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.head.device import Place, count_parameters
from pipeline.head.fit_memory import rows_bytes, scoring_bytes
from pipeline.head.head import Head
from pipeline.head.networks import SCORED_ROWS, HeadNetwork
from pipeline.head.task import PatchScorer, PooledScorer
from pipeline.trunk.windows import page_locked, to_device


@dataclass(frozen=True)
class PendingScores:
    """Scores that are computed, or will be.

    Attributes
    ----------
    scores : float32 Tensor (n, n_classes) in page-locked memory
    done : is recorded behind their copy
    """

    scores: Tensor
    done: torch.cuda.Event

    def result(self) -> np.ndarray:
        """Wait for the scores: float32 ndarray (n, n_classes)."""
        self.done.synchronize()
        return self.scores.numpy()


class DeviceScorer:
    """Computes the patch scores of heads on a GPU.

    Parameters
    ----------
    heads : those that `can_move`; others may be among them
    place : a GPU
    """

    def __init__(self, heads: Sequence[Head], place: Place) -> None:
        self._device = place.device
        self._networks = {id(head): _copy_to(head, place.device) for head in heads if can_move(head)}
        self._last: tuple[np.ndarray, Tensor] | None = None

    @torch.inference_mode()
    def launch(self, head: Head, rows: np.ndarray) -> PendingScores:
        """Start to compute scores of float16 rows (n, width); they are copied once for all heads in turn."""
        if self._last is None or self._last[0] is not rows:
            self._last = rows, to_device(rows, self._device)
        network = self._networks[id(head)]
        # The rows of one product are those of a CPU's.
        found = torch.cat([network.patch_scores(chunk) for chunk in self._last[1].split(SCORED_ROWS)])
        scores = page_locked(found.shape, found.dtype)
        scores.copy_(found, non_blocking=True)
        done = torch.cuda.Event(blocking=True)
        done.record(torch.cuda.current_stream(self._device))
        return PendingScores(scores, done)


def can_move(head: Head) -> bool:
    """Return whether a GPU can compute a head's patch scores: it is a network with weights, of this package.

    Pictures that are scored by an accumulator of the head's own are scored on the CPU.
    """
    network = head.network
    if not isinstance(network, PatchScorer) or isinstance(network, PooledScorer):
        return False
    return isinstance(network, nn.Module) and any(True for _ in network.parameters())


def _copy_to(head: Head, device: torch.device) -> PatchScorer:
    """Copy the network of a head to a device; the head keeps its own."""
    network = copy.deepcopy(head.network)
    assert isinstance(network, nn.Module)
    moved = network.move(device) if isinstance(network, HeadNetwork) else network.to(device)
    assert isinstance(moved, PatchScorer)
    return moved


def scoring_operations(heads: Sequence[Head], n_rows: int) -> int:
    """Multiplications of the patch scores of `n_rows` rows by all heads that have such."""
    return n_rows * sum(count_parameters(head.network) for head in heads if can_move(head))


def device_bytes(heads: Sequence[Head], most_rows: int, width: int) -> int:
    """Bytes of a GPU's memory that scoring takes, of parts of at most `most_rows` rows: two of them, and one chunk."""
    networks = [head.network for head in heads if can_move(head)]
    chunks = [scoring_bytes(network, most_rows) for network in networks if isinstance(network, HeadNetwork)]
    return 2 * rows_bytes(most_rows, width) + sum(chunks) + 4 * sum(map(count_parameters, networks))
