"""``pipeline compare``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import (
    dataset_option,
    echo_json,
    json_option,
    say,
    scheduler_option,
    settings_options,
    this_command,
    workspace_from,
)


@click.command("compare")
@dataset_option
@click.option("--recipe", "recipes", multiple=True, help="Recipe by name; again. Default: all that can run.")
@click.option("--heads", is_flag=True, help="The configured heads instead, with one seed and no choosing.")
@scheduler_option
@settings_options
@json_option
def command(
    dataset: str, recipes: tuple[str, ...], heads: bool, scheduler: str | None, as_json: bool, **options: Any
) -> None:
    """Compare recipes, with published rows below, in results/{dataset}_compare.json.

    Recipes that have no outcome yet are run first. With --heads: the heads of the setting `compare`, in
    results/{dataset}_heads.json.

    \b
    Example:
      pipeline compare --dataset demo --recipe strong --recipe weak --recipe strong+weak
      pipeline compare --dataset demo --heads
    """
    from pipeline.activations.engines import check_scheduler
    from pipeline.cli.show import print_comparison
    from pipeline.recipes import compare
    from pipeline.stages.context import RunContext
    from pipeline.stages.workspace import Workspace

    ws = workspace_from(options)
    if recipes and not heads:
        ws = Workspace(ws.settings.model_copy(update={"comparison": recipes}))
    check_scheduler(scheduler)  # before anything is read
    run = RunContext(ws, dataset, say, this_command(), scheduler)
    joined = compare.make(run, of_heads=heads)
    if as_json:
        echo_json(joined)
    else:
        print_comparison(joined)
        for note in compare.read_notes(run, joined, of_heads=heads):
            click.secho(f"NOTE: {note}", fg="yellow", err=True)
