"""``pipeline curve``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import (
    dataset_option,
    echo_json,
    json_option,
    say,
    settings_options,
    this_command,
    workspace_from,
)


@click.command("curve")
@dataset_option
@click.option("--recipe", "recipes", multiple=True, required=True, help="Recipe by name; may be given again.")
@click.option("--pictures", help="Sizes of the subsets in pictures; default: 10,30,100,300,all.")
@click.option("--shots", help="Sizes in positive pictures per class instead, such as 1,2,4,8.")
@click.option("--again", is_flag=True, help="Fit all anew, also where the curves, or some fits, are current.")
@settings_options
@json_option
def command(
    dataset: str,
    recipes: tuple[str, ...],
    pictures: str | None,
    shots: str | None,
    again: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit recipes on nested random subsets of the fit pictures, in results/{dataset}_curve.json.

    Each is measured on the whole evaluation split. Each of the seeds draws its own subsets. All comes from the stores
    of the whole splits, which must be there. What is current is not computed again.

    \b
    Example:
      pipeline curve --dataset demo --recipe svm --recipe knn --pictures 3,6,all
      pipeline curve --dataset demo --recipe ncm --recipe svm --shots 1,2
    """
    from pipeline.cli.show import print_curve
    from pipeline.io.errors import SettingsError
    from pipeline.patches.subsets import By
    from pipeline.recipes import curve
    from pipeline.recipes.curve_fits import CurvePlan
    from pipeline.stages.context import RunContext

    if pictures is not None and shots is not None:
        raise SettingsError("--pictures and --shots are two ways to draw subsets; give one of them")
    by: By = "pictures" if shots is None else "shots"
    stated = pictures if shots is None else shots
    sizes = curve.parse_sizes("10,30,100,300,all" if stated is None else stated)
    plan = CurvePlan(tuple(dict.fromkeys(recipes)), by, sizes)
    joined = curve.ensure(RunContext(workspace_from(options), dataset, say, this_command()), plan, again)
    if as_json:
        echo_json(joined)
    else:
        print_curve(joined)
