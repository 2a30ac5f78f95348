"""Commands that a signal stops: real processes, real signals, also where SIGINT is ignored from the start."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml
from support.cli import run_command
from support.processes import end, start_command
from support.small_parts import code_to_bind, small_parts
from support.waiting import wait_for

from pipeline.cli import signals

EXTRACT = "extract --dataset tiny --split train --config config.yaml"
RESUME = "interrupted: what is recorded is kept; start the same command again to resume"
HELD = """
import pathlib, time
from pipeline.activations.writer import StoreWriter
write_part = StoreWriter.write_part
def held_write(self, part, *arguments):
    while part.index == 3 and not pathlib.Path("released").exists():
        pathlib.Path("held").touch()
        time.sleep(0.02)
    write_part(self, part, *arguments)
StoreWriter.write_part = held_write
"""
"""The fourth of seven parts is written when the file ``released`` appears."""


@pytest.fixture
def held_extract(new_work):
    """``held_extract(*ignored)``: an extraction that has recorded three of seven parts and waits."""
    config = new_work / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "batch": 16}))

    def start(*ignored: int) -> subprocess.Popen[str]:
        process = start_command(new_work, EXTRACT, before=f"{code_to_bind(16)}\n{HELD}", ignored=ignored)
        wait_for(lambda: (new_work / "held").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process

    return start


def records(work: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in work.glob("cache/tiny-train-*.zarr/integrity/part-*.json")}


@pytest.mark.parametrize(
    ("ignored", "sent", "code"),
    [
        ((), [signal.SIGINT], 130),
        pytest.param((), [signal.SIGTERM], 143, marks=pytest.mark.long),
        ((signal.SIGINT,), [signal.SIGINT, signal.SIGTERM], 143),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM under nohup"],
)
def test_a_stopped_extraction_keeps_its_parts_and_resumes(held_extract, new_work, ignored, sent, code):
    process = held_extract(*ignored)
    for number in sent:
        assert process.poll() is None
        process.send_signal(number)
        time.sleep(0.2)
    (new_work / "released").touch()

    exit_code, err = end(process)

    assert exit_code == code, err
    assert err.splitlines()[-1] == RESUME
    assert "Traceback" not in err
    recorded = records(new_work)
    # What was being written is either complete or not there.
    assert 3 <= len(recorded) < 7
    with small_parts(16):
        again = run_command(new_work, *EXTRACT.split())
    assert again.code == 0, again.err
    assert f", {len(recorded)} of 7 parts " in again.err
    assert recorded.items() <= records(new_work).items()
    assert not list((new_work / "cache").glob(".partial/*.partial"))


def test_an_ignored_sigterm_stays_ignored(held_extract, new_work):
    process = held_extract(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    (new_work / "released").touch()

    assert end(process)[0] == 130


@pytest.mark.parametrize(
    ("ignored", "sent", "code"),
    [((), [signal.SIGINT], 0), ((signal.SIGINT,), [signal.SIGINT, signal.SIGTERM], 143)],
    ids=["Ctrl-C", "SIGTERM under nohup"],
)
def test_the_page_stops(stepped, ignored, sent, code):
    process = start_command(stepped[0], "serve --dataset tiny --port 0 --config config.yaml", ignored=ignored)
    line = process.stderr.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert address, line
    for number in sent:
        with urllib.request.urlopen(address[0], timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(number)

    exit_code, err = end(process)

    assert exit_code == code, err
    assert "Traceback" not in err
    assert err.rstrip().endswith(RESUME if code else "")


def test_a_shell_that_ignores_sigint_can_still_terminate(begun):
    """As ``(trap '' INT; pipeline ... &)``: here the shell, not Python, ignores the signal."""
    code = (
        "import os, signal, time\n"
        "from pipeline.cli import signals\n"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
        "with signals.sigterm_as_interrupt():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt as error:\n"
        "        raise SystemExit(signals.exit_code_of(error))\n"
    )
    line = f"trap '' INT; exec {shlex.join([sys.executable, '-c', code])}"

    assert subprocess.run(["sh", "-c", line], cwd=begun, timeout=60).returncode == 143


def test_the_former_handler_is_back_after_a_command():
    before = signal.getsignal(signal.SIGTERM)
    with signals.sigterm_as_interrupt():
        inside = signal.getsignal(signal.SIGTERM)

    assert signal.getsignal(signal.SIGTERM) is before
    assert (inside is before) == (before is not signal.SIG_DFL)


def test_sigterm_while_workers_start_leaves_none(new_work):
    process = start_command(new_work, f"{EXTRACT} --scheduler local:2", before=code_to_bind(16))
    command = psutil.Process(process.pid)
    wait_for(lambda: len(command.children(recursive=True)) > 1 or process.poll() is not None)
    children = command.children(recursive=True)
    process.terminate()

    exit_code, err = end(process)

    assert exit_code == 143, err
    assert err.splitlines()[-1] == RESUME
    assert "Traceback" not in err and "distributed" not in err
    assert children
    wait_for(lambda: not any(child.is_running() for child in children), seconds=10)
