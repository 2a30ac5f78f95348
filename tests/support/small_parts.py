"""Stores of many small parts from few rows, for tests that extract through a stage or a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.activations import extraction

TESTS = Path(__file__).resolve().parents[1]


def bind_part_rows(part_rows: int) -> None:
    """Let this process make parts of so many rows, until it ends."""
    extraction.rows_a_part = lambda width: part_rows


@contextmanager
def small_parts(part_rows: int) -> Iterator[None]:
    """Let this process make parts of so many rows, inside of a ``with`` block."""
    before = extraction.rows_a_part
    bind_part_rows(part_rows)
    try:
        yield
    finally:
        extraction.rows_a_part = before


def code_to_bind(part_rows: int) -> str:
    """Return a line of Python that calls `bind_part_rows` in another process."""
    return (
        f"import sys; sys.path.append({str(TESTS)!r}); "
        f"from support.small_parts import bind_part_rows; bind_part_rows({part_rows})"
    )
