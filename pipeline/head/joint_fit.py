"""Heads that are fitted side by side, in one pass over the rows that they have in common."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.head.dropout import draw_and_drop, draw_words, drop
from pipeline.head.fit_memory import step_bytes, training_bytes
from pipeline.head.fit_rows import FitRows, RowsInMemory
from pipeline.head.fitting import LearningRateSchedule, Loss, LossCurve, make_optimizer
from pipeline.head.networks import STANDARDISED_ROWS, HeadNetwork
from pipeline.head.rows import RowReader
from pipeline.head.settings import NetworkSettings
from pipeline.io.errors import HeadError
from pipeline.io.memory import release_memory
from pipeline.io.progress import Progress


class JointFit:
    """Initialise networks and fit them side by side, each by its own learning-rate schedule.

    Each batch is gathered, standardised and dropped from once for all networks. Each network gets, bit for bit, the
    weights that it gets alone.

    Parameters
    ----------
    seed : decides initialisation, dropout and the order of rows
    loss : compares logits with targets
    """

    def __init__(self, seed: int, loss: Loss = functional.cross_entropy) -> None:
        self._seed, self._loss = seed, loss
        self._members: list[_Member] = []
        self._dropout = _SharedDropout()

    @staticmethod
    def key(settings: NetworkSettings) -> Hashable:
        """Return what must be equal for a joint fit: these networks draw the same numbers in the same order."""
        first = settings.dropout if settings.input_dropout is None else settings.input_dropout
        drops = first > 0, settings.dropout > 0
        return settings.hidden, settings.batch, settings.standardise, settings.precision, *drops

    def add(self, network: HeadNetwork, settings: NetworkSettings, name: str = "head") -> None:
        """Add a network; several must be plain `HeadNetwork`, of settings with one `key`."""
        self._members.append(_Member(network, settings, name))

    def read_rows(self, reader: RowReader, row_index: np.ndarray, peak: int = 0) -> FitRows:
        """Read the rows of the fit into memory or a scratch file, with room for the fit itself.

        Parameters
        ----------
        peak : most bytes of memory that the process held while the rows were chosen

        Raises
        ------
        HeadError
            The store was made without some of them, or the fit does not fit into the memory budget.
        """
        networks, n_rows = [member.network for member in self._members], len(row_index)
        step = max(step_bytes(network, min(self._members[0].settings.batch, n_rows)) for network in networks)
        working = sum(map(training_bytes, networks)) + max(step, networks[0].standardising_bytes(n_rows))
        return reader.activations_at(row_index, self._title, working, peak)

    @property
    def _title(self) -> str:
        return f"fit {', '.join(member.name for member in self._members)}"

    def run(self, rows: np.ndarray | FitRows, targets: np.ndarray) -> list[LossCurve]:
        """Fit all networks; they are left in eval mode.

        Parameters
        ----------
        rows : float16 or float32 ndarray of shape (n, width), or rows that are held elsewhere
        targets : what the loss compares logits with
            For ``cross_entropy`` an int64 ndarray of shape (n,), the output that each row should raise; for
            `logistic_loss` an int8 ndarray of shape (n, n_classes).

        Returns
        -------
        one loss curve per network

        Raises
        ------
        HeadError
            No row, or a loss that is not finite.
        """
        if not len(rows):
            raise HeadError(f"{self._members[0].name}: no row to fit on")
        x = RowsInMemory(rows) if isinstance(rows, np.ndarray) else rows
        y = torch.from_numpy(targets)
        generator = self._initialise()
        self._standardise(x)
        loops = [_EpochLoop(*member) for member in self._members]
        batch = self._members[0].settings.batch
        most_rows = max(sum(member.settings.max_epochs) for member in self._members) * len(x)
        # Dropout draws from torch's global generator; the caller's state is restored afterwards.
        with torch.random.fork_rng(devices=[]), Progress(self._title, most_rows, "rows") as progress:
            torch.manual_seed(self._seed)
            while running := [loop for loop in loops if loop.schedule.rate is not None]:
                order = torch.randperm(len(x), generator=generator).split(batch)
                for chosen, inputs in x.batches(order):
                    self._step(running, inputs, y[chosen])
                    progress.advance(len(chosen), note=running[0].note)
                for loop in running:
                    loop.end_epoch(len(x))
            progress.total = progress.done
        for member in self._members:
            member.network.drop_by(draw_and_drop)
            member.network.eval()
        return [loop.schedule.epochs for loop in loops]

    def _initialise(self) -> torch.Generator:
        """Draw the weights of each network from a generator of its own; return one, for the order of rows."""
        for member in self._members:
            generator = torch.Generator().manual_seed(self._seed)
            member.network.initialise(generator)
            member.network.drop_by(self._dropout)
        return generator

    def _standardise(self, x: FitRows) -> None:
        first, *others = (member.network for member in self._members)
        if self._members[0].settings.standardise:
            first.standardise_over(x.chunks(STANDARDISED_ROWS))
            for other in others:
                other.mean.copy_(first.mean)
                other.inv_std.copy_(first.inv_std)
            release_memory()

    def _step(self, loops: list[_EpochLoop], x: Tensor, y: Tensor) -> None:
        """Take one step of every network on the same batch."""
        self._dropout.begin_step()
        inputs = loops[0].network.prepare(x)
        self._dropout.end_preparation()
        for loop in loops:
            self._dropout.begin_network()
            loop.step(inputs, y, self._loss)


class _Member(NamedTuple):
    network: HeadNetwork
    settings: NetworkSettings
    name: str


class _EpochLoop:
    """The epochs of one network.

    Attributes
    ----------
    schedule : its learning rate, and the loss curve
    note : of the last step, for the progress line
    """

    def __init__(self, network: HeadNetwork, settings: NetworkSettings, name: str) -> None:
        self.network = network
        self.schedule = LearningRateSchedule(settings, name)
        self.note = ""
        self._optimizer = make_optimizer(network, settings)
        self._total = 0.0
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        if self.schedule.rate is not None:
            self._optimizer.rate = self.schedule.rate
            self.network.train()

    def step(self, inputs: Tensor, targets: Tensor, loss_of: Loss) -> None:
        """Take one step on prepared rows."""
        loss = loss_of(self.network.logits(inputs), targets)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        mean = loss.item()
        self._total += mean * len(inputs)
        self.note = f"rate {self.schedule.rate:g}, loss {mean:.3f}"

    def end_epoch(self, n_rows: int) -> None:
        mean, self._total = self._total / n_rows, 0.0
        self.schedule.end_epoch(mean)
        self._begin_epoch()


class _SharedDropout:
    """Dropout with the same random words for all networks of a step."""

    def __init__(self) -> None:
        self._words: list[Tensor] = []
        self._dropped: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._used = self._prepared = 0

    def begin_step(self) -> None:
        """Begin a step with its preparation, which all networks have in common."""
        self._words, self._used = [], 0
        self._dropped.clear()

    def end_preparation(self) -> None:
        self._prepared = self._used

    def begin_network(self) -> None:
        """Rewind to the words after the preparation."""
        self._used = self._prepared

    def __call__(self, x: Tensor, threshold: int) -> Tensor:
        """Apply `drop`; words are drawn for the first network, and reused for the others."""
        index = self._used
        self._used += 1
        if index == len(self._words):
            self._words.append(draw_words(x))
        if x.requires_grad:
            return drop(x, self._words[index], threshold)
        # The prepared rows themselves: dropped once for all networks with the same share.
        cached = self._dropped.get((index, threshold))
        if cached is None or cached[0] is not x:
            cached = self._dropped[index, threshold] = x, drop(x, self._words[index], threshold)
        return cached[1]
