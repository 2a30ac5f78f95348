"""A tiny dataset in a work folder, commands in and out of this process, a dask cluster, an S3 server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from support.cli import Ended, run_command, run_to_success
from support.dataset import CONFIG as TINY_CONFIG
from support.dataset import make_dataset, make_movable
from support.once import made_once
from support.processes import start_command
from support.s3 import bucket, new_connections  # noqa: F401
from support.small_parts import code_to_bind
from support.small_parts import small_parts as bound_parts
from support.threads import same_threads_after  # noqa: F401
from support.waiting import wait_for

PART_ROWS = 16  # of 102 rows: seven parts
CONFIG = {**TINY_CONFIG, "batch": 16}
SMALL_PARTS = f"""
import os
{code_to_bind(PART_ROWS)}
if "ENGINE_FLAGS" in os.environ:
    import engine_flags
"""
"""A command with small parts; its workers are told, by the identity, how large parts are."""

FLAGGED = """
import sys
if any("spawn_main" in part for part in sys.orig_argv):
    import engine_flags
"""
"""Of all Python processes only workers, which multiprocessing spawns."""

FLAGS = """
import os, pathlib, signal, time
import pipeline.stages.extract as stage, pipeline.stages.runner as runner_stage
from pipeline.activations import folder, parts, trunk_identity

flags = pathlib.Path(os.environ["ENGINE_FLAGS"])
make_runner, load_trunk, version = stage.make_runner, runner_stage.load_trunk, trunk_identity.VERSION
make, writes = parts.PartMaker.make, {kind: kind.write for kind in (folder.LocalFolder, folder.RemoteFolder)}

def flagged_runner(ws, dataset=None, **options):
    trunk_identity.VERSION = 99 if (flags / "other-version").exists() else version
    if (flags / "other-precision").exists():
        ws = type(ws)(ws.settings.model_copy(update={"precision": "bf16"}))
    return make_runner(ws, dataset, **options)

def note(file, text):
    with open(flags / file, "a") as lines:
        lines.write(f"{text}\\n")

def counted_load(name, layer, weights, seed, **options):
    note("loads", os.getpid())
    return load_trunk(name, layer, weights, seed + (flags / "other-weights").exists(), **options)

def deadly_write(self, name, data):
    writes[type(self)](self, name, data)
    note("writes", name)
    for flag in flags.glob("die-at-*"):
        if flag.read_text() == name:
            if "once" in flag.name:
                flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

def held_make(self, task, *rest):
    while (flags / "hold").exists() and task.part.index >= 2:
        time.sleep(0.02)
    make(self, task, *rest)

stage.make_runner, runner_stage.load_trunk = flagged_runner, counted_load
folder.LocalFolder.write = folder.RemoteFolder.write = deadly_write
parts.PartMaker.make = held_make
"""
"""What a flag, a file in the folder ENGINE_FLAGS, does to whoever makes parts: see `flags`."""


class Work:
    """A work folder with a manifest, pictures and settings."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, line: str) -> Ended:
        """A command line, in this process, with the settings of ``config.yaml``."""
        return run_command(self.path, *line.split(), "--config", "config.yaml")

    def start(self, line: str, **environment: str) -> subprocess.Popen[str]:
        """The same as a process of its own, in a group of its own."""
        return start_command(self.path, f"{line} --config config.yaml", before=SMALL_PARTS, **environment)

    def store(self, stores: str = "cache", split: str = "train") -> Path:
        """The one store of a split in a folder."""
        (path,) = (self.path / stores).glob(f"tiny-{split}-*.zarr")
        return path

    def bytes(self, stores: str = "cache", split: str = "train") -> dict[str, bytes]:
        """Every file of that store."""
        store = self.store(stores, split)
        return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}

    def records(self) -> dict[str, int]:
        """Time of each record that is there."""
        found = (self.path / "cache").glob("tiny-train-*.zarr/integrity/part-*.json")
        return {path.name: path.stat().st_mtime_ns for path in sorted(found)}


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    with bound_parts(PART_ROWS):
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Work:
    """Dataset, manifest, settings and patch tables; not to be changed by a test."""
    path = tmp_path_factory.mktemp("engines") / "base"
    make_dataset(path / "data/tiny")
    (path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    run_to_success(path, "data new --root data/tiny --name tiny")
    make_movable(path)
    made = Work(path)
    for split in ("train", "val"):
        ended = made.run(f"patches --dataset tiny --split {split}")
        assert ended.code == 0, ended.err
    return made


@pytest.fixture
def work(base, tmp_path) -> Work:
    """A work folder in which nothing ran yet."""
    shutil.copytree(base.path, tmp_path / "work")
    return Work(tmp_path / "work")


@pytest.fixture(scope="session")
def job_lines() -> tuple[str, ...]:
    """The whole job, step by step."""
    return (
        "extract --dataset tiny --split train",
        "extract --dataset tiny --split val",
        "fit-head --dataset tiny --head fca",
        "score --dataset tiny --head fca",
        "evaluate --dataset tiny --head fca --output results/tiny_map.json",
    )


@pytest.fixture(scope="session")
def on_disk(base, job_lines, tmp_path_factory) -> Work:
    """The whole job in one process and on a disk: what all else is compared with; not to be changed by a test."""

    def make(folder: Path) -> None:
        done = Work(shutil.copytree(base.path, folder / "work"))
        with bound_parts(PART_ROWS):
            for line in job_lines:
                ended = done.run(line)
                assert ended.code == 0, ended.err

    return Work(made_once(tmp_path_factory, "on_disk", make) / "work")


# --- dask


@pytest.fixture(scope="session")
def flag_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="session")
def flagged(tmp_path_factory, flag_folder) -> dict[str, str]:
    """Environment of processes that obey flags, as their workers do."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(FLAGGED)
    (site / "engine_flags.py").write_text(FLAGS)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "ENGINE_FLAGS": str(flag_folder)}


@pytest.fixture
def flags(flag_folder) -> Iterator[Path]:
    """Folder of flags for whoever makes parts.

    ``hold``: parts from the third on wait; ``die-at-...`` with a file's name in it: SIGKILL after that
    file is written, with ``once`` in the flag's name the first time only; ``other-version``,
    ``other-precision``, ``other-weights``: would make another store. They write ``loads``, a line a
    trunk that is loaded, and ``writes``, a line a file that is written.
    """
    yield flag_folder
    for path in flag_folder.iterdir():
        path.unlink()


@dataclass(frozen=True)
class Cluster:
    """A dask scheduler and two workers, processes of their own."""

    address: str
    folder: Path
    log: Path


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, flagged) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    log = folder / "output.txt"
    environment = {**os.environ, **flagged, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    dask = [sys.executable, "-m", "dask"]
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    worker = ["worker", "--host", "127.0.0.1", "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    started = []
    with open(log, "w") as output:
        for command in (scheduler, worker):
            arguments = [*dask, *command, "--scheduler-file", str(folder / "scheduler.json")]
            started.append(
                subprocess.Popen(
                    arguments,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )
            wait_for(lambda: (folder / "scheduler.json").is_file(), log.read_text)
    try:
        wait_for(lambda: log.read_text().count("Registered to:") >= 2, log.read_text)
        yield Cluster(json.loads((folder / "scheduler.json").read_text())["address"], folder, log)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    """Wait until a condition holds."""
    return wait_for
