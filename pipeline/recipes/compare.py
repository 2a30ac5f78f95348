"""Recipes beside each other, with intervals and paired differences, and beside published rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.dataset.manifest import load_manifest
from pipeline.io.atomic import write_json
from pipeline.io.progress import Say
from pipeline.metrics.bootstrap import bootstrap_map, interval, paired_difference
from pipeline.recipes.catalogue import compared_recipes
from pipeline.recipes.run import RecipeRuns
from pipeline.scoring.published import WHY_APART, published_rows
from pipeline.scoring.results import number, versions
from pipeline.stages.workspace import Workspace

SHARED = ("dataset", "split", "fit_split", "metric", "pictures", "official")
"""What all rows of a comparison have in common."""
OF_ONE = (*SHARED, "versions", "command", "notes", "made_from")
"""What only a single recipe's file keeps."""


def run_comparison(ws: Workspace, dataset: str, path: Path, command: str, say: Say) -> dict[str, Any]:
    """Run the recipes that have no outcome yet, and set all beside each other and beside published rows.

    Each row carries its spread over seeds, a bootstrap interval over pictures, and a paired difference to the
    reference, from the same resampled pictures.

    Raises
    ------
    PipelineError
    """
    manifest = load_manifest(dataset)
    names, left_out = compared_recipes(ws.settings, manifest.has_boxes)
    for why in left_out.values():
        say(f"left out: {why}")
    runs = RecipeRuns(ws, dataset, command, say)
    outcomes = {name: runs.outcome(name) for name in names}
    labels = runs.table(ws, manifest.eval).scored_labels
    resampled = {
        name: bootstrap_map(runs.scores_of(outcome), labels, manifest.metric) for name, outcome in outcomes.items()
    }
    reference = ws.settings.reference if ws.settings.reference in outcomes else names[0]
    rows = []
    for name, outcome in outcomes.items():
        row = {key: value for key, value in outcome.items() if key not in OF_ONE}
        low, high = interval(resampled[name], measured=outcome["mAP"])
        row["interval"] = {"low": number(low), "high": number(high)}
        both = (outcome["mAP"], outcomes[reference]["mAP"])
        measured = None if None in both else both[0] - both[1]
        pair = paired_difference(resampled[name], resampled[reference], measured=measured)
        row["difference"] = {"to": reference, **{key: v if v is None else number(v) for key, v in pair.items()}}
        rows.append(row)
    joined = {
        **{key: outcomes[names[0]][key] for key in SHARED},
        "reference": reference,
        "recipes": rows,
        "left_out": [{"name": name, "why": why} for name, why in left_out.items()],
        "published": published_rows(dataset),
        "published_note": WHY_APART,
        "versions": versions(),
        "command": command,
    }
    write_json(path, joined)
    say(f"{path}: {len(rows)} recipes side by side")
    return joined
