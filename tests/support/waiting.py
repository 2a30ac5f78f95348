"""Waiting for other processes."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], explain: Callable[[], str] = str, seconds: float = 90) -> None:
    """Wait until a condition holds; fail with `explain` where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
