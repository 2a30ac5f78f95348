"""Parts as tasks of dask.distributed: on this machine, or on a cluster that is already there.

A task is one part; it writes the part itself and gives back only seconds, so no activation travels.
What a worker needs it makes once, from the settings, and it refuses to start where the result would
have another identity. A worker that dies costs the parts it was at: dask gives them to another one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.activations.extract import Extraction, PartMaker, PartTask, Say, StageClock
from pipeline.activations.identity import Identity
from pipeline.errors import PipelineError, SettingsError

RETRIES = 2
MakePartMaker = Callable[[str, Identity], PartMaker]
"""From a store's name and identity, on a worker."""

_held: dict[str, PartMaker] = {}
_lock = threading.Lock()


def _part_maker(make: MakePartMaker, store: str, identity: Identity) -> PartMaker:
    """This worker's maker: one a process, so that the trunk is loaded once."""
    with _lock:
        if store not in _held:
            _held.clear()
            _held[store] = make(store, identity)
        return _held[store]


def _make_part(task: PartTask, make: MakePartMaker, store: str, identity: Identity) -> dict[str, Any]:
    """Runs on a worker. What a user can mend comes back as a message: trying again would not help."""
    try:
        clock = StageClock()
        _part_maker(make, store, identity).make(task, clock)
    except PipelineError as error:
        return {"problem": str(error)}
    return {"seconds": dict(clock.seconds)}


class DaskEngine:
    """An engine for `Extraction.run`.

    Parameters
    ----------
    scheduler : ``local:N`` for N worker processes of this machine, else a scheduler's address
    make : makes a `PartMaker` on a worker, from a store's name and identity

    Raises
    ------
    SettingsError
        The address is none.
    """

    def __init__(self, scheduler: str, make: MakePartMaker, extraction: Extraction, say: Say) -> None:
        self._n_local = self.n_local(scheduler)
        if self._n_local == 0 or (self._n_local is None and "://" not in scheduler):
            raise SettingsError(
                f"scheduler {scheduler!r}: expected local:N (N worker processes on this machine) or the address of a "
                "dask scheduler, such as tcp://127.0.0.1:8786"
            )
        self._scheduler, self._make, self._extraction, self._say = scheduler, make, extraction, say

    @staticmethod
    def n_local(scheduler: str) -> int | None:
        """Workers on this machine that ``local:N`` asks for; None for an address."""
        kind, _, rest = scheduler.partition(":")
        return int(rest) if kind == "local" and rest.isdigit() else None

    def __call__(self, tasks: Sequence[PartTask], done: Callable[[PartTask, Mapping[str, float]], None]) -> None:
        from dask.distributed import Client, LocalCluster, as_completed

        on_gpu = self._extraction.runner.device.type == "cuda"
        resources = {"GPU": 1} if on_gpu else None
        if self._n_local is None:
            place: Any = self._scheduler
        else:
            # Loopback only and no dashboard: nothing listens on a network unless an address was given.
            place = LocalCluster(
                n_workers=self._n_local,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                resources=resources,
                memory_limit=0,
            )
        try:
            client = Client(place, timeout=30)
        except (OSError, TimeoutError) as error:
            raise PipelineError(f"scheduler {self._scheduler}: cannot be reached: {error}; is it running?") from error
        try:
            self._check_workers(client, resources)
            make, store = self._make, self._extraction.folder.name
            futures = {
                client.submit(
                    _make_part,
                    task,
                    make,
                    store,
                    self._extraction.identity,
                    key=f"{store}-part-{task.part.index}-{os.urandom(4).hex()}",
                    retries=RETRIES,
                    resources=resources,
                    pure=False,
                ): task
                for task in tasks
            }
            for future in as_completed(futures):
                self._report(future, futures[future], done)
        finally:
            client.close()
            if self._n_local is not None:
                place.close()

    def _check_workers(self, client: Any, resources: Mapping[str, int] | None) -> None:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        self._say(f"scheduler {client.scheduler.address}: {len(workers)} worker(s)")
        if resources and workers and not any(info.get("resources", {}).get("GPU") for info in workers.values()):
            raise PipelineError(
                f"scheduler {self._scheduler}: no worker offers a GPU; start one worker a device, with "
                'CUDA_VISIBLE_DEVICES set, by: dask worker ADDRESS --resources "GPU=1"; or use --device cpu'
            )

    def _report(self, future: Any, task: PartTask, done: Callable[[PartTask, Mapping[str, float]], None]) -> None:
        from distributed.scheduler import KilledWorker

        try:
            answer = future.result()
        except KilledWorker as error:
            raise PipelineError(
                f"part {task.part.index}: workers died {error.allowed_failures + 1} times while making it, the last on "
                f"{error.last_worker.address}; out of memory? What is recorded is kept: start the same command again"
            ) from error
        if "problem" in answer:
            raise PipelineError(answer["problem"])
        done(task, answer["seconds"])
