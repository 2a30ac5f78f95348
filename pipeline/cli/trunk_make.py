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
    from pipeline.errors import SettingsError
    from pipeline.pretraining import fit_fisher, pretrain_on_patches
    from pipeline.settings import MADE_TRUNKS

    ws = workspace_from(options)
    s = ws.settings
    if not ws.makes_trunk:
        raise SettingsError(f"trunk {s.trunk!r} is made from no dataset; expected --trunk {' or '.join(MADE_TRUNKS)}")
    path = ws.trunk_path(dataset)
    seed = {"seed": s.trunk_seed}
    if s.trunk == "fisher":
        card = fit_fisher(ws, dataset, path.parent, path.stem, s.fisher.model_copy(update=seed), this_command(), say)
    else:
        settings = s.no_pretrain.model_copy(update=seed)
        about = (path.parent, path.stem, settings, this_command(), s.device, s.threads, say)
        card = pretrain_on_patches(ws, dataset, None, *about)
    click.echo(f"{path}")
    click.echo(f"  sha256 {card.weights_sha256}")
