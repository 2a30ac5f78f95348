"""Several processes on one store at once, in any order of their steps: one right store."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import kills
import pytest
from kills import EXTRACT, EXTRACT_VAL, VAL_ONLY, Snapshot, differences, without


def expected_of(finished):
    return without(finished[0].files(), "results", *VAL_ONLY)


def test_two_that_start_at_once_from_nothing_make_one_right_store(finished, folder):
    work = kills.make_work(folder / "work")  # not even the table is there

    both = [kills.start(work, EXTRACT, own_output=True) for _ in range(2)]

    assert [child.wait() for child in both] == [0, 0], [child.output for child in both]
    assert differences(work.files(), without(expected_of(finished), "cache/patches/tiny-val")) == []


def test_one_that_joins_later_shares_the_work(untouched, finished, folder):
    work = untouched.copy(folder / "work")
    rng = random.Random("joins later")

    first = kills.start(work, EXTRACT, own_output=True)
    time.sleep(rng.uniform(0, finished[1][EXTRACT] / 2))
    second = kills.start(work, EXTRACT, own_output=True)

    assert [first.wait(), second.wait()] == [0, 0], first.output + second.output
    assert differences(work.files(), expected_of(finished)) == []


@pytest.mark.parametrize("n_killed", [1, 2])
def test_killed_ones_of_two_do_no_harm(untouched, finished, folder, tally, n_killed):
    work, expected = untouched.copy(folder / "work"), expected_of(finished)
    rng = random.Random(f"{n_killed} killed of two")
    before = Snapshot.of(work)

    both = [kills.start(work, EXTRACT, own_output=True) for _ in range(2)]
    for child in both[:n_killed]:
        kills.watch(child, lambda of=child: kills.first_byte_written(work, of, before))
        time.sleep(rng.uniform(0, 0.3))
        if child.kill():
            tally.add("one of two extractions", kills.moment_of(before, Snapshot.of(work), 34)[0])
    for child in both[n_killed:]:
        assert child.wait() == 0, child.output
        # Of the killed one a partial file may be left, outside of the store.
        assert differences(without(work.files(), "cache/.partial"), expected) == []

    kills.complete(work, EXTRACT)
    assert differences(work.files(), expected) == []


@pytest.mark.parametrize("change", ["--batch 5", "--layer pool5"])
def test_two_of_other_identities_make_two_right_stores(untouched, finished, folder, change):
    alone = untouched.copy(folder / "alone")
    kills.complete(alone, f"{EXTRACT} {change}")
    work = untouched.copy(folder / "work")

    both = [kills.start(work, command, own_output=True) for command in (EXTRACT, f"{EXTRACT} {change}")]

    assert [child.wait() for child in both] == [0, 0], [child.output for child in both]
    assert len(list(work.cache.glob("*.zarr"))) == 2
    assert differences(work.files(), {**expected_of(finished), **alone.files()}) == []


@pytest.mark.long
def test_one_that_goes_on_after_another_has_sealed_changes_nothing(two_parts, folder):
    """At every step by which a file gets its name: one process waits there until another has made the store."""
    whole = two_parts.copy(folder / "whole")
    steps = kills.steps_of(whole, EXTRACT_VAL, part_rows=2)
    expected = whole.files()

    def try_step(n: int) -> list[str]:
        where, work = kills.between(steps, n), two_parts.copy(folder / f"{n}")
        late = kills.start(work, EXTRACT_VAL, own_output=True, at=n, signal_number=signal.SIGSTOP, part_rows=2)
        late.wait_until_stopped()
        try:
            kills.complete(work, EXTRACT_VAL, part_rows=2)
            problems = differences(without(work.files(), "cache/.partial", "cache/receipts/."), expected)
            kills.refuse_unless_sealed(work.store("val"))
        finally:
            late.go_on()
        if late.wait() != 0:
            problems.append(f"the late one fails: {late.output}")
        problems += differences(work.files(), expected)
        return [f"{where}: {problem}" for problem in problems]

    chosen = [n for n, (verb, _, _) in enumerate(steps) if verb in ("rename", "link")]
    assert len(chosen) == 6 + 2 * 5 + 1 + 1  # metadata, two parts with their records, seal, receipt
    with ThreadPoolExecutor(2) as pool:
        assert [problem for problems in pool.map(try_step, chosen) for problem in problems] == []
