"""What changed since the run before: the result of the same split that was written last before this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.io.atomic import read_json
from pipeline.io.errors import PipelineError
from pipeline.io.messages import shorten
from pipeline.metrics.average_precision import average_precision
from pipeline.metrics.bootstrap import bootstrap_class_ap, paired_difference
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.scores_file import load_scores
from pipeline.stages import evaluate
from pipeline.stages.context import RunContext
from pipeline.views.ranking import Ranking

COMPARED = ("head", "trunk", "layer", "recipe", "k", "seed", "fit_split", "pictures", "metric")
"""Fields of a result that say what was run."""
DIGESTS = {
    "fit": "the rows of the fit split",
    "eval": "the rows of the measured split",
    "labels_fit": "the labels of the fit split",
    "labels_eval": "the labels of the measured split",
}
MOST_CHANGES, MOST_CLASSES = 12, 5
MOST_CHARACTERS = 60


@dataclass(frozen=True)
class Since:
    """The run before, and how this one differs.

    Attributes
    ----------
    file, when : of the result before
    before, now : mAP
    difference : JSON object ``difference``, ``low``, ``high`` over the same pictures; None where the scores before
        are not of the same pictures and labels, or are gone
    changes : name, value before and now
    classes : name, AP before and now, of the classes that moved most
    of_classes : how many classes both have an AP of, where it is not all; else 0
    """

    file: str
    when: str
    before: float
    now: float
    difference: dict[str, float | None] | None
    changes: list[tuple[str, str, str]]
    classes: list[tuple[str, float, float]]
    of_classes: int = 0


def find_previous(run: RunContext, head: str) -> Path | None:
    """Return the result file of the same dataset and split that was written last before a head's; None for none."""
    file = evaluate.path(run, head)
    try:
        written, split = file.stat().st_mtime_ns, read_json(file)["split"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not evaluated yet, or damaged, which is said where the result is read
    earlier = []
    for path in (run.ws.results / "runs").glob("*/map.json"):
        if path != file and path.stat().st_mtime_ns < written:
            earlier.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(earlier, reverse=True):
        try:
            result = read_json(path)
            is_comparable = result["dataset"] == run.dataset and result["split"] == split
            if is_comparable and result["mAP"] is not None and result["AP"] and result["fingerprints"]:
                return path
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no result of ours, or half of one: it is not shown
    return None


def since_previous(run: RunContext, head: str, result: Mapping[str, Any], ranking: Ranking | None) -> Since | None:
    """Compare a result with the one before; None where there is none."""
    path = find_previous(run, head)
    if path is None or result["mAP"] is None:
        return None
    previous = read_json(path)
    moved = [
        (name, previous["AP"][name], ap)
        for name, ap in result["AP"].items()
        if ap is not None and previous["AP"].get(name) not in (None, ap)
    ]
    own, theirs = ({n for n, ap in of["AP"].items() if ap is not None} for of in (result, previous))
    both = own & theirs
    moved.sort(key=lambda row: -abs(row[2] - row[1]))
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Since(
        path.as_posix(),
        when,
        previous["mAP"],
        result["mAP"],
        None if ranking is None else _paired(previous, result, ranking),
        changes_of(previous, result),
        moved[:MOST_CLASSES],
        len(both) if both != own or both != theirs else 0,
    )


def changes_of(previous: Mapping[str, Any], result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what was run otherwise: names with their values before and now, in words.

    >>> changes_of({"seed": 0, "recipe": {"head": {"top": 1}}}, {"seed": 0, "recipe": {"head": {"top": 5}}})
    [('head top', '1', '5')]
    """
    old, new = ({n: v for field in COMPARED for n, v in _flat(field, of.get(field))} for of in (previous, result))
    rows = [(n, old.get(n, "-"), new.get(n, "-")) for n in {**old, **new} if old.get(n) != new.get(n)]
    for name, words in DIGESTS.items():
        digests = [of.get("fingerprints", {}).get(name) for of in (previous, result)]
        if digests[0] != digests[1]:
            before, now = (str(digest or "-")[:12] for digest in digests)
            rows.append((words, before, now))
    versions = [of.get("versions", {}).get("pipeline", "-") for of in (previous, result)]
    if versions[0] != versions[1]:
        rows.append(("pipeline", *versions))
    more = len(rows) - MOST_CHANGES
    return [*rows[:MOST_CHANGES], *([("and more", "", f"{len(rows)} in all")] if more > 0 else [])]


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    """Plain values of a JSON object, by names such as ``head rates``."""
    if isinstance(value, dict):
        prefix = "" if name == "recipe" else f"{name} "
        return [row for key, inner in value.items() for row in _flat(f"{prefix}{key}", inner)]
    return [(name.replace("_", " "), shorten(str(value), MOST_CHARACTERS))]


def _paired(previous: Mapping[str, Any], result: Mapping[str, Any], ranking: Ranking) -> dict[str, float | None] | None:
    """Compute the difference of both mAPs over the same pictures, of the classes that both have an AP of."""
    labels_of = [of["fingerprints"].get("labels_eval") for of in (previous, result)]
    if labels_of[0] != labels_of[1] or previous["metric"] != result["metric"]:
        return None
    try:
        scores = load_scores(Path(previous["paths"]["scores"]))
        values = scores.by(Aggregation.from_json(previous["k"]))
    except (PipelineError, OSError, KeyError):
        return None
    if scores.ids != ranking.scores.ids:
        return None
    names = [n for n, ap in result["AP"].items() if ap is not None and previous["AP"].get(n) is not None]
    if not names or not set(names) <= set(scores.classes):
        return None
    columns = [ranking.scores.classes.index(n) for n in names]
    labels, before = ranking.labels[:, columns], values[:, [scores.classes.index(n) for n in names]]
    again = [average_precision(before[:, c], labels[:, c], ranking.metric) for c in range(len(names))]
    if not np.allclose(again, [previous["AP"][n] for n in names], atol=1e-5):
        return None  # the scores were made again since
    resampled = []
    for of in (ranking.scores.by(ranking.k)[:, columns], before):
        each = bootstrap_class_ap(of, labels, ranking.metric)
        resampled.append(np.nansum(each, 1) / np.maximum((~np.isnan(each)).sum(1), 1))
    measured = float(np.mean([result["AP"][n] - previous["AP"][n] for n in names]))
    return paired_difference(resampled[0], resampled[1], measured=measured)
