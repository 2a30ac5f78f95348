"""Seconds of the stages of an extraction, and the log next to a store."""

from __future__ import annotations

import contextlib
import json
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from pipeline.io.memory import peak_memory
from pipeline.version import __version__


@dataclass
class StageClock:
    """Seconds of each stage, summed over threads."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the seconds of the ``with`` block to a stage."""
        started = time.perf_counter()
        yield
        self.add({stage: time.perf_counter() - started})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds that were measured elsewhere."""
        with self._lock:
            for stage, spent in seconds.items():
                self.seconds[stage] += spent

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call, and start again at 0."""
        with self._lock:
            seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds

    def summary(self) -> str:
        """Describe the shares of the stages, for the progress line."""
        with self._lock:
            return describe_shares(dict(sorted(self.seconds.items())))


def describe_shares(seconds: Mapping[str, float]) -> str:
    """Describe each stage's share of the seconds, in the order given.

    >>> describe_shares({"decode": 1.0, "trunk": 3.0})
    'decode 25 %, trunk 75 %'
    """
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{name} {100 * spent / total:.0f} %" for name, spent in seconds.items())


def log_name(store: str) -> str:
    """Return the file name of a store's run log."""
    return store.removesuffix(".zarr") + ".log.jsonl"


@dataclass(frozen=True)
class LogEntry:
    """What one run did for one store.

    Attributes
    ----------
    finished : time with its zone
    host : name of the machine
    rows, parts : written by the run for this store
    adopted : how many of the rows were taken over from each other store, by its name
    stores : that the run's pass extracted together
    seconds : of the whole pass
    stages : seconds of each stage, summed over threads
    versions : of the package, torch and Python
    threads : of torch
    peak_memory_mib : of the whole process, its imports included
    """

    finished: str
    host: str
    rows: int
    parts: int
    stores: int
    seconds: float
    stages: Mapping[str, float]
    versions: Mapping[str, str]
    threads: int
    peak_memory_mib: int
    adopted: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_this_run(
        cls,
        *,
        rows: int,
        parts: int,
        stores: int,
        seconds: float,
        stages: Mapping[str, float],
        adopted: Mapping[str, int] = MappingProxyType({}),
    ) -> LogEntry:
        """Make the entry of a run that ends now, in this process."""
        return cls(
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            host=platform.node(),
            rows=rows,
            parts=parts,
            adopted=dict(adopted),
            stores=stores,
            seconds=round(seconds, 2),
            stages={name: round(spent, 2) for name, spent in stages.items()},
            versions={"pipeline": __version__, "torch": torch.__version__, "python": platform.python_version()},
            threads=torch.get_num_threads(),
            peak_memory_mib=round(peak_memory() / 2**20),
        )

    @classmethod
    def from_dict(cls, value: Any) -> LogEntry:
        """Read the stored form; entries of older versions lack some of the facts about process and machine.

        Raises
        ------
        ValueError
            It is no entry of a run log.
        """
        optional = {"host": "", "parts": 0, "stores": 1, "versions": {}, "threads": 0, "peak_memory_mib": 0}
        names = cls.__dataclass_fields__
        try:
            return cls(**{**optional, **{name: value[name] for name in names if name in value}})
        except TypeError as error:
            raise ValueError(f"no entry of a run log: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form."""
        return asdict(self)


@dataclass(frozen=True)
class RunLog:
    """The log next to a store: one line of JSON per run. It is no part of the store."""

    path: Path

    @classmethod
    def of_store(cls, folder: Path, store: str) -> RunLog:
        """Return the log of the store of that name; logs lie in `folder`."""
        return cls(folder / log_name(store))

    def append(self, entry: LogEntry) -> None:
        """Append the entry of a run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as log:
            log.write(json.dumps(entry.to_dict()) + "\n")

    def read(self) -> list[LogEntry]:
        """Read all entries, in the order of the runs; none if there is no log.

        A line that a full disk cut off is skipped.
        """
        entries = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    entries.append(LogEntry.from_dict(json.loads(line)))
        return entries

    def adopted(self) -> dict[str, int]:
        """Return how many rows all runs together took over from each other store, by its name."""
        counts: dict[str, int] = {}
        for entry in self.read():
            for name, n_rows in entry.adopted.items():
                counts[name] = counts.get(name, 0) + n_rows
        return counts

    def total_seconds(self) -> float | None:
        """Return the seconds of all runs together; None if there is no log."""
        if not self.path.is_file():
            return None
        return round(sum((entry.seconds for entry in self.read()), 0.0), 2)
