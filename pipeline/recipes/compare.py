"""Recipes beside each other, with intervals and paired differences, and beside published rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.io.atomic import check_writable, read_json, write_json
from pipeline.io.digests import digest_of
from pipeline.metrics.bootstrap import bootstrap_mean_ap, interval, paired_difference
from pipeline.recipes import recipe
from pipeline.recipes.catalogue import compared_recipes, heads_run
from pipeline.recipes.outcome import Outcome
from pipeline.recipes.paths import recipe_digest
from pipeline.scoring.published import WHY_APART, published_rows
from pipeline.scoring.results import number, versions
from pipeline.stages.boxes import check_heads, refuse_without_labels
from pipeline.stages.context import RunContext
from pipeline.stages.patches import current_table
from pipeline.stages.workspace import VERSIONS, Workspace

SHARED = ("dataset", "split", "fit_split", "metric", "pictures", "official")
"""What all rows of a comparison have in common."""
OF_ONE = (*SHARED, "versions", "command", "notes", "made_from")
"""What only a single recipe's file keeps."""


def path(run: RunContext, of_heads: bool = False) -> Path:
    """Return the file of the comparison of recipes, or of that of the configured heads."""
    return run.ws.heads_path(run.dataset) if of_heads else run.ws.compare_path(run.dataset)


def context_of(run: RunContext, of_heads: bool) -> RunContext:
    """Return the context in which the recipes of a comparison run; the configured heads are recipes of their own."""
    return run.on(Workspace(heads_run(run.settings, run.manifest.has_boxes))) if of_heads else run


def why_due(run: RunContext, of_heads: bool = False) -> str | None:
    """Return why a comparison must be made, or None if it is of these recipes, settings, pictures and roles.

    Its name holds no digest, so the file records what it was made from.
    """
    file, compared = path(run, of_heads), context_of(run, of_heads)
    if not file.is_file():
        return "it has not been made yet"
    names, left_out = compared_recipes(compared.settings, run.manifest.has_boxes)
    for name in names:
        reason = recipe.why_due(compared, name)
        if reason is not None:
            return f"recipe {name!r}: {reason}"
    try:
        made_from = read_json(file)["made_from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}: does not say what it was made from ({type(error).__name__} {error})"
    return None if made_from == _digest_of_inputs(compared, names, left_out) else "it is of other recipes or settings"


def _digest_of_inputs(run: RunContext, names: Sequence[str], left_out: Mapping[str, str]) -> str:
    recipes = [[name, recipe_digest(run.ws, name), recipe.digest_of_inputs(run, name)] for name in names]
    return digest_of([VERSIONS, recipes, sorted(left_out), run.settings.reference, published_rows(run.dataset)])


def make(run: RunContext, of_heads: bool = False) -> dict[str, Any]:
    """Run the recipes whose outcome is not current, and compare all with each other and with published rows.

    Each row carries its spread over seeds, a bootstrap interval over pictures, and a paired difference to the
    reference, from the same resampled pictures. A difference is over the classes that both have an AP of.

    Raises
    ------
    PipelineError
    """
    refuse_without_labels(run.manifest, "a comparison")
    if of_heads:
        check_heads(run.manifest, run.settings, run.compared_heads, "compare")
    file, run = path(run, of_heads), context_of(run, of_heads)
    manifest = run.manifest
    names, left_out = compared_recipes(run.settings, manifest.has_boxes)
    check_writable(file)
    for why in left_out.values():
        run.say(f"left out: {why}")
    outcomes = {name: recipe.current_outcome(run, name) for name in names}
    table = current_table(run, manifest.eval)
    scores = {name: recipe.scores_of_outcome(table, outcome) for name, outcome in outcomes.items()}

    @cache
    def resample(name: str, classes: frozenset[str]) -> np.ndarray:
        labels = np.where([c in classes for c in table.classes], table.scored_labels, np.int8(0))
        return bootstrap_mean_ap(scores[name], labels, manifest.metric)

    reference = run.settings.reference if run.settings.reference in outcomes else names[0]
    rows = []
    for name, outcome in outcomes.items():
        row = {key: value for key, value in outcome.items() if key not in OF_ONE}
        own, of_both = _defined(outcome), _defined(outcome) & _defined(outcomes[reference])
        low, high = interval(resample(name, own), measured=outcome["mAP"])
        row["interval"] = {"low": number(low), "high": number(high)}
        mine, theirs = _mean_over(outcome, of_both), _mean_over(outcomes[reference], of_both)
        measured = None if mine is None or theirs is None else mine - theirs
        pair = paired_difference(resample(name, of_both), resample(reference, of_both), measured=measured)
        row["difference"] = {"to": reference, **{key: v if v is None else number(v) for key, v in pair.items()}}
        if len(of_both) < max(len(own), len(_defined(outcomes[reference]))):
            row["difference"]["classes"] = [c for c in table.classes if c in of_both]
        rows.append(row)
    joined = {
        **{key: outcomes[names[0]][key] for key in SHARED},
        "reference": reference,
        "recipes": rows,
        "left_out": [{"name": name, "why": why} for name, why in left_out.items()],
        "published": published_rows(run.dataset),
        "published_note": WHY_APART,
        "made_from": _digest_of_inputs(run, names, left_out),
        "versions": versions(),
        "command": run.command,
    }
    write_json(file, joined)
    run.say(f"{file}: {len(rows)} recipes side by side")
    return joined


def read_notes(run: RunContext, joined: Mapping[str, Any], of_heads: bool = False) -> list[str]:
    """Return the notes of all recipes of a comparison, from their outcomes; each once, with the recipes' names."""
    context = context_of(run, of_heads)
    recipes: dict[str, list[str]] = {}
    for row in joined["recipes"]:
        for note in recipe.current_outcome(context, row["name"])["notes"]:
            recipes.setdefault(note, []).append(row["name"])
    n_all = len(joined["recipes"])
    return [note if len(names) == n_all else f"{', '.join(names)}: {note}" for note, names in recipes.items()]


def _defined(outcome: Outcome) -> frozenset[str]:
    """Return the classes that a recipe has an AP of."""
    return frozenset(name for name, ap in outcome["AP"].items() if ap is not None)


def _mean_over(outcome: Outcome, classes: frozenset[str]) -> float | None:
    """Return a recipe's mAP over some of its classes; the mAP of its file where these are all."""
    if classes == _defined(outcome):
        return outcome["mAP"]
    # Rounded once, so that the order of the classes' names decides no bit.
    return math.fsum(outcome["AP"][name] for name in classes) / len(classes) if classes else None
