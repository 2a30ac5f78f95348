"""``pipeline localise``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import (
    check_output,
    dataset_option,
    echo_json,
    head_option,
    json_option,
    say,
    settings_options,
    split_option,
    this_command,
    workspace_from,
)


@click.command("localise")
@dataset_option
@split_option(required=False)
@head_option
@click.option(
    "--share",
    type=float,
    help="Cells of a map are kept from this share of the way from its lowest value to its highest; default: 0.5.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also copy the result to this file.")
@json_option
@settings_options
def command(
    dataset: str,
    split: str | None,
    heads: tuple[str, ...],
    share: float | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw boxes from heat maps by a simple rule, and measure them: CorLoc, and AP of detection.

    Needs a fitted head that scores patches, the split's store, and boxes of its objects. The report shows it.

    \b
    Example:
      pipeline localise --dataset demo --head fca
    """
    from pipeline.io.atomic import write_json
    from pipeline.stages import localise
    from pipeline.stages.context import RunContext

    run = RunContext(workspace_from(options), dataset, say, this_command())
    names = heads or (run.head,)
    check_output(output, "boxes", names)
    results = []
    for head in names:
        result = localise.make(run, head, split, localise.SHARE if share is None else share)
        if output is not None:
            write_json(output, result)
        results.append(result)
        if not as_json:
            print_boxes(result)
            click.echo(f"result: {localise.path(run, head, split)}")
    if as_json:
        echo_json(results if len(results) > 1 else results[0])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def print_boxes(result: dict[str, Any]) -> None:
    """CorLoc and AP of boxes a class, and both means by the share of a map's peak."""
    from pipeline.cli.show import print_rows
    from pipeline.views.tables.results import boxes_table

    table = boxes_table(result)
    click.echo(table.title)
    print_rows(table)
    click.echo(f"CorLoc of the whole picture as the box: {_percent(result['CorLoc']['whole'])}")
    of_shares = (
        f"{share}: {_percent(each['CorLoc'])} and {_percent(each['box_AP'])}"
        for share, each in result["by_share"].items()
    )
    click.echo(f"CorLoc and AP by share, shown, not chosen from: {', '.join(of_shares)}")
    for name, why in result["never_learnt"].items():
        click.secho(f"NOTE: {name}: left out, never learnt: {result['fit_split']} has {why}", fg="yellow")
    for text in result["definition"].values():
        click.echo(text)
