"""Processes killed at any moment: nothing half-written counts, and going on gives the same bytes.

The short form kills some forty processes at random moments; ``make torture`` a thousand. Every kill is a
real SIGKILL of a process that runs a real command. ``PIPELINE_KILLS_JSON=FILE`` keeps when they hit.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kills
import pytest
from kills import EXTRACT, EXTRACT_VAL, FIT, SCORE, VAL_ONLY, Child, Snapshot, Work, differences, without
from support.small_parts import code_to_bind

from pipeline.head.file import load_head
from pipeline.io.errors import StoreError
from pipeline.scoring.scores_file import load_scores

CHECKOUT = Path(__file__).resolve().parents[3]
# A chain begins with nothing, and is killed so often before it may end.
EXTRACT_KILLS, FIT_KILLS, SCORE_KILLS = 8, 6, 6  # and four of a workflow
if kills.TORTURE:
    EXTRACT_CHAINS, FIT_CHAINS, SCORE_CHAINS, WORKFLOW_CHAINS = 102, 15, 15, 6
else:
    EXTRACT_CHAINS, FIT_CHAINS, SCORE_CHAINS, WORKFLOW_CHAINS = 3, 1, 1, 1
ANY_MOMENT = 5  # every fifth kill
N_PARTS = 34


# --- chains of kills


def kill_extraction(work: Work, child: Child, rng: random.Random, at: float | None, seconds: float) -> bool:
    """Kill after its first payload byte, when the store has about a share of its files; or at any moment.

    Parameters
    ----------
    at : share of the files of all parts; None for any moment of the time that a whole run takes
    """
    if at is None:
        deadline = child.started + rng.uniform(0, seconds)
        kills.watch(child, lambda: time.monotonic() > deadline)
    else:
        before = Snapshot.of(work)
        kills.watch(child, lambda: kills.first_byte_written(work, child, before))
        store = work.store()
        kills.watch(child, lambda: kills.count_files(store) >= at * 5 * N_PARTS)
        time.sleep(rng.uniform(0, 0.03))
        if rng.random() < 0.5:  # while it writes: most of its time it computes
            kills.watch(child, lambda: kills.has_partial(work.cache / ".partial", child), every_s=0.0002)
    return child.kill()


@pytest.mark.parametrize("chain", range(EXTRACT_CHAINS))
def test_extraction_killed_again_and_again_ends_with_the_same_bytes(
    chain, untouched, finished, folder, tmp_path, tally
):
    finished, seconds = finished
    expected = without(finished.files(), "results", *VAL_ONLY)
    rng = random.Random(f"extract {chain}")
    # One chain of five on whatever disk temporary files are on.
    work = untouched.copy((tmp_path if chain % 5 == 4 else folder) / "work")
    shares = sorted(rng.random() * 0.97 for _ in range(EXTRACT_KILLS))
    for kill, share in enumerate(shares):
        any_moment = (kill + chain) % ANY_MOMENT == 0
        while True:
            before = Snapshot.of(work)
            child = kills.start(work, EXTRACT)
            hit = kill_extraction(work, child, rng, None if any_moment else share, 1.2 * seconds[EXTRACT])
            after = Snapshot.of(work)
            kills.refuse_unless_sealed(work.store())
            if hit:
                break
            # It came too late and is no kill: the run is complete, and the chain begins anew.
            assert child.code == 0, child.output
            assert differences(work.files(), expected) == []
            shutil.rmtree(work.store())
            shutil.rmtree(work.cache / "receipts")
            share = rng.random() * 0.97
        tally.add("extract", *kills.moment_of(before, after, N_PARTS))

    kills.complete(work, EXTRACT)

    assert differences(work.files(), expected) == []
    kills.refuse_unless_sealed(work.store())


def moment_of_file(folder: Path, pattern: str, child: Child) -> str:
    """When a kill hit the writing of a single file."""
    if list(folder.glob(pattern)):
        return "the file is there"
    return "the file is half-written" if kills.has_partial(folder, child) else "before the first byte"


@pytest.mark.parametrize(
    ("command", "made", "chain"),
    [
        *((FIT, "heads/*.safetensors", chain) for chain in range(FIT_CHAINS)),
        *((SCORE, "scores/*.h5", chain) for chain in range(SCORE_CHAINS)),
    ],
    ids=lambda value: str(value).split()[0],
)
def test_fit_and_score_killed_again_and_again_end_with_the_same_bytes(command, made, chain, finished, tmp_path, tally):
    finished, seconds = finished
    name = command.split()[0]
    rng = random.Random(f"{name} {chain}")
    work = finished.copy(tmp_path / "work")
    place, pattern = work.path / "results" / Path(made).parent, Path(made).name
    done = 0
    while done < (FIT_KILLS if command == FIT else SCORE_KILLS):
        for path in place.glob(pattern):
            (load_head if command == FIT else load_scores)(path)  # whole, or it would not be there
            path.unlink()
        child = kills.start(work, command)
        if done % 2:  # while it writes
            kills.watch(
                child, lambda of=child: kills.has_partial(place, of) or any(place.glob(pattern)), every_s=0.0002
            )
            time.sleep(rng.uniform(0, 0.004))
        else:
            deadline = child.started + rng.uniform(0, seconds[command])
            kills.watch(child, lambda until=deadline: time.monotonic() > until)
        if child.kill():
            tally.add(name, moment_of_file(place, pattern, child))
            done += 1
        else:
            assert child.code == 0, child.output

    kills.complete(work, command)

    assert differences(work.files(), finished.files()) == []


def processes_in(folder: Path) -> list[str]:
    """Processes that work in a folder or below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


SMALL_PARTS = f"""
import sys
if "extract" in sys.orig_argv:
    {code_to_bind(kills.PART_ROWS)}
"""


class Workflow:
    """Snakemake in a work folder, in a session of its own.

    Parameters
    ----------
    programs : folder of the commands; a warm one dies with all of its own where its caller is killed
    """

    def __init__(self, work: Work, programs: Path) -> None:
        self.work, self.programs = work, programs
        for name in ("Snakefile", "stages", "profiles", "envs"):
            (work.path / name).symlink_to(CHECKOUT / name)
        (work.path / "site").mkdir()
        (work.path / "site/sitecustomize.py").write_text(SMALL_PARTS)
        self.output = work.path / "snakemake.txt"

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"}
        env |= {"PYTHONPATH": str(self.work.path / "site"), "OMP_NUM_THREADS": "1"}
        env.pop("PIPELINE_DATA", None)
        command = [self.programs / "snakemake", "--cores", "2", *arguments, "--configfile", "config.yaml"]
        with open(self.output, "wb") as output:
            return subprocess.Popen(
                command,
                cwd=self.work.path,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        try:
            code = process.wait(kills.DEADLINE_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return code, self.output.read_text()

    def kill_when(self, reached: Callable[[], bool], then_s: float, *arguments: str) -> None:
        """Start it, and kill it with all of its children some time after something is reached."""
        process = self.start(*arguments)
        deadline = time.monotonic() + kills.DEADLINE_S
        try:
            while not reached():
                assert process.poll() is None, self.output.read_text()
                assert time.monotonic() < deadline, self.output.read_text()
                time.sleep(0.01)
            time.sleep(then_s)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        assert code == -signal.SIGKILL, self.output.read_text()
        deadline = time.monotonic() + 10
        while left := processes_in(self.work.path):
            assert time.monotonic() < deadline, left
            time.sleep(0.01)


def moment_of_workflow(work: Work) -> str:
    if list(work.path.glob("results/scores/*.h5")):
        return "scores are there"
    if list(work.path.glob("results/heads/*.safetensors")):
        return "the head is there, no scores"
    store = work.store()
    if store and (store / "integrity/seal.json").exists():
        return "the store is sealed, no head"
    if store and list(store.glob("picture/c/*")):
        return "between the first payload byte and the seal"
    return "before the first payload byte"


@pytest.mark.parametrize("chain", range(WORKFLOW_CHAINS))
def test_workflow_killed_with_all_its_children_goes_on(chain, untouched, finished, folder, tally, warm):
    finished, _ = finished
    rng = random.Random(f"snakemake {chain}")
    work = untouched.copy(folder / "work")
    # The store to score is there: one extraction is enough to kill.
    for name, data in finished.files().items():
        if name.startswith(VAL_ONLY):
            path = work.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    workflow = Workflow(work, Path(sys.executable).parent if kills.TORTURE else warm)
    (scores,) = (finished.path / "results/scores").glob("*.h5")
    target = str(scores.relative_to(finished.path))

    def records() -> int:
        return len(list(work.path.glob("cache/tiny-train-*.zarr/integrity/part-*.json")))

    def made(pattern: str) -> bool:
        return bool(list(work.path.glob(pattern)))

    # The lock that the first one leaves is kept to the end, where it is in the way.
    receipt = "cache/receipts/tiny-train-*.json"
    workflow.kill_when(records, rng.uniform(0, 0.25), target)
    tally.add("snakemake", moment_of_workflow(work))
    first = records()
    workflow.kill_when(lambda: records() > first or made(receipt), rng.uniform(0, 0.25), target, "--nolock")
    tally.add("snakemake", moment_of_workflow(work))
    workflow.kill_when(lambda: made(receipt), rng.uniform(0, 1.5), target, "--nolock")
    tally.add("snakemake", moment_of_workflow(work))
    workflow.kill_when(lambda: made("results/heads/*.safetensors"), rng.uniform(0, 1), target, "--nolock")
    tally.add("snakemake", moment_of_workflow(work))

    code, output = workflow.run(target)
    assert code != 0 and "--unlock" in output
    assert workflow.run("--unlock")[0] == 0
    code, output = workflow.run(target)

    assert code == 0, output
    got, expected = work.files(), finished.files()
    # What only Snakemake makes: its settings files, and the states of the pictures.
    got = {name: data for name, data in got.items() if "settings/" not in name and "/states/" not in name}
    assert differences(got, expected) == []
    assert processes_in(work.path) == []


def test_kills_hit_where_it_hurts(tally):
    chains = EXTRACT_CHAINS * EXTRACT_KILLS
    moments = tally.moments("extract")
    if sum(moments.values()) < chains:
        pytest.skip("not all chains ran")
    in_window = sum(moments[moment] for moment in kills.IN_WINDOW)
    assert in_window >= 0.8 * chains, str(tally)
    assert len(tally.kills) >= (1000 if kills.TORTURE else 40), str(tally)


# --- one kill at each step


def kill_at_each_step(work: Work, command: str, folder: Path, lose_power: bool, **options: int) -> list[str]:
    """What went wrong, by step; a command is killed before each of its steps and started again."""
    whole = work.copy(folder / "whole")
    steps = kills.steps_of(whole, command, **options)
    expected = whole.files()
    chosen = range(len(steps))
    if lose_power:  # what survives changes with each fsync, and with nothing else
        chosen = [n for n in chosen if steps[n][0] in ("fsync", "end")]
    elif not kills.TORTURE:  # a process that is killed leaves the same before an fsync as after it
        chosen = [n for n in chosen if steps[n][0] != "fsync"]

    def try_step(n: int, seed: int) -> list[str]:
        where = kills.between(steps, n)
        last = steps[n][0] == "end"
        killed = work.copy(folder / f"{n}-{seed}")
        lost = None if not lose_power else "all" if last or not seed else f"{n} {seed}"
        code, output = kills.run(killed, command, at=n, lose_power=lost, **options)
        if code != -signal.SIGKILL:
            return [f"{where}: not killed, exit code {code}\n{output}"]
        problems = []
        if last:  # nothing is left to do, so nothing may be lost any more
            problems += [
                f"{where}: as it was left: {difference}" for difference in differences(killed.files(), expected)
            ]
        try:
            for split in ("train", "val"):
                kills.refuse_unless_sealed(killed.store(split))
        except (StoreError, AssertionError) as error:
            problems.append(f"{where}: as it was left: {error}")
        code, output = kills.run(killed, command, **options)
        if code != 0:
            problems.append(f"{where}: does not go on: {output}")
        problems += [f"{where}: {difference}" for difference in differences(killed.files(), expected)]
        shutil.rmtree(killed.path)
        return problems

    # Of what power lost takes, all (seed 0) or some.
    seeds = (1,) if not kills.TORTURE else range(5) if lose_power else (0,)
    tasks = [(n, seed) for n in chosen for seed in seeds]
    # Two at once: half of a child's time is waiting.
    with ThreadPoolExecutor(2) as pool:
        problems = [problem for problems in pool.map(try_step, *zip(*tasks, strict=True)) for problem in problems]
    print(f"\n{command.split()[0]}, {'power lost' if lose_power else 'killed'}: {len(chosen)} of {len(steps)} steps")
    return problems


@pytest.mark.parametrize("lose_power", [False, True], ids=["killed", "power lost"])
def test_extraction_killed_at_each_step_goes_on_to_the_same_bytes(two_parts, folder, lose_power):
    assert kill_at_each_step(two_parts, EXTRACT_VAL, folder, lose_power, part_rows=2) == []


@pytest.mark.parametrize(
    "lose_power", [False, pytest.param(True, marks=pytest.mark.long)], ids=["killed", "power lost"]
)
@pytest.mark.parametrize(("command", "place"), [(FIT, "heads"), (SCORE, "scores")], ids=["fit", "score"])
def test_fit_and_score_killed_at_each_step_go_on_to_the_same_bytes(finished, folder, command, place, lose_power):
    work = finished[0].copy(folder / "work")
    shutil.rmtree(work.path / "results" / place)
    assert kill_at_each_step(work, command, folder, lose_power) == []
