"""Tables of what was chosen from: of a sweep, and of the points of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.head.points import value_in_words
from pipeline.scoring.aggregation import Aggregation
from pipeline.views.tables.table import Column, ResultTable


def sweep_table(swept: Mapping[str, Any]) -> ResultTable:
    """Make the table of a sweep: a row for each head, point of its grid, reading and k; the chosen one is marked."""
    names = ("head", "single_object")
    columns, cells = _columns_of_points(swept["rows"], names, swept["chosen"], {"mAP": swept["split"]})
    where = f"{swept['dataset']}: mAP % on {swept['held_out_pictures']} held-out fit pictures, and on {swept['split']}"
    return ResultTable(where, columns, cells, notes=_notes_on_points(swept["rows"], swept.get("chosen_by", "mAP")))


def points_table(outcome: Mapping[str, Any]) -> ResultTable:
    """Make the table of what a recipe chose from: a row for each layer, point of its head's grid, and k."""
    choice = outcome["choice"]
    rows = choice["points"]
    columns, cells = _columns_of_points(rows, ("layer",) if "layer" in choice else (), chosen_row(choice, outcome["k"]))
    where = f"{choice['by']} % on {choice['pictures']} held-out fit pictures"
    title = f"{outcome['dataset']}: recipe {outcome['name']}, {where}"
    return ResultTable(title, columns, cells, notes=_notes_on_points(rows, choice["by"]))


def chosen_row(choice: Mapping[str, Any], k: Any) -> Mapping[str, Any]:
    """Return the row of an outcome's points that was chosen."""
    wanted = (choice.get("layer"), choice.get("point"), str(Aggregation.from_json(k)))
    return next(row for row in choice["points"] if (row.get("layer"), row.get("point"), row["k"]) == wanted)


def _columns_of_points(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    chosen: Mapping[str, Any],
    shown: Mapping[str, str] | None = None,
) -> tuple[tuple[Column, ...], list[list[Any]]]:
    """Return columns and cells of rows of a sweep; a setting of a grid, and what only some rows have, has a column."""
    shown = shown or {}
    of_grid = list(dict.fromkeys(name for row in rows for name in row.get("point", {})))
    further = [name for name in ("held_out_accuracy", "interval", "std") if any(name in row for row in rows)]
    titles = {"held_out_accuracy": "held out, accuracy", "interval": "95 % interval", "std": "std"}
    columns = (
        *(Column(name, name) for name in (*names, *of_grid)),
        Column("k", "k", is_number=True),
        Column("held_out_mAP", "held out", "share", has_best=True),
        *(Column(name, titles[name], "interval" if name == "interval" else "share") for name in further),
        *(Column(name, title, "share", has_best=True) for name, title in shown.items()),
        Column("chosen", "chosen", "flag"),
    )
    cells = [
        [
            *(row[name] for name in names),
            *(value_in_words(row["point"][name]) if name in row.get("point", {}) else None for name in of_grid),
            row["k"],
            row["held_out_mAP"],
            *(row.get(name) for name in further),
            *(row[name] for name in shown),
            row == chosen,
        ]
        for row in rows
    ]
    return columns, cells


def _notes_on_points(rows: Sequence[Mapping[str, Any]], by: str) -> tuple[str, ...]:
    """Return notes on a choice among points of grids; none without a grid."""
    n_seeds = max((len(row["runs"]) for row in rows if "runs" in row), default=0)
    if not n_seeds:
        return ()
    return (f"chosen by {by}, mean over {n_seeds} seeds; interval: over the held-out pictures; std: over seeds",)
