"""``pipeline report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import check_output, dataset_option, say, settings_options, this_command, workspace_from


@click.command("report")
@dataset_option
@click.option("--head", help="Head by name; default: the configured head.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="File; default: results/DATASET_report.html."
)
@click.option(
    "--figures", type=click.Path(file_okay=False, path_type=Path), help="Folder for the charts, as SVG and as PDF."
)
@settings_options
def command(dataset: str, head: str | None, output: Path | None, figures: Path | None, **options: Any) -> None:
    """Write one HTML file of a finished run: tables, curves, heat maps, right and wrong pictures, what ran on what.

    It needs no network to be read. A comparison of recipes is in it if there is one (results/DATASET_compare.json).

    \b
    Example:
      pipeline report --dataset demo
      pipeline report --dataset demo --figures figures
    """
    from pipeline.stages.context import RunContext
    from pipeline.views.report.render import write_report

    run = RunContext(workspace_from(options), dataset, say, this_command())
    check_output(output, "page")
    path = output or run.ws.report_path(dataset)
    charts = write_report(run, head or run.head, path, figures)
    click.echo(path)
    for chart in charts:
        click.echo(chart)
