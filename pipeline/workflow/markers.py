"""Markers: small files whose time tells Snakemake whether an output is current, where Snakemake itself cannot know.

Snakemake compares times of files, and what it noted below ``.snakemake``. It sees no changed picture, no edited
manifest, and after ``rm -rf .snakemake``, in a copied folder, or after commands by hand it takes whatever lies at a
name for the right file. So each rule has a marker as an input. When the workflow is parsed, the stage of the rule is
asked whether its output is current (`why_due`). If not, the marker becomes younger than the output, and Snakemake runs
the rule; if so, the marker becomes older than every file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.io.atomic import write_atomic
from pipeline.io.digests import digest_of
from pipeline.io.errors import PipelineError

LONG_AGO = 946_684_800  # the year 2000, in seconds since 1970
"""Time of a marker whose output is current: before any output was written."""


def set_marker(marker: Path, output: Path, state: Any, why_due: Callable[[], str | None]) -> Path:
    """Set the time of a marker so that it is younger than `output` just if that is due.

    Asking the stage reads tables, heads or scores. So the answer "current" is noted in the marker, next to a cheap
    state of all that it was given for, and is given again as long as that state stays.

    Parameters
    ----------
    state : JSON value that changes with anything on which the answer depends, such as sizes and times of inputs
    why_due : of the stage

    Returns
    -------
    marker
    """
    noted = marker.read_text(encoding="utf-8") if marker.is_file() else ""
    if not output.is_file():
        due = None  # a missing output needs no marker
        noted_now = "missing\n"
    else:
        stat = output.stat()
        noted_now = f"current {digest_of([state, str(output), stat.st_size, stat.st_mtime_ns])}\n"
        due = None if noted == noted_now else _ask(why_due)
        if due is not None:
            noted_now = f"due: {due}\n"
    if noted != noted_now:
        write_atomic(marker, noted_now.encode())
    at = LONG_AGO * 10**9 if due is None else _younger_than(output)
    os.utime(marker, ns=(at, at))
    return marker


def _younger_than(output: Path) -> int:
    """Return now, or a time after that of an output from the future, as after the clock was set back; nanoseconds."""
    return max(time.time_ns(), output.stat().st_mtime_ns + 10**9)


def _ask(why_due: Callable[[], str | None]) -> str | None:
    try:
        return why_due()
    except PipelineError as error:
        return str(error).partition("\n")[0]


def state_of_files(*paths: Path) -> list[list[int] | None]:
    """Return sizes and times of files, None for those that are missing."""
    states: list[list[int] | None] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            states.append(None)
        else:
            states.append([stat.st_size, stat.st_mtime_ns])
    return states
