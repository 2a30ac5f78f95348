"""Parts of stores, computed and written: the work of every engine's worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.activations.compute import compute_layers
from pipeline.activations.folder import Folder, disk_trouble
from pipeline.activations.partition import Part, parts_within
from pipeline.activations.row_plan import RowPlan
from pipeline.activations.run_log import StageClock
from pipeline.activations.writer import StoreWriter
from pipeline.trunk.runner import TrunkRunner


@dataclass(frozen=True)
class PartTask:
    """The unit that engines schedule: one part to extract.

    If several layers come from one pass, it is a range of rows that holds whole parts of each store.
    """

    part: Part
    plan: RowPlan


@dataclass(frozen=True)
class ComputedPart:
    """A part whose rows are in memory, and still to be written."""

    writer: StoreWriter
    part: Part
    columns: Mapping[str, np.ndarray]

    def write(self, clock: StageClock) -> None:
        """Compress and write the part, then its record.

        Raises
        ------
        PipelineError
            The disk is full, or the folder cannot be written.
        """
        with clock.measure("write"):
            try:
                self.writer.write_part(self.part, self.columns)
            except OSError as error:
                raise disk_trouble(error, self.writer.folder) from error


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

    def make(self, task: PartTask, clock: StageClock, advance: Callable[[int], None] = lambda n: None) -> None:
        """Compute and write all parts of a task that no writer has recorded yet; see `compute`."""
        for part in self.compute(task, clock, advance):
            part.write(clock)

    def compute(self, task: PartTask, clock: StageClock, advance: Callable[[int], None]) -> list[ComputedPart]:
        """Compute all parts of a task that no writer has recorded yet.

        Parameters
        ----------
        advance : called with numbers of rows, recorded ones included, that sum up to the rows of the task
        """
        due = {}
        for writer in self.writers:
            parts = [part for part in parts_within(writer.parts, task.part) if not writer.is_recorded(part)]
            if parts:
                due[writer.identity.layer] = (writer, parts)
        if not due:
            advance(task.part.n_rows)
            return []
        batch = self.writers[0].identity.batch
        activations = compute_layers(task.plan, self.runner, batch, clock, layers=tuple(due), advance=advance)
        computed = []
        for layer, (writer, parts) in due.items():
            for part in parts:
                rows = slice(part.start - task.part.start, part.stop - task.part.start)
                columns = {
                    "activations": activations[layer][rows],
                    "picture": task.plan.picture[rows],
                    "box_xyxy": task.plan.box_xyxy[rows],
                    "scale": task.plan.scale[rows],
                }
                computed.append(ComputedPart(writer, part, columns))
        return computed
