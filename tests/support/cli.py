"""Commands in this process: what they print and how they end."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from pipeline.cli.main import main


@dataclass(frozen=True)
class Ended:
    """Exit code and both streams of a command."""

    code: int
    out: str
    err: str


def run_command(folder: Path, *argv: str) -> Ended:
    """Run ``pipeline *argv`` in a folder, in this process; a bug comes through as its exception."""
    out, err, before, old_argv = StringIO(), StringIO(), Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["pipeline", *argv]
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(list(argv))
    except SystemExit as exit_:
        code = exit_.code or 0
    finally:
        os.chdir(before)
        sys.argv = old_argv
    return Ended(code, out.getvalue(), err.getvalue())


def run_to_success(folder: Path, *lines: str) -> list[Ended]:
    """Run command lines one after the other; each must succeed."""
    results = []
    for line in lines:
        ended = run_command(folder, *line.split())
        assert ended.code == 0, f"{line}: {ended.err}"
        results.append(ended)
    return results
