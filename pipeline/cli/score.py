"""``pipeline score``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import (
    dataset_option,
    head_option,
    parse_share,
    say,
    settings_options,
    split_option,
    workspace_from,
)


@click.command("score")
@dataset_option
@split_option(required=False)
@head_option
@settings_options
@click.option("--share", help="I/N: only the I-th of N shares of the store's parts; a run without it joins them.")
@click.option("--scheduler", help="Spread shares: local:N processes, or a dask scheduler such as tcp://HOST:8786.")
def command(
    dataset: str,
    split: str | None,
    heads: tuple[str, ...],
    share: str | None,
    scheduler: str | None,
    **options: Any,
) -> None:
    """Score the pictures of a split with fitted heads, for all configured k in one pass.

    Shares that were scored apart, or by a run that was interrupted, are joined. The scores have the
    same bytes, whoever made them.

    \b
    Example:
      pipeline score --dataset demo --head fca --head fcb
      pipeline score --dataset voc12 --share 2/4
      pipeline score --dataset voc12 --scheduler local:4
    """
    from pipeline.io.errors import SettingsError
    from pipeline.stages import score
    from pipeline.stages.context import RunContext

    if share is not None and scheduler is not None:
        raise SettingsError("--share and --scheduler exclude each other: a scheduler spreads all shares")
    wanted = None if share is None else parse_share(share)
    run = RunContext(workspace_from(options), dataset, say, scheduler=scheduler)
    named = heads or (run.head,)
    if wanted is not None:
        paths = score.make_share(run, named, wanted, split)
    else:
        paths = list(score.make(run, named, split).values())
    for path in paths:
        click.echo(f"{path}")
