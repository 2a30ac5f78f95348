"""Joins: picture scores of several recipes made into one, by mean rank or by a logistic regression per class."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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


def undefined_in_all(members: Sequence[Outcome]) -> dict[str, str]:
    """Return the classes without an AP by any member, with the reason of the first: a join has none either."""
    first, *others = (member.get("why_undefined", {}) for member in members)
    return {name: why for name, why in first.items() if all(name in other for other in others)}


def join_seed(
    scores: Sequence[np.ndarray],
    stack: Stack | None,
    table: PatchTable,
    metric: Any,
    path: Path,
    facts: ScoreFacts,
    undefined: Collection[str] = (),
) -> dict[str, Any]:
    """Join the scores of all members with one seed, write them, and measure them.

    Parameters
    ----------
    scores : of each member, float ndarrays (n_pictures, n_classes)
    stack : fitted on held-out scores; None for the mean rank
    facts : of the file of joined scores
    undefined : classes that get no AP

    Returns
    -------
    JSON object: ``mAP``, ``AP`` by class, ``scores`` (the file)
    """
    joined = stack.apply(list(scores)) if stack is not None else mean_rank(list(scores))
    labels = np.where([c not in undefined for c in table.classes], table.scored_labels, np.int8(0))
    mean, each = mean_average_precision(joined, labels, metric)
    save_scores(SplitScores(joined[None], (JOINED,), table.ids, table.classes, facts), path)
    by_class = {c: number(ap) for c, ap in zip(table.classes, each, strict=True) if c not in table.unscored}
    return {"mAP": number(mean), "AP": by_class, "scores": path.as_posix()}


def facts_of_member(outcome: Outcome, index: int) -> ScoreFacts:
    """Return the facts of a member's scores with the `index`-th seed."""
    return load_scores(Path(outcome["runs"][index]["scores"])).facts


def describe_members(members: Sequence[Outcome], seconds: dict[str, float]) -> dict[str, Any]:
    """Return the fields of a join's outcome that follow from its members' outcomes, in their order in the file."""
    first, undefined = members[0], undefined_in_all(members)
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
        **({"why_undefined": undefined} if undefined else {}),
    }
