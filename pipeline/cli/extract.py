"""``pipeline extract``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import dataset_option, say, settings_options, split_option, workspace_from


@click.command("extract")
@dataset_option
@split_option(required=True)
@settings_options
@click.option("--made", type=int, hidden=True, help="Number of the making, given by the workflow.")
@click.option("--rehash", is_flag=True, help="Forget remembered file digests and hash every picture again.")
def command(dataset: str, split: str, made: int | None, rehash: bool, **options: Any) -> None:
    """Run the trunk once over every patch of a split and keep its activations.

    A complete store is left alone; an interrupted one goes on at the parts without a record.

    \b
    Example:
      pipeline extract --dataset demo --split train --trunk alexnet64
      pipeline extract --dataset voc12 --split val --trunk torchvision/resnet18 --device cuda
    """
    from pipeline.run import run_extract

    ws = workspace_from(options)
    store = run_extract(ws, dataset, split, say, made, rehash)
    click.echo(f"{store.path}")
    click.echo(f"  rows {store.n_rows:,} x {store.width}, {store.n_bytes / 2**20:,.1f} MiB on disk")
    click.echo(f"  fingerprint {store.fingerprint}")
