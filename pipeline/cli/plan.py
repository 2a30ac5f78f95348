"""``pipeline plan``."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import echo_json, json_option, settings_options, workspace_from
from pipeline.cli.show import print_table
from pipeline.io.memory import total_memory
from pipeline.io.numbers import estimate_bytes, estimate_time, format_count, format_number

if TYPE_CHECKING:
    from pipeline.activations.preview import Preview
    from pipeline.preflight.plan import Counts, Left, Plan
    from pipeline.stages.workspace import Workspace

TYPICAL_WH = (500, 375)


@click.command("plan")
@click.option("--dataset", help="Name of a manifest in data_manifests/: its pictures are counted.")
@click.option("--split", help="Split of the dataset; default: its fit and its evaluation split.")
@click.option("--images", multiple=True, help="Instead of a dataset: pictures; a second time for the split to score.")
@click.option("--patches", help="With --images: patches a picture; default: those of a 500 x 375 picture.")
@settings_options
@click.option("--workers", help="Machines or processes that make parts at the same time; default: 1.")
@click.option("--gpus", help="The same, each with one GPU.")
@click.option("--rate", help="Patches a second of the trunk alone on one worker; default: from the table of costs.")
@click.option("--price", help="Dollars a worker and hour.")
@click.option("--costs", type=click.Path(path_type=Path), help="Table of unit costs; default: the one that is shipped.")
@json_option
def command(
    dataset: str | None,
    split: str | None,
    images: tuple[str, ...],
    patches: str | None,
    workers: str | None,
    gpus: str | None,
    rate: str | None,
    price: str | None,
    costs: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what an extraction and all after it will take, before it runs: time, dollars, bytes, files, memory.

    Reckoned from measured unit costs; nothing is decoded. Rows that are in the cache already count as such: only
    for them the trunk is loaded. --threads is the cores of a worker.

    \b
    Example:
      pipeline plan --dataset demo
      pipeline plan --images 11540 --images 10991 --patches 509            # VOC 2012 trainval and test
      pipeline plan --images 1.28e6 --patches 500 --trunk alexnet --workers 8 --threads 16 --price 0.5
      pipeline plan --images 1.28e6 --patches 500 --trunk alexnet --gpus 8 --rate 20000
      pipeline plan --images 1e9 --patches 1 --workers 100 --threads 16    # the source `whole`
      pipeline plan --images 1e9 --patches 50 --workers 1000 --threads 16
    """
    from pipeline.io.errors import SettingsError
    from pipeline.io.messages import enumerate_problems
    from pipeline.preflight.costs import read_costs
    from pipeline.preflight.plan import Counts, Workers, make_plan, trunk_rate

    problems: list[str] = []

    def number(name: str, text: str | None, whole: bool = True) -> Any:
        """A number above zero, or None; 1e6 and 1_000_000 are both a million."""
        try:
            value = None if text is None else float(text)
            if value is None or (0 < value < math.inf and not (whole and value % 1)):
                return int(value) if value and whole else value
        except ValueError:
            pass
        problems.append(f"--{name}: expected a {'whole ' if whole else ''}number above 0, got {text!r}")
        return 1

    pictures = [number("images", text) for text in images]
    per_picture = number("patches", patches)
    n_workers, n_gpus = number("workers", workers), number("gpus", gpus)
    given_rate, given_price = number("rate", rate, whole=False), number("price", price, whole=False)
    if bool(dataset) == bool(images):
        problems.append("give either --dataset or --images")
    if len(images) > 2:
        problems.append(f"--images: once, or for two splits, got {len(images)}")
    problems += [f"--patches goes with --images: those of {dataset} are counted"] if dataset and patches else []
    problems += ["--split goes with --dataset"] if split and images else []
    problems += ["--workers and --gpus exclude each other"] if workers and gpus else []
    if problems:
        raise SettingsError(f"plan: {len(problems)} mistake(s)\n{enumerate_problems(problems)}")
    ws = workspace_from(options)
    s = ws.settings
    table = read_costs(costs)
    trunk = table.trunk(s.trunk, s.layer)
    cores = s.threads or len(os.sched_getaffinity(0))
    fleet = Workers(n_gpus or n_workers or 1, cores, gpu=bool(gpus) or s.device.startswith("cuda"))
    arithmetic, of_trunk = ("as given", given_rate) if given_rate else trunk_rate(trunk, fleet, s.precision)
    warnings: list[str] = []
    notes: list[str] = []
    previews: dict[str, Preview | None] = {}
    if dataset:
        counted, previews = _count_dataset(ws, dataset, split, fleet.gpu, warnings, notes)
    else:
        per_picture = per_picture or _typical_patches(ws)
        counted = {f"split {i}": Counts(n, n * per_picture) for i, n in enumerate(pictures, start=1)}
    plan = make_plan(
        list(counted.values()),
        trunk,
        of_trunk,
        fleet,
        table,
        given_price or table.price,
        batch=s.batch,
        left=[_left(counts, previews.get(name)) for name, counts in counted.items()],
    )
    warnings += _warn(ws, plan)
    if as_json:
        given = {
            "splits": {name: asdict(counts) for name, counts in counted.items()},
            "trunk": s.trunk,
            "workers": asdict(fleet),
            "arithmetic": arithmetic,
            "measured": trunk.measured,
        }
        if any(previews.values()):
            given["there"] = {name: asdict(found) if found else None for name, found in previews.items()}
        echo_json({**given, **asdict(plan), "notes": notes, "warnings": warnings})
        return
    for name, counts in counted.items():
        click.echo(f"{name}: {format_count(counts.pictures)} pictures, {format_count(counts.rows)} patches")
        found = previews.get(name)
        if found is not None:
            click.echo(f"  there already: {_describe(found, counts)}")
    for note in notes:
        click.echo(f"note: {note}")
    kind = "GPU" if fleet.gpu else "worker"
    who = f"{fleet.n:,} {kind}{'s' * (fleet.n > 1)} of {cores} core{'s' * (cores > 1)}"
    click.echo(f"{s.trunk} {trunk.layer}, {trunk.width:,} columns; {who}; arithmetic {arithmetic}")
    _print(plan)
    speed = plan.speed
    click.echo(
        f"parts: {plan.parts:,} of {plan.part_rows:,} patches, {estimate_time(plan.part_seconds / 3600)} each\n"
        f"workers: busy {100 * plan.busy:.0f} % of the time they are held; start-up and the last wave are the rest\n"
        f"bound by {speed.bound_by}: a worker makes {format_number(speed.together)} patches/s "
        f"(the trunk alone {format_number(speed.trunk)}, {speed.feed_by} alone {format_number(speed.feed)})"
    )
    if given_price is None and table.price:
        click.echo(f"assumed price: ${table.price:g} a worker and hour")
    click.echo(f"costs: {trunk.measured}")
    for warning in warnings:
        click.secho(f"WARNING: {warning}", fg="red", bold=True)


def _typical_patches(ws: Workspace) -> int:
    from pipeline.patches.sources import count_windows

    return count_windows(*TYPICAL_WH, ws.settings.sources)


def _left(counts: Counts, found: Preview | None) -> Left:
    from pipeline.preflight.plan import Left

    return Left(counts.rows) if found is None else Left(found.n_rows, sum(found.adopted.values()))


def _describe(found: Preview, counts: Counts) -> str:
    """What of a split is there, in words."""
    there = counts.rows - found.n_rows - sum(found.adopted.values())
    if there == counts.rows:
        return "all rows"
    words = found.in_words()
    return f"{there:,} rows in recorded parts; {words}" if there else words


def _count_dataset(
    ws: Workspace, dataset: str, split: str | None, gpu: bool, warnings: list[str], notes: list[str]
) -> tuple[dict[str, Counts], dict[str, Preview | None]]:
    """Counts of the splits, of the kept patch tables, else from sizes in XML files and headers; and what is there."""
    from pipeline.dataset.read import read_split
    from pipeline.io.errors import DatasetError
    from pipeline.io.messages import enumerate_problems
    from pipeline.patches.table_file import read_table
    from pipeline.preflight.found import foresee
    from pipeline.preflight.plan import Counts, count_split
    from pipeline.stages.context import RunContext

    run = RunContext(ws, dataset, notes.append)
    manifest = run.manifest
    counted: dict[str, Counts] = {}
    previews: dict[str, Preview | None] = {}
    for name in [split] if split else dict.fromkeys((manifest.fit, manifest.eval)):
        path = ws.table_path(dataset, name)
        if path.is_file():
            table = read_table(path)
            title = f"{dataset} {name} (kept patch table)"
            counted[title] = Counts(len(table.ids), table.n_rows)
            previews[title] = foresee(run, name, gpu, notes.append)
            continue
        content = read_split(manifest, name, ws.settings.data_root, ws.settings.on_error)
        counts, problems = count_split(content, ws.settings.sources)
        where = f"{dataset} {name}: {len(problems)} of {len(content.ids)} pictures will be refused"
        if not counts.rows:
            raise DatasetError(f"{where}\n{enumerate_problems(problems)}")
        warnings += [f"{where}\n{enumerate_problems(problems)}"] if problems else []
        title = f"{dataset} {name} (counted from sizes)"
        counted[title], previews[title] = counts, None
    return counted, previews


def _warn(ws: Workspace, plan: Plan) -> list[str]:
    """What will not fit: the disk of the stores, and the memory of this machine."""
    warnings = []
    needed, free = plan.stages["extract"].bytes_at_most, ws.stores.free_bytes()
    if free is not None and needed > free:
        warnings.append(
            f"{ws.stores}: up to {estimate_bytes(needed)} are needed and {estimate_bytes(free)} are free; extract "
            "refuses to begin like that: choose another --cache or --stores"
        )
    memory = total_memory()
    large = [name for name, stage in plan.stages.items() if stage.memory_bytes > memory]
    if large:
        warnings.append(
            f"{', '.join(large)}: more memory than the {estimate_bytes(memory)} of this machine; pictures, "
            "annotations and the rows of a fit are held whole, so cut the pictures into several datasets"
        )
    return warnings


def _print(plan: Plan) -> None:
    from rich.table import Table

    table = Table()
    priced = all(stage.dollars is not None for stage in plan.stages.values())
    for column in ("stage", "time", *(["dollars"] if priced else []), "on disk", "at most", "files", "peak memory"):
        table.add_column(column, justify="left" if column == "stage" else "right")

    def add(name: str, hours: float, dollars: float, expected: float, most: float, files: int, memory: float) -> None:
        paid = [f"${format_number(dollars)}"] if priced else []
        table.add_row(
            name,
            estimate_time(hours),
            *paid,
            estimate_bytes(expected),
            estimate_bytes(most),
            format_count(files),
            estimate_bytes(memory),
        )

    rows = [list(asdict(stage).values()) for stage in plan.stages.values()]
    for name, row in zip(plan.stages, rows, strict=True):
        add(name, *row)
    *columns, memories = zip(*rows, strict=True)
    table.add_section()
    add("all", *[*(sum(v or 0 for v in column) for column in columns), max(memories)])
    print_table(table)
