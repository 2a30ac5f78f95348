"""Seconds of stages, in logs next to the files that the stages made."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from pipeline.activations.run_log import log_name
from pipeline.io.atomic import read_json, write_json
from pipeline.stages.context import RunContext
from pipeline.stages.receipt import read_receipt


def write_seconds(path: Path, seconds: dict[str, float]) -> None:
    """Write seconds next to a file whose own bytes must not depend on them."""
    write_json(path.with_suffix(".log.json"), {"seconds": {k: round(v, 2) for k, v in seconds.items()}})


def stage_seconds(run: RunContext, head: str, split: str) -> dict[str, float]:
    """Return the seconds of each stage, from the logs next to the files; a stage that never ran has no entry."""
    ws, dataset = run.ws, run.dataset
    seconds: dict[str, float] = {}
    for path in (ws.head_path(dataset, head), ws.scores_path(dataset, head, split)):
        log = path.with_suffix(".log.json")
        if log.is_file():
            seconds |= read_json(log)["seconds"]
    for role in {run.manifest.fit, split}:
        receipt = ws.receipt_path(dataset, role)
        if not receipt.is_file():
            continue
        log = ws.cache / log_name(read_receipt(receipt).store)
        if log.is_file():
            total = 0.0
            for line in log.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError):  # a line that a full disk cut off
                    total += json.loads(line)["seconds"]
            seconds[f"extract_{role}"] = round(total, 2)
    return seconds
