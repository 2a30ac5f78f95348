"""``pipeline ladder``."""

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

RECIPES = ("knn", "svm", "weak", "strong", "strong+weak+svm")


@click.command("ladder")
@dataset_option
@click.option("--recipe", "recipes", multiple=True, help=f"Recipe by name; again. Default: {', '.join(RECIPES)}.")
@click.option("--shots", help="Also with so few positive pictures per class, such as 1,4,16.")
@scheduler_option
@settings_options
@json_option
def command(
    dataset: str,
    recipes: tuple[str, ...],
    shots: str | None,
    scheduler: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the same recipes on one trunk after another, in results/{dataset}_ladder.json.

    The setting `ladder` names the trunks, and how each computes its rows. Activations that are missing are extracted,
    and recipes that have no outcome yet are run first. A recipe that cannot run on a trunk is left out there.

    \b
    Example:
      pipeline ladder --dataset demo --config ladder.yaml
      pipeline ladder --dataset demo --config ladder.yaml --recipe svm --recipe knn --shots 1,2
    """
    from pipeline.activations.engines import check_scheduler
    from pipeline.cli.show import print_ladder
    from pipeline.patches.subsets import ALL
    from pipeline.recipes import ladder
    from pipeline.recipes.curve import parse_sizes
    from pipeline.stages.context import RunContext

    sizes = tuple(size for size in parse_sizes(shots) if size != ALL) if shots is not None else ()
    check_scheduler(scheduler)  # before anything is read
    plan = ladder.LadderPlan(tuple(dict.fromkeys(recipes or RECIPES)), sizes)
    joined = ladder.make(RunContext(workspace_from(options), dataset, say, this_command(), scheduler), plan)
    if as_json:
        echo_json(joined)
    else:
        print_ladder(joined)
