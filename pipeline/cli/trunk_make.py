"""``pipeline trunk make``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import dataset_option, say, settings_options, this_command, workspace_from


@click.command("make")
@dataset_option
@settings_options
def make(dataset: str, **options: Any) -> None:
    """Make the trunk that is made from a dataset's fit split: fisher or no-pretrain.

    fisher is the codebook of hand-made features, from pictures without labels (settings fisher);
    no-pretrain is a network trained on the dataset's patches alone (settings no_pretrain). The card goes
    where extract looks for it, and can be named as a trunk of its own.

    \b
    Example:
      pipeline trunk make --dataset voc12 --trunk fisher --layer fisher --config whole.yaml
    """
    from pipeline.io.errors import SettingsError
    from pipeline.stages import trunk
    from pipeline.stages.context import RunContext
    from pipeline.trunk.registry import MADE_TRUNKS

    ws = workspace_from(options)
    if not ws.makes_trunk:
        name = ws.settings.trunk
        raise SettingsError(f"trunk {name!r} is made from no dataset; expected --trunk {' or '.join(MADE_TRUNKS)}")
    card = trunk.make(RunContext(ws, dataset, say, this_command()))
    click.echo(f"{ws.trunk_path(dataset)}")
    click.echo(f"  sha256 {card.weights_sha256}")
