"""Fixtures about torch's threads, to be imported into a room's ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread for each test of a module: networks this small only wait for one another on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def same_threads_after() -> Iterator[None]:
    """Restore the number of threads, which commands in this process set."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
