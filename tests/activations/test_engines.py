"""The local engine: writes the parts of one task while it computes the next, and reports all rows once."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from pipeline.activations.engines import InProcessEngine
from pipeline.activations.partition import Part
from pipeline.activations.parts import PartTask
from pipeline.io.errors import PipelineError

TASKS = [PartTask(Part(i, 4 * i, 4 * i + 4), None) for i in range(3)]


@dataclass
class Computed:
    """A part whose write notes that it ran, after what it waits for."""

    index: int
    maker: Maker

    def write(self, clock):
        assert self.index in self.maker.computed
        if self.index == self.maker.fails_at:
            raise PipelineError("full")
        if self.index < len(TASKS) - 1:
            assert self.maker.started[self.index + 1].wait(10), "the next task is computed meanwhile"
        clock.add({"write": 1.0})
        self.maker.written.append(self.index)


class Maker:
    """Computes two batches per task."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.computed, self.written, self.fails_at = [], [], fails_at
        self.started = [threading.Event() for _ in TASKS]

    def compute_all(self, tasks, clock, advance):
        return (self.compute(task, clock, advance) for task in tasks)

    def compute(self, task, clock, advance):
        self.started[task.part.index].set()
        for n in (3, 1):
            clock.add({"trunk": 0.5})
            advance(n)
        self.computed.append(task.part.index)
        return [Computed(task.part.index, self)]


def test_parts_are_written_while_the_next_task_is_computed():
    maker, reports = Maker(), []

    InProcessEngine(maker)(TASKS, lambda n, seconds: reports.append((n, seconds)))

    assert maker.computed == maker.written == [0, 1, 2]
    assert [n for n, _ in reports] == [3, 1] * 3 + [0]
    totals = {stage: sum(seconds.get(stage, 0.0) for _, seconds in reports) for stage in ("trunk", "write")}
    assert totals == {"trunk": 3.0, "write": 3.0}


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_write_that_fails_ends_the_run(fails_at):
    maker = Maker(fails_at)
    with pytest.raises(PipelineError, match="full"):
        InProcessEngine(maker)(TASKS, lambda n, seconds: None)
    assert len(maker.computed) <= fails_at + 2
    assert maker.written == list(range(fails_at))


def test_nothing_to_do_reports_no_rows():
    reports = []
    InProcessEngine(Maker())([], lambda n, seconds: reports.append((n, seconds)))
    assert reports == [(0, {})]


def test_parts_of_several_tasks_are_written_at_the_same_time():
    together = threading.Barrier(2)

    class Meeting(Maker):
        def compute(self, task, clock, advance):
            (part,) = super().compute(task, clock, advance)
            if task.part.index < 2:
                part.write = lambda clock: (together.wait(10), self.written.append(task.part.index))
            return [part]

    maker = Meeting()
    InProcessEngine(maker, n_writing=2)(TASKS, lambda n, seconds: None)
    assert sorted(maker.written) == [0, 1, 2]
