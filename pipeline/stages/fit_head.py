"""Stage ``fit-head``: heads on the cached activations of the fit split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.activations.store import Store
from pipeline.head.device import HeadDevice
from pipeline.head.facts import read_facts
from pipeline.head.file import load_head, save_head
from pipeline.head.fit import fit_heads
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.head import Head
from pipeline.head.rows import RowReader
from pipeline.head.settings import CPU_KINDS, AnyHead
from pipeline.io.atomic import check_writable
from pipeline.io.errors import HeadError, StoreNotExtractedError
from pipeline.patches.table import PatchTable
from pipeline.stages import patches
from pipeline.stages.boxes import check_heads
from pipeline.stages.context import RunContext
from pipeline.stages.hints import name_way
from pipeline.stages.patches import TableDueError
from pipeline.stages.runner import make_trunk, set_threads
from pipeline.stages.seconds import write_seconds
from pipeline.stages.stored import open_rows, rows_to_extract, sealed_store
from pipeline.stages.workspace import Workspace


def path(run: RunContext, head: str, without_held_out: bool = False) -> Path:
    """Return the file of a head; `without_held_out`, of the one that was fitted without the held-out pictures."""
    return run.ws.head_path(run.dataset, head, without_held_out)


def why_due(run: RunContext, head: str, without_held_out: bool = False) -> str | None:
    """Return why a head must be fitted, or None if it is current.

    A current head is sound, and was fitted on this split, these classes, this store and these labels. As much is
    compared as is available: without the activations of its fit split, a sound head of this split counts as current.

    Raises
    ------
    MissingDataError
        Neither the pictures of the fit split nor their patch table.
    """
    file = path(run, head, without_held_out)
    if not file.is_file():
        return "it has not been fitted yet"
    try:
        facts = load_head(file).facts
    except HeadError as error:
        return str(error)
    split = run.ws.split_of_rows(run.manifest, head, without_held_out)
    if facts.split != split:
        return f"it was fitted on split {facts.split!r}, and the manifest says {split!r}"
    wanted = run.settings.head_device.partition(":")[0]
    if facts.settings["kind"] not in CPU_KINDS and wanted not in ("auto", facts.device):
        return f"it was fitted on {facts.device}, and head_device says {wanted}"
    if facts.classes != run.manifest.classes:
        return "it was fitted on other classes than the manifest has"
    try:
        if facts.fingerprint != sealed_store(run, split).fingerprint:
            return "it was fitted on another store"
    except StoreNotExtractedError:
        return None
    try:
        table = patches.require(run, split)
    except TableDueError as due:
        return str(due)
    if facts.labels_digest != table.labels_digest(run.settings.labels):
        return "it was fitted on other labels"
    return None


def require(run: RunContext, head: str, without_held_out: bool = False) -> Head:
    """Load a head that is current.

    Raises
    ------
    HeadError
        It is not there, damaged, or was fitted on something else than there is now.
    """
    file = path(run, head, without_held_out)
    if file.is_file():  # if not, loading says so
        reason = why_due(run, head, without_held_out)
        if reason is not None:
            raise HeadError(
                f"{file}: {reason}; fit it again: pipeline fit-head --dataset {run.dataset} --head {head}, with the "
                "same settings"
            )
    return load_head(file)


def make(run: RunContext, heads: Sequence[str], without_held_out: bool = False) -> dict[str, Path]:
    """Fit heads on the fit split's store and write them; heads of one shape are fitted side by side.

    Parameters
    ----------
    without_held_out : leave the held-out share of the pictures out, for choosing on them
    """
    check_heads(run.manifest, run.settings, heads)
    by_split: dict[str, dict[str, AnyHead]] = {}
    for name in heads:
        split = run.ws.split_of_rows(run.manifest, name, without_held_out)
        by_split.setdefault(split, {})[name] = run.settings.head_settings(name)
    paths = {name: path(run, name, without_held_out) for name in heads}
    check_writable(*paths.values())
    set_threads(run.settings.threads)
    s = run.settings
    share = s.held_out if without_held_out else 0.0
    trunk = partial(make_trunk, run.ws, run.dataset)
    for split, of_split in by_split.items():
        table, store, rows = _open_rows(run, split)
        started = time.perf_counter()
        fitted = fit_heads(
            store,
            table,
            of_split,
            s.labels,
            s.seed,
            held_out_share=share,
            load_trunk=trunk,
            reader=rows,
            device=head_device(run),
        )
        for name, head in fitted:
            digest = save_head(head, paths[name])
            run.say(f"{paths[name]}: {_describe(head)} sha256 {digest[:12]}")
        # Heads may be fitted side by side: each gets its share.
        seconds = (time.perf_counter() - started) / len(of_split)
        run.say(f"{run.dataset} {split}: {len(of_split)} head(s) fitted, {seconds:.1f} s each")
        for name in of_split:
            write_seconds(paths[name], {"fit_head": seconds})
    return paths


def ensure(run: RunContext, heads: Sequence[str], without_held_out: bool = False) -> dict[str, Path]:
    """Fit those heads that are not current; return the files of all."""
    check_heads(run.manifest, run.settings, heads)
    due = []
    for name in heads:
        file, reason = path(run, name, without_held_out), why_due(run, name, without_held_out)
        if reason is None:
            run.say(f"{file}: there already, for this store and these labels")
            continue
        if file.is_file():
            run.say(f"{file}: {reason}; fitting it anew")
        due.append(name)
    make(run, due, without_held_out)
    return {name: path(run, name, without_held_out) for name in heads}


def _open_rows(run: RunContext, split: str) -> tuple[PatchTable, Store, RowReader]:
    table, store = open_rows(run, split)
    return table, store, RowReader(store, rows_to_extract(run, table), memory_budget(run))


def memory_budget(run: RunContext) -> MemoryBudget:
    """Return the memory budget of a fit, from the settings."""
    memory = run.settings.memory
    return MemoryBudget(None if memory is None else int(memory * 2**30), run.ws.cache, run.say)


def head_device(run: RunContext) -> HeadDevice:
    """Return the device of heads, from the settings: none of them runs on a GPU where ``device`` is ``cpu``."""
    s = run.settings
    setting = "cpu" if (s.head_device, s.device) == ("auto", "cpu") else s.head_device
    return HeadDevice(setting, run.say)


def _describe(head: Head) -> str:
    """Say what a head was fitted on, and how it went."""
    facts = head.facts
    if facts.settings["kind"] == "own":
        return "the trunk's own last layer, nothing was fitted;"
    used, total = facts.pictures["used"], sum(facts.pictures.values())
    text = f"fitted on {used:,} of {total:,} pictures"
    counts = [f"{n:,} {what}" for what, n in (facts.patches or {}).items() if what in ("positive", "background")]
    text += f", {' and '.join(counts)} patches" if counts else ""
    text += "" if facts.device == "cpu" else f", on {facts.device}"
    return text + (f", loss {facts.epochs[-1]['loss']:.4f}" if facts.epochs else "") + ";"


def find_head(ws: Workspace, run: RunContext | None, head: str | None) -> Head:
    """Load the fitted head that is meant: by its file, by its name and dataset, or the only one that there is.

    Raises
    ------
    HeadError
        There is none, or it cannot be told which of several is meant.
    """
    if head is not None and head.endswith(".safetensors"):
        return load_head(Path(head).expanduser())
    if run is not None:
        name = head or run.settings.main_head(run.manifest.has_boxes)
        check_heads(run.manifest, run.settings, [name])
        file = path(run, name)
        if not file.is_file():
            commands = f"pipeline fit-head --dataset {run.dataset} --head {name}, with the same settings"
            raise HeadError(
                f"{run.dataset}: no head {name!r} with these settings (no {file}); make it with: "
                + (commands if head else name_way(f"{ws.results}/{run.dataset}_map.json", commands))
            )
        return require(run, name)
    name = head or ws.settings.head
    ws.settings.head_settings(name)  # refuses unknown names
    files = sorted((ws.results / "heads").glob(f"*-{name}-*.safetensors"))
    datasets = sorted({read_facts(file).dataset for file in files})
    fitted = [each for each in datasets if ws.head_path(each, name).is_file()]
    if len(fitted) != 1:
        what = f"of {', '.join(fitted)}: say which with --dataset" if fitted else "with these settings"
        raise HeadError(
            f"{ws.results / 'heads'}: {len(fitted)} fitted heads {name!r} {what}; "
            "fit one with: pipeline fit-head --dataset NAME, or give the file of one with --head FILE.safetensors"
        )
    return load_head(ws.head_path(fitted[0], name))
