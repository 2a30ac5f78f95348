"""Commands run in this process, in a work folder with a tiny dataset; what they print and how they end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.cli import Ended, run_command
from support.worked import new_work, run, run_new, work

__all__ = ["new_work", "run", "run_new", "work"]


@pytest.fixture(scope="session")
def run_in() -> Callable[..., Ended]:
    """``run_in(folder, *argv)`` runs a command in any folder."""
    return run_command
