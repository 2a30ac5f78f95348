"""``pipeline export``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import find_pictures, pictures_options, say, settings_options, this_command, workspace_from


@click.command("export")
@pictures_options
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
    dataset: str | None,
    split: str | None,
    root: str | None,
    target: str,
    per: Any,
    pool: str,
    as_float32: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Write cached activations into a file of another program, with pictures, boxes, scales and labels.

    Fingerprint and provenance are in the file, of .csv and .npy next to it. A file appears when it is complete; a
    folder resumes at the first missing shard. With --root what is missing of the pictures in a folder is extracted
    first; a file that holds these rows already is left alone.

    \b
    Example:
      pipeline export --dataset demo --split val --to val.parquet
      pipeline export --dataset demo --split val --to pictures.csv --per picture --pool mean
      pipeline export --dataset demo --split val --to hf/
      pipeline export --root ~/photos --trunk alexnet64 --to photos.parquet --per picture
    """
    from pipeline.exchange.contents import Contents
    from pipeline.exchange.export import check_target, export, holds_already
    from pipeline.stages import extract
    from pipeline.stages.context import RunContext
    from pipeline.stages.stored import open_features

    ws = workspace_from(options)
    dataset, split = find_pictures(ws, dataset, split, root)
    run = RunContext(ws, dataset, say)
    if root is not None:
        is_due = extract.why_due(run, split) is not None
        check_target(target, overwrite or not is_due)
        if is_due:
            extract.make(run, extract.open_inputs(run, split))
    contents = Contents(open_features(run, split), per, pool, run.settings.labels, as_float32)
    if root is not None and not overwrite and holds_already(contents, target):
        say(f"{target}: holds these rows already")
        click.echo(target)
        return
    click.echo(export(contents, target, command=this_command(), overwrite=overwrite, say=say))
