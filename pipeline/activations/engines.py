"""Engines: where and in which order the parts of an extraction are computed and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any, Protocol

from pipeline.activations.parts import PartMaker, PartTask
from pipeline.activations.run_log import StageClock


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

A new engine is a module and a line here. Its class is called with the scheduler, a maker of `PartMaker`, the
extraction, and a receiver of lines. Its ``n_local(scheduler)`` is the number of workers on this machine, None for
workers elsewhere.
"""


def find_engine(scheduler: str) -> Any:
    """Import the class of the engine for a scheduler; dask's, which says what it expects, for unknown ones."""
    module, _, name = ENGINES.get(scheduler.partition(":")[0], ENGINES["tcp"]).partition(":")
    return getattr(import_module(module), name)


class Engine(Protocol):
    """Computes and writes parts: `LocalEngine` in this process, `DaskEngine` on workers."""

    def __call__(self, tasks: Sequence[PartTask], report: ReportProgress, /) -> None:
        """Compute and write the parts of all tasks, in any order and anywhere.

        On return every part of every task has its record. A part that is recorded already is left as it is.

        Parameters
        ----------
        tasks : picklable; each is independent of the others
        report : called in this thread. The rows of all calls sum up to the rows of all tasks.

        Raises
        ------
        PipelineError
            A task cannot be computed or written. Recorded parts stay.
        """
        ...


class LocalEngine:
    """An engine in this process, with a double buffer: the parts of one task are written while the next is computed.

    Parameters
    ----------
    maker : computes and writes the parts
    """

    def __init__(self, maker: PartMaker) -> None:
        self._maker = maker

    def __call__(self, tasks: Sequence[PartTask], report: ReportProgress, /) -> None:
        """See `Engine`; reports after each batch."""
        clock = StageClock()
        with ThreadPoolExecutor(1) as pool:
            writing: list[Future[None]] = []
            for task in tasks:
                computed = self._maker.compute(task, clock, lambda n: report(n, clock.take()))
                for future in writing:
                    future.result()
                writing = [pool.submit(part.write, clock) for part in computed]
                # Otherwise these rows would stay in memory while the next ones are computed and written.
                del computed
            for future in writing:
                future.result()
        report(0, clock.take())
