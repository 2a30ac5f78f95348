"""``pipeline retrieve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

SCALES = click.IntRange(0, 256)


@click.command("retrieve")
@dataset_option
@split_option(required=False)
@click.option(
    "--query",
    "queries",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture, of any kind; may be repeated.",
)
@click.option("--evaluate", is_flag=True, help="Each picture of the split as a query against the others: mAP.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Pictures that are named a query.")
@click.option(
    "--query-scales",
    type=SCALES,
    default=1,
    show_default=True,
    help="Number of scales, from the largest, that are the query; 0: all.",
)
@click.option(
    "--reference-scales",
    type=SCALES,
    default=0,
    help="The same of the pictures searched; default: all.",
)
@json_option
@settings_options
def command(
    dataset: str,
    split: str | None,
    queries: tuple[Path, ...],
    evaluate: bool,
    top: int,
    query_scales: int,
    reference_scales: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the pictures of a split that are most like a query, wherever in them it stands.

    \b
    Example:
      pipeline retrieve --dataset demo --split val --query photo.jpg
      pipeline retrieve --dataset demo --evaluate
    """
    from pipeline.stages.context import RunContext
    from pipeline.stages.retrieve import evaluate_split, find_nearest

    if evaluate == bool(queries):
        raise click.UsageError("Give either --query, once or more often, or --evaluate.")
    run = RunContext(workspace_from(options), dataset, say)
    scales = {"query_scales": query_scales, "reference_scales": reference_scales}
    if evaluate:
        result = evaluate_split(run, split, **scales)
    else:
        result = find_nearest(run, split, queries, top=top, **scales)
    if as_json:
        echo_json(result)
    elif evaluate:
        _print_evaluation(result)
    else:
        for item in result["queries"]:
            click.echo(f"{item['query']}: nearest in {result['dataset']} {result['split']}")
            for found in item["results"]:
                click.echo(f"{found['rank']:>5}  {found['distance']:.4f}  {found['id']}")


def _print_evaluation(result: dict[str, Any]) -> None:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    click.echo(
        f"{result['dataset']} {result['split']}: {result['trunk']} {result['layer']}, {result['queries']} queries"
    )
    for name, value in result["AP"].items():
        click.echo(f"  {name:<20} {percent(value):>6}")
    click.echo(f"  {'mAP %':<20} {percent(result['mAP']):>6}   (chance {percent(result['chance'])})")
    click.echo(result["definition"])
