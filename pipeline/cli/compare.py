"""``pipeline compare``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import dataset_option, head_option, say, settings_options, workspace_from


@click.command("compare")
@dataset_option
@head_option
@click.option("--baseline", "baselines", multiple=True, help="Trunk on which the main head is set beside; again.")
@settings_options
def command(dataset: str, heads: tuple[str, ...], baselines: tuple[str, ...], **options: Any) -> None:
    """Set the results of several heads side by side, in results/{dataset}_heads.json.

    \b
    Example:
      pipeline compare --dataset demo --head fca --head fcb --baseline random
    """
    from pipeline.cli.show import print_comparison
    from pipeline.run import run_compare

    ws = workspace_from(options)
    joined = run_compare(ws, dataset, heads or ws.settings.compare, baselines or ws.settings.baselines, say)
    print_comparison(joined)
