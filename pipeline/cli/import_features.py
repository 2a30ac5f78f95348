"""``pipeline import-features``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import dataset_option, say, settings_options, split_option, this_command, workspace_from


@click.command("import-features")
@click.argument("file", type=click.Path(path_type=Path))
@dataset_option
@split_option(required=True)
@click.option("--name", required=True, help="Of the rows; they are used as --trunk imported/NAME.")
@click.option("--ids", type=click.Path(dir_okay=False, path_type=Path), help="For .npy: text, a picture per line.")
@click.option(
    "--made-by", default="", help="What made them, such as a model and its version: heads refuse rows of another."
)
@settings_options
def command(file: Path, dataset: str, split: str, name: str, ids: Path | None, made_by: str, **options: Any) -> None:
    """Take rows that were made elsewhere as the activations of a split: heads, recipes and reports work on them.

    FILE is .npy with a list of ids, or .parquet with the columns picture and features. Rows are one per picture, or
    with x0, y0, x1, y1 one per patch of the split, in any order.

    \b
    Example:
      pipeline import-features clip.npy --ids ids.txt --dataset demo --split train --name clip
      pipeline import-features clip.parquet --dataset demo --split val --name clip --made-by "ViT-B/32, 2021"
      pipeline fit-head --dataset demo --head svm --trunk imported/clip
    """
    from pipeline.exchange.import_features import import_features
    from pipeline.exchange.read import open_rows
    from pipeline.io.atomic import make_folder
    from pipeline.stages.context import RunContext

    ws = workspace_from({**options, "trunk": f"imported/{name}"})
    make_folder(ws.cache)
    with open_rows(file, ids, ws.cache) as given:
        run = RunContext(ws, dataset, say, this_command())
        store = import_features(run, split, given, made_by)
    click.echo(f"{store.folder}")
    click.echo(f"  rows {store.n_rows:,} x {store.width}, {store.n_bytes / 2**20:,.1f} MiB on disk")
    click.echo(f"  fingerprint {store.fingerprint}")
    click.echo(f"  use it as: --trunk imported/{name}")
