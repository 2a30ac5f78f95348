"""Seconds of the stages of an extraction, and the log beside a store."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class StageClock:
    """Seconds of each stage, summed over threads."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    def add(self, seconds: Mapping[str, float]) -> None:
        """Seconds that another process measured."""
        for stage, spent in seconds.items():
            self.seconds[stage] += spent

    def summary(self) -> str:
        """Shares of the stages, for the progress line."""
        total = sum(self.seconds.values()) or 1.0
        return ", ".join(f"{name} {100 * s / total:.0f} %" for name, s in sorted(self.seconds.items()))


def log_name(store: str) -> str:
    """File name of a store's run log."""
    return store.removesuffix(".zarr") + ".log.jsonl"
