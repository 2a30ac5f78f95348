"""One flat table of all results in a folder: a row per run of a head, and per recipe with all its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.of_result import EvaluatedBefore
from pipeline.io.atomic import read_json
from pipeline.io.messages import brief
from pipeline.scoring.aggregation import Aggregation
from pipeline.views.tables.stale import why_stale
from pipeline.views.tables.table import Column, ResultTable

PATTERNS = {"run": "runs/*/map.json", "recipe": "recipes/*.json"}
"""Files below the results folder, by what they are of."""
COLUMNS = (
    *(
        Column(name, name.replace("_", " "))
        for name in ("of", "dataset", "split", "fit_split", "name", "trunk", "layer")
    ),
    Column("k", "k", is_number=True),
    Column("metric", "metric"),
    Column("mAP", "mAP", "share", has_best=True),
    Column("std", "std", "share"),
    Column("seeds", "seeds", is_number=True),
    Column("accuracy", "accuracy", "share", has_best=True),
    Column("balanced_accuracy", "balanced", "share", has_best=True),
    Column("pointing", "pointing game", "share", has_best=True),
    Column("fit_pictures", "fit pictures", is_number=True),
    Column("eval_pictures", "eval pictures", is_number=True),
    Column("official", "official", "flag"),
    Column("fit_fingerprint", "fit store"),
    Column("eval_fingerprint", "eval store"),
    Column("version", "version"),
    Column("file", "file"),
)


def runs_table(results: Path, dataset: str | None = None) -> ResultTable:
    """Make the table of all results below a folder, by dataset and split, the highest mAP first.

    Parameters
    ----------
    results : folder of results
    dataset : the only one whose results are listed; None for all

    Returns
    -------
    Table; its notes name files that are no results, and results that are not current.
    """
    rows, notes, before = [], [], EvaluatedBefore()
    for of, pattern in PATTERNS.items():
        for path in sorted(results.glob(pattern)):
            try:
                content = read_json(path)
                rows.append(_row(of, path, content))
                if dataset not in (None, rows[-1]["dataset"]):
                    continue
                if (reason := why_stale(content, path, before)) is not None:
                    notes.append(f"{path}: stale: {reason}")
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                notes.append(f"{path}: left out, not a result: {type(error).__name__} {error}")
    rows = [row for row in rows if dataset in (None, row["dataset"])]
    rows.sort(key=lambda row: (row["dataset"], row["split"], row["mAP"] is None, -(row["mAP"] or 0.0), row["file"]))
    cells = [[row[column.name] for column in COLUMNS] for row in rows]
    return ResultTable(f"{results}: {len(rows)} results", COLUMNS, cells, notes=tuple(notes))


def _row(of: str, path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    is_recipe = of == "recipe"
    if content["mAP"] is not None and not isinstance(content["mAP"], (int, float)):
        raise TypeError(f"mAP: expected a number, got {brief(content['mAP'])}")
    return {
        "of": of,
        **{name: content[name] for name in ("dataset", "split", "fit_split", "metric", "mAP", "official")},
        "name": content["name"] if is_recipe else content["head"],
        "trunk": content["trunk"],
        "layer": content["layer"],
        "k": str(Aggregation.from_json(content["k"])),
        "std": content["std"] if is_recipe else None,
        "seeds": " ".join(map(str, content["seeds"])) if is_recipe else content["seed"],
        "accuracy": content.get("accuracy"),
        "balanced_accuracy": content.get("balanced_accuracy"),
        "pointing": (content.get("pointing") or {}).get("mean"),
        "fit_pictures": content["pictures"]["fit"]["used"],
        "eval_pictures": content["pictures"]["eval"]["used"],
        "fit_fingerprint": content["fingerprints"].get("fit"),
        "eval_fingerprint": content["fingerprints"].get("eval"),
        "version": content["versions"]["pipeline"],
        "file": path.as_posix(),
    }
