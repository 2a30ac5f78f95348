"""Progress with rate and time left, and messages: a bar on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from pipeline.io.numbers import format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

T = TypeVar("T")
Say = Callable[[str], None]
"""A receiver of messages: it is called with one message at a time."""
PLAIN_EVERY_S = 10.0
quiet = False
"""Whether progress is hidden: the commands' ``--quiet``."""


def silent(message: str) -> None:
    """Receive a message and drop it."""


class Progress:
    """Show the progress of work of a known total.

    >>> with Progress("extract", total=100, unit="patches") as progress:
    ...     progress.advance(100)

    Parameters
    ----------
    done : work of an earlier run, which counts for the share and not for the rate
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
        """Seconds since the progress was entered."""
        return time.monotonic() - self.started

    def status(self) -> str:
        """Describe the progress, for example ``1,200/5,000 patches, 850/s, 4s left``."""
        new = self.done - self.done_before
        rate = new / self.elapsed_s if self.elapsed_s > 0 else 0.0
        text = f"{self.done:,}/{self.total:,} {self.unit}"
        if new and rate:
            text += f", {rate:,.0f}/s" if rate >= 10 else f", {rate:.2f}/s"
            left = (self.total - self.done) / rate
            text += f", {format_seconds(left)} left" if left > 0 else f", {format_seconds(self.elapsed_s)}"
        return text + (f" | {self.note}" if self.note else "")

    def advance(self, n: int = 1, note: str | None = None) -> None:
        """Count `n` more units as done; `note` is shown after the rate from now on."""
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
