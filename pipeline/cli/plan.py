"""``pipeline plan``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import echo_json, json_option, settings_options, workspace_from
from pipeline.cli.show import print_table
from pipeline.io.memory import total_memory
from pipeline.io.numbers import estimate_bytes, estimate_time, format_count, format_number

if TYPE_CHECKING:
    from pipeline.activations.preview import Preview
    from pipeline.preflight.plan import Counts, Left, Plan, Workers
    from pipeline.stages.workspace import Workspace

TYPICAL_WH = (500, 375)


@click.command("plan")
@click.option("--dataset", help="Name of a manifest in data_manifests/: its pictures are counted.")
@click.option("--split", help="Split of the dataset; default: its fit and its evaluation split.")
@click.option("--images", multiple=True, help="Instead of a dataset: pictures; a second time for the split to score.")
@click.option("--patches", help="With --images: patches per picture; default: those of a 500 x 375 picture.")
@settings_options
@click.option("--workers", help="Machines or processes that make parts at the same time; default: 1.")
@click.option("--gpus", help="The same, each with one GPU.")
@click.option("--rate", help="Patches per second of the trunk alone on one worker; default: from the table of costs.")
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

    Estimated from measured unit costs; nothing is decoded. Rows that are in the cache already count as such: only
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
    from pipeline.preflight.costs import read_costs
    from pipeline.preflight.plan import Counts, Workers, make_plan, trunk_rate, warn

    asked = _read_numbers(dataset, split, images, patches, workers, gpus, rate, price)
    ws = workspace_from(options)
    s, table = ws.settings, read_costs(costs)
    trunk = table.trunk(s.trunk, s.layer)
    fleet = Workers(
        asked.workers, s.threads or len(os.sched_getaffinity(0)), gpu=bool(gpus) or s.device.startswith("cuda")
    )
    arithmetic, of_trunk = ("as given", asked.rate) if asked.rate else trunk_rate(trunk, fleet, s.precision, s.backend)
    warnings: list[str] = []
    notes: list[str] = []
    previews: Mapping[str, Preview | None] = {}
    if dataset:
        from pipeline.preflight.found import count_dataset
        from pipeline.stages.context import RunContext

        run = RunContext(ws, dataset, notes.append)
        counted, previews = count_dataset(run, split, fleet.gpu, warnings.append)
    else:
        per_picture = asked.per_picture or _typical_patches(ws)
        counted = {f"split {i}": Counts(n, n * per_picture) for i, n in enumerate(asked.pictures, start=1)}
    plan = make_plan(
        list(counted.values()),
        trunk,
        of_trunk,
        fleet,
        table,
        asked.price or table.price,
        batch=s.batch,
        left=[_left(counts, previews.get(name)) for name, counts in counted.items()],
    )
    if dataset and not run.manifest.has_labels:
        plan = plan.without_head()
    warnings += warn(plan, str(ws.stores), ws.stores.free_bytes(), total_memory())
    if ws.dense:
        from pipeline.preflight.dense import describe_dense

        text, pays = describe_dense(TYPICAL_WH, s.grid)
        (notes if pays else warnings).append(text)
    shown = _Shown(counted, previews, fleet, arithmetic, trunk.measured, notes, warnings)
    if as_json:
        _echo_json(shown, plan, s.trunk)
        return
    assumed = f"assumed price: ${table.price:g} a worker and hour" if asked.price is None and table.price else ""
    _print_plan(shown, plan, f"{s.trunk} {trunk.layer}, {trunk.width:,} columns", assumed)


@dataclass(frozen=True)
class _Asked:
    """The numbers of the options; None where they are not given."""

    pictures: list[int]
    per_picture: int | None
    workers: int
    rate: float | None
    price: float | None


def _read_numbers(
    dataset: str | None,
    split: str | None,
    images: Sequence[str],
    patches: str | None,
    workers: str | None,
    gpus: str | None,
    rate: str | None,
    price: str | None,
) -> _Asked:
    """Read the numbers of the options.

    Raises
    ------
    SettingsError
        All mistakes at once, those of options that exclude each other too.
    """
    from pipeline.io.errors import SettingsError
    from pipeline.io.messages import enumerate_problems

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
    return _Asked(pictures, per_picture, n_gpus or n_workers or 1, given_rate, given_price)


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


@dataclass(frozen=True)
class _Shown:
    """What is said beside the plan itself."""

    counted: Mapping[str, Counts]
    previews: Mapping[str, Preview | None]
    fleet: Workers
    arithmetic: str
    measured: str
    notes: list[str]
    warnings: list[str]


def _echo_json(shown: _Shown, plan: Plan, trunk: str) -> None:
    given = {
        "splits": {name: asdict(counts) for name, counts in shown.counted.items()},
        "trunk": trunk,
        "workers": asdict(shown.fleet),
        "arithmetic": shown.arithmetic,
        "measured": shown.measured,
    }
    if any(shown.previews.values()):
        given["there"] = {name: asdict(found) if found else None for name, found in shown.previews.items()}
    echo_json({**given, **asdict(plan), "notes": shown.notes, "warnings": shown.warnings})


def _print_plan(shown: _Shown, plan: Plan, of_trunk: str, assumed: str) -> None:
    """Print a plan for people.

    Parameters
    ----------
    of_trunk : trunk, layer and width, in words
    assumed : the price that was assumed, in words; empty for none
    """
    for name, counts in shown.counted.items():
        click.echo(f"{name}: {format_count(counts.pictures)} pictures, {format_count(counts.rows)} patches")
        found = shown.previews.get(name)
        if found is not None:
            click.echo(f"  there already: {_describe(found, counts)}")
    for note in shown.notes:
        click.echo(f"note: {note}")
    fleet = shown.fleet
    kind = "GPU" if fleet.gpu else "worker"
    who = f"{fleet.n:,} {kind}{'s' * (fleet.n > 1)} of {fleet.cores} core{'s' * (fleet.cores > 1)}"
    click.echo(f"{of_trunk}; {who}; arithmetic {shown.arithmetic}")
    _print_stages(plan)
    speed = plan.speed
    click.echo(
        f"parts: {plan.parts:,} of {plan.part_rows:,} patches, {estimate_time(plan.part_seconds / 3600)} each\n"
        f"workers: busy {100 * plan.busy:.0f} % of the time they are held; start-up and the last wave are the rest\n"
        f"bound by {speed.bound_by}: a worker makes {format_number(speed.together)} patches/s "
        f"(the trunk alone {format_number(speed.trunk)}, {speed.feed_by} alone {format_number(speed.feed)})"
    )
    if assumed:
        click.echo(assumed)
    click.echo(f"costs: {shown.measured}")
    for warning in shown.warnings:
        click.secho(f"WARNING: {warning}", fg="red", bold=True)


def _print_stages(plan: Plan) -> None:
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
