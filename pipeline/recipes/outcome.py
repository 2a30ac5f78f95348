"""Outcomes: what a recipe came to over its seeds, as one JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.io.atomic import read_json
from pipeline.io.errors import PipelineError
from pipeline.scoring.results import number

Outcome = dict[str, Any]
"""What a recipe came to, as JSON: mAP (mean over seeds), std, AP, the aggregation and how it was chosen, seconds,
digest of what it was made from, and for each seed its mAP, AP and file of scores."""


def mean_each(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of each class over runs; undefined where it is undefined in any."""
    return {
        key: None if any(row[key] is None for row in rows) else number(float(np.mean([row[key] for row in rows])))
        for key in rows[0]
    }


def mean_accuracy(results: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean accuracies of runs that have them; no entries where a picture shows several classes."""
    names = [name for name in ("accuracy", "balanced_accuracy") if all(name in result for result in results)]
    return {name: number(float(np.mean([result[name] for result in results]))) for name in names}


def read_outcome(path: Path) -> Outcome:
    """Read the outcome of a recipe.

    Raises
    ------
    PipelineError
        The file is no outcome.
    """
    try:
        outcome = read_json(path)
        missing = {"name", "mAP", "k", "made_from", "runs"} - set(outcome)
        if missing:
            raise KeyError(", ".join(sorted(missing)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path}: not the outcome of a recipe ({type(error).__name__} {error}); remove it and run again: "
            "pipeline recipe run"
        ) from error
    return outcome
