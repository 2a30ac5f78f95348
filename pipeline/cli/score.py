"""``pipeline score``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import dataset_option, head_option, say, settings_options, split_option, workspace_from


@click.command("score")
@dataset_option
@split_option(required=False)
@head_option
@settings_options
def command(dataset: str, split: str | None, heads: tuple[str, ...], **options: Any) -> None:
    """Score the pictures of a split with fitted heads, for all configured k in one pass.

    \b
    Example:
      pipeline score --dataset demo --head fca --head fcb
    """
    from pipeline.stages import score
    from pipeline.stages.context import RunContext

    run = RunContext(workspace_from(options), dataset, say)
    for path in score.make(run, heads or (run.head,), split).values():
        click.echo(f"{path}")
