"""Recipes beside each other, with intervals and paired differences, and beside published rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.io.atomic import write_json
from pipeline.metrics.bootstrap import bootstrap_map, interval, paired_difference
from pipeline.recipes.catalogue import compared_recipes
from pipeline.recipes.recipe import current_outcome, scores_of_outcome
from pipeline.scoring.published import WHY_APART, published_rows
from pipeline.scoring.results import number, versions
from pipeline.stages.context import RunContext
from pipeline.stages.patches import current_table

SHARED = ("dataset", "split", "fit_split", "metric", "pictures", "official")
"""What all rows of a comparison have in common."""
OF_ONE = (*SHARED, "versions", "command", "notes", "made_from")
"""What only a single recipe's file keeps."""


def run_comparison(run: RunContext, path: Path) -> dict[str, Any]:
    """Run the recipes whose outcome is not current, and compare all with each other and with published rows.

    Each row carries its spread over seeds, a bootstrap interval over pictures, and a paired difference to the
    reference, from the same resampled pictures.

    Raises
    ------
    PipelineError
    """
    manifest = run.manifest
    names, left_out = compared_recipes(run.settings, manifest.has_boxes)
    for why in left_out.values():
        run.say(f"left out: {why}")
    outcomes = {name: current_outcome(run, name) for name in names}
    labels = current_table(run, manifest.eval).scored_labels
    resampled = {
        name: bootstrap_map(scores_of_outcome(run, outcome), labels, manifest.metric)
        for name, outcome in outcomes.items()
    }
    reference = run.settings.reference if run.settings.reference in outcomes else names[0]
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
        "published": published_rows(run.dataset),
        "published_note": WHY_APART,
        "versions": versions(),
        "command": run.command,
    }
    write_json(path, joined)
    run.say(f"{path}: {len(rows)} recipes side by side")
    return joined
