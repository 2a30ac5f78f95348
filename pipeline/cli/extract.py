"""``pipeline extract``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import find_pictures, parse_share, pictures_options, say, settings_options, workspace_from


@click.command("extract")
@pictures_options
@settings_options
@click.option("--layers", help="Several layers from one pass, each into a store of its own: pool5,fc6,fc7.")
@click.option("--share", help="I/N: only the I-th of N shares of the store's parts; a run without it seals.")
@click.option("--scheduler", help="Spread the parts: local:N processes, or a dask scheduler such as tcp://HOST:8786.")
@click.option(
    "--adopt/--no-adopt", default=None, help="Take over rows that other stores of the cache hold; default: --adopt."
)
@click.option("--made", type=int, hidden=True, help="Number of the making, given by the workflow.")
@click.option("--rehash", is_flag=True, help="Forget remembered file digests and hash every picture again.")
def command(
    dataset: str | None,
    split: str | None,
    root: str | None,
    layers: str | None,
    share: str | None,
    scheduler: str | None,
    made: int | None,
    rehash: bool,
    **options: Any,
) -> None:
    """Run the trunk once over every patch of a split and cache its activations.

    A complete store is left alone; an interrupted one resumes at the parts without a record. Rows that
    another store of the cache holds are taken over, so only new pictures go through the trunk. Several
    processes may work on one store; with --share each has parts of its own. With --root the pictures in a folder
    and below it are extracted as they are; the next time only new ones are.

    \b
    Example:
      pipeline extract --dataset demo --split train --trunk alexnet64
      pipeline extract --dataset voc12 --split val --trunk torchvision/resnet18 --device cuda
      pipeline extract --dataset demo --split train --layers pool5,fc7
      pipeline extract --root ~/photos --trunk alexnet64
      pipeline extract --dataset demo --split val --scheduler local:2
    """
    from pipeline.activations.engines import check_scheduler
    from pipeline.io.errors import SettingsError
    from pipeline.stages import extract
    from pipeline.stages.context import RunContext

    wanted = _parse_layers(layers, options.get("layer"))
    if share is not None and scheduler is not None:
        raise SettingsError("--share and --scheduler exclude each other: a scheduler spreads all parts")
    ws = workspace_from(options)
    check_scheduler(scheduler)  # before anything is read
    dataset, split = find_pictures(ws, dataset, split, root)
    run = RunContext(ws, dataset, say, scheduler=scheduler)
    if share is not None:
        n_of_n = parse_share(share)
        for path in extract.make_share(run, extract.open_inputs(run, split, rehash), n_of_n, wanted):
            click.echo(path)
        return
    inputs = extract.open_inputs(run, split, rehash)
    stores = extract.make(run, inputs, wanted, generation=made)
    for store in stores:
        click.echo(f"{store.folder}")
        click.echo(f"  rows {store.n_rows:,} x {store.width}, {store.n_bytes / 2**20:,.1f} MiB on disk")
        click.echo(f"  fingerprint {store.fingerprint}")


def _parse_layers(text: str | None, layer: str | None) -> list[str]:
    from pipeline.io.errors import SettingsError

    names = [] if text is None else [name.strip() for name in text.split(",")]
    if text is not None and layer is not None:
        raise SettingsError("--layer and --layers exclude each other")
    if not all(names) or len(set(names)) < len(names):
        raise SettingsError(f"--layers: expected different names with commas between, such as pool5,fc7, got {text!r}")
    return names
