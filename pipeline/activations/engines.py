"""Engines: where and in which order tasks run, such as the parts of an extraction."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any, Protocol, TypeVar

from pipeline.activations.parts import PartMaker, PartTask
from pipeline.activations.run_log import StageClock


class Task(Protocol):
    """The unit that engines schedule: picklable, and independent of all others."""

    @property
    def kind(self) -> str:
        """What it is, such as ``part``, for messages."""

    @property
    def index(self) -> int:
        """Its number among the tasks of its kind."""

    @property
    def n_rows(self) -> int:
        """Rows of the table, for the progress."""


TaskT = TypeVar("TaskT", contravariant=True)


class Maker(Protocol[TaskT]):
    """Runs tasks: one per worker of an engine."""

    def make(self, task: TaskT, clock: StageClock, /) -> None:
        """Run a task whose result is not recorded yet, and record its result."""
        ...


class ReportProgress(Protocol):
    """Takes the progress of an engine."""

    def __call__(self, n_rows: int, seconds: Mapping[str, float], /) -> None:
        """Add rows that were computed, and seconds of each stage since the last report."""
        ...


ENGINES = {
    "local": "pipeline.activations.dask_engine:DaskEngine",
    "tcp": "pipeline.activations.dask_engine:DaskEngine",
    "tls": "pipeline.activations.dask_engine:DaskEngine",
}
"""Engines on workers: ``module:class`` by the beginning of ``--scheduler``, imported when it is chosen.

A new engine is a module and a line here. Its class is called with the scheduler, a function that makes a `Maker` on
a worker, whether tasks need a GPU, and a receiver of lines. Its ``n_local(scheduler)`` is the number of workers on
this machine, None for workers elsewhere.
"""


def find_engine(scheduler: str) -> Any:
    """Import the class of the engine for a scheduler; dask's, which says what it expects, for unknown ones."""
    module, _, name = ENGINES.get(scheduler.partition(":")[0], ENGINES["tcp"]).partition(":")
    return getattr(import_module(module), name)


def check_scheduler(scheduler: str | None) -> None:
    """Refuse a scheduler that cannot be, such as an address without a port; None is no scheduler.

    Raises
    ------
    SettingsError
    """
    if scheduler is not None:
        find_engine(scheduler).n_local(scheduler)


class Engine(Protocol[TaskT]):
    """Runs tasks: `InProcessEngine` in this process, `DaskEngine` on workers."""

    def __call__(self, tasks: Sequence[TaskT], report: ReportProgress, /) -> None:
        """Run all tasks, in any order and anywhere; see `Task`.

        On return the result of every task is recorded. What is recorded already is left as it is.

        Parameters
        ----------
        tasks : at least one; each may be made when it is taken
        report : called in this thread. The rows of all calls sum up to the rows of all tasks.

        Raises
        ------
        PipelineError
            A task cannot be computed or written. Recorded results stay.
        """
        ...


class InProcessEngine:
    """An engine in this process: parts are written while the next ones are computed.

    Parameters
    ----------
    maker : computes and writes the parts
    n_writing : tasks whose parts may be written at the same time; their rows are in memory
    """

    def __init__(self, maker: PartMaker, n_writing: int = 1) -> None:
        self._maker, self._n_writing = maker, n_writing

    def __call__(self, tasks: Sequence[PartTask], report: ReportProgress, /) -> None:
        """See `Engine`; reports after each batch."""
        clock = StageClock()
        with ThreadPoolExecutor(self._n_writing) as pool:
            writing: deque[list[Future[None]]] = deque()
            with contextlib.closing(
                self._maker.compute_all(tasks, clock, lambda n: report(n, clock.take()))
            ) as all_tasks:
                for computed in all_tasks:
                    if len(writing) == self._n_writing:
                        _wait_for(writing.popleft())
                    writing.append([pool.submit(part.write, clock) for part in computed])
                    # Otherwise these rows would stay in memory while the next ones are computed and written.
                    del computed
            while writing:
                _wait_for(writing.popleft())
        report(0, clock.take())


def _wait_for(writing: Iterable[Future[None]]) -> None:
    for future in writing:
        future.result()
