"""``pipeline taught``."""

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
    workspace_from,
)


@click.command("taught")
@click.argument("images", nargs=-1, required=True)
@dataset_option
@click.option("--split", help="Split of the dataset; default: its fit split.")
@click.option(
    "--annotation",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Objects of one photo that is in no dataset: an XML file of the VOC devkit's form.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("taught"), show_default=True, help="Folder."
)
@json_option
@settings_options
def command(
    images: tuple[str, ...],
    dataset: str,
    split: str | None,
    annotation: Path | None,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw what a head is trained on in pictures: patches by scale in the colours of their labels, and positives.

    Pictures are those of the fit split by their id, unless another split is named; or one photo with its objects.

    \b
    Example:
      pipeline taught --dataset demo train_0003
      pipeline taught --dataset voc12 photo.jpg --annotation photo.xml
    """
    from pipeline.stages.context import RunContext
    from pipeline.views.taught import draw_taught

    made = draw_taught(RunContext(workspace_from(options), dataset, say), images, split, annotation, out)
    if as_json:
        echo_json(made)
        return
    for item in made:
        counts = ", ".join(f"{n:,} {name}" for name, n in item["patches"].items())
        click.echo(f"{item['sheet']}, {item['positives']}: {counts}")
