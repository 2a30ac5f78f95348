"""Stores of many small parts from few rows, for tests that extract through a stage or a command.

Part size is a parameter of `Extraction`, and no setting. These functions bind it for all extractions that the stage
``extract`` of a process builds. Workers of engines take it from the identity of the store.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pipeline.stages.extract as stage
from pipeline.activations.extraction import Extraction

TESTS = Path(__file__).resolve().parents[1]


def bind_part_rows(part_rows: int) -> None:
    """Let the stage ``extract`` of this process make parts of so many rows, until the process ends."""
    stage.Extraction = functools.partial(Extraction, part_rows=lambda width: part_rows)


@contextmanager
def small_parts(part_rows: int) -> Iterator[None]:
    """Let the stage ``extract`` of this process make parts of so many rows, inside of a ``with`` block."""
    before = stage.Extraction
    bind_part_rows(part_rows)
    try:
        yield
    finally:
        stage.Extraction = before


def code_to_bind(part_rows: int) -> str:
    """Return a line of Python that calls `bind_part_rows` in another process."""
    return (
        f"import sys; sys.path.append({str(TESTS)!r}); "
        f"from support.small_parts import bind_part_rows; bind_part_rows({part_rows})"
    )
