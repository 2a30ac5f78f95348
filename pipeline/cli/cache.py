"""``pipeline cache``: ls, verify, repair, gc, explain."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import (
    dataset_option,
    echo_json,
    json_option,
    say,
    settings_options,
    split_option,
    workspace_from,
)
from pipeline.cli.show import print_table
from pipeline.io.numbers import format_bytes

if TYPE_CHECKING:
    from pipeline.cache.inventory import CachedStore

STORES = click.argument("names", nargs=-1, metavar="[STORE]...")


def _origin_options(function: Any) -> Any:
    text = "What the store was made from, where no receipt says so (with the settings of then)."
    return click.option("--dataset", help=text)(click.option("--split", help=text)(function))


def _age(changed: float) -> str:
    if not changed:
        return "-"
    seconds = max(0.0, time.time() - changed)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@click.group("cache")
def command() -> None:
    """List, verify, repair and free what is cached.

    \b
    Example:
      pipeline cache ls
      pipeline cache verify --recompute 100
      pipeline cache repair
      pipeline cache gc
      pipeline cache explain --dataset demo --split train --trunk random
    """


@command.command("ls")
@settings_options
@json_option
def list_cache(as_json: bool, **options: Any) -> None:
    """Show what is cached: from what, how large, complete or not, used by which heads and results.

    \b
    Example:
      pipeline cache ls
      pipeline cache ls --stores s3://bucket/stores --json
    """
    from rich.table import Table

    from pipeline.cache.inventory import list_stores
    from pipeline.cache.shared import find_sharing

    ws = workspace_from(options)
    stores = list_stores(ws)
    sharing = find_sharing(stores)
    if as_json:
        rows = [
            {
                "store": str(store.folder),
                "state": store.state,
                "rows": store.identity and store.identity["seen.n_rows"],
                "bytes": store.bytes,
                "made_from": store.made_from,
                "identity": store.identity and store.identity.to_dict(),
                "heads": store.heads,
                "results": store.results,
                "shares": asdict(sharing[store.folder.name]) if store.folder.name in sharing else None,
            }
            for store in stores
        ]
        echo_json(rows)
        return
    if not stores:
        click.echo(f"{ws.stores}: no stores; make one with: pipeline extract --dataset demo --split train")
        return
    table = Table()
    for name in ("store", "from", "rows", "size", "state", "changed", "used by"):
        table.add_column(name, justify="right" if name in ("rows", "size", "changed") else "left", overflow="fold")
    for store in stores:
        origin = " ".join(store.made_from.get(key, "?") for key in ("dataset", "split"))
        trunk = f"{store.made_from.get('trunk', '?')} {store.identity['how.layer']}" if store.identity else "?"
        table.add_row(
            store.folder.name,
            f"{origin}\n{trunk}",
            f"{store.identity['seen.n_rows']:,}" if store.identity else "?",
            format_bytes(store.bytes),
            store.state,
            _age(store.changed),
            _users(store),
        )
    print_table(table)
    total = sum(store.bytes for store in stores)
    click.echo(f"{ws.stores}: {len(stores)} stores, {format_bytes(total)}")
    for name, shared in sharing.items():
        click.echo(f"{name}: {shared}")
    if any(shared.whole for shared in sharing.values()):
        click.echo("stores that others hold whole can be freed with: pipeline cache gc --shared")


def _users(store: CachedStore) -> str:
    """Say what uses a store."""
    if store.heads or store.results:
        return f"{len(store.heads)} heads, {len(store.results)} results"
    return "features without labels" if store.without_labels else "nothing"


@command.command("verify")
@STORES
@_origin_options
@settings_options
@click.option("--recompute", type=click.IntRange(min=1), help="Also run N sampled rows through the trunk again.")
def verify(names: tuple[str, ...], dataset: str | None, split: str | None, recompute: int | None, **options: Any):
    """Check every byte of stores against their seals; without STORE, everything that is cached.

    Names what is flipped, torn, missing, stale or unexpected, and ends with code 2 if anything is.

    \b
    Example:
      pipeline cache verify
      pipeline cache verify demo-train-alexnet64-fc7-0123456789ab.zarr --recompute 200
    """
    from pipeline.cache.sources import Origin
    from pipeline.cache.verify import check_stores, count_findings, verify_small_files
    from pipeline.cache.verify import recompute as recompute_store
    from pipeline.io.errors import PipelineError
    from pipeline.io.messages import enumerate_problems

    ws = workspace_from(dict(options))
    reports, stale, problems, ways = [], [], [], []
    for checked in check_stores(ws, names):
        report, reason = checked.report, checked.stale
        reports.append(report)
        name = report.folder.name
        click.echo(f"{report.folder}: {report.state}, {report.parts} parts, {format_bytes(report.bytes)}")
        for line in (*map(str, report.findings[:10]), *([f"stale: {reason}"] if reason else [])):
            click.secho(f"  - {line}", fg="red")
        if len(report.findings) > 10:
            click.echo(f"  ... and {len(report.findings) - 10} more")
        if reason:
            stale.append(name)
        if recompute and checked.sound and not reason:
            arithmetic = {key: options[key] for key in ("device", "precision") if options.get(key)}
            again = recompute_store(ws, name, recompute, ws.settings.seed, say, Origin(dataset, split), arithmetic)
            good = not len(again.bad_rows)
            click.secho(f"  {again}", fg="green" if good else "red")
            if not good:
                problems.append(f"{name}: rows {again.bad_rows[:5].tolist()} are not what the trunk says now")
    bad_files = [] if names else [bad.problem for bad in verify_small_files(ws)]
    problems += bad_files
    damaged = [report for report in reports if report.findings]
    if damaged or bad_files:
        ways.append("repair the damage: pipeline cache repair")
    if damaged:
        problems.append(f"{len(damaged)} of {len(reports)} stores are damaged: {count_findings(damaged)}")
    if stale:
        problems.append(f"{len(stale)} of {len(reports)} stores are stale: {', '.join(stale[:5])}")
        ways.append("of stale stores: extract again, which makes another store; pipeline cache gc frees those not used")
    if problems:
        listed, next_steps = enumerate_problems(problems), "\n".join(ways)
        raise PipelineError(f"{ws.stores}: not all is as it was made\n{listed}\n{next_steps}".rstrip())
    if not reports:
        click.echo(f"{ws.stores}: no stores")


@command.command("repair")
@STORES
@_origin_options
@settings_options
def repair(names: tuple[str, ...], dataset: str | None, split: str | None, **options: Any) -> None:
    """Make the bad parts of stores again, and no others; without STORE, repair everything that is cached.

    Damaged receipts are written again; damaged patch tables, heads and scores are removed, and the next
    run makes them. A store whose sources changed is left as it is, and named.

    \b
    Example:
      pipeline cache repair
      pipeline cache repair demo-train-alexnet64-fc7-0123456789ab.zarr
    """
    from pipeline.cache.repair import repair_small_file, repair_store
    from pipeline.cache.sources import Origin
    from pipeline.cache.verify import check_stores, verify_small_files
    from pipeline.io.errors import PipelineError
    from pipeline.io.messages import enumerate_problems

    ws = workspace_from(options)
    if not names:
        for bad in verify_small_files(ws):
            click.echo(f"{bad.path}: {repair_small_file(ws, bad, say)}")
    failed = []
    for checked in check_stores(ws, names):
        report = checked.report
        if checked.sound:
            stale = f", but stale: {checked.stale}; extract again, which makes another store" if checked.stale else ""
            click.echo(f"{report.folder}: sound, nothing to repair{stale}")
            continue
        for finding in report.findings[:10]:
            click.echo(f"{report.folder}: {finding}")
        if not report.findings and not checked.has_receipt and dataset is None:
            # An interrupted extraction is no damage: its receipt is written last.
            click.echo(
                f"{report.folder}: incomplete, nothing to repair; resume it with the same pipeline extract, "
                "or free it: pipeline cache gc"
            )
            continue
        try:
            done = repair_store(ws, report, say, Origin(dataset, split))
        except PipelineError as error:
            failed.append(str(error))
            continue
        parts = f"parts {', '.join(map(str, done.made))} made again" if done.made else "no part had to be made again"
        click.echo(f"{report.folder}: {parts}; sealed")
        for name in done.removed:
            click.echo(f"{report.folder}: removed {name}, which was no file of it")
        if done.differing:
            click.secho(
                f"NOTE: parts {', '.join(map(str, done.differing))} came out with other bytes than were sealed: "
                "another machine or library rounds otherwise; see how far: pipeline cache verify --recompute 100",
                fg="yellow",
            )
    if failed:
        raise PipelineError(f"{len(failed)} could not be repaired\n{enumerate_problems(failed)}")


@command.command("gc")
@settings_options
@click.option("--yes", is_flag=True, help="Remove what is shown.")
@click.option(
    "--older-than", "hours", type=click.FloatRange(min=0), default=24.0, show_default=True, help="Hours without change."
)
@click.option("--shared", is_flag=True, help="Also stores of which another store holds every row.")
def collect(yes: bool, hours: float, shared: bool, **options: Any) -> None:
    """Show, and with --yes remove, what no head and no result uses.

    \b
    Example:
      pipeline cache gc
      pipeline cache gc --older-than 0 --yes
      pipeline cache gc --shared
    """
    from pipeline.cache.gc import find_garbage, sweep

    ws = workspace_from(options)
    for path in sweep(ws):
        click.echo(f"{path}: left by a killed run, removed")
    garbage = find_garbage(ws, hours * 3600, shared)
    for item in garbage:
        click.echo(f"{item.what}: {format_bytes(item.bytes)}, {item.why}")
    total = format_bytes(sum(item.bytes for item in garbage))
    if not garbage:
        click.echo(f"nothing to free: all is used, or younger than {hours:g} hours")
    elif not yes:
        click.echo(f"{total} could be freed by: pipeline cache gc{' --shared' if shared else ''} --yes")
    else:
        for item in garbage:
            item.remove()
        click.echo(f"{total} freed")


@command.command("explain")
@dataset_option
@split_option(required=True)
@settings_options
def explain_settings(dataset: str, split: str, **options: Any) -> None:
    """Say which files some settings ask for, what of it is there, and which fields set other stores apart.

    \b
    Example:
      pipeline cache explain --dataset demo --split train --trunk random
    """
    from pipeline.cache.explain import explain
    from pipeline.stages.context import RunContext

    explanation = explain(RunContext(workspace_from(options), dataset, say), split)
    for item in explanation.stages:
        click.echo(f"{item.stage:9} {item.what}")
        click.secho(f"          {item.words}", fg="green" if item.current else "yellow")
    for name, differing in explanation.others.items():
        click.echo(f"\n{name} is another store:")
        for field in differing:
            click.echo(f"  - {field.name}: holds {field.stored!r}, asked for {field.wanted!r}")
