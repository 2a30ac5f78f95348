"""``pipeline fit-head``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import dataset_option, head_option, say, settings_options, workspace_from


@click.command("fit-head")
@dataset_option
@head_option
@settings_options
@click.option("--memory", type=float, help="GiB that the process may take; rows beyond lie in a scratch file.")
def command(dataset: str, heads: tuple[str, ...], **options: Any) -> None:
    """Fit heads on the cached activations of the fit split; neither pictures nor trunk are needed.

    \b
    Example:
      pipeline fit-head --dataset demo
      pipeline fit-head --dataset demo --head fca --head fcb --head fca2
    """
    from pipeline.stages import fit_head
    from pipeline.stages.context import RunContext

    run = RunContext(workspace_from(options), dataset, say)
    for path in fit_head.ensure(run, heads or (run.head,)).values():
        click.echo(f"{path}")
