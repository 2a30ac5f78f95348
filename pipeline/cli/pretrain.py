"""``pipeline pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import say, this_command, workspace_from

FOLDER = click.Path(path_type=Path)
SELECTION = ("select", "base", "below", "wordnet")
OF_FOLDERS = ("train", "val", *SELECTION)
OF_A_DATASET = ("dataset", "split", "config", "data_root", "cache", "single_object", "background_share", "held_out")
OF_THE_TABLE = ("config", "data_root", "cache", "single_object")


@click.command("pretrain")
@click.option("--train", type=FOLDER, help="Folder of class folders.")
@click.option("--val", type=FOLDER, help="The same classes, held out.")
@click.option("--select", help="Class folders to use: all, random:N, random:N:SEED or nodes; default: all.")
@click.option("--base", help="With --select nodes: file of class names, one a line, or random:N.")
@click.option("--below", multiple=True, help="With --select nodes: all classes below a WordNet node; may be repeated.")
@click.option("--wordnet", help="With --select nodes: table of synsets to use instead of the shipped one.")
@click.option("--dataset", help="Instead of --train and --val: train on the patches of a dataset, from random weights.")
@click.option("--split", help="Split of the dataset; default: its fit split.")
@click.option("--config", type=click.Path(dir_okay=False), help="YAML file with the settings of the dataset's patches.")
@click.option("--data-root", help="Folder that holds VOC2012/ or VOCdevkit/VOC2012/.")
@click.option("--cache", help="Folder of patch tables; default: cache.")
@click.option("--single-object", help="Reading of condition (iii): fills or touches.")
@click.option("--background-share", type=float, help="Share of the dataset's background patches; default: 0.1.")
@click.option("--held-out", type=float, help="Share of the dataset's pictures that is measured on; default: 0.1.")
@click.option("--out", required=True, type=FOLDER, help="Folder of checkpoint, weights and card.")
@click.option("--name", default="trunk", show_default=True, help="Name of the trunk and of its files.")
@click.option("--architecture", type=click.Choice(["alexnet64", "krizhevsky"]), help="Default: alexnet64.")
@click.option("--fc-width", type=int, help="Width of FC6 and FC7; default: 1024 for alexnet64, else 4096.")
@click.option("--epochs", type=int, help="Passes over the training pictures; default: 24.")
@click.option("--updates", type=int, help="Steps in all, instead of epochs; default with --dataset: 9375.")
@click.option("--batch", type=int, help="Pictures per step; default: 256, with --dataset 64.")
@click.option("--peak-rate", type=float, help="Highest learning rate of the one cycle.")
@click.option("--peak-rates", help="Rates to choose from by held-out loss, such as 0.03,0.1,0.2.")
@click.option("--trial-updates", type=int, help="Steps of the short run with each of them; default: 500.")
@click.option("--dropout", type=float, help="On the inputs of FC6 and FC7.")
@click.option("--seed", type=int, help="Default: 0.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Default: one per core.")
def command(out: Path, name: str, device: str, threads: int, **options: Any) -> None:
    """Train a trunk: on class folders (ImageFolder layout), or on a dataset's patches from random weights.

    Resumes after the last whole epoch when started again. Writes NAME.safetensors and its card
    NAME.yaml; --trunk OUT/NAME.yaml uses it.

    \b
    Example:
      pipeline pretrain --train tiny/train --val tiny/val --out runs/alexnet64 --name alexnet64
      pipeline pretrain --train in/train --val in/val --select nodes --base 1000.txt --below furniture --out runs/pre
      pipeline pretrain --dataset voc12 --data-root ~/VOCdevkit --out runs/no-pretrain --name no-pretrain
    """
    from pydantic import ValidationError

    from pipeline.io.errors import SettingsError
    from pipeline.io.messages import enumerate_problems
    from pipeline.io.model import explain_validation
    from pipeline.trunk.settings import ClassSelection, FromScratchSettings, PretrainSettings

    given = {key: value for key, value in options.items() if value is not None and value != ()}
    dataset = given.get("dataset")
    _check_source(given)
    if "updates" in given and "epochs" in given:
        raise click.UsageError("--epochs and --updates: give one of them")
    if "peak_rate" in given and "peak_rates" in given:
        raise click.UsageError("--peak-rate and --peak-rates: give one of them")
    table = {key: given.pop(key) for key in OF_THE_TABLE if key in given}
    source = {key: given.pop(key) for key in ("train", "val", "dataset", "split") if key in given}
    selected = {key: given.pop(key) for key in SELECTION if key in given}
    if "epochs" in given:
        given["updates"] = None
    if "peak_rate" in given:
        given["peak_rates"] = ()
    elif "peak_rates" in given:
        given["peak_rates"] = given["peak_rates"].split(",")
    try:
        settings = (FromScratchSettings if dataset else PretrainSettings)(**given)
        selection = ClassSelection(**selected)
    except ValidationError as error:
        raise SettingsError(f"pretrain:\n{enumerate_problems(explain_validation(error))}") from error

    from pipeline.stages.context import RunContext
    from pipeline.stages.pretrain import pretrain_on_folders, pretrain_on_patches

    if isinstance(settings, FromScratchSettings):
        ws = workspace_from({**table, "device": device, "threads": threads})
        run = RunContext(ws, source["dataset"], say, this_command())
        card = pretrain_on_patches(run, source.get("split"), out, name, settings)
    else:
        how = (this_command(), device, threads, say)
        card = pretrain_on_folders(source["train"], source["val"], out, name, settings, *how, selection)
    click.echo(f"{out / name}.yaml")
    shown = [
        f"{what} {100 * card.trained[key]:.2f} %"
        for what, key in (("fit accuracy", "fit_accuracy"), ("val top-1", "top1"))
        if key in card.trained
    ]
    click.echo(f"  {', '.join(shown)}, sha256 {card.weights_sha256}")


def _check_source(given: dict[str, Any]) -> None:
    """Either both class folders or a dataset, and no option of the other form."""
    if "dataset" in given:
        wrong = [key for key in OF_FOLDERS if key in given]
    else:
        wrong = [key for key in OF_A_DATASET if key in given]
        if not wrong and not {"train", "val"} <= given.keys():
            raise click.UsageError("give --train and --val (class folders), or --dataset")
    if wrong:
        named = ", ".join(f"--{key.replace('_', '-')}" for key in wrong)
        other = "--dataset" if "dataset" in given else "--train and --val"
        raise click.UsageError(f"{named}: not with {other}; give either --train and --val, or --dataset")
