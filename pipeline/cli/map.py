"""``pipeline map``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import echo_json, json_option, names_in, say, settings_options, workspace_from


@click.command("map")
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--dataset", help="Whose head is meant, and whose pictures ids are of; default: the only one with a head."
)
@click.option("--split", help="Split that ids are of; default: the evaluation split.")
@click.option("--head", help="Head by name, or a file of one (.safetensors); default: the configured head.")
@click.option(
    "--classes",
    default="auto",
    show_default=True,
    help="Names, joined by commas; auto: the three highest and those that are known to be in the picture.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("maps"), show_default=True, help="Folder."
)
@click.option("--highest", type=click.FloatRange(min=0, min_open=True), help="Upper end of the scale, for all sheets.")
@click.option(
    "--array",
    "arrays",
    is_flag=True,
    help="Also write the heat maps of all classes as .npz, at most 1000 px per side.",
)
@json_option
@settings_options
def command(
    images: tuple[str, ...],
    dataset: str | None,
    split: str | None,
    head: str | None,
    classes: str,
    out: Path,
    highest: float | None,
    arrays: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw heat maps, where in pictures each class is seen: photos by path, or pictures of a split by id.

    A photo may be in no dataset: its patches, the trunk, the head and the heat maps are one pass. For ids the
    cached activations are read, the trunk does not run, and the objects of a drawn class are framed. A pixel shows the
    mean score of the patches over it: the higher, the less transparent. Lines are at 1/2 and 3/4 of a map's range.

    \b
    Example:
      pipeline map photo.jpg
      pipeline map --dataset demo val_0004 --classes cat,house --array
    """
    from pipeline.stages.context import RunContext
    from pipeline.stages.fit_head import find_head
    from pipeline.views.heat_maps import HeatMapOptions, draw_heat_maps

    ws = workspace_from(options)
    run = RunContext(ws, dataset, say) if dataset else None
    fitted = find_head(ws, run, head)
    drawn_as = HeatMapOptions(names_in(classes, "auto"), out, arrays, highest)
    made = draw_heat_maps(ws, fitted, images, drawn_as, run, split)
    if as_json:
        echo_json(made)
        return
    for item in made:
        best = ", ".join(f"{name} {score:.3g}" for name, score in list(item["scores"].items())[:3])
        click.echo(f"{item['sheet']}: {best}")
