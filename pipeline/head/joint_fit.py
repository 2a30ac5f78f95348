"""Heads that are fitted side by side, in one pass over the rows that they have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.head.device import (
    BLOCK_BYTES,
    BLOCKS,
    CPU,
    HeadDevice,
    Place,
    explain_full_memory,
    fact_of_device,
    upload,
)
from pipeline.head.device_rows import RowsOnDevice
from pipeline.head.dropout import draw_and_drop, draw_words, drop
from pipeline.head.fit_memory import device_bytes, fit_operations, rows_bytes, step_bytes, training_bytes
from pipeline.head.fit_rows import FitRows, RowsInMemory
from pipeline.head.fitting import LearningRateSchedule, Loss, LossCurve, LossSum, make_optimizer
from pipeline.head.network_settings import NetworkSettings
from pipeline.head.networks import STANDARDISED_ROWS, HeadNetwork
from pipeline.head.rows import RowReader
from pipeline.head.stacked import StackedHeads
from pipeline.io.errors import HeadError
from pipeline.io.memory import release_memory
from pipeline.io.progress import Progress


class JointFit:
    """Initialise networks and fit them side by side, each by its own learning-rate schedule.

    Each batch is gathered, standardised and dropped from once for all networks. Each network gets, bit for bit, the
    weights that it gets alone.

    On a GPU they have the same weights, rows and dropout as on the CPU, so that a head differs from the CPU's by
    roundings; several are one stack there, and none is rounded as alone.

    Parameters
    ----------
    seed : decides initialisation, dropout and the order of rows
    loss : compares logits with targets
    device : on which to fit

    Attributes
    ----------
    facts : JSON object, precision of the fit, and its device where that is a GPU
    """

    facts: dict[str, Any]

    def __init__(self, seed: int, loss: Loss = functional.cross_entropy, device: HeadDevice | None = None) -> None:
        self._seed, self._loss = seed, loss
        self._device, self.place = device or HeadDevice(), Place()
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
        batch = min(self._members[0].settings.batch, n_rows)
        operations = fit_operations(networks, n_rows, self._most_epochs)
        held = rows_bytes(n_rows, networks[0].widths[0])
        self.place = self._device.choose(self._title, operations, device_bytes(networks, batch), held)
        if self.place.on_gpu:
            return reader.activations_at(row_index, self._title, BLOCKS * BLOCK_BYTES, peak)
        step = max(step_bytes(network, batch) for network in networks)
        working = sum(map(training_bytes, networks)) + max(step, networks[0].standardising_bytes(n_rows))
        return reader.activations_at(row_index, self._title, working, peak)

    @property
    def _most_epochs(self) -> int:
        return max(sum(member.settings.max_epochs) for member in self._members)

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
        held = RowsInMemory(rows) if isinstance(rows, np.ndarray) else rows
        generator = self._initialise()
        with explain_full_memory(self.place, self._title):
            curves = self._run(held, torch.from_numpy(targets), generator)
        self.facts = {"precision": self._members[0].network.precision, **fact_of_device(self.place.device)}
        for member in self._members:
            member.network.drop_by(draw_and_drop)
            member.network.move(CPU).eval()
        return curves

    def _run(self, rows: FitRows, targets: Tensor, generator: torch.Generator) -> list[LossCurve]:
        networks, device = [member.network for member in self._members], self.place.device
        for network in networks:
            network.move(device)
        x = RowsOnDevice(rows, networks[0].widths[0], self.place) if self.place.on_gpu else rows
        y = upload(targets, device)
        self._standardise(x)
        stacked = self.place.on_gpu and len(self._members) > 1
        loops = [_StackedLoop(self._members)] if stacked else [_EpochLoop(member) for member in self._members]
        batch = self._members[0].settings.batch
        # Dropout draws from torch's global generator of the CPU; the caller's state is restored afterwards.
        with (
            torch.random.fork_rng(devices=[]),
            Progress(self._title, self._most_epochs * len(x), "rows") as progress,
        ):
            torch.default_generator.manual_seed(self._seed)
            while running := [loop for loop in loops if loop.runs]:
                order = torch.randperm(len(x), generator=generator).split(batch)
                for chosen, inputs in x.batches(order):
                    self._step(running, inputs, y[chosen])
                    progress.advance(len(chosen), note=running[0].note)
                for loop in running:
                    loop.end_epoch(len(x))
            progress.total = progress.done
        return [curve for loop in loops for curve in loop.curves()]

    def _initialise(self) -> torch.Generator:
        """Draw the weights of each network from a generator of its own; return one, for the order of rows."""
        for member in self._members:
            generator = torch.Generator().manual_seed(self._seed)
            member.network.initialise(generator)
            member.network.drop_by(self._dropout)
        return generator

    def _standardise(self, x: FitRows | RowsOnDevice) -> None:
        first, *others = (member.network for member in self._members)
        if self._members[0].settings.standardise:
            first.standardise_over(x.chunks(STANDARDISED_ROWS))
            for other in others:
                other.mean.copy_(first.mean)
                other.inv_std.copy_(first.inv_std)
            release_memory()

    def _step(self, loops: Sequence[_EpochLoop | _StackedLoop], x: Tensor, y: Tensor) -> None:
        """Take one step of every network on the same batch."""
        self._dropout.begin_step()
        inputs = loops[0].prepare(x)
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
    note : for the progress line: on a CPU the loss of the last step, on a GPU that of the last epoch
    """

    def __init__(self, member: _Member) -> None:
        self._network = member.network
        self._schedule = LearningRateSchedule(member.settings, member.name)
        self._losses = LossSum(self._network.mean.device)
        self._optimizer = make_optimizer(member.network, member.settings)
        self._begin_epoch()

    @property
    def runs(self) -> bool:
        return self._schedule.rate is not None

    @property
    def note(self) -> str:
        return self._losses.note(self._schedule)

    def curves(self) -> list[LossCurve]:
        return [self._schedule.epochs]

    def _begin_epoch(self) -> None:
        if self._schedule.rate is not None:
            self._optimizer.rate = self._schedule.rate
            self._network.train()

    def prepare(self, rows: Tensor) -> Tensor:
        return self._network.prepare(rows)

    def step(self, inputs: Tensor, targets: Tensor, loss_of: Loss) -> None:
        """Take one step on prepared rows."""
        loss = loss_of(self._network.logits(inputs), targets)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._losses.add(loss, len(inputs))

    def end_epoch(self, n_rows: int) -> None:
        (total,) = self._losses.take()
        self._schedule.end_epoch(total / n_rows)
        self._begin_epoch()


class _StackedLoop:
    """The epochs of several networks as one stack; those that have ended wait for the others.

    Attributes as of `_EpochLoop`, of the first one that has not ended.
    """

    def __init__(self, members: Sequence[_Member]) -> None:
        self._first = members[0].network
        self._schedules = [LearningRateSchedule(member.settings, member.name) for member in members]
        self._losses = LossSum(self._first.mean.device, len(members))
        self._heads = StackedHeads([m.network for m in members], [m.settings for m in members])
        self._begin_epoch()

    @property
    def runs(self) -> bool:
        return any(schedule.rate is not None for schedule in self._schedules)

    @property
    def note(self) -> str:
        return self._losses.note(next(s for s in self._schedules if s.rate is not None))

    def curves(self) -> list[LossCurve]:
        return [schedule.epochs for schedule in self._schedules]

    def _begin_epoch(self) -> None:
        self._heads.set_rates([schedule.rate or 0.0 for schedule in self._schedules])

    def prepare(self, rows: Tensor) -> Tensor:
        return self._first.prepare(rows)

    def step(self, inputs: Tensor, targets: Tensor, loss_of: Loss) -> None:
        """Take one step of every network on prepared rows."""
        losses = torch.stack([loss_of(logits, targets) for logits in self._heads.logits(inputs).unbind()])
        self._heads.step(losses)
        self._losses.add(losses, len(inputs))

    def end_epoch(self, n_rows: int) -> None:
        for schedule, total in zip(self._schedules, self._losses.take(), strict=True):
            if schedule.rate is not None:
                schedule.end_epoch(total / n_rows)
        self._begin_epoch()
        if not self.runs:
            self._heads.write_back()


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
