"""``pipeline doctor``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from pipeline.cli.common import echo_json, json_option, settings_options, workspace_from

MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "bad": ("BAD", "red")}


@click.command("doctor")
@click.option("--dataset", help="Also check its pictures, and say what a run over it takes.")
@json_option
@settings_options
def command(dataset: str | None, as_json: bool, **options: Any) -> None:
    """Check what a run needs: versions, device, weights, pictures, disk and memory; say how to fix it.

    Ends with code 2 where something is missing.

    \b
    Example:
      pipeline doctor
      pipeline doctor --dataset voc12 --data-root ~/VOCdevkit
    """
    from pipeline.preflight.doctor import examine

    findings = []
    for finding in examine(workspace_from(options), dataset):
        findings.append(finding)
        if as_json:
            continue
        mark, color = MARKS[finding.state]
        click.echo(f"{click.style(f'{mark:5}', fg=color)}{finding.what}: {finding.found}")
        if finding.fix and finding.state != "ok":
            click.echo(f"      {finding.fix}")
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    if any(finding.state == "bad" for finding in findings):
        sys.exit(2)
