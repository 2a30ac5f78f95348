"""Joins: picture scores of several recipes made into one, by mean rank or by a logistic regression per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.table import PatchTable
from pipeline.recipes.outcome import Outcome
from pipeline.scoring.aggregation import JOINED
from pipeline.scoring.ensemble import Stack, mean_rank
from pipeline.scoring.results import number
from pipeline.scoring.scores import ScoreFacts, SplitScores
from pipeline.scoring.scores_file import load_scores, save_scores


def join_seed(
    scores: Sequence[np.ndarray], stack: Stack | None, table: PatchTable, metric: Any, path: Path, facts: ScoreFacts
) -> dict[str, Any]:
    """Join the scores of all members with one seed, write them, and measure them.

    Parameters
    ----------
    scores : of each member, float ndarrays (n_pictures, n_classes)
    stack : fitted on held-out scores; None for the mean rank
    facts : of the file of joined scores

    Returns
    -------
    JSON object: ``mAP``, ``AP`` by class, ``scores`` (the file)
    """
    joined = stack.apply(list(scores)) if stack is not None else mean_rank(list(scores))
    mean, each = mean_average_precision(joined, table.scored_labels, metric)
    save_scores(SplitScores(joined[None], (JOINED,), table.ids, table.classes, facts), path)
    by_class = {c: number(ap) for c, ap in zip(table.classes, each, strict=True) if c not in table.unscored}
    return {"mAP": number(mean), "AP": by_class, "scores": path.as_posix()}


def facts_of_member(outcome: Outcome, index: int) -> ScoreFacts:
    """Return the facts of a member's scores with the `index`-th seed."""
    return load_scores(Path(outcome["runs"][index]["scores"])).facts


def describe_members(members: Sequence[Outcome], seconds: dict[str, float]) -> dict[str, Any]:
    """Return the fields of a join's outcome that follow from its members' outcomes, in their order in the file."""
    first = members[0]
    return {
        "trunk": " + ".join(dict.fromkeys(member["trunk"] for member in members)),
        "layer": " + ".join(dict.fromkeys(member["layer"] for member in members)),
        "k": JOINED.to_json(),
        "choice": {"chosen": "by its members"},
        "k_sweep": {},
        "seconds": seconds,
        "fingerprints": {member["name"]: member["fingerprints"] for member in members},
        "pictures": first["pictures"],
        "official": all(member["official"] for member in members),
        "notes": first["notes"],
    }
