"""Parts of stores, computed and written: the work of every engine's worker."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, overload

import numpy as np

from pipeline.activations.adoption import Adoption
from pipeline.activations.arrays import ROW_DTYPE
from pipeline.activations.compute import compute_layers
from pipeline.activations.folder import Folder, disk_trouble
from pipeline.activations.partition import Part, parts_within
from pipeline.activations.prefetch import PictureQueue, queue_scales
from pipeline.activations.row_plan import RowPlan
from pipeline.activations.row_source import RowSource
from pipeline.activations.run_log import StageClock
from pipeline.activations.writer import StoreWriter
from pipeline.io.errors import StoreDamagedError
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.windows import ScaledWindows


@dataclass(frozen=True)
class PartTask:
    """One part to extract, as a task of an engine.

    If several layers come from one pass, it is a range of rows that holds whole parts of each store.

    Attributes
    ----------
    adoption : rows of the range that other stores hold, by layer
    """

    part: Part
    plan: RowPlan
    adoption: Mapping[str, Adoption] = field(default_factory=dict)

    kind: ClassVar[str] = "part"

    @property
    def index(self) -> int:
        return self.part.index

    @property
    def n_rows(self) -> int:
        return self.part.n_rows


@dataclass(frozen=True)
class ComputedPart:
    """A part whose rows are in memory, and still to be written.

    Attributes
    ----------
    encoded : objects that were taken over as they are, by array
    """

    writer: StoreWriter
    part: Part
    columns: Mapping[str, np.ndarray]
    encoded: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, clock: StageClock) -> None:
        """Compress and write the part, then its record.

        Raises
        ------
        PipelineError
            The disk is full, or the folder cannot be written.
        """
        with clock.measure("write"):
            try:
                self.writer.write_part(self.part, self.columns, self.encoded)
            except OSError as error:
                raise disk_trouble(error, self.writer.folder) from error


class PlannedTasks(Sequence[PartTask]):
    """Tasks of some ranges of rows, each planned when it is taken: plans of all rows would fill the memory.

    Parameters
    ----------
    plan : from a range of rows to its task
    """

    def __init__(self, spans: Sequence[Part], plan: Callable[[Part], PartTask]) -> None:
        self._spans, self._plan = spans, plan

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> PartTask: ...
    @overload
    def __getitem__(self, index: slice) -> PlannedTasks: ...
    def __getitem__(self, index: int | slice) -> PartTask | PlannedTasks:
        chosen = self._spans[index]
        return self._plan(chosen) if isinstance(chosen, Part) else PlannedTasks(chosen, self._plan)


@dataclass(frozen=True)
class _PlannedTask:
    """What is left of a task.

    Attributes
    ----------
    due : writer and parts without a record, by layer
    needed : bool ndarray (rows of the task,), rows that have to be computed, by layer
    computed_rows : bool ndarray (rows of the task,), rows that have to be computed for any layer
    plan : of these rows
    """

    task: PartTask
    due: Mapping[str, tuple[StoreWriter, Sequence[Part]]]
    needed: Mapping[str, np.ndarray]
    computed_rows: np.ndarray
    plan: RowPlan


class PartMaker:
    """Computes parts and writes them: one per worker of an engine.

    Parameters
    ----------
    runner : the trunk on this worker's device
    folders : of stores that `create_store` made; one per layer of the runner's trunk
    """

    def __init__(self, runner: TrunkRunner, *folders: Folder) -> None:
        self.runner = runner
        self.writers = [StoreWriter(folder) for folder in folders]
        self._source = RowSource()

    def make(self, task: PartTask, clock: StageClock, advance: Callable[[int], None] = lambda n: None) -> None:
        """Compute and write all parts of a task that no writer has recorded yet; see `compute`."""
        for part in self.compute(task, clock, advance):
            part.write(clock)

    def compute(self, task: PartTask, clock: StageClock, advance: Callable[[int], None]) -> list[ComputedPart]:
        """Compute all parts of a task that no writer has recorded yet; see `compute_all`."""
        (computed,) = self.compute_all([task], clock, advance)
        return computed

    def compute_all(
        self, tasks: Iterable[PartTask], clock: StageClock, advance: Callable[[int], None]
    ) -> Generator[list[ComputedPart], None, None]:
        """Compute the parts of tasks that no writer has recorded yet, task by task.

        Pictures of the next tasks are decoded while the last rows of a task are computed.

        Parameters
        ----------
        advance : called with numbers of rows, recorded ones included, that sum up to the rows of the tasks
        """
        waiting: deque[_PlannedTask] = deque()

        def plan_tasks() -> Iterator[RowPlan]:
            for task in tasks:
                planned = self._plan(task)
                waiting.append(planned)
                yield planned.plan

        with queue_scales(plan_tasks(), self.runner, clock) as queue:
            while True:
                queue.fill()
                if not waiting:
                    return
                planned = waiting.popleft()
                advance(planned.task.part.n_rows - planned.plan.n_rows)
                # No name holds the rows beyond this line: they would stay in memory while the next ones are computed.
                yield self._assemble(planned, self._compute_rows(planned, queue, clock, advance), clock)

    def _plan(self, task: PartTask) -> _PlannedTask:
        """Find what is left of a task."""
        due = {}
        for writer in self.writers:
            parts = [part for part in parts_within(writer.parts, task.part) if not writer.is_recorded(part)]
            if parts:
                due[writer.identity.layer] = (writer, parts)
        needed = {layer: _rows_needed(task, layer, parts) for layer, (_, parts) in due.items()}
        computed_rows = np.logical_or.reduce([np.zeros(task.part.n_rows, bool), *needed.values()])
        plan = task.plan if computed_rows.all() else task.plan.select(np.flatnonzero(computed_rows))
        return _PlannedTask(task, due, needed, computed_rows, plan)

    def _compute_rows(
        self,
        planned: _PlannedTask,
        queue: PictureQueue[list[ScaledWindows]],
        clock: StageClock,
        advance: Callable[[int], None],
    ) -> dict[str, np.ndarray]:
        """Compute the rows of a planned task at each layer that needs any; its pictures are next in the queue."""
        if not planned.plan.n_rows:
            return {}
        layers = tuple(layer for layer, rows in planned.needed.items() if rows.any())
        batch = self.writers[0].identity.batch
        windows = (item for _ in planned.plan.pictures for item in queue.take())
        return compute_layers(planned.plan, self.runner, batch, clock, layers=layers, advance=advance, windows=windows)

    def _assemble(
        self, planned: _PlannedTask, activations: Mapping[str, np.ndarray], clock: StageClock
    ) -> list[ComputedPart]:
        """Join computed rows and those that other stores hold to parts."""
        task, due, needed, computed_rows = planned.task, planned.due, planned.needed, planned.computed_rows
        position = np.cumsum(computed_rows) - 1
        computed = []
        for layer, (writer, parts) in due.items():
            adoption = task.adoption.get(layer, Adoption())
            for part in parts:
                rows = slice(part.start - task.part.start, part.stop - task.part.start)
                columns = {
                    "picture": task.plan.picture[rows],
                    "box_xyxy": task.plan.box_xyxy[rows],
                    "scale": task.plan.scale[rows],
                }
                taken = adoption.within(part.start, part.stop)
                if not taken.runs:
                    columns["activations"] = activations[layer][position[rows.start] : position[rows.stop - 1] + 1]
                    computed.append(ComputedPart(writer, part, columns))
                    continue
                with clock.measure("take over"), _explain_damage():
                    encoded = self._source.encoded(taken, part, writer.identity, writer.codec)
                    if encoded is None:
                        values = np.empty((part.n_rows, writer.identity.width), ROW_DTYPE)
                        self._source.read(taken, part.start, values)
                        own = needed[layer][rows]
                        if own.any():
                            values[own] = activations[layer][position[rows][own]]
                        columns["activations"] = values
                computed.append(ComputedPart(writer, part, columns, encoded or {}))
        return computed


@contextlib.contextmanager
def _explain_damage() -> Iterator[None]:
    """Add to the message of a damaged store how to go on without its rows."""
    try:
        yield
    except StoreDamagedError as error:
        raise StoreDamagedError(f"{error}; or compute all rows anew with: pipeline extract --no-adopt") from error


def _rows_needed(task: PartTask, layer: str, parts: Sequence[Part]) -> np.ndarray:
    """Return the rows of a task that have to be computed for parts of one layer: bool ndarray (rows of the task,)."""
    start, needed = task.part.start, np.zeros(task.part.n_rows, bool)
    adoption = task.adoption.get(layer, Adoption())
    for part in parts:
        needed[part.start - start : part.stop - start] = adoption.missing(part.start, part.stop)
    return needed
