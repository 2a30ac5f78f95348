"""A tiny dataset in a work folder of its own, the real Snakemake on it, and what its runs left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.scoring.scores_file import SplitScores, load_scores
from support.cli import run_to_success
from support.dataset import CONFIG, make_dataset, make_movable

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = "results/tiny_map.json"
NOTHING = "Nothing to be done"
SETTINGS = ("trunk=random", "grid={scales: [1.0, 2.0], overlap: 0.5}", "precision=fp32", "threads=1")
LABELS_OF_ALL_BALLS = np.array([[0, -1], [0, -1], [0, 1], [0, -1]])
"""If picture 1 of val shows a ball as well: balls have no negative picture, so no AP."""


@dataclass(frozen=True)
class Finished:
    """What a process left: exit code, everything it printed, seconds."""

    code: int
    output: str
    seconds: float

    @property
    def jobs(self) -> list[str]:
        """Rules in the order in which they ended (or would run), each with its split, head or recipe."""
        planned = re.search(r"(?<=to run: )(.*?)This was a dry-run", self.output, re.DOTALL)
        if planned:
            names = re.findall(r"\n([^\n:]+): ", planned[1])
        else:
            names = re.findall(r"^(?:\d+/\d+ done: (.*)|error: (.*) failed)$", self.output, re.MULTILINE)
        words = [(each if planned else "".join(each)).split() for each in names]
        return [" ".join([rule, *(word for word in rest if "/" not in word)]) for rule, _, *rest in words]


class Work:
    """A work folder with the workflow of this checkout and a dataset ``tiny`` of its own.

    Parameters
    ----------
    programs : folder of warm commands; without it, each command is a new interpreter
    """

    def __init__(self, path: Path, programs: Path | None = None) -> None:
        self.path = path
        self.programs = programs
        self.pictures = path / "data/tiny/JPEGImages"
        self.annotations = path / "data/tiny/Annotations"
        self.settings = list(SETTINGS)

    def environment(self, sitecustomize: str | None) -> dict[str, str]:
        """These commands first in PATH; `sitecustomize` runs in every process, before it imports the pipeline."""
        programs = self.programs or Path(sys.executable).parent
        env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "NO_COLOR": "1"}
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
        env = self.environment(sitecustomize)
        program = shutil.which("snakemake", path=env["PATH"])
        command = [program, "--cores", "2", *arguments, "--configfile", "config.yaml", "--config", *self.settings]
        with open(self.path / "output.txt", "w") as output:
            return subprocess.Popen(
                command,
                cwd=self.path,
                env=env,
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

    def result(self, name: str = TARGET) -> dict[str, Any]:
        return json.loads((self.path / name).read_text())

    def scores(self) -> SplitScores:
        return load_scores(self.path / self.result()["paths"]["scores"])

    def touched(self, folder: Path) -> dict[str, int]:
        """Modification time of every file below a folder."""
        return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def make_work(path: Path, programs: Path | None = None) -> Work:
    path.mkdir()
    for name in ("Snakefile", "stages", "profiles", "envs"):
        (path / name).symlink_to(CHECKOUT / name)
    shutil.copytree(CHECKOUT / "data_manifests", path / "data_manifests")
    make_dataset(path / "data/tiny")
    work = Work(path, programs)
    run_to_success(path, "data new --root data/tiny --name tiny")
    make_movable(path)
    (path / "config.yaml").write_text(yaml.safe_dump({"heads": CONFIG["heads"]}))
    return work


def copy_work(work: Work, path: Path, programs: Path | None = None) -> Work:
    """Copy a work folder, with all times."""
    shutil.copytree(work.path, path, symlinks=True)
    return Work(path, programs)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
