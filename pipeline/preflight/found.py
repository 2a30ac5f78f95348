"""What a plan knows of a dataset: its pictures and patches, and which of its activations are there already."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.activations.folder import open_folder
from pipeline.activations.preview import Preview, preview
from pipeline.io.errors import DatasetError, PipelineError
from pipeline.io.messages import enumerate_problems
from pipeline.patches.table_file import read_table
from pipeline.preflight.plan import Counts, count_split
from pipeline.stages import extract, patches
from pipeline.stages.context import RunContext
from pipeline.stages.extract import extraction_of, without_pictures
from pipeline.trunk.devices import resolve_device


def count_dataset(
    run: RunContext, split: str | None, gpu: bool, warn: Callable[[str], None]
) -> tuple[dict[str, Counts], dict[str, Preview | None]]:
    """Count the splits of a dataset: of the cached patch tables, else from sizes in XML files and headers.

    Parameters
    ----------
    split : None for the fit and the evaluation split
    gpu : whether the workers of the plan have GPUs
    warn : takes what is wrong with the pictures of a split, of which others can be used

    Returns
    -------
    counts of each split by its title, and what of it is there already; None where that is not known

    Raises
    ------
    DatasetError
        No picture of a split can be used.
    """
    counted: dict[str, Counts] = {}
    previews: dict[str, Preview | None] = {}
    for name in [split] if split else dict.fromkeys((run.manifest.fit, run.manifest.eval)):
        file = patches.path(run, name)
        if file.is_file():
            table = read_table(file)
            title = f"{run.dataset} {name} (kept patch table)"
            counted[title] = Counts(len(table.ids), table.n_rows)
            previews[title] = foresee(run, name, gpu, run.say)
            continue
        content = run.split(name)
        counts, problems = count_split(content, run.settings.sources)
        where = f"{run.dataset} {name}: {len(problems)} of {len(content.ids)} pictures will be refused"
        if not counts.rows:
            raise DatasetError(f"{where}\n{enumerate_problems(problems)}")
        if problems:
            warn(f"{where}\n{enumerate_problems(problems)}")
        title = f"{run.dataset} {name} (counted from sizes)"
        counted[title], previews[title] = counts, None
    return counted, previews


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
