"""Scores of a split from shares: of jobs, of an interrupted run, of dask's workers; always the same bytes."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from support.processes import start_command

from pipeline.activations.run_log import StageClock
from pipeline.head.file import load_head, save_head
from pipeline.head.head import Head
from pipeline.io.errors import StoreError
from pipeline.stages import extract, score_shares
from pipeline.stages.score_shares import open_scorer

SCORE = "score --dataset tiny --head fca --head svm"


class Scores:
    """A work folder whose heads are fitted, and whose scores are not there yet."""

    def __init__(self, work) -> None:
        self.work, self.path = work, work.path

    def run(self, options: str = ""):
        return self.work.run(f"{SCORE} {options}")

    def files(self) -> dict[str, bytes]:
        """The scores of the evaluation split."""
        return {file.name: file.read_bytes() for file in sorted((self.path / "results/scores").glob("*.h5"))}

    def shares(self) -> dict[str, int]:
        """Time of each file of a share."""
        return {file.name: file.stat().st_mtime_ns for file in sorted((self.path / "cache/shares").glob("*.h5"))}


@pytest.fixture(scope="module")
def at_once(on_disk, tmp_path_factory) -> Scores:
    """Two heads scored in one pass of one process; not to be changed by a test."""
    work = type(on_disk)(shutil.copytree(on_disk.path, tmp_path_factory.mktemp("at_once") / "work"))
    done = Scores(work)
    ended = work.run("fit-head --dataset tiny --head svm")
    assert ended.code == 0, ended.err
    ended = done.run()
    assert ended.code == 0, ended.err
    assert len(done.files()) == 2 and done.shares() == {}
    return done


@pytest.fixture
def fresh(at_once, tmp_path) -> Scores:
    shutil.copytree(at_once.path, tmp_path / "work")
    shutil.rmtree(tmp_path / "work/results/scores")
    return Scores(type(at_once.work)(tmp_path / "work"))


# --- jobs


@pytest.mark.parametrize("n", [1, 2, 4, 9])
def test_jobs_score_shares_and_one_joins_them(fresh, at_once, n):
    for i in range(n, 0, -1):
        ended = fresh.run(f"--share {i}/{n}")
        assert ended.code == 0, ended.err
        assert [Path(line).name.rpartition("-")[2] for line in ended.out.splitlines()] == [f"{i}of{n}.h5"] * 2
    assert fresh.files() == {} and len(fresh.shares()) == 2 * n

    ended = fresh.run()

    assert ended.code == 0, ended.err
    assert f"tiny val: {n} shares, {n} of them scored already\n" in ended.err
    assert fresh.files() == at_once.files()
    assert fresh.shares() == {}


def test_what_no_job_made_is_scored_by_the_one_that_joins(fresh, at_once):
    for i in (1, 3):
        assert fresh.run(f"--share {i}/4").code == 0
    assert fresh.work.run("score --dataset tiny --head svm --share 2/4").code == 0
    assert fresh.run("--share 1/3").code == 0  # of another number, of which fewer are there

    ended = fresh.run()

    assert ended.code == 0, ended.err
    assert "4 shares, 2 of them scored already" in ended.err
    assert fresh.files() == at_once.files() and fresh.shares() == {}


def test_a_share_that_is_there_is_left_alone(fresh):
    assert fresh.run("--share 2/3").code == 0
    before = fresh.shares()
    assert fresh.run("--share 2/3").code == 0
    assert fresh.shares() == before


def test_a_stale_or_foreign_share_is_named_and_scored_again(fresh, at_once):
    for i in (1, 2):
        assert fresh.run(f"--share {i}/4").code == 0
    folder = fresh.path / "cache/shares"
    foreign = next(folder.glob("*-fca-*-2of4.h5"))
    shutil.copy(foreign, foreign.with_name(foreign.name.replace("2of4", "3of4")))  # under another's name
    (torn,) = folder.glob("*-svm-*-1of4.h5")
    os.truncate(torn, 1000)

    ended = fresh.run()

    assert ended.code == 0, ended.err
    assert re.search(r"-fca-\w+-3of4\.h5: made from something else\n  - share: got '2/4', expected '3/4'\n", ended.err)
    assert re.search(r"-svm-\w+-1of4\.h5: damaged: .*\nthis share is scored again\n", ended.err)
    assert "4 shares, 1 of them scored already" in ended.err
    assert fresh.files() == at_once.files()


def test_a_share_of_another_head_of_the_same_facts_is_not_joined(fresh, at_once):
    (path,) = (fresh.path / "results/heads").glob("tiny-fca-*.safetensors")
    data, head = path.read_bytes(), load_head(path)
    other = Head(load_head(path).network, head.facts)
    with torch.no_grad():
        other.network.mean += 0.5
    save_head(other, path)
    assert fresh.run("--share 1/2").code == 0
    path.write_bytes(data)

    ended = fresh.run()

    assert ended.code == 0, ended.err
    assert re.search(r"-fca-\w+-1of2\.h5: made from something else\n  - weights: got '\w{64}', expected", ended.err)
    assert fresh.files() == at_once.files()


# --- an interrupted run

ONE_PART_EACH = """
from pipeline.stages import score_shares
score_shares.PARTS_PER_SHARE = 1
"""
SLOWLY = """
import time
from pipeline.scoring import score
of_range = score.SplitScoring.score
score.SplitScoring.score = lambda *rest, **named: (time.sleep(0.5), of_range(*rest, **named))[1]
"""


def test_a_killed_run_is_resumed_from_its_shares(fresh, at_once, wait):
    n_parts = len(list(fresh.work.store(split="val").glob("integrity/part-*.json")))
    process = start_command(fresh.path, f"{SCORE} --config config.yaml", before=ONE_PART_EACH + SLOWLY)
    try:
        wait(lambda: len(fresh.shares()) >= 3 or process.poll() is not None)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    n_done = len({name.rpartition("-")[2] for name in fresh.shares() if "-svm-" in name})
    assert 0 < n_done < n_parts and fresh.files() == {}

    ended = fresh.run()  # usually one pass; now it goes by the shares that are there

    assert ended.code == 0, ended.err
    assert f"{n_parts} shares, {n_done} of them scored already" in ended.err
    assert fresh.files() == at_once.files() and fresh.shares() == {}


# --- dask


def test_workers_of_this_machine_score_to_the_same_bytes(fresh, at_once):
    ended = fresh.run("--scheduler local:2")
    assert ended.code == 0, ended.err
    assert ": 2 worker(s)\n" in ended.err and "2 shares, 0 of them scored already" in ended.err
    assert fresh.files() == at_once.files() and fresh.shares() == {}


def test_workers_elsewhere_score_to_the_same_bytes(fresh, at_once, cluster, flags, monkeypatch):
    monkeypatch.setattr(score_shares, "PARTS_PER_TASK", 1)
    n_parts = len(list(fresh.work.store(split="val").glob("integrity/part-*.json")))
    assert fresh.run(f"--share 1/{n_parts}").code == 0

    ended = fresh.run(f"--scheduler {cluster.address}")

    assert ended.code == 0, ended.err
    assert f"{n_parts} shares, 1 of them scored already" in ended.err
    assert fresh.files() == at_once.files() and fresh.shares() == {}
    # Paths are absolute: nothing came to be in the folder that the workers were started in.
    assert not list(cluster.folder.glob("**/*.h5"))


def test_a_worker_that_would_make_other_scores_refuses(fresh, monkeypatch):
    opened = []
    monkeypatch.setattr(score_shares, "find_engine", lambda scheduler: Noted)

    class Noted:
        def __init__(self, scheduler, make, on_gpu, say):
            opened.append(make.args[0])

        @staticmethod
        def n_local(scheduler):
            return None

        def __call__(self, tasks, report):
            raise StoreError("noted")

    assert fresh.run("--scheduler tcp://nowhere:1").code == 2
    (files,) = opened
    monkeypatch.chdir(fresh.path)
    assert len(open_scorer(files).scoring.heads) == 2
    with pytest.raises(StoreError, match=r"would make other scores .*\n  - version.scoring: got \d+, expected 99\nuse"):
        open_scorer(replace(files, versions={**files.versions, "scoring": 99}))
    with pytest.raises(StoreError, match=r"  - precision: got '\w+', expected 'fp8'\n"):
        open_scorer(replace(files, expected=({**files.expected[0], "precision": "fp8"}, files.expected[1])))


class InProcess:
    """An engine that runs its tasks here, in reverse order; `ran` lists them."""

    ran: ClassVar[list[tuple[str, str, int]]] = []

    def __init__(self, scheduler, make, on_gpu, say):
        self._scheduler, self._make = scheduler, make

    @staticmethod
    def n_local(scheduler):
        return 2

    def __call__(self, tasks, report):
        maker = self._make()
        for task in reversed(list(tasks)):
            maker.make(task, StageClock())
            self.ran.append((self._scheduler, task.kind, task.index))
            report(task.n_rows, {})


def test_a_recipe_extracts_and_scores_over_a_scheduler_to_the_same_bytes(fresh, at_once, monkeypatch):
    for module in (extract, score_shares):
        monkeypatch.setattr(module, "find_engine", lambda scheduler: InProcess)
    store = fresh.work.store(split="val")
    rows = fresh.work.bytes(split="val")
    shutil.rmtree(store)

    ended = fresh.work.run("recipe run svm --dataset tiny --scheduler tcp://nowhere:1")

    assert ended.code == 0, ended.err
    assert fresh.work.bytes(split="val") == rows
    kinds = Counter(kind for _, kind, _ in InProcess.ran)
    assert kinds["part"] == len(list(store.glob("integrity/part-*.json"))) and kinds["share"] >= 2
    assert {scheduler for scheduler, _, _ in InProcess.ran} == {"tcp://nowhere:1"}
    alike = fresh.files().keys() & at_once.files().keys()
    assert alike and all(fresh.files()[name] == at_once.files()[name] for name in alike)


def test_a_recipe_refuses_a_scheduler_that_is_none_before_anything_runs(fresh):
    for command in ("recipe run svm", "compare"):
        ended = fresh.work.run(f"{command} --dataset tiny --scheduler local:x")
        assert ended.code == 2 and ended.err.startswith("error: scheduler 'local:x': expected local:N")


# --- the command


@pytest.mark.parametrize("share", ["0/2", "3/2", "x", "1", "1/", "-1/2"])
def test_a_share_that_is_none(fresh, share):
    ended = fresh.run(f"--share {share}")
    assert ended.code == 2
    assert "error: --share: expected I/N with 1 <= I <= N, such as 2/4, got " in ended.err


def test_a_share_and_a_scheduler(fresh):
    ended = fresh.run("--share 1/2 --scheduler local:2")
    assert ended.code == 2 and "--share and --scheduler exclude each other" in ended.err


def test_a_scheduler_that_is_none(fresh):
    ended = fresh.run("--scheduler local:x")
    assert ended.code == 2 and ended.err.startswith("error: scheduler 'local:x': expected local:N")
