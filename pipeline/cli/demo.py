"""``pipeline demo``."""

from __future__ import annotations

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
    from pipeline.dataset.manifest import data_root, load_manifest
    from pipeline.io.atomic import write_json
    from pipeline.stages.evaluate import run_evaluate
    from pipeline.stages.extract import run_extract
    from pipeline.stages.fit_head import run_fit
    from pipeline.stages.score import run_score
    from pipeline.views.report.page import run_report

    ws = workspace_from(options)
    manifest, head = load_manifest("demo"), ws.settings.head

    def step(line: str) -> None:
        say(click.style(f"$ pipeline {line}", bold=True))

    step("data fetch demo")
    fetch(manifest, data_root(ws.settings.data_root), say)
    for split in (manifest.fit, manifest.eval):
        step(f"extract --dataset demo --split {split}")
        run_extract(ws, "demo", split, say)
    step("fit-head --dataset demo")
    run_fit(ws, "demo", [head], say)
    step("score --dataset demo")
    run_score(ws, "demo", [head], None, say)
    step("evaluate --dataset demo --output results/demo_map.json")
    result = run_evaluate(ws, "demo", head, None, "pipeline demo", say)
    write_json(ws.results / "demo_map.json", result)
    step("report --dataset demo")
    run_report(ws, "demo", head, ws.report_path("demo"), "pipeline report --dataset demo", say)
    print_result(result)
    click.echo(f"report:  {ws.report_path('demo')}")
    say("next: pipeline serve --dataset demo --open, or pipeline map --dataset demo photo.jpg")
