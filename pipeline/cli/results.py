"""``pipeline results``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import complete_dataset, format_option

SHOWN = ("dataset", "split", "name", "trunk", "layer", "k", "mAP", "std", "seeds", "accuracy")
"""Columns on a terminal; the other forms have all."""


@click.group("results")
def command() -> None:
    """All results of a folder in one table.

    \b
    Example:
      pipeline results ls --format csv
    """


@command.command("ls")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default="results",
    show_default=True,
    help="Folder of results.",
)
@click.option("--dataset", help="Of this dataset alone.", shell_complete=complete_dataset)
@format_option
def ls(results: Path, dataset: str | None, form: str) -> None:
    """List the result of every run and of every recipe, the highest mAP of a split first.

    A flat table: CSV and JSON have a row per result with names, shares 0..1, numbers of pictures, fingerprints of both
    stores and the file.

    \b
    Example:
      pipeline results ls
      pipeline results ls --dataset demo --format csv
    """
    from dataclasses import replace

    from pipeline.cli.show import print_rows
    from pipeline.io.errors import MissingDataError
    from pipeline.views.tables.runs import runs_table
    from pipeline.views.tables.write import FORMATS

    if not results.is_dir():
        raise MissingDataError(f"{results}: no such folder; results are made with: pipeline evaluate")
    table = runs_table(results, dataset)
    for note in table.notes:
        click.secho(f"NOTE: {note}", fg="yellow", err=True)
    if form != "table":
        click.echo(FORMATS[form]([replace(table, notes=())]), nl=False)
        return
    click.echo(table.title)
    print_rows(table.select(SHOWN))
