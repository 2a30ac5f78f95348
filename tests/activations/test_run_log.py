"""The log next to a store: a line per run, read back as it was written."""

from __future__ import annotations

import json
import threading

import pytest

from pipeline.activations.run_log import LogEntry, RunLog, StageClock


@pytest.fixture
def log(tmp_path) -> RunLog:
    return RunLog.of_store(tmp_path / "cache", "tiny-train.zarr")


def entry_of(seconds: float) -> LogEntry:
    stages = {"decode": 1.0, "trunk": 2.126}
    return LogEntry.of_this_run(rows=99, parts=2, stores=1, seconds=seconds, stages=stages)


def test_entries_come_back_in_order(log):
    entries = [entry_of(1.239), entry_of(2.0)]
    for entry in entries:
        log.append(entry)

    assert log.path.name == "tiny-train.log.jsonl"
    assert log.read() == entries
    assert [LogEntry.from_dict(entry.to_dict()) for entry in entries] == entries
    assert (entries[0].seconds, entries[0].stages) == (1.24, {"decode": 1.0, "trunk": 2.13})
    assert log.total_seconds() == 3.24


def test_keys_on_disk_stay_in_their_order(log):
    log.append(entry_of(1.0))
    (line,) = log.path.read_text().splitlines()
    assert list(json.loads(line)) == [
        *("finished", "host", "rows", "parts", "stores", "seconds", "stages", "versions", "threads", "peak_memory_mib"),
        "adopted",
    ]


def test_without_a_log_there_are_no_seconds(log):
    assert log.read() == [] and log.total_seconds() is None


@pytest.mark.parametrize("line", ['{"finished": "2026', "[]", "{}", "3", ""])
def test_a_line_that_was_cut_off_is_skipped(log, line):
    log.append(entry_of(1.0))
    with open(log.path, "a") as file:
        file.write(line + "\n")
    log.append(entry_of(2.0))
    assert log.total_seconds() == 3.0


def test_entries_of_older_versions_lack_some_facts(log):
    log.path.parent.mkdir()
    log.path.write_text('{"finished": "then", "rows": 5, "seconds": 1.5, "stages": {}}\n')
    (entry,) = log.read()
    assert (entry.rows, entry.seconds, entry.host, entry.stores) == (5, 1.5, "", 1)


# --- the clock


def test_nothing_is_lost_while_seconds_are_taken():
    clock, taken = StageClock(), []
    adding = [threading.Thread(target=lambda: [clock.add({"a": 1.0}) for _ in range(2000)]) for _ in range(4)]
    for thread in adding:
        thread.start()
    while any(thread.is_alive() for thread in adding):
        taken.append(clock.take())
    for thread in adding:
        thread.join()
    taken.append(clock.take())
    assert sum(seconds.get("a", 0.0) for seconds in taken) == 8000.0
    assert clock.seconds == {} and clock.summary() == ""


def test_shares_of_stages():
    clock = StageClock()
    clock.add({"trunk": 3.0, "decode": 1.0})
    assert clock.summary() == "decode 25 %, trunk 75 %"
