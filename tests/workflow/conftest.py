"""A tiny dataset in a work folder of its own, and the real Snakemake on it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from support.dataset import CONFIG, make_dataset, make_movable

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = "results/tiny_map.json"
SETTINGS = ("trunk=random", "grid={scales: [1.0, 2.0], overlap: 0.5}", "precision=fp32", "threads=1")


@dataclass(frozen=True)
class Finished:
    """What a process left: exit code, everything it printed, seconds."""

    code: int
    output: str
    seconds: float

    @property
    def jobs(self) -> list[str]:
        """Rules in the order in which they ran (or would run), each with its split or head."""
        found = []
        for block in re.split(r"\n(?=(?:local)?rule )", self.output)[1:]:
            name = re.match(r"(?:local)?rule (\w+):", block)[1]
            wildcards = dict(re.findall(r"(\w+)=([\w.-]+)", (re.search(r"wildcards: (.*)", block) or [""] * 2)[1]))
            found.append(" ".join([name, *(wildcards[key] for key in ("split", "head", "recipe") if key in wildcards)]))
        return found


class Work:
    """A work folder with the workflow of this checkout and a dataset ``tiny`` of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pictures = path / "data/tiny/JPEGImages"
        self.annotations = path / "data/tiny/Annotations"
        self.settings = list(SETTINGS)

    def environment(self, sitecustomize: str | None) -> dict[str, str]:
        """The interpreter's own commands first in PATH; `sitecustomize` runs first in every Python process."""
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
        for name in [name for name in env if name.startswith(("PIPELINE_DATA", "SNAKEMAKE_", "SLURM_", "SBATCH_"))]:
            del env[name]
        if sitecustomize is not None:
            folder = self.path / "site"
            folder.mkdir(exist_ok=True)
            (folder / "sitecustomize.py").write_text(sitecustomize)
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        return env

    def start(self, *arguments: str, sitecustomize: str | None = None) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own; everything it prints goes to ``output.txt``."""
        command = ["snakemake", "--cores", "2", *arguments, "--configfile", "config.yaml", "--config", *self.settings]
        with open(self.path / "output.txt", "w") as output:
            return subprocess.Popen(
                command,
                cwd=self.path,
                env=self.environment(sitecustomize),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def snakemake(self, *arguments: str, sitecustomize: str | None = None, timeout_s: float = 200) -> Finished:
        """Run Snakemake to its end."""
        started = time.monotonic()
        process = self.start(*(arguments or (TARGET,)), sitecustomize=sitecustomize)
        try:
            code = process.wait(timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Finished(code, (self.path / "output.txt").read_text(), time.monotonic() - started)

    def stores(self, split: str) -> list[Path]:
        return sorted((self.path / "cache").glob(f"tiny-{split}-*.zarr"))

    def trunk_runs(self, split: str) -> int:
        """How often the trunk ran over a split: lines in the logs beside its stores."""
        logs = (self.path / "cache").glob(f"tiny-{split}-*.log.jsonl")
        return sum(len(log.read_text().splitlines()) for log in logs)

    def touched(self, folder: Path) -> dict[str, int]:
        """Modification time of every file below a folder."""
        return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def make_work(path: Path) -> Work:
    path.mkdir()
    for name in ("Snakefile", "stages", "profiles", "envs"):
        (path / name).symlink_to(CHECKOUT / name)
    shutil.copytree(CHECKOUT / "data_manifests", path / "data_manifests")
    make_dataset(path / "data/tiny")
    work = Work(path)
    command = ["pipeline", "data", "new", "--root", "data/tiny", "--name", "tiny"]
    subprocess.run(command, cwd=path, env=work.environment(None), check=True, capture_output=True)
    make_movable(path)
    (path / "config.yaml").write_text(yaml.safe_dump({"heads": CONFIG["heads"]}))
    return work


@pytest.fixture(scope="session")
def first_run(tmp_path_factory) -> tuple[Work, Finished]:
    """One run from nothing to ``results/tiny_map.json``; not to be changed by a test."""
    work = make_work(tmp_path_factory.mktemp("workflow") / "finished")
    finished = work.snakemake()
    assert finished.code == 0, finished.output
    return work, finished


@pytest.fixture
def new_work(tmp_path) -> Work:
    """A work folder in which nothing ran yet."""
    return make_work(tmp_path / "work")


@pytest.fixture
def finished_work(first_run, tmp_path) -> Work:
    """A copy of the work folder of the first run, with all times."""
    path = tmp_path / "work"
    shutil.copytree(first_run[0].path, path, symlinks=True)
    return Work(path)


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
