"""What of a dataset's activations is there already, for a plan."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.activations.folder import open_folder
from pipeline.activations.preview import Preview, preview
from pipeline.io.errors import PipelineError
from pipeline.stages import extract, patches
from pipeline.stages.context import RunContext
from pipeline.stages.extract import extraction_of, without_pictures
from pipeline.trunk.devices import resolve_device


def foresee(run: RunContext, split: str, gpu: bool, note: Callable[[str], None]) -> Preview | None:
    """Return what an extraction of a split would compute and take over; None for everything.

    The patch table tells which pictures there are, by their digests. Where there are stores that may hold rows of them,
    the trunk is loaded. Nothing is written or downloaded.

    Parameters
    ----------
    gpu : whether the workers of the plan have GPUs
    note : takes a line about stores that were not looked at, and why
    """
    ws = run.ws
    folders = [ws.stores, *(open_folder(place) for place in run.settings.adopt_from)]
    if not any(name.endswith(".zarr") for folder in folders for name in folder.folders()):
        return None
    where = f"{run.dataset} {split}: rows that are there already are not counted"
    try:
        table = patches.require(run, split)
    except patches.TableDueError as due:
        reason = due.reason.partition("\n")[0]
        note(f"{where}: {reason}; make the table with: pipeline patches --dataset {run.dataset}")
        return None
    if extract.why_due(run, split) is None:
        return Preview(0, 0, {})
    try:
        if gpu != (resolve_device(run.settings.device).type == "cuda"):
            note(f"{where}: the last bits of a row depend on the kind of device, and this machine has the other kind")
            return None
        return preview(extraction_of(run, without_pictures(run, table), download=False))
    except PipelineError as error:
        note(f"{where}: {str(error).partition(chr(10))[0]}")
        return None
