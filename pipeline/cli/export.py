"""``pipeline export``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import dataset_option, say, settings_options, split_option, this_command, workspace_from


@click.command("export")
@dataset_option
@split_option(required=True)
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(),
    help="File: .parquet, .npy, .npz, .csv, .h5, .safetensors or .lance; a name that ends in / is a folder for "
    "Hugging Face datasets.",
)
@click.option(
    "--per", type=click.Choice(["patch", "picture"]), default="patch", show_default=True, help="What a row is."
)
@click.option(
    "--pool",
    type=click.Choice(["mean", "max", "mean+max"]),
    default="mean",
    show_default=True,
    help="With --per picture: how the rows of a picture become one.",
)
@click.option("--float32", "as_float32", is_flag=True, help="Widen float16 rows, for programs that read no float16.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@settings_options
def command(
    dataset: str, split: str, target: str, per: Any, pool: str, as_float32: bool, overwrite: bool, **options: Any
) -> None:
    """Write cached activations into a file of another program, with pictures, boxes, scales and labels.

    Fingerprint and provenance are in the file, of .csv and .npy next to it. A file appears when it is complete; a
    folder resumes at the first missing shard.

    \b
    Example:
      pipeline export --dataset demo --split val --to val.parquet
      pipeline export --dataset demo --split val --to pictures.csv --per picture --pool mean
      pipeline export --dataset demo --split val --to hf/
    """
    from pipeline.exchange.contents import Contents
    from pipeline.exchange.export import export
    from pipeline.stages.context import RunContext
    from pipeline.stages.extract import open_features

    run = RunContext(workspace_from(options), dataset, say)
    contents = Contents(open_features(run, split), per, pool, run.settings.labels, as_float32)
    click.echo(export(contents, target, command=this_command(), overwrite=overwrite, say=say))
