"""``pipeline recipe``: list, show, run."""

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


@click.group("recipe")
def command() -> None:
    """Named systems over the same activations: trunk, layer, patches, head and aggregation.

    \b
    Example:
      pipeline recipe ls
      pipeline recipe show weak
      pipeline recipe run weak --dataset demo
    """


@command.command("ls")
@settings_options
@json_option
def list_recipes(as_json: bool, **options: Any) -> None:
    """List the recipes, and why any cannot run with these settings.

    \b
    Example:
      pipeline recipe ls --trunk torchvision/resnet18
    """
    from rich.table import Table

    from pipeline.cli.show import print_table
    from pipeline.recipes.catalogue import compared_recipes, known_recipes

    settings = workspace_from(options).settings
    _, left_out = compared_recipes(settings.model_copy(update={"comparison": ()}))
    if as_json:
        known = known_recipes(settings).items()
        echo_json(
            [{"name": n, "title": r.title, "published": r.published, "left_out": left_out.get(n)} for n, r in known]
        )
        return
    table = Table()
    for column in ("recipe", "what", "published row"):
        table.add_column(column)
    for name, recipe in known_recipes(settings).items():
        title = recipe.title or f"head {name}, all else as configured"
        table.add_row(name, f"{title} (cannot run here)" if name in left_out else title, recipe.published)
    print_table(table)
    for why in left_out.values():
        click.echo(why)


@command.command("show")
@click.argument("name")
@settings_options
def show_recipe(name: str, **options: Any) -> None:
    """Print a recipe as a YAML block, to be changed and put under `recipes:` in a --config file.

    \b
    Example:
      pipeline recipe show weak
    """
    import yaml

    from pipeline.recipes.catalogue import find_recipe

    recipe = find_recipe(workspace_from(options).settings, name)
    block = recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    if recipe.head is not None:
        # In full: what the head is by default is what most changes begin with.
        block["head"] = recipe.head.model_dump(mode="json", exclude_none=True)
    click.echo(yaml.safe_dump({"recipes": {name: block}}, sort_keys=False, default_flow_style=None).rstrip())


@command.command("run")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@dataset_option
@scheduler_option
@settings_options
def run_recipes(names: tuple[str, ...], dataset: str, scheduler: str | None, **options: Any) -> None:
    """Run recipes with every seed of the setting `seeds`; what is missing before them is made first.

    \b
    Example:
      pipeline recipe run strong weak strong+weak --dataset demo
      pipeline recipe run strong --dataset voc12 --scheduler local:4
    """
    from pipeline.activations.engines import check_scheduler
    from pipeline.cli.show import print_points
    from pipeline.recipes import recipe
    from pipeline.stages.context import RunContext

    run = RunContext(workspace_from(options), dataset, say, this_command(), scheduler)
    check_scheduler(scheduler)  # before anything is read
    for name in names:
        outcome = recipe.make(run, name)
        if "points" in outcome["choice"]:
            print_points(outcome)
        std = "" if outcome["std"] is None else f" +- {100 * outcome['std']:.1f} over {len(outcome['runs'])} seeds"
        score = "no mAP" if outcome["mAP"] is None else f"{100 * outcome['mAP']:.1f} mAP{std}"
        click.echo(f"{name}: {score}  {recipe.path(run, name)}")
