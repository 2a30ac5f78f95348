"""Parts as tasks of dask.distributed, with real schedulers and workers: the same bytes, whoever makes them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import distributed
import psutil
import pytest
from support.torture import TORTURE

from pipeline.activations import dask_engine
from pipeline.activations.dask_engine import DaskEngine
from pipeline.activations.partition import Part
from pipeline.activations.parts import PartTask
from pipeline.io.digests import DigestMemory, FileState
from pipeline.io.errors import PipelineError
from pipeline.stages import extract
from pipeline.stages.context import RunContext
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace

EXTRACT = "extract --dataset tiny --split train --scheduler"


def workers_of(process):
    """Worker processes that a process started; multiprocessing's own helper is none."""
    return [child for child in process.children() if "spawn_main" in command_line(child)]


def command_line(process):
    """The command line of a process, and nothing of one that ends while it is asked."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie too
        return ""


# --- the same bytes


# Tests below compare the bytes of one and of two workers.
@pytest.mark.parametrize("n", [1, 2, 4, 7] if TORTURE else [4])
def test_workers_of_this_machine_make_the_same_bytes(work, on_disk, n):
    ended = work.run(f"{EXTRACT} local:{n}")
    assert ended.code == 0, ended.err
    assert f": {n} worker(s)\n" in ended.err
    assert work.store().name == on_disk.store().name
    assert work.bytes() == on_disk.bytes()
    assert workers_of(psutil.Process()) == []


@pytest.mark.long
def test_workers_take_over_the_rows_of_a_store_in_another_folder(work, on_disk):
    listed = work.path / "data/tiny/ImageSets/Main/train.txt"
    ids = listed.read_text()
    listed.write_text("\n".join(ids.split()[1:]) + "\n")
    assert work.run(f"{EXTRACT} local:1 --stores before").code == 0
    listed.write_text(ids)
    with open(work.path / "config.yaml", "a") as settings:
        settings.write("adopt_from: [before]\n")
    ended = work.run(f"{EXTRACT} local:2")
    assert ended.code == 0, ended.err
    assert "rows are taken over from tiny-train-" in ended.err
    assert work.bytes() == on_disk.bytes()
    receipt = json.loads(next((work.path / "cache/receipts").glob("tiny-train-*.json")).read_text())
    (adopted,) = receipt["adopted"].values()
    assert 0 < adopted < receipt["rows"]


def test_no_more_workers_than_parts(on_disk, tmp_path):
    work = type(on_disk)(shutil.copytree(on_disk.path, tmp_path / "work"))
    for name in ("seal", "part-00003"):
        (work.store() / f"integrity/{name}.json").unlink()
    ended = work.run(f"{EXTRACT} local:64")
    assert ended.code == 0, ended.err
    assert ": 1 worker(s)\n" in ended.err
    assert work.bytes() == on_disk.bytes()


def test_workers_elsewhere_make_the_same_bytes_and_load_one_trunk_each(work, on_disk, cluster, flags):
    ended = work.run(f"{EXTRACT} {cluster.address}")
    assert ended.code == 0, ended.err
    assert work.bytes() == on_disk.bytes()
    loads = (flags / "loads").read_text().split()
    assert len(loads) == len(set(loads)) == 2
    # Paths are absolute: nothing came to be in the folder that the workers were started in.
    assert not list(cluster.folder.glob("**/*.zarr"))


def test_the_same_workers_write_to_where_each_run_wants_it(work, on_disk, cluster, flags):
    # The same store, by its name, in two places: no worker may hold on to the first.
    for place in ("first", "second"):
        ended = work.run(f"{EXTRACT} {cluster.address} --stores {place}")
        assert ended.code == 0, ended.err
        assert work.bytes(place) == on_disk.bytes()


def test_workers_make_several_layers_from_one_pass(work, on_disk, cluster, flags):
    ended = work.run(f"{EXTRACT} {cluster.address} --layers pool5,fc7")
    assert ended.code == 0, ended.err
    pool5, fc7 = (work.path / line for line in ended.out.splitlines() if line.startswith("cache/"))
    assert {p.relative_to(fc7).as_posix(): p.read_bytes() for p in fc7.rglob("*") if p.is_file()} == on_disk.bytes()
    loads = (flags / "loads").read_text().split()
    assert len(loads) == len(set(loads)) == 2

    shutil.copytree(pool5, work.path / "kept")
    shutil.rmtree(pool5)
    assert work.run("extract --dataset tiny --split train --layer pool5").code == 0
    again = {p.relative_to(pool5).as_posix(): p.read_bytes() for p in pool5.rglob("*") if p.is_file()}
    kept = work.path / "kept"
    assert again == {p.relative_to(kept).as_posix(): p.read_bytes() for p in kept.rglob("*") if p.is_file()}


# --- the same configuration


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("other-version", r"how\.extractor: got '99\.\d+', expected '\d+\.\d+'"),
        ("other-precision", r"how\.precision: got 'cpu-bf16', expected 'cpu-fp32'"),
        ("other-weights", r"how\.weights: got '\w{64}', expected '\w{64}'"),
    ],
)
def test_worker_that_would_make_another_store_refuses(work, cluster, flags, flag, field):
    (flags / flag).touch()
    ended = work.run(f"{EXTRACT} {cluster.address}")
    assert ended.code == 2
    message = ended.err[ended.err.index("error: ") :]
    assert re.match(
        rf"error: worker \S+: would make other activations than were asked for\n  - {field}\nuse workers with", message
    ), message
    assert len(message.splitlines()) == 3
    assert work.records() == {}


# --- workers that die


def test_killed_worker_costs_its_part_only(work, on_disk, cluster, flags):
    (flags / "die-at-once").write_text("picture/c/4")
    ended = work.run(f"{EXTRACT} {cluster.address}")
    assert ended.code == 0, ended.err
    assert not (flags / "die-at-once").exists()
    assert work.bytes() == on_disk.bytes()
    written = Counter((flags / "writes").read_text().split())
    again = {name for name, n in written.items() if n > 1}
    assert again >= {"activations/c/4/0", "picture/c/4"}
    # On a busy machine dask may hand one more part to the other worker, while the message that it is done is lost.
    others = {re.search(r"(\d+)", name)[1].lstrip("0") for name in again if not name.endswith(("c/4", "c/4/0"))}
    assert len(others) <= 1, again


def test_part_that_kills_each_worker_ends_in_one_message(work, on_disk, cluster, flags):
    (flags / "die-at-each-time").write_text("picture/c/4")
    ended = work.run(f"{EXTRACT} {cluster.address}")
    assert ended.code == 2
    message = ended.err[ended.err.index("error: ") :]
    assert re.match(r"error: part \d: 2 workers died while it was theirs, the last one at tcp://\S+; out", message)
    assert "recorded parts stay" in message and len(message.splitlines()) == 1
    kept = work.records()
    assert "part-00004.json" not in kept

    (flags / "die-at-each-time").unlink()
    assert work.run(f"{EXTRACT} {cluster.address}").code == 0
    assert kept.items() <= work.records().items()
    assert work.bytes() == on_disk.bytes()


def test_lost_scheduler_ends_in_one_message(work, tmp_path, wait, monkeypatch):
    port_file = tmp_path / "scheduler.json"
    command = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", port_file]
    process = subprocess.Popen([sys.executable, "-m", "dask", *command], stderr=subprocess.DEVNULL)
    said = []

    def say(text):
        said.append(text)
        if "the parts wait for workers; start one with: dask worker tcp://127.0.0.1" in text:
            process.kill()

    try:
        wait(lambda: port_file.is_file() and port_file.read_text())
        address = json.loads(port_file.read_text())["address"]
        monkeypatch.chdir(work.path)
        monkeypatch.setattr(dask_engine, "CONNECT_S", 2)
        settings = RunSettings(trunk="random", precision="fp32", threads=1, batch=16)
        context = RunContext(Workspace(settings), "tiny", say, scheduler=address)
        inputs = extract.open_inputs(context, "train")
        with pytest.raises(PipelineError, match=r"scheduler tcp://.*: the connection was lost; recorded parts stay"):
            extract.make(context, inputs)
    finally:
        process.kill()
        process.wait()
    assert "0 worker(s)" in "".join(said)


# --- what a user can mend


@pytest.mark.long
def test_changed_picture_is_one_message_and_ends_the_workers(work, capfd):
    # Behind the back of everything but the digest: its new state is remembered with the old one.
    picture = work.path / "data/tiny/JPEGImages/p5.png"
    memory = DigestMemory(work.path / "cache/file-digests.sqlite")
    (digest,), before = memory.digests([picture]), picture.read_bytes()
    with open(picture, "r+b") as stream:
        stream.write(before[:-20] + bytes([before[-20] ^ 1]) + before[-19:])
    memory.remember({FileState.of(picture): digest})

    ended = work.run(f"{EXTRACT} local:2")

    assert ended.code == 2
    message = ended.err[ended.err.index("error: ") :]
    assert re.match(r"error: p5: /.*/p5\.png: changed since the patch table was made; make the patch table", message)
    assert len(message.splitlines()) == 1
    output = ended.err + capfd.readouterr().err
    assert "Traceback" not in output and "distributed" not in output
    assert workers_of(psutil.Process()) == []


@pytest.mark.parametrize("scheduler", ["local:0", "local:x", "local:-1", "local:", "nonsense"])
def test_scheduler_that_is_none(work, scheduler):
    ended = work.run(f"{EXTRACT} {scheduler}")
    assert ended.code == 2
    assert ended.err.startswith(f"error: scheduler '{scheduler}': expected local:N (N worker processes")


@pytest.mark.parametrize("scheduler", ["smoke://127.0.0.1:1", "tcp://127.0.0.1"])
def test_address_that_is_none(work, scheduler):
    ended = work.run(f"{EXTRACT} {scheduler}")
    assert ended.code == 2
    assert f"error: scheduler '{scheduler}': " in ended.err


def test_scheduler_that_does_not_answer(work, monkeypatch):
    assert dask_engine.CONNECT_S == 30
    monkeypatch.setattr(dask_engine, "CONNECT_S", 0.5)
    ended = work.run(f"{EXTRACT} tcp://127.0.0.1:1")
    assert ended.code == 2
    assert "error: scheduler tcp://127.0.0.1:1: cannot be reached: " in ended.err
    assert ended.err.splitlines()[-1].endswith("; is it running?")


# --- devices


@pytest.fixture
def on_gpu():
    """An engine whose tasks need a GPU, two tasks, and makers that do nothing."""

    def make():
        return SimpleNamespace(make=lambda task, clock: None)

    def engine(scheduler, say=lambda text: None):
        return DaskEngine(scheduler, make, True, say)

    return engine, [PartTask(Part(i, 0, 1), None) for i in range(2)]


def test_gpu_is_a_resource_of_a_worker(on_gpu, monkeypatch):
    engine, tasks = on_gpu
    asked, done, submit = [], [], distributed.Client.submit

    def noted(self, *args, **kwargs):
        asked.append(kwargs["resources"])
        return submit(self, *args, **kwargs)

    monkeypatch.setattr(distributed.Client, "submit", noted)
    # Were the worker without the resource, this would wait for ever.
    engine("local:1")(tasks, lambda n_rows, seconds: done.append(n_rows))
    assert asked == [{"GPU": 1}] * 2
    assert done == [1, 1]


def test_no_worker_with_a_gpu(on_gpu, cluster):
    engine, tasks = on_gpu
    with pytest.raises(PipelineError, match=r'no worker offers a GPU; .* --resources "GPU=1"; or use --device cpu'):
        engine(cluster.address)(tasks, None)


# --- the command


@pytest.fixture
def at_work(work, flags, flagged, wait):
    """``pipeline extract --scheduler local:2``, a process of its own, after two of seven parts."""
    (flags / "hold").touch()
    process = work.start(f"{EXTRACT} local:2", **flagged)
    try:
        wait(lambda: len(work.records()) == 2 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.long
def test_interrupted_command_ends_its_workers_and_goes_on_later(at_work, work, on_disk, flags, flagged, wait):
    command = psutil.Process(at_work.pid)
    workers = workers_of(command)
    assert len(workers) == 2
    listening = [
        connection.laddr.ip
        for process in (command, *workers)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}
    recorded = work.records()

    os.killpg(at_work.pid, signal.SIGINT)  # as Ctrl-C in a terminal does: all processes get it
    out, err = at_work.communicate(timeout=200)

    assert at_work.returncode == 130, err
    assert err.splitlines()[-1].startswith("interrupted: what is recorded is kept")
    assert "Traceback" not in err and "distributed" not in err and out == ""
    assert not any(process.is_running() for process in workers)

    (flags / "hold").unlink()
    again = work.start(f"{EXTRACT} local:2", **flagged)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "resuming, 2 of 7 parts are recorded" in err
    assert recorded.items() <= work.records().items()
    assert work.bytes() == on_disk.bytes()
    # Nothing but what this program says: no warnings, no log of dask's.
    ours = r"cache/tiny-train-\S+: |scheduler tcp://127\.0\.0\.1:\d+: 2 worker\(s\)$|extract tiny train: "
    assert [line for line in err.splitlines() if not re.match(ours, line)] == []


def test_interrupted_while_its_workers_start(work, wait):
    process = work.start(f"{EXTRACT} local:2")
    command = psutil.Process(process.pid)
    try:
        wait(lambda: workers_of(command) or process.poll() is not None)
        workers = workers_of(command)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("interrupted: what is recorded is kept")
    assert "Traceback" not in err and "distributed" not in err
    assert workers and not any(worker.is_running() for worker in workers)


def test_killed_command_leaves_no_workers(at_work, wait):
    workers = workers_of(psutil.Process(at_work.pid))
    assert len(workers) == 2
    at_work.kill()
    wait(lambda: not any(process.is_running() for process in workers))
