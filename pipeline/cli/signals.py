"""How a command ends on a signal: SIGTERM unwinds it as Ctrl-C does, so that nothing is left half-open.

Batch systems, containers and ``kill`` send SIGTERM; a terminal sends SIGINT. Both raise in the main
thread, both run every ``finally``, and both print how to resume. The exit code tells them apart:
128 plus the signal's number, as shells report it.

A signal that the parent has set to be ignored stays ignored. That is the convention behind ``nohup``
and behind background jobs of a shell without job control (``cmd &`` in a script): a Ctrl-C that is
meant for the job in the foreground must not end them. Such a command is ended with SIGTERM.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Libraries that clean up on Ctrl-C clean up on it, too."""


_terminated = False


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    global _terminated
    _terminated = True
    raise Terminated


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise `Terminated` in the main thread when SIGTERM arrives; restore the former handler at the end.

    Leaves SIGTERM alone where it is ignored or already handled, and outside of the main thread, which
    alone may set handlers.
    """
    global _terminated
    _terminated = False
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def raise_if_terminated() -> None:
    """Raise `Terminated` again after a library's loop has caught it and returned.

    Raises
    ------
    Terminated
    """
    if _terminated:
        raise Terminated


def exit_code_of(error: BaseException) -> int:
    """Return 143 for SIGTERM, 130 for every other interruption.

    Parameters
    ----------
    error : KeyboardInterrupt, or click's Abort, whose cause is one

    Examples
    --------
    >>> exit_code_of(Terminated()), exit_code_of(KeyboardInterrupt())
    (143, 130)
    """
    return TERMINATED if isinstance(error, Terminated) or isinstance(error.__cause__, Terminated) else INTERRUPTED
