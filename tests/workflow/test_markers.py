"""Markers: their time tells Snakemake whether an output is current."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.io.errors import StoreError
from pipeline.workflow.due import Due
from pipeline.workflow.flow import Flow
from pipeline.workflow.markers import set_marker, state_of_files


class Stage:
    """A stage that counts how often it is asked."""

    def __init__(self, answer: str | None) -> None:
        self.answer, self.asked = answer, 0

    def why_due(self) -> str | None:
        self.asked += 1
        if self.answer == "raise":
            raise StoreError("there is no store\nmake one")
        return self.answer


@pytest.fixture
def output(tmp_path) -> Path:
    path = tmp_path / "out.json"
    path.write_text("made")
    os.utime(path, (1_500_000_000, 1_500_000_000))
    return path


def is_younger(marker: Path, output: Path) -> bool:
    return marker.stat().st_mtime > output.stat().st_mtime


@pytest.mark.parametrize(("answer", "due"), [(None, False), ("other labels", True), ("raise", True)])
def test_a_marker_is_younger_than_its_output_just_if_that_is_due(tmp_path, output, answer, due):
    stage = Stage(answer)
    marker = set_marker(tmp_path / "m/marker", output, ["state"], stage.why_due)
    assert is_younger(marker, output) is due
    assert stage.asked == 1
    assert ("due: " in marker.read_text()) is due


def test_a_due_output_from_the_future_is_older_than_its_marker(tmp_path, output):
    """As after the clock was set back: Snakemake compares times, and would keep another run's result."""
    os.utime(output, (4_000_000_000, 4_000_000_000))
    assert is_younger(set_marker(tmp_path / "m/marker", output, ["state"], Stage("other labels").why_due), output)
    assert not is_younger(set_marker(tmp_path / "m/marker", output, ["state"], Stage(None).why_due), output)


def test_a_current_output_is_asked_for_once_as_long_as_nothing_changes(tmp_path, output):
    stage = Stage(None)
    for _ in range(3):
        marker = set_marker(tmp_path / "m/marker", output, ["state"], stage.why_due)
    assert stage.asked == 1
    # A copied folder has other times: then the files are asked again.
    os.utime(marker, None)
    set_marker(marker, output, ["state"], stage.why_due)
    assert stage.asked == 1 and not is_younger(marker, output)


@pytest.mark.parametrize("what", ["state", "output"])
def test_a_change_of_the_state_or_of_the_output_asks_again(tmp_path, output, what):
    stage = Stage(None)
    marker = set_marker(tmp_path / "m/marker", output, ["state"], stage.why_due)
    if what == "output":
        output.write_text("another's")
    stage.answer = "it is another run's"
    set_marker(marker, output, ["other" if what == "state" else "state"], stage.why_due)
    assert stage.asked == 2 and is_younger(marker, output)


def test_a_due_output_is_asked_for_each_time_until_it_is_current(tmp_path, output):
    stage = Stage("other labels")
    marker = set_marker(tmp_path / "m/marker", output, ["state"], stage.why_due)
    set_marker(marker, output, ["state"], stage.why_due)
    stage.answer = None
    set_marker(marker, output, ["state"], stage.why_due)
    assert stage.asked == 3 and not is_younger(marker, output)


def test_a_missing_output_needs_no_question(tmp_path):
    stage = Stage(None)
    marker = set_marker(tmp_path / "m/marker", tmp_path / "none.json", [], stage.why_due)
    assert marker.is_file() and stage.asked == 0


def test_states_of_files_change_with_size_and_time_and_say_what_is_missing(output, tmp_path):
    before = state_of_files(output, tmp_path / "none")
    assert before[1] is None
    os.utime(output, (1_500_000_001, 1_500_000_001))
    assert state_of_files(output, tmp_path / "none") != before


def test_the_report_is_asked_for_again_when_a_file_that_it_shows_is_new(tmp_path, monkeypatch):
    """All that `digest_of_inputs` of the report reads: a marker keeps the answer as long as these files stay."""
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(Due, "_marker", lambda self, run, stage, output, state, why_due: seen.append((run, state)))

    def state_now() -> list[object]:
        due = Due(Flow({"trunk": "random"}))
        due.report(SimpleNamespace(dataset="demo"))
        return state_of_files(*seen[-1][1].files), [str(file) for file in seen[-1][1].files]

    states = [state_now()]
    ws = seen[0][0].ws
    of_run = ws.run_dir("demo", "fca")
    joined = [ws.compare_path("demo"), ws.heads_path("demo"), ws.curve_path("demo"), ws.ladder_path("demo")]
    of_data = [ws.near_path("demo"), ws.label_faults_path("demo")]
    of_runs = [of_run / "map.json", of_run / "boxes_val.json", ws.results / "runs/demo-weak-0/map.json"]
    for file in [*joined, *of_data, *of_runs]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        states.append(state_now())
        assert states[-1] != states[-2], file
