"""Seconds of stages, in logs beside the files that the stages made."""

from __future__ import annotations

from pathlib import Path

from pipeline.activations.run_log import RunLog
from pipeline.dataset.manifest import Manifest
from pipeline.io.atomic import read_json, write_json
from pipeline.stages.receipt import read_receipt
from pipeline.stages.workspace import Workspace


def write_seconds(path: Path, seconds: dict[str, float]) -> None:
    """Seconds beside a file whose own bytes must not depend on them."""
    write_json(path.with_suffix(".log.json"), {"seconds": {k: round(v, 2) for k, v in seconds.items()}})


def stage_seconds(ws: Workspace, dataset: str, head: str, manifest: Manifest, split: str) -> dict[str, float]:
    """Seconds of each stage, from the logs beside what they made; 0 runs of a stage leave no entry."""
    seconds: dict[str, float] = {}
    for path in (ws.head_path(dataset, head), ws.scores_path(dataset, head, split)):
        log = path.with_suffix(".log.json")
        if log.is_file():
            seconds |= read_json(log)["seconds"]
    for role in {manifest.fit, split}:
        receipt = ws.receipt_path(dataset, role)
        if not receipt.is_file():
            continue
        total = RunLog.of_store(ws.cache, read_receipt(receipt)["store"]).total_seconds()
        if total is not None:
            seconds[f"extract_{role}"] = total
    return seconds
