"""``pipeline ranking``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import (
    dataset_option,
    echo_json,
    json_option,
    names_in,
    say,
    settings_options,
    split_option,
    workspace_from,
)


@click.command("ranking")
@dataset_option
@split_option(required=False)
@click.option("--head", help="Head by name; default: the configured head.")
@click.option("--classes", default="all", show_default=True, help="Names, joined by commas.")
@click.option("--top", type=click.IntRange(1, 50), default=6, show_default=True, help="Pictures of each kind.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("ranking"),
    show_default=True,
    help="Folder.",
)
@json_option
@settings_options
def command(
    dataset: str,
    split: str | None,
    head: str | None,
    classes: str,
    top: int,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw the pictures that rank highest for each class: those that show it, and those that do not.

    \b
    Example:
      pipeline ranking --dataset demo --classes cat --top 5
    """
    from pipeline.stages.context import RunContext
    from pipeline.views.ranking import draw_rankings

    run = RunContext(workspace_from(options), dataset, say)
    paths = draw_rankings(run, split, head or run.head, names_in(classes, "all"), top, out)
    if as_json:
        echo_json([path.as_posix() for path in paths])
        return
    for path in paths:
        click.echo(path)
