"""``pipeline show``, and the tables that other commands print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import format_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipeline.views.tables.table import ResultTable


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


PAGE_WIDTH = 120
"""Columns of a table where there is no terminal: rich would fold it at 80."""


def print_table(table: Table) -> None:
    """Print a rich table, as wide as the terminal, or as a page; as blocks of lines where its words do not fit."""
    import sys

    from rich.console import Console
    from rich.measure import Measurement

    # Names are printed as they are: [small] is no style, and :cat: no picture.
    console = Console(width=None if sys.stdout.isatty() else PAGE_WIDTH, markup=False, emoji=False)
    anything = console.options.update(max_width=10_000)  # else it is as wide as the console at most
    if Measurement.get(console, anything, table).minimum > console.width:
        print_blocks(console, table)
    else:
        console.print(table)


def print_blocks(console: Console, table: Table) -> None:
    """Print a table as one block per row: its first cell, and below it each other cell behind its column's name."""
    from rich.padding import Padding
    from rich.table import Table

    if table.title:
        console.print(table.title)
    cells = [list(column.cells) for column in table.columns]
    footers = [[column.footer] for column in table.columns] if table.show_footer else []
    for row in [*zip(*cells, strict=True), *zip(*footers, strict=True)]:
        console.print(row[0], style="bold", overflow="fold")
        block = Table.grid(padding=(0, 2))
        for column, cell in list(zip(table.columns, row, strict=True))[1:]:
            if cell:
                block.add_row(column.header, cell)
        console.print(Padding(block, (0, 0, 0, 2), expand=False))


def print_rows(table: ResultTable) -> None:
    """Print the rows of a table of results."""
    from rich.table import Table

    drawn = Table(show_footer=table.footer is not None)
    for index, column in enumerate(table.columns):
        footer = "" if table.footer is None else column.shown(table.footer[index])
        title = "" if column.kind == "flag" else column.title
        drawn.add_column(title, footer=footer, justify="left" if column.is_left else "right")
    for row in table.rows:
        drawn.add_row(*(column.shown(cell) for column, cell in zip(table.columns, row, strict=True)))
    print_table(drawn)


def _pictures(count: dict[str, int]) -> str:
    """``1,198 of 1,200 pictures``, or without a word of the second number where none is bad."""
    used, skipped = count["used"], count["skipped"]
    return f"{used:,} of {used + skipped:,} pictures" if skipped else f"{used:,} pictures"


def print_result(result: dict[str, Any]) -> None:
    """AP a class, mAP, and where everything is."""
    from pipeline.views.tables.results import result_table

    if result["mAP"] is None and "devkit_files" in result:
        click.echo(f"{result['dataset']} {result['split']}: no labels; files for the evaluation server:")
        click.echo(f"  {Path(result['devkit_files'][0]).parent}")
        return
    table = result_table(result)
    click.echo(table.title)
    print_rows(table)
    pointing, confusion = result.get("pointing"), result.get("confusion")
    if confusion:
        _print_accuracy(result)
    if pointing:
        click.echo(
            "heat maps: highest inside of a box of the class; the picture's middle would be: "
            f"{_percent(pointing['middle'])}"
        )
    for note in result["notes"]:
        click.secho(f"NOTE: {note}", fg="yellow")
    used = result["pictures"]
    fit, measured = (_pictures(used[role]) for role in ("fit", "eval"))
    click.echo(f"fitted on {fit}, measured on {measured}")
    click.echo("k sweep: " + ", ".join(f"{k}: {_percent(v)}" for k, v in result["k_sweep"].items()))
    click.echo("seconds: " + ", ".join(f"{name} {s:g}" for name, s in result["seconds"].items()))
    for name, path in result["paths"].items():
        click.echo(f"{name + ':':8} {path}")


def _print_accuracy(result: dict[str, Any]) -> None:
    """Accuracy, and the pairs of classes that are taken for each other most often."""
    confusion = result["confusion"]
    click.echo(
        f"accuracy {_percent(result['accuracy'])} %, balanced {_percent(result['balanced_accuracy'])} %: each picture "
        "shows one class, and is taken for the class of its highest score"
    )
    pairs = worst_pairs(confusion, 5)
    if pairs:
        click.echo("most often wrong: " + ", ".join(f"{shown} taken for {got} {n:,}" for shown, got, n in pairs))
    undecided = sum(confusion["undecided"].values())
    if undecided:
        click.echo(f"undecided, and so wrong: {undecided:,} pictures whose highest score is that of several classes")


def worst_pairs(confusion: dict[str, Any], most: int) -> list[tuple[str, str, int]]:
    """Class, answer and number of pictures, of the wrong answers that are most frequent."""
    names = confusion["classes"]
    pairs = [
        (shown, got, n)
        for shown, row in zip(names, confusion["counts"], strict=True)
        for got, n in zip(names, row, strict=True)
        if n and shown != got
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def print_given(result: dict[str, Any]) -> None:
    """AP a class, mAP and its interval of scores that were made elsewhere."""
    from pipeline.views.tables.results import given_table

    table, measured, used = given_table(result), result["measured"], result["pictures"]
    click.echo(table.title)
    print_rows(table)
    if "accuracy" in measured:
        _print_accuracy(measured)
    for note in result["notes"]:
        click.secho(f"NOTE: {note}", fg="yellow")
    low, high = (_percent(measured["interval"][end]) for end in ("low", "high"))
    click.echo(f"mAP {_percent(measured['mAP'])}, 95 % interval over pictures {low} to {high}")
    click.echo(f"measured on {used['used']:,} pictures")


def print_curve(joined: dict[str, Any]) -> None:
    """One row for each recipe and size."""
    from pipeline.views.tables.results import curve_table

    table = curve_table(joined)
    click.echo(table.title)
    print_rows(table)
    for note in table.notes:
        click.echo(note)
    for curve in joined["curves"]:
        for point in curve["points"]:
            if "why" in point:
                click.secho(f"NOTE: {curve['name']}, {point['size']}: not fitted: {point['why']}", fg="yellow")


def print_ladder(joined: dict[str, Any]) -> None:
    """One row for each trunk and recipe."""
    from pipeline.views.tables.results import ladder_table

    table = ladder_table(joined)
    click.echo(table.title)
    print_rows(table)
    click.echo("\n".join(table.notes))
    for rung in joined["rungs"]:
        for item in rung["left_out"]:
            click.echo(f"left out on {rung['name']}: {item['why']}")
    if joined["published"]:
        click.echo(f"published, {joined['published_note']}:")
        for row in joined["published"]:
            click.echo(f"  {row['name']}: {_percent(row['mAP'])}  ({row['source']})")


def print_comparison(joined: dict[str, Any]) -> None:
    """One row a recipe, with its spread, its interval and its difference to the reference."""
    from pipeline.views.tables.results import comparison_table

    table = comparison_table(joined)
    click.echo(table.title)
    print_rows(table)
    click.echo(
        "interval: over pictures (bootstrap); difference: paired, over the same pictures; s: a seed's, store kept"
    )
    _print_aggregations(joined["recipes"])
    _print_undefined(joined)
    for item in joined["left_out"]:
        click.echo(f"left out: {item['why']}")
    if joined["published"]:
        click.echo(f"published, {joined['published_note']}:")
        for row in joined["published"]:
            click.echo(f"  {row['name']}: {_percent(row['mAP'])}  ({row['source']})")


def _print_undefined(joined: dict[str, Any]) -> None:
    """Classes without an AP by each recipe, with the reason, and over which classes a difference is."""
    for recipe in joined["recipes"]:
        for name, reason in recipe.get("why_undefined", {}).items():
            click.secho(f"NOTE: {recipe['name']}: no AP of {name}, left out of its mean: {reason}", fg="yellow")
        classes = recipe["difference"].get("classes")
        if classes is not None:
            text = f"its difference is over the {len(classes)} classes that {joined['reference']} has an AP of, too"
            click.secho(f"NOTE: {recipe['name']}: {text}", fg="yellow")


def _print_aggregations(recipes: list[dict[str, Any]]) -> None:
    """mAP of each recipe by aggregation, all from the same pass over the store; shown, not chosen from."""
    from rich.table import Table

    from pipeline.scoring.aggregation import Aggregation

    swept = [recipe for recipe in recipes if len(recipe["k_sweep"]) > 1]
    if not swept:
        return
    columns = list(dict.fromkeys(k for recipe in swept for k in recipe["k_sweep"]))
    table = Table(title="by aggregation; * chosen on held-out fit pictures, or stated", title_justify="left")
    table.add_column("recipe")
    for k in columns:
        table.add_column(k, justify="right")
    for recipe in swept:
        chosen = str(Aggregation.from_json(recipe["k"]))
        cells = (_percent(recipe["k_sweep"].get(k)) + ("*" if k == chosen else "") for k in columns)
        table.add_row(recipe["name"], *cells)
    print_table(table)


def print_sweep(swept: dict[str, Any]) -> None:
    """One row for each head, reading and k; the chosen one is marked."""
    from pipeline.views.tables.points import sweep_table

    _print_with_notes(sweep_table(swept))


def print_points(outcome: dict[str, Any]) -> None:
    """One row for each point that a recipe chose from; the chosen one is marked."""
    from pipeline.views.tables.points import points_table

    _print_with_notes(points_table(outcome))


def _print_with_notes(table: ResultTable) -> None:
    click.echo(table.title)
    print_rows(table)
    for note in table.notes:
        click.echo(note)


@click.command("show")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@format_option
@click.option(
    "--per-class",
    is_flag=True,
    help="A column per class; several results of one split are a row each. Not with --format table.",
)
def command(files: tuple[Path, ...], form: str, per_class: bool) -> None:
    """Print result files (..._map.json, ..._heads.json, ..._sweep.json) as tables.

    Markdown and LaTeX are percent, with the best of each column in bold; CSV and JSON are shares 0..1 as they were
    measured, with the ends of intervals in columns of their own.

    \b
    Example:
      pipeline show results/demo_map.json
      pipeline show results/demo_map.json --format csv
      pipeline show results/demo_map.json --format latex --per-class
    """
    from pipeline.views.tables.results import kind_of

    if per_class and form == "table":
        raise click.UsageError("--per-class needs --format csv, markdown, latex or json.")
    if form != "table":
        from pipeline.views.tables.results import make_tables
        from pipeline.views.tables.write import FORMATS

        contents = _read_results(files)
        with _named(", ".join(map(str, files))):
            click.echo(FORMATS[form](make_tables(contents, per_class)), nl=False)
        return
    from pipeline.cli.data_check import print_label_faults, print_near
    from pipeline.cli.localise import print_boxes

    printers = {
        "comparison": print_comparison,
        "sweep": print_sweep,
        "result": print_result,
        "given": print_given,
        "curve": print_curve,
        "ladder": print_ladder,
        "near": print_near,
        "boxes": print_boxes,
        "labels": print_label_faults,
        "points": print_points,
    }
    for path, content in zip(files, _read_results(files), strict=True):
        with _named(str(path)):
            printers[str(kind_of(content))](content)


def _read_results(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Read result files; those that are not current are named."""
    from pipeline.cache.of_result import EvaluatedBefore
    from pipeline.views.tables.stale import why_stale

    contents, before = [_read_result(path) for path in files], EvaluatedBefore()
    for path, content in zip(files, contents, strict=True):
        with _named(str(path)):
            if (reason := why_stale(content, path, before)) is not None:
                click.secho(f"NOTE: {path}: stale: {reason}", fg="yellow", err=True)
    return contents


def _read_result(path: Path) -> dict[str, Any]:
    from pipeline.io.atomic import read_json
    from pipeline.io.errors import PipelineError
    from pipeline.views.tables.results import KINDS, kind_of

    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise PipelineError(f"{path}: cannot be read as a result: {error}") from error
    if kind_of(content) is None:
        raise PipelineError(f"{path}: not a result; expected one of {', '.join(KINDS)} in it")
    return content


@contextmanager
def _named(files: str) -> Iterator[None]:
    """Say of which files it is where the content is not that of a result."""
    from pipeline.io.errors import PipelineError

    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, PipelineError):
            raise
        raise PipelineError(f"{files}: not a result of this program: {type(error).__name__} {error}") from error
