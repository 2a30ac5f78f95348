"""``pipeline evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import (
    check_output,
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
@click.option(
    "--scores",
    type=click.Path(path_type=Path),
    help="Evaluate scores that were made elsewhere: .csv, .parquet or .npz with picture ids and a column per class.",
)
@click.option("--made-by", default="", help="With --scores: what made them, such as a model and its version.")
@click.option("--incomplete", is_flag=True, help="With --scores: pictures may lack scores; they rank last.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also copy the result to this file.")
def command(
    dataset: str,
    split: str | None,
    heads: tuple[str, ...],
    scores: Path | None,
    made_by: str,
    incomplete: bool,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Average precision a class and mAP from scores, or files for the evaluation server.

    \b
    Example:
      pipeline evaluate --dataset demo --k 5 --output results/demo_map.json
      pipeline evaluate --dataset demo --scores theirs.csv --made-by "their model, 1.2"
    """
    from pipeline.cli.show import print_given, print_result
    from pipeline.io.atomic import write_json
    from pipeline.io.errors import SettingsError
    from pipeline.stages import evaluate
    from pipeline.stages.context import RunContext

    run = RunContext(workspace_from(options), dataset, say, this_command())
    if scores is not None:
        from pipeline.exchange.evaluate_scores import evaluate_scores

        if heads:
            raise SettingsError("--scores are of no head of ours; give --scores or --head")
        if output is not None and output.name.startswith(f"{dataset}_"):
            raise SettingsError(f"--output {output}: such names are of results that are made here; choose another")
        check_output(output, "given")
        file, result = evaluate_scores(run, scores, split, incomplete=incomplete, made_by=made_by)
        if output is not None:
            write_json(output, result)
        if as_json:
            echo_json(result)
            return
        print_given(result)
        click.echo(f"result: {file}")
        return
    if made_by or incomplete:
        raise SettingsError("--made-by and --incomplete are for --scores FILE")
    results, names = [], heads or (run.head,)
    check_output(output, "result", names)
    for head in names:
        result = evaluate.make(run, head, split)
        if output is not None:
            write_json(output, result)
        results.append(result)
        if not as_json:
            print_result(result)
    if as_json:
        echo_json(results if len(results) > 1 else results[0])
