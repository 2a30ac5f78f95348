"""``pipeline sweep``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.common import dataset_option, echo_json, json_option, say, settings_options, workspace_from


@click.command("sweep")
@dataset_option
@settings_options
@json_option
def command(dataset: str, as_json: bool, **options: Any) -> None:
    """Choose head, reading and k on held-out fit pictures; the evaluation split is only shown.

    \b
    Example:
      pipeline sweep --dataset demo
    """
    from pipeline.cli.show import print_sweep
    from pipeline.stages import sweep
    from pipeline.stages.context import RunContext

    swept = sweep.make(RunContext(workspace_from(options), dataset, say))
    if as_json:
        echo_json(swept)
    else:
        print_sweep(swept)
