"""``pipeline data``: fetch, check, new, list."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import say

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
def list_datasets() -> None:
    """List the manifests that can be found.

    \b
    Example:
      pipeline data list
    """
    from pipeline.dataset.manifest import known_datasets, load_manifest

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
    from pipeline.errors import DatasetError, enumerate_problems

    report = check(load_manifest(name), root_of(data_root) if data_root else None, deep)
    click.echo(f"{name} in {report.folder}")
    for split in report.splits:
        click.echo(f"  {split}")
    if not report.ok:
        raise DatasetError(f"{name}: {len(report.problems)} problem(s)\n{enumerate_problems(report.problems)}")
    click.echo("complete")


@command.command("new")
@click.option("--root", required=True, type=click.Path(path_type=Path), help="Folder with JPEGImages and Annotations.")
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
@click.option("--overwrite", is_flag=True, help="Replace a manifest of this name.")
def new_dataset(root: Path, name: str, seed: int, metric: str, overwrite: bool) -> None:
    """Describe your own VOC-layout folder, so that results/NAME_map.json just works.

    \b
    Example:
      pipeline data new --root ~/my-pictures --name mine
      snakemake --cores 2 results/mine_map.json
    """
    from pipeline.dataset.new import new_manifest

    path = new_manifest(root, name, Path("data_manifests"), seed=seed, metric=metric, overwrite=overwrite)
    click.echo(f"{path}")
    say(f"next: snakemake --cores 2 results/{name}_map.json")
