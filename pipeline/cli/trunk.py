"""``pipeline trunk``: make trunks that are made from a dataset."""

from __future__ import annotations

import click

from pipeline.cli.trunk_make import make


@click.group("trunk")
def command() -> None:
    """Make the trunks that are made from a dataset.

    \b
    Example:
      pipeline trunk make --dataset voc12 --trunk fisher --layer fisher --config whole.yaml
    """


command.add_command(make)
