"""Parts of stores, computed and written: what every engine's worker does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.activations.compute import compute_layers
from pipeline.activations.folder import Folder, disk_trouble
from pipeline.activations.layout import Part, parts_within
from pipeline.activations.row_plan import RowPlan
from pipeline.activations.run_log import StageClock
from pipeline.activations.writer import StoreWriter
from pipeline.trunk.runner import TrunkRunner


@dataclass(frozen=True)
class PartTask:
    """The unit that engines schedule: one part to make.

    Where several layers come from one pass, it is a range of rows that holds whole parts of each store.
    """

    part: Part
    plan: RowPlan


class PartMaker:
    """Computes parts and writes them: what every engine's worker holds, once.

    Parameters
    ----------
    runner : the trunk on this worker's device
    folders : of the stores, made by `create_store`; of several layers of the runner's trunk, if several
    """

    def __init__(self, runner: TrunkRunner, *folders: Folder) -> None:
        self.runner = runner
        self.writers = [StoreWriter(folder) for folder in folders]

    def make(self, task: PartTask, clock: StageClock, advance: Callable[[int], None] = lambda n: None) -> None:
        """Make what no writer has recorded by now; `advance` hears of all rows of the task."""
        for part in self.compute(task, clock, advance):
            part.write(clock)

    def compute(self, task: PartTask, clock: StageClock, advance: Callable[[int], None]) -> list[ComputedPart]:
        """The rows of what no writer has recorded by now, not written yet; `advance` hears of all rows of the task."""
        due = {}
        for writer in self.writers:
            parts = [part for part in parts_within(writer.parts, task.part) if not writer.is_recorded(part)]
            if parts:
                due[writer.identity["how.layer"]] = (writer, parts)
        if not due:
            advance(task.part.n_rows)
            return []
        batch = self.writers[0].identity["how.batch"]
        activations = compute_layers(task.plan, self.runner, tuple(due), batch, clock, advance)
        made = []
        for layer, (writer, parts) in due.items():
            for part in parts:
                rows = slice(part.start - task.part.start, part.stop - task.part.start)
                columns = {
                    "activations": activations[layer][rows],
                    "picture": task.plan.picture[rows],
                    "box_xyxy": task.plan.box_xyxy[rows],
                    "scale": task.plan.scale[rows],
                }
                made.append(ComputedPart(writer, part, columns))
        return made


@dataclass(frozen=True)
class ComputedPart:
    """A part whose rows are there and which is still to be written."""

    writer: StoreWriter
    part: Part
    columns: Mapping[str, np.ndarray]

    def write(self, clock: StageClock) -> None:
        """Compress and write it, then its record."""
        with clock.measure("write"):
            try:
                self.writer.write_part(self.part, self.columns)
            except OSError as error:
                raise disk_trouble(error, self.writer.folder) from error
