"""Seconds of stages, in logs next to the files that the stages made."""

from __future__ import annotations

from pathlib import Path

from pipeline.activations.run_log import RunLog
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
    for role in dict.fromkeys((run.manifest.fit, split)):
        receipt = ws.receipt_path(dataset, role)
        if not receipt.is_file():
            continue
        total = RunLog.of_store(ws.cache, read_receipt(receipt).store).total_seconds()
        if total is not None:
            seconds[f"extract_{role}"] = total
    return seconds
