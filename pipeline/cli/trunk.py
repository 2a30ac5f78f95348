"""``pipeline trunk``: make trunks that no pre-training gives."""

from __future__ import annotations

import click

from pipeline.cli.trunk_fisher import fisher


@click.group("trunk")
def command() -> None:
    """Make a trunk from something else than pre-training.

    \b
    Example:
      pipeline trunk fisher --dataset voc12 --out trunks
    """


command.add_command(fisher)
