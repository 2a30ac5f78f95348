"""Work folders for the real Snakemake: one run from nothing with the commands themselves, and copies of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.once import made_once
from support.workflow import Finished, Work, copy_work, make_work


@pytest.fixture(scope="session")
def first_run(tmp_path_factory) -> tuple[Work, Finished]:
    """One run from nothing to ``results/tiny_map.json``, each command a new interpreter. Not to be changed."""

    def run(folder: Path) -> None:
        finished = make_work(folder / "work").snakemake()
        assert finished.code == 0, finished.output

    path = made_once(tmp_path_factory, "workflow", run) / "work"
    return Work(path), Finished(0, (path / "output.txt").read_text(), 0.0)


@pytest.fixture
def new_work(tmp_path, warm) -> Work:
    """A work folder in which nothing ran yet."""
    return make_work(tmp_path / "work", warm)


@pytest.fixture
def cold_work(first_run, tmp_path) -> Work:
    """The same, each command a new interpreter."""
    return copy_work(first_run[0], tmp_path / "work")


@pytest.fixture
def finished_work(first_run, tmp_path, warm) -> Work:
    """A copy of the work folder of the first run, with all times."""
    return copy_work(first_run[0], tmp_path / "work", warm)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[None]:
    """A real SLURM on this machine, in a process that ends it with its input: also where pytest is killed."""
    sudo = ["sudo", "-n"]
    if os.geteuid() == 0 or shutil.which("sudo") is None or subprocess.run([*sudo, "true"]).returncode != 0:
        sudo = []
    command = [*sudo, sys.executable, str(Path(__file__).with_name("slurm_cluster.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        said = process.stdout.readline().strip()
        if said == "ready":
            yield
            return
        cannot_here = process.wait() == 3
    if cannot_here and os.environ.get("CI") != "true":
        pytest.skip(said)
    pytest.fail(said or "the test cluster did not start; its logs are on standard error")
