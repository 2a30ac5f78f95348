"""``pipeline pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import say, this_command


@click.command("pretrain")
@click.option("--train", "train_dir", required=True, type=click.Path(path_type=Path), help="Folder of class folders.")
@click.option("--val", "val_dir", required=True, type=click.Path(path_type=Path), help="The same classes, held out.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of checkpoint, weights and card.")
@click.option("--name", default="trunk", show_default=True, help="Name of the trunk and of its files.")
@click.option("--architecture", type=click.Choice(["alexnet64", "krizhevsky"]), help="Default: alexnet64.")
@click.option("--epochs", type=int, help="Passes over the training pictures.")
@click.option("--batch", type=int, help="Pictures a step.")
@click.option("--peak-rate", type=float, help="Highest learning rate of the one cycle.")
@click.option("--dropout", type=float, help="On the inputs of FC6 and FC7.")
@click.option("--seed", type=int, help="Default: 0.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Default: one a core.")
def command(train_dir: Path, val_dir: Path, out: Path, name: str, device: str, threads: int, **options: Any) -> None:
    """Pre-train a trunk on a folder of class folders (the layout of torchvision's ImageFolder).

    Goes on after the last whole epoch when started again. Writes NAME.safetensors and its card
    NAME.yaml; --trunk OUT/NAME.yaml uses it.

    \b
    Example:
      pipeline pretrain --train tiny/train --val tiny/val --out runs/alexnet64 --name alexnet64
    """
    from pydantic import ValidationError

    from pipeline.errors import SettingsError, enumerate_problems
    from pipeline.run import set_threads
    from pipeline.settings import PretrainSettings, explain_validation
    from pipeline.trunk.devices import resolve_device
    from pipeline.trunk.pretrain import pretrain

    try:
        settings = PretrainSettings(**{key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(f"pretrain:\n{enumerate_problems(explain_validation(error))}") from error
    set_threads(threads)
    card = pretrain(train_dir, val_dir, out, name, settings, this_command(), resolve_device(device), say)
    click.echo(f"{out / name}.yaml")
    click.echo(f"  val top-1 {100 * card.trained['top1']:.2f} %, sha256 {card.weights_sha256}")
