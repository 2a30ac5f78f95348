"""``pipeline evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import (
    dataset_option,
    echo_json,
    head_option,
    json_option,
    say,
    settings_options,
    split_option,
    this_command,
    workspace_from,
)


@click.command("evaluate")
@dataset_option
@split_option(required=False)
@head_option
@settings_options
@json_option
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also copy the result to this file.")
def command(
    dataset: str, split: str | None, heads: tuple[str, ...], output: Path | None, as_json: bool, **options: Any
) -> None:
    """Average precision a class and mAP from scores, or files for the evaluation server.

    \b
    Example:
      pipeline evaluate --dataset demo --k 5 --output results/demo_map.json
    """
    from pipeline.cli.show import print_result
    from pipeline.io.atomic import write_json
    from pipeline.stages import evaluate
    from pipeline.stages.context import RunContext

    run = RunContext(workspace_from(options), dataset, say, this_command())
    results = []
    for head in heads or (run.head,):
        result = evaluate.make(run, head, split)
        if output is not None:
            write_json(output, result)
        results.append(result)
        if not as_json:
            print_result(result)
    if as_json:
        echo_json(results if len(results) > 1 else results[0])
