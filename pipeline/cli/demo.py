"""``pipeline demo``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from pipeline.cli.common import say, settings_options, workspace_from


@click.command("demo")
@settings_options
def command(**options: Any) -> None:
    """Run the whole job on drawn pictures, in this folder: data, patches, trunk, head, scores, result, report.

    Each step is one command, which is shown; what is done already is left alone. No network is needed.

    \b
    Example:
      pipeline demo
    """
    from pipeline.cli.show import print_result
    from pipeline.dataset.fetch import fetch
    from pipeline.dataset.manifest import data_root
    from pipeline.io.atomic import write_json
    from pipeline.stages import evaluate, extract, fit_head, score
    from pipeline.stages.context import RunContext
    from pipeline.views.report.render import write_report

    ws = workspace_from(options)
    run = RunContext(ws, "demo", say, "pipeline demo")
    manifest, head = run.manifest, run.head

    def step(line: str) -> None:
        say(click.style(f"$ pipeline {line}", bold=True))

    step("data fetch demo")
    fetch(manifest, data_root(ws.settings.data_root), say)
    for split in (manifest.fit, manifest.eval):
        step(f"extract --dataset demo --split {split}")
        extract.make(run, extract.open_inputs(run, split))
    step("fit-head --dataset demo")
    fit_head.ensure(run, [head])
    step("score --dataset demo")
    score.make(run, [head])
    step("evaluate --dataset demo --output results/demo_map.json")
    result = evaluate.make(run, head)
    write_json(ws.results / "demo_map.json", result)
    step("report --dataset demo")
    write_report(replace(run, command="pipeline report --dataset demo"), head, ws.report_path("demo"))
    print_result(result)
    click.echo(f"report:  {ws.report_path('demo')}")
    say("next: pipeline serve --dataset demo --open, or pipeline map --dataset demo photo.jpg")
