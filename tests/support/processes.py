"""Commands as processes of their own, to be stopped by signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

START = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    if number in {ignored}:
        signal.signal(number, signal.SIG_IGN)
    elif number == signal.SIGINT:
        # Tests that run in the background (nohup, or a shell without job control) ignore SIGINT, and
        # children inherit that.
        signal.signal(number, signal.default_int_handler)
{before}
from pipeline.cli.main import main
main()
"""


def start_command(
    folder: Path, line: str, *, before: str = "", ignored: Sequence[int] = (), **environment: str
) -> subprocess.Popen[str]:
    """Start ``pipeline <line>`` in a folder, in a process group of its own.

    Parameters
    ----------
    before : code that runs first in the process
    ignored : signals that are ignored when the command starts, as SIGINT is under ``nohup``
    environment : variables beyond those of this process
    """
    code = START.format(ignored={int(number) for number in ignored} or "()", before=before)
    return subprocess.Popen(
        [sys.executable, "-c", code, *line.split()],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    """Wait for a process that was told to stop; exit code and standard error."""
    try:
        _, err = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, err
