"""Tasks on workers of dask.distributed: on this machine, or on a running cluster.

A task writes its result itself and returns only seconds, so that no activation travels. Each worker makes what it
needs once, from the settings (to extract parts, the trunk), and refuses to start if its results would be other ones.
If a worker dies, only its current tasks are lost: dask gives them to another worker.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.activations.engines import Maker, ReportProgress, Task
from pipeline.activations.run_log import StageClock
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.io.progress import Say
from pipeline.trunk.device_memory import device_is_lost

RETRIES = 2
TASKS_AHEAD = 64
"""Tasks that the scheduler has at least, and two per worker where that is more."""
CONNECT_S = 30.0
IN_LOCAL_WORKERS = """
import logging
logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
logging.getLogger("distributed.worker").addFilter(lambda record: "heartbeat" not in record.getMessage())
"""
"""Silences what a worker logs when this process ends it in the middle of a part or between two heartbeats."""

MakeMaker = Callable[[], Maker]
"""Picklable; called on a worker."""

LOST_DEVICE = 70
"""Exit code of a worker whose device is lost."""
_end_process = os._exit
"""Ends a worker at once; the threads of its device would not join."""

_makers: dict[str, Maker] = {}
_lock = threading.Lock()


def _maker_of(run: str, make: MakeMaker) -> Maker:
    """Return this worker's maker: one per process and run, so that the trunk is loaded once.

    Not one per store: a worker may outlive a run, and the next run may have the same store in another folder.
    """
    with _lock:
        if run not in _makers:
            _makers.clear()
            _makers[run] = make()
        return _makers[run]


def _run_task(task: Task, run: str, make: MakeMaker) -> dict[str, Any]:
    """Run a task, on a worker.

    An error that a user can fix is returned as a message: a retry would not help. A process whose device is lost ends:
    every further part would fail in it, while dask gives the part to another one and starts a new process.
    """
    try:
        clock = StageClock()
        _maker_of(run, make).make(task, clock)
    except PipelineError as error:
        return {"problem": str(error)}
    except RuntimeError as error:
        if not device_is_lost(error):
            raise
        print(f"worker ends, since its device computes nothing more: {error}", file=sys.stderr, flush=True)
        _end_process(LOST_DEVICE)
    return {"seconds": dict(clock.seconds)}


class DaskEngine:
    """An engine on workers of dask; see `pipeline.activations.engines.Engine`.

    Parameters
    ----------
    scheduler : ``local:N`` for N worker processes of this machine, else a scheduler's address
    make : makes a `Maker` on a worker
    on_gpu : whether a task needs a GPU
    say : takes lines for the user

    Raises
    ------
    SettingsError
        `scheduler` is neither.
    """

    def __init__(self, scheduler: str, make: MakeMaker, on_gpu: bool, say: Say) -> None:
        self._n_local = self.n_local(scheduler)
        self._scheduler, self._make, self._on_gpu, self._say = scheduler, make, on_gpu, say

    @staticmethod
    def n_local(scheduler: str) -> int | None:
        """Return N of ``local:N``; None for an address.

        Raises
        ------
        SettingsError
            It is neither.
        """
        kind, _, rest = scheduler.partition(":")
        if kind == "local" and rest.isdecimal() and int(rest) > 0:
            return int(rest)
        if kind == "local" or "://" not in scheduler:
            raise SettingsError(
                f"scheduler {scheduler!r}: expected local:N (N worker processes on this machine) or the address of a "
                "dask scheduler, such as tcp://127.0.0.1:8786"
            )
        return None

    def __call__(self, tasks: Sequence[Task], report: ReportProgress, /) -> None:
        """See `Engine`; reports after each task.

        Raises
        ------
        SettingsError, PipelineError
            The scheduler cannot be reached or was lost; no worker has a GPU although one is needed; a worker would
            make other results, or several workers died with the same task.
        """
        from dask.distributed import as_completed

        resources = {"GPU": 1} if self._on_gpu else None
        run = uuid.uuid4().hex
        with self._connect(len(tasks), resources) as client:
            self._check_workers(client, resources, tasks)

            def submit(task: Task) -> Any:
                future = client.submit(
                    _run_task,
                    task,
                    run,
                    self._make,
                    key=f"{task.kind}-{task.index}-{run}",
                    retries=RETRIES,
                    resources=resources,
                    pure=False,
                )
                running[future.key] = task
                return future

            # All tasks at once would fill the memory of client and scheduler: those of an extraction hold their plans.
            running: dict[str, Task] = {}
            left = iter(tasks)
            completed = as_completed([submit(task) for task in itertools.islice(left, TASKS_AHEAD)])
            for future in completed:
                self._report(future, running.pop(future.key), report)
                n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
                for task in itertools.islice(left, max(TASKS_AHEAD, 2 * n_workers) - len(running)):
                    completed.add(submit(task))

    @contextlib.contextmanager
    def _connect(self, n_tasks: int, resources: Mapping[str, int] | None) -> Iterator[Any]:
        """Connect to the scheduler; a local one, with its workers, ends with the client."""
        import dask
        from dask.distributed import Client, LocalCluster

        with contextlib.ExitStack() as stack:
            address: Any = self._scheduler
            if self._n_local is not None:
                # Loopback only, on ports that the system chooses, and no dashboard: nothing listens on a network
                # unless an address was given.
                with _interrupts_later():
                    address = LocalCluster(
                        n_workers=min(self._n_local, n_tasks),
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address=None,
                        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                        resources=resources,
                        memory_limit=0,
                        preload=[*dask.config.get("distributed.worker.preload"), IN_LOCAL_WORKERS],
                    )
                    stack.callback(_close_quietly, address)
            try:
                client = Client(address, timeout=CONNECT_S)
            except (OSError, TimeoutError) as error:
                raise PipelineError(
                    f"scheduler {self._scheduler}: cannot be reached: {error}; is it running?"
                ) from error
            except ValueError as error:
                raise SettingsError(f"scheduler {self._scheduler!r}: {error}") from error
            stack.callback(client.close)
            yield client

    def _check_workers(self, client: Any, resources: Mapping[str, int] | None, tasks: Sequence[Task]) -> None:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        self._say(f"scheduler {client.scheduler.address}: {len(workers)} worker(s)")
        if not workers:
            self._say(f"the {tasks[0].kind}s wait for workers; start one with: dask worker {client.scheduler.address}")
        if resources and workers and not any(info.get("resources", {}).get("GPU") for info in workers.values()):
            raise PipelineError(
                f"scheduler {self._scheduler}: no worker offers a GPU; start one worker a device, with "
                'CUDA_VISIBLE_DEVICES set, by: dask worker ADDRESS --resources "GPU=1"; or use --device cpu'
            )

    def _report(self, future: Any, task: Task, report: ReportProgress) -> None:
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        advice = f"recorded {task.kind}s stay: start the same command again to resume"
        try:
            answer = future.result()
        except KilledWorker as error:
            raise PipelineError(
                f"{task.kind} {task.index}: {error.allowed_failures + 1} workers died while it was theirs, the last "
                f"one at {error.last_worker.address}; out of memory, or did something kill them? {advice}"
            ) from error
        except CancelledError as error:
            raise PipelineError(f"scheduler {self._scheduler}: the connection was lost; {advice}") from error
        if "problem" in answer:
            raise PipelineError(answer["problem"])
        report(task.n_rows, answer["seconds"])


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the cluster is complete: a half-started cluster cannot be closed.

    SIGINT is blocked in threads and processes that are started within. A terminal sends it to every
    process; the client alone answers, and ends its workers. SIGTERM is not blocked there: it is how
    the workers are ended. A signal that is ignored stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # It would allow interrupts again, in the thread in which the first process is started.
    multiprocessing.resource_tracker.ensure_running()
    pending: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = {number: handler for number, handler in before.items() if callable(handler)}
    for number in handled:
        signal.signal(number, lambda number, frame: pending.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for number, handler in handled.items():
            signal.signal(number, handler)
    if pending:
        # The handler that is now back raises, as it would have.
        signal.raise_signal(pending[0])


def _close_quietly(cluster: Any) -> None:
    """End a cluster of this process, without log lines about workers that have to be killed."""
    logger = logging.getLogger("distributed.nanny")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        cluster.close()
    finally:
        logger.setLevel(level)
