"""Result files as commands leave them."""

import pytest
from support.cli import run_command
from support.worked import work

__all__ = ["work"]


@pytest.fixture(scope="session")
def run_in():
    """``run_in(folder, *argv)`` runs a command in any folder."""
    return run_command
