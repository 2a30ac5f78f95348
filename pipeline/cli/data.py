"""``pipeline data``: fetch, check, new, list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import echo_json, json_option, say

ROOT = click.option("--data-root", help="Folder that holds datasets; default: data, or $PIPELINE_DATA.")


@click.group("data")
def command() -> None:
    """Fetch, check or describe a dataset.

    \b
    Example:
      pipeline data fetch demo
      pipeline data check voc12 --data-root ~/VOCdevkit
      pipeline data new --root ~/my-pictures --name mine
    """


@command.command("list")
@json_option
def list_datasets(as_json: bool) -> None:
    """List the manifests that can be found.

    \b
    Example:
      pipeline data list
    """
    from pipeline.dataset.manifest import known_datasets, load_manifest

    if as_json:
        manifests = (load_manifest(name) for name in known_datasets())
        echo_json({m.name: {"title": m.title, "fit": m.fit, "eval": m.eval, "metric": m.metric} for m in manifests})
        return
    for name in known_datasets():
        manifest = load_manifest(name)
        click.echo(
            f"{name:12} {manifest.title}; fit on {manifest.fit}, evaluated on {manifest.eval} ({manifest.metric})"
        )


@command.command("fetch")
@click.argument("name")
@ROOT
def fetch_dataset(name: str, data_root: str | None) -> None:
    """Download (or draw) a dataset, check it, and unpack it safely; goes on where it stopped.

    \b
    Example:
      pipeline data fetch voc12
    """
    from pipeline.dataset.fetch import fetch
    from pipeline.dataset.manifest import data_root as root_of
    from pipeline.dataset.manifest import load_manifest

    click.echo(f"{fetch(load_manifest(name), root_of(data_root), say)}")


@command.command("check")
@click.argument("name")
@ROOT
@click.option("--deep", is_flag=True, help="Decode every picture, too.")
def check_dataset(name: str, data_root: str | None, deep: bool) -> None:
    """Say whether all pictures, annotations and lists of a dataset are there.

    \b
    Example:
      pipeline data check voc12 --deep
    """
    from pipeline.dataset.fetch import check
    from pipeline.dataset.manifest import data_root as root_of
    from pipeline.dataset.manifest import load_manifest
    from pipeline.io.errors import DatasetError
    from pipeline.io.messages import enumerate_problems

    report = check(load_manifest(name), root_of(data_root) if data_root else None, deep)
    click.echo(f"{name} in {report.folder}" if report.folder else f"{name}: not found")
    for split in report.splits:
        click.echo(f"  {split}")
    if not report.ok:
        raise DatasetError(f"{name}: {len(report.problems)} problem(s)\n{enumerate_problems(report.problems)}")
    click.echo("complete")


@command.command("new")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Folder with JPEGImages and Annotations, or with class folders (CLASS/NAME.jpg, perhaps in train/, val/); "
    "with --table, the folder of its pictures (default: the table's).",
)
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    help="CSV file: column picture, then label or one column a class (1, 0, -1 or nothing), perhaps split.",
)
@click.option("--name", required=True, help="Name of the new dataset: lower case letters, digits and _.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the splits, where the folder has none."
)
@click.option(
    "--metric",
    type=click.Choice(["voc07", "voc12"]),
    default="voc12",
    show_default=True,
    help="Rule of average precision.",
)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Annotations that cannot be used: list them all, or leave their pictures out.",
)
@click.option("--overwrite", is_flag=True, help="Replace a manifest of this name.")
def new_dataset(
    root: Path | None, table: Path | None, name: str, seed: int, metric: str, on_error: str, overwrite: bool
) -> None:
    """Describe your own pictures: VOC layout, class folders, or a table of pictures and labels.

    \b
    Example:
      pipeline data new --root ~/my-pictures --name mine
      pipeline data new --root ~/scenes --name scenes
      pipeline data new --table ~/faces/attributes.csv --name faces
      snakemake --cores 2 results/mine_map.json
    """
    from pipeline.dataset.describe.labelled import new_table_manifest
    from pipeline.dataset.describe.recognise import recognise_folder

    rest: dict[str, Any] = {"seed": seed, "metric": metric, "overwrite": overwrite}
    manifests = Path("data_manifests")
    if table is not None:
        path, has_boxes = new_table_manifest(table, root, name, manifests, **rest), False
    elif root is None:
        raise click.UsageError("Missing option '--root' or '--table'.")
    else:
        shape = recognise_folder(root)
        path, has_boxes = shape.write(root, name, manifests, **rest, on_error=on_error), shape.has_boxes
    if has_boxes:
        say(f"next: snakemake --cores 2 results/{name}_map.json")
        click.echo(f"{path}")
        return
    click.echo(f"{path}")
    say(
        f"next: snakemake --cores 2 results/{name}_compare.json; there are no boxes, so recipes that need them "
        "(strong) are left out"
    )
