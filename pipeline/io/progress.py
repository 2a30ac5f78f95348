"""Progress with rate and time left: a bar on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

T = TypeVar("T")
Say = Callable[[str], None]
"""A receiver of messages: it is called with one message at a time."""
PLAIN_EVERY_S = 10.0
quiet = False
"""Whether nothing is shown: the commands' ``--quiet``."""


def silent(message: str) -> None:
    """Receive a message and drop it."""


def format_seconds(seconds: float) -> str:
    """A duration as a person reads it.

    >>> format_seconds(7.2), format_seconds(125), format_seconds(7500)
    ('7s', '2m05s', '2h05m')
    """
    whole = int(round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def format_bytes(n_bytes: float) -> str:
    """A number of bytes as a person reads it.

    >>> format_bytes(700), format_bytes(2560), format_bytes(3 * 2**30)
    ('700 B', '2.5 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} {unit}" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


class Progress:
    """Counts work of a known total.

    >>> with Progress("extract", total=100, unit="patches") as progress:
    ...     progress.advance(100)

    Work that was done in an earlier run is given as `done`: it counts for the share, not for the rate.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.done_before = done
        self.note = ""
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        self.started = self._last_line = time.monotonic()
        if sys.stderr.isatty() and not quiet:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[status]}"),
                console=Console(stderr=True),
                transient=False,
            )
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, status=self.status())
            self._bar.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self.elapsed_s >= 2.0 and not quiet:
            self._print_line()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def status(self) -> str:
        """For example ``1,200/5,000 patches, 850/s, 4s left``."""
        new = self.done - self.done_before
        rate = new / self.elapsed_s if self.elapsed_s > 0 else 0.0
        text = f"{self.done:,}/{self.total:,} {self.unit}"
        if new and rate:
            text += f", {rate:,.0f}/s" if rate >= 10 else f", {rate:.2f}/s"
            left = (self.total - self.done) / rate
            text += f", {format_seconds(left)} left" if left > 0 else f", {format_seconds(self.elapsed_s)}"
        return text + (f" | {self.note}" if self.note else "")

    def advance(self, n: int = 1, note: str | None = None) -> None:
        self.done += n
        if note is not None:
            self.note = note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, status=self.status())
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_S and not quiet:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        print(f"{self.what}: {self.status()}", file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    """Yield `items`, counting each as one unit of progress."""
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
