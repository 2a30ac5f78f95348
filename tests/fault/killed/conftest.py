"""Work folders to kill processes in, and the count of kills."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import kills
import pytest
from kills import EXTRACT, EXTRACT_VAL, FIT, SCORE, Tally, Work


@pytest.fixture(scope="session", autouse=True)
def server() -> Iterator[None]:
    with kills.server():
        yield


@pytest.fixture(scope="session")
def tally() -> Iterator[Tally]:
    found = Tally()
    yield found
    print(f"\n{found}")
    if path := os.environ.get("PIPELINE_KILLS_JSON"):
        Path(path).write_text(json.dumps(found.as_json(), indent=2) + "\n")


@pytest.fixture(scope="session")
def fast_folder() -> Iterator[Path]:
    """A folder in memory, where there is one: to a killed process it is a disk like any other."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**28
    with tempfile.TemporaryDirectory(prefix="pipeline-kills-", dir=memory if usable else None) as folder:
        yield Path(folder)


@pytest.fixture
def folder(fast_folder) -> Iterator[Path]:
    """As `tmp_path`, but in memory."""
    path = Path(tempfile.mkdtemp(dir=fast_folder))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def untouched(fast_folder) -> Work:
    """A work folder with both tables and no store."""
    work = kills.make_work(fast_folder / "untouched")
    kills.complete(work, *(f"patches --dataset tiny --split {s} --config config.yaml" for s in ("train", "val")))
    return work


@pytest.fixture(scope="session")
def finished(untouched, fast_folder) -> tuple[Work, dict[str, float]]:
    """The same after every command, uninterrupted; and the seconds of each."""
    work = untouched.copy(fast_folder / "finished")
    return work, {command: kills.complete(work, command) for command in (EXTRACT, EXTRACT_VAL, FIT, SCORE)}


@pytest.fixture(scope="session")
def two_parts(fast_folder) -> Work:
    """A work folder in which the pictures of ``val``, as wholes, make four rows: two parts of two."""
    work = kills.make_work(fast_folder / "two parts", source="whole", batch=2)
    kills.complete(work, "patches --dataset tiny --split val --config config.yaml")
    return work
