"""``pipeline trunk``: ls, show, import, make."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import echo_json, json_option, say
from pipeline.cli.trunk_make import make


@click.group("trunk")
def command() -> None:
    """List, describe, import or make frozen networks.

    \b
    Example:
      pipeline trunk ls vit
      pipeline trunk show torchvision/vit_b_16 --weights vit_b_16.safetensors
      pipeline trunk import bvlc_alexnet.caffemodel --out trunks --name bvlc_alexnet
      pipeline trunk make --dataset voc12 --trunk fisher --layer fisher --config whole.yaml
    """


command.add_command(make)


@command.command("ls")
@click.argument("part", default="")
def list_trunks(part: str) -> None:
    """List what --trunk can name; with PART, only names that have it in them.

    \b
    Example:
      pipeline trunk ls resnet
    """
    from pipeline.io.errors import MissingDataError
    from pipeline.trunk.sources import FAMILY_TRUNKS
    from pipeline.trunk.zoo.timm import import_timm
    from pipeline.trunk.zoo.torchvision_import import import_torchvision

    models = import_torchvision().models
    names = [*FAMILY_TRUNKS, *(f"torchvision/{name}" for name in models.list_models(models))]
    try:
        names += [f"timm/{name}" for name in import_timm().list_models()]
    except MissingDataError as error:
        say(str(error))
    for name in names:
        if part in name:
            click.echo(name)
    say("and the path of any card (YAML) that 'pipeline pretrain' or 'pipeline trunk import' wrote")


@command.command("show")
@click.argument("name")
@click.option("--layer", help="Layer, where it is not in the name.")
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False), help="safetensors file.")
@json_option
def show_trunk(name: str, layer: str | None, weights: Path | None, as_json: bool) -> None:
    """Load a trunk and say what it is: input, preprocessing, layer, digest.

    \b
    Example:
      pipeline trunk show alexnet64
    """
    from pipeline.trunk.registry import load_trunk

    trunk = load_trunk(name, layer, weights)
    if as_json:
        echo_json(
            {
                **trunk.card.model_dump(mode="json"),
                "layer": trunk.layer,
                "width": trunk.width,
                "weights": trunk.weights_sha256,
            }
        )
        return
    pixels = trunk.card.preprocessing
    click.echo(f"{trunk.card.name}: {trunk.card.architecture}")
    click.echo(f"  input    {trunk.card.input_px} px, {pixels.interpolation}, {pixels.colour_order}")
    click.echo(f"  mean     {', '.join(f'{value:.4g}' for value in pixels.mean)} of values in 0..1")
    click.echo(f"  std      {', '.join(f'{value:.4g}' for value in pixels.std)}")
    click.echo(f"  layer    {trunk.layer}, {trunk.width:,} columns")
    click.echo(f"  layers   {', '.join(f'{key} ({width:,})' for key, width in trunk.card.layers.items())}")
    click.echo(f"  weights  sha256 {trunk.weights_sha256}")
    click.echo(f"  source   {trunk.card.trained.get('source', 'unknown')}")


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of weights and card.")
@click.option("--name", required=True, help="Name of the trunk and of its files.")
@click.option(
    "--architecture",
    type=click.Choice(["bvlc_alexnet", "caffenet", "alexnet", "krizhevsky"]),
    help="Needed where the file does not say in which order its layers are run (.npy, .npz, .pth, safetensors).",
)
@click.option(
    "--preprocessing",
    type=click.Choice(["caffe", "torchvision"]),
    help="What the weights look at; default: torchvision's for alexnet, Caffe's (BGR, 0..255 less a mean) for others.",
)
@click.option("--mean-bgr", help="Caffe's mean of blue, green and red in 0..255; default: 104,117,123.")
@click.option("--mean", "mean_file", type=click.Path(path_type=Path), help="Mean picture: .binaryproto or .npy.")
def import_trunk(
    file: Path,
    out: Path,
    name: str,
    architecture: str | None,
    preprocessing: str | None,
    mean_bgr: str | None,
    mean_file: Path | None,
) -> None:
    """Turn weights of AlexNet or CaffeNet into safetensors with a card; no code of the file is run.

    FILE ends in .caffemodel, .onnx, .npy, .npz, .pth or .safetensors. Writes NAME.safetensors and its card
    NAME.yaml; --trunk OUT/NAME.yaml uses it.

    \b
    Example:
      pipeline trunk import bvlc_reference_caffenet.caffemodel --out trunks --name caffenet
      pipeline trunk import bvlc_alexnet.npy --out trunks --name bvlc --architecture bvlc_alexnet
    """
    import re

    from pipeline.io.errors import SettingsError
    from pipeline.io.messages import brief
    from pipeline.trunk.card import save_trunk
    from pipeline.trunk.formats.convert import convert, read_mean_bgr

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise SettingsError(f"--name: may have letters, digits, '.', '_' and '-', got {brief(name)}")
    if mean_bgr is not None and mean_file is not None:
        raise SettingsError("give --mean-bgr or --mean, not both")
    mean = read_mean_bgr(mean_file) if mean_file else _three_numbers(mean_bgr) if mean_bgr is not None else None
    weights, card = convert(file, name, architecture, mean, preprocessing)
    card = save_trunk(out / name, weights, card)
    for ours, theirs in card.trained["tensors"].items():
        say(f"  {ours:12} {' x '.join(map(str, weights[ours].shape)):18} {theirs}")
    click.echo(f"{out / name}.yaml")
    click.echo(f"  {card.architecture}, {card.input_px} px, {card.trained['input']}, sha256 {card.weights_sha256}")


def _three_numbers(text: str) -> tuple[float, float, float]:
    from pipeline.io.errors import SettingsError
    from pipeline.io.messages import brief

    try:
        blue, green, red = (float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(f"--mean-bgr: expected three numbers such as 104,117,123, got {brief(text)}") from error
    if not all(0 <= value <= 255 for value in (blue, green, red)):
        raise SettingsError(f"--mean-bgr: expected values in 0..255, got {brief(text)}")
    return blue, green, red
