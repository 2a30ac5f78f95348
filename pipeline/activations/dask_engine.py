"""Parts as tasks of dask.distributed: on this machine, or on a cluster that is already there.

A task is one part; it writes the part itself and gives back only seconds, so no activation travels.
What a worker needs it makes once, from the settings, and it refuses to start where the result would
have another identity. A worker that dies costs the parts it was at: dask gives them to another one.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.resource_tracker
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.activations.extraction import Extraction
from pipeline.activations.identity import Identity
from pipeline.activations.parts import PartMaker, PartTask
from pipeline.activations.run_log import StageClock
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.io.progress import Say

RETRIES = 2
CONNECT_S = 30.0
IN_LOCAL_WORKERS = """
import logging
logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
logging.getLogger("distributed.worker").addFilter(lambda record: "heartbeat" not in record.getMessage())
"""
"""Being ended in the middle of a part, or between two heartbeats, is no news of a worker that we end."""

MakePartMaker = Callable[[Mapping[str, Identity]], PartMaker]
"""From the identity of each store, by its name, on a worker."""

_held: dict[str, PartMaker] = {}
_lock = threading.Lock()


def _part_maker(run: str, make: MakePartMaker, stores: Mapping[str, Identity]) -> PartMaker:
    """This worker's maker: one a process and run, so that the trunk is loaded once.

    Not one a store: a worker may outlive a run, and the next one may keep the same store elsewhere.
    """
    with _lock:
        if run not in _held:
            _held.clear()
            _held[run] = make(stores)
        return _held[run]


def _make_part(task: PartTask, run: str, make: MakePartMaker, stores: Mapping[str, Identity]) -> dict[str, Any]:
    """Runs on a worker. What a user can mend comes back as a message: trying again would not help."""
    try:
        clock = StageClock()
        _part_maker(run, make, stores).make(task, clock)
    except PipelineError as error:
        return {"problem": str(error)}
    return {"seconds": dict(clock.seconds)}


class DaskEngine:
    """An engine for `Extraction.run`.

    Parameters
    ----------
    scheduler : ``local:N`` for N worker processes of this machine, else a scheduler's address
    make : makes a `PartMaker` on a worker, from the identity of each store by its name

    Raises
    ------
    SettingsError
        The address is none.
    """

    def __init__(self, scheduler: str, make: MakePartMaker, extraction: Extraction, say: Say) -> None:
        self._n_local = self.n_local(scheduler)
        self._scheduler, self._make, self._extraction, self._say = scheduler, make, extraction, say

    @staticmethod
    def n_local(scheduler: str) -> int | None:
        """Workers on this machine that ``local:N`` asks for; None for an address.

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

    def __call__(self, tasks: Sequence[PartTask], done: Callable[[PartTask, Mapping[str, float]], None]) -> None:
        from dask.distributed import as_completed

        on_gpu = self._extraction.runner.device.type == "cuda"
        resources = {"GPU": 1} if on_gpu else None
        stores = {item.folder.name: item.identity for item in self._extraction.asked}
        store, run = next(iter(stores)), uuid.uuid4().hex
        with self._connect(len(tasks), resources) as client:
            self._check_workers(client, resources)
            futures = {
                client.submit(
                    _make_part,
                    task,
                    run,
                    self._make,
                    stores,
                    key=f"{store}-part-{task.part.index}-{run}",
                    retries=RETRIES,
                    resources=resources,
                    pure=False,
                ): task
                for task in tasks
            }
            for future in as_completed(futures):
                self._report(future, futures[future], done)

    @contextlib.contextmanager
    def _connect(self, n_tasks: int, resources: Mapping[str, int] | None) -> Iterator[Any]:
        """A client of the scheduler; one that was started for it ends with it, workers included."""
        import dask
        from dask.distributed import Client, LocalCluster

        with contextlib.ExitStack() as stack:
            place: Any = self._scheduler
            if self._n_local is not None:
                # Loopback only, on ports that the system chooses, and no dashboard: nothing listens on a
                # network unless an address was given.
                with _interrupts_later():
                    place = LocalCluster(
                        n_workers=min(self._n_local, n_tasks),
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address=None,
                        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                        resources=resources,
                        memory_limit=0,
                        preload=[*dask.config.get("distributed.worker.preload"), IN_LOCAL_WORKERS],
                    )
                    stack.callback(_close_quietly, place)
            try:
                client = Client(place, timeout=CONNECT_S)
            except (OSError, TimeoutError) as error:
                raise PipelineError(
                    f"scheduler {self._scheduler}: cannot be reached: {error}; is it running?"
                ) from error
            except ValueError as error:
                raise SettingsError(f"scheduler {self._scheduler!r}: {error}") from error
            stack.callback(client.close)
            yield client

    def _check_workers(self, client: Any, resources: Mapping[str, int] | None) -> None:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        self._say(f"scheduler {client.scheduler.address}: {len(workers)} worker(s)")
        if not workers:
            self._say(f"the parts wait for workers; start one with: dask worker {client.scheduler.address}")
        if resources and workers and not any(info.get("resources", {}).get("GPU") for info in workers.values()):
            raise PipelineError(
                f"scheduler {self._scheduler}: no worker offers a GPU; start one worker a device, with "
                'CUDA_VISIBLE_DEVICES set, by: dask worker ADDRESS --resources "GPU=1"; or use --device cpu'
            )

    def _report(self, future: Any, task: PartTask, done: Callable[[PartTask, Mapping[str, float]], None]) -> None:
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        kept = "what is recorded is kept: start the same command again to go on"
        try:
            answer = future.result()
        except KilledWorker as error:
            raise PipelineError(
                f"part {task.part.index}: {error.allowed_failures + 1} workers died while it was theirs, the last one "
                f"at {error.last_worker.address}; out of memory, or did something kill them? {kept}"
            ) from error
        except CancelledError as error:
            raise PipelineError(f"scheduler {self._scheduler}: the connection was lost; {kept}") from error
        if "problem" in answer:
            raise PipelineError(answer["problem"])
        done(task, answer["seconds"])


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C counts when this is left: a cluster that is half there could not be ended.

    Threads and processes started within do not hear of it at all. A terminal sends it to every
    process; the client alone answers, and ends its workers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # It would allow interrupts again, in the thread in which the first process is started.
    multiprocessing.resource_tracker.ensure_running()
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _close_quietly(cluster: Any) -> None:
    """End a cluster of this process. A worker that is at work has to be killed, which is no news then."""
    logger = logging.getLogger("distributed.nanny")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        cluster.close()
    finally:
        logger.setLevel(level)
