"""Tables of result files: of one head, of a comparison, of a sweep, and of several heads class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.io.errors import PipelineError
from pipeline.scoring.aggregation import Aggregation
from pipeline.views.tables.points import points_table, sweep_table
from pipeline.views.tables.table import Column, ResultTable

KINDS = {
    "recipes": "comparison",
    "rows": "sweep",
    "mAP": "result",
    "measured": "given",
    "curves": "curve",
    "rungs": "ladder",
    "pairs": "near",
    "box_AP": "boxes",
    "faults": "labels",
}
"""Kinds of result files by the key that tells them."""


def kind_of(content: Any) -> str | None:
    """Return the kind of a result, a value of `KINDS` (``given``: of scores made elsewhere); None for no result.

    The outcome of a recipe that chose among points is ``points``; that of any other is a result.
    """
    if isinstance(content, dict) and isinstance(content.get("choice"), dict) and "points" in content["choice"]:
        return "points"
    return next((kind for key, kind in KINDS.items() if isinstance(content, dict) and key in content), None)


def make_tables(contents: Sequence[Mapping[str, Any]], per_class: bool = False) -> list[ResultTable]:
    """Make the tables of results, as papers show them.

    Parameters
    ----------
    contents : of result files
    per_class : a column per class: of a comparison, and of several results together, which are a row each

    Raises
    ------
    PipelineError
        Results of different splits, metrics or classes cannot stand in one table; a sweep has no classes.
    """
    if not per_class:
        makers = {
            "comparison": comparison_table,
            "sweep": sweep_table,
            "result": result_table,
            "given": given_table,
            "curve": curve_table,
            "ladder": ladder_table,
            "near": near_table,
            "boxes": boxes_table,
            "labels": faults_table,
            "points": points_table,
        }
        return [makers[str(kind_of(content))](content) for content in contents]
    results = [content for content in contents if kind_of(content) == "result"]
    tables = [classes_table(results)] if results else []
    for content in contents:
        if kind_of(content) in ("near", "boxes", "labels"):
            raise PipelineError("--per-class: near-duplicates, labels and boxes have tables of their own; leave it out")
        if kind_of(content) == "given":
            raise PipelineError("--per-class: scores made elsewhere stand in a table of their own; leave it out")
        if kind_of(content) in ("curve", "ladder"):
            raise PipelineError("--per-class: curves and ladders have no AP by class; give results and comparisons")
        if kind_of(content) == "points":
            raise PipelineError("--per-class: points of a grid have no AP by class; give results and comparisons")
        if kind_of(content) == "sweep":
            raise PipelineError("--per-class: a sweep has no AP by class; give results and comparisons")
        if kind_of(content) == "comparison":
            tables.append(classes_table([content | row for row in content["recipes"]]))
    return tables


def result_table(result: Mapping[str, Any]) -> ResultTable:
    """Make the table of one result: a row per class, and the mean."""
    k = Aggregation.from_json(result["k"])
    title = (
        f"{result['dataset']} {result['split']}: head {result['head']} on {result['trunk']} {result['layer']}, k={k}"
    )
    return _table_of_classes(result, title)


def curve_table(joined: Mapping[str, Any]) -> ResultTable:
    """Make the table of learning curves: a row per recipe and size."""
    size = "per class" if joined["plan"]["by"] == "shots" else "subset"
    columns = (
        *(Column(name, name) for name in ("recipe", "trunk", "layer")),
        Column("size", size, is_number=True),
        Column("pictures", "pictures", is_number=True),
        Column("mAP", "mAP", "share"),
        Column("std", "std", "share"),
        Column("interval", "95 % interval", "interval"),
    )
    rows: list[list[Any]] = []
    for curve in joined["curves"]:
        about = [curve[name] for name in ("name", "trunk", "layer")]
        for point in curve["points"]:
            n = sorted({f"{n:,}" for n in point["pictures"]}, key=lambda text: int(text.replace(",", "")))
            pictures = n[0] if len(n) == 1 else " to ".join((n[0], n[-1])) if n else ""
            rows.append([*about, str(point["size"]), pictures, point["mAP"], point["std"], point["interval"]])
    notes = (
        f"mean and deviation over {len(joined['seeds'])} random subsets; interval: over pictures of {joined['split']}",
        "a class without a fit picture in a subset counts with chance; one without any is left out",
    )
    where = f"{joined['dataset']} {joined['split']}"
    title = f"{where}: mAP ({joined['metric']}) % by fit pictures of {joined['fit_split']}"
    return ResultTable(title, columns, rows, notes=notes)


def ladder_table(joined: Mapping[str, Any]) -> ResultTable:
    """Make the table of a ladder: a row per trunk and recipe, with a column per number of shots."""
    shots = joined["plan"]["shots"]
    columns = (
        Column("rung", "trunk"),
        Column("recipe", "recipe"),
        *(Column(f"mAP_{n}", f"{n} per class", "share", has_best=True) for n in shots),
        Column("mAP", "mAP", "share", has_best=True),
        Column("std", "std", "share"),
        Column("interval", "95 % interval", "interval"),
        Column("pointing", "pointing game", "share", has_best=True),
        Column("seconds", "s", "number"),
    )
    rows: list[list[Any]] = []
    notes = []
    for rung in joined["rungs"]:
        for recipe in rung["recipes"]:
            few = {point["size"]: point["mAP"] for point in recipe["few"]}
            measured = [recipe[name] for name in ("mAP", "std", "interval", "pointing")]
            seconds = sum(recipe["seconds"].values())
            rows.append([rung["name"], recipe["name"], *(few.get(n) for n in shots), *measured, seconds])
        took = "" if rung["extract_seconds"] is None else f", {rung['extract_seconds']:,.0f} s to extract"
        size = f"{rung['rows']:,} rows, {(rung['columns'] or 0):,} columns, {rung['bytes'] / 1e6:,.0f} MB{took}"
        notes.append(f"{rung['name']}: {rung['trunk']} {rung['layer']}: {size}")
    notes.append("interval: over pictures (bootstrap); s: to fit and score with one seed, store kept")
    title = f"{joined['dataset']} {joined['split']}: mAP ({joined['metric']}) % by trunk"
    return ResultTable(title, columns, rows, notes=tuple(notes))


def given_table(result: Mapping[str, Any]) -> ResultTable:
    """Make the table of a result of scores that were made elsewhere."""
    scores = result["scores"]
    by = f" by {scores['made_by']}" if scores["made_by"] else ""
    title = f"{result['dataset']} {result['split']}: {result['kind']}{by}, {scores['file']}"
    return _table_of_classes({**result, **result["measured"]}, title)


def _table_of_classes(result: Mapping[str, Any], title: str) -> ResultTable:
    columns = [Column("class", "class"), Column("AP", f"AP ({result['metric']}) %", "share")]
    rows: list[list[Any]] = [[name, ap] for name, ap in result["AP"].items()]
    footer = ["mAP", result["mAP"]]
    pointing, confusion = result.get("pointing"), result.get("confusion")
    reasons = result.get("why_undefined", {})
    if pointing:
        columns.append(Column("pointing", "pointing game %", "share"))
        _extend(rows, footer, pointing["share"], pointing["mean"])
    if confusion:
        columns.append(Column("recall", "taken for it %", "share"))
        _extend(rows, footer, recalls(confusion), result["balanced_accuracy"])
    if reasons:
        columns.append(Column("why_no_AP", "why no AP"))
        _extend(rows, footer, {name: reasons.get(name, "") for name in result["AP"]}, "")
    return ResultTable(title, tuple(columns), rows, footer, tuple(result["notes"]))


def _extend(rows: list[list[Any]], footer: list[Any], values: Mapping[str, Any], mean: Any) -> None:
    for row in rows:
        row.append(values.get(row[0]))
    footer.append(mean)


def recalls(confusion: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the share of the pictures of each class that are taken for it; None where there is no picture."""
    shares = {}
    for row, name in enumerate(confusion["classes"]):
        total = sum(confusion["counts"][row]) + confusion["undecided"].get(name, 0)
        shares[name] = confusion["counts"][row][row] / total if total else None
    return shares


def comparison_table(joined: Mapping[str, Any]) -> ResultTable:
    """Make the table of a comparison: a row per recipe, with spread, interval and difference to the reference."""
    has_accuracy = any("accuracy" in recipe for recipe in joined["recipes"])
    columns = (
        *(Column(name, name) for name in ("recipe", "trunk", "layer")),
        Column("k", "k", is_number=True),
        Column("mAP", "mAP", "share", has_best=True),
        Column("std", "std", "share"),
        Column("interval", "95 % interval", "interval"),
        Column("difference", f"to {joined['reference']}", "difference"),
        *([Column("accuracy", "accuracy", "share", has_best=True)] if has_accuracy else []),
        Column("seconds", "s", "number"),
    )
    rows = [
        [
            *(recipe[name] for name in ("name", "trunk", "layer")),
            str(Aggregation.from_json(recipe["k"])),
            recipe["mAP"],
            recipe["std"],
            recipe["interval"],
            None if recipe["name"] == joined["reference"] else recipe["difference"],
            *([recipe.get("accuracy")] if has_accuracy else []),
            sum(recipe["seconds"].values()),
        ]
        for recipe in joined["recipes"]
    ]
    notes = (
        "interval: over pictures (bootstrap); difference: paired, over the same pictures; s: a seed's, store kept",
        *_undefined_notes(joined),
        *(f"left out: {item['why']}" for item in joined["left_out"]),
    )
    title = f"{joined['dataset']} {joined['split']}: mAP ({joined['metric']}) %"
    return ResultTable(title, columns, rows, notes=notes)


def _undefined_notes(joined: Mapping[str, Any]) -> list[str]:
    """Return classes without an AP by each recipe, with the reason, and over which classes a difference is."""
    notes = []
    for recipe in joined["recipes"]:
        for name, reason in recipe.get("why_undefined", {}).items():
            notes.append(f"{recipe['name']}: no AP of {name}, left out of its mean: {reason}")
        classes = recipe["difference"].get("classes")
        if classes is not None:
            text = f"its difference is over the {len(classes)} classes that {joined['reference']} has an AP of, too"
            notes.append(f"{recipe['name']}: {text}")
    return notes


def boxes_table(result: Mapping[str, Any]) -> ResultTable:
    """Make the table of boxes drawn from maps: a row per class, and the means."""
    corloc, ap = result["CorLoc"], result["box_AP"]
    columns = (
        Column("class", "class"),
        Column("CorLoc", "CorLoc %", "share"),
        Column("box_AP", f"AP of boxes ({result['metric']}) %", "share"),
        Column("objects", "objects", is_number=True),
    )
    rows = [[name, share, ap["by_class"][name], result["objects"][name]] for name, share in corloc["by_class"].items()]
    footer = ["mean", corloc["mean"], ap["mean"], sum(result["objects"].values())]
    where = f"{result['dataset']} {result['split']}: boxes from maps of head {result['head']}"
    title = f"{where} on {result['trunk']} {result['layer']}, share {result['share']:g}"
    return ResultTable(title, columns, rows, footer, tuple(result["definition"].values()))


def faults_table(found: Mapping[str, Any]) -> ResultTable:
    """Make the table of contradicted labels: a row per picture and class, by falling margin."""
    columns = (
        Column("id", "picture"),
        Column("class", "class"),
        Column("label", "label"),
        Column("probability", "P(class) %", "share"),
        Column("margin", "margin %", "share"),
    )
    rows = [[fault[column.name] for column in columns] for fault in found["faults"]]
    title = f"{found['dataset']} {found['split']}: {len(rows):,} labels that held-out scores contradict"
    return ResultTable(title, columns, rows, notes=(found["definition"],))


def near_table(found: Mapping[str, Any]) -> ResultTable:
    """Make the table of near-duplicates: a row per pair, leaks first."""
    columns = (
        Column("leak", "leak", "flag"),
        *(Column(f"{which}_{name}", f"{which} {name}") for which in ("first", "second") for name in ("split", "id")),
        Column("correlation", "pixels", "share"),
        Column("cosine", "rows", "share"),
        *(Column(name, title, "flag") for name, title in (("mirrored", "mirrored"), ("same_file", "same file"))),
    )
    rows = [
        [
            pair["leak"],
            *(pair[which][name] for which in ("first", "second") for name in ("split", "id")),
            *(pair[name] for name in ("correlation", "cosine", "mirrored", "same_file")),
        ]
        for pair in found["pairs"]
    ]
    title = f"{found['dataset']} {' and '.join(found['splits'])}: {len(rows):,} pairs of near-duplicates"
    return ResultTable(title, columns, rows, notes=(found["definition"],))


def classes_table(results: Sequence[Mapping[str, Any]]) -> ResultTable:
    """Make one table of several results: a row each, AP of each class in a column, and the mean.

    Raises
    ------
    PipelineError
        They are of different splits, metrics or classes.
    """
    shared = ("dataset", "split", "metric")
    first = results[0]
    differing = [name for name in shared if any(result[name] != first[name] for result in results)]
    differing += ["classes"] if any(list(result["AP"]) != list(first["AP"]) for result in results) else []
    if differing:
        raise PipelineError(
            f"--per-class: one table cannot show results of different {', '.join(differing)}; give those of one "
            "dataset, split and metric"
        )
    names = ["head", "trunk", "layer", "k"]
    columns = (
        *(Column(name, name, is_number=name == "k") for name in names),
        *(Column(f"AP_{name}", name, "share", has_best=True) for name in first["AP"]),
        Column("mAP", "mAP", "share", has_best=True),
    )
    rows = [
        [
            result["name"] if "name" in result else result["head"],
            result["trunk"],
            result["layer"],
            str(Aggregation.from_json(result["k"])),
            *result["AP"].values(),
            result["mAP"],
        ]
        for result in results
    ]
    title = f"{first['dataset']} {first['split']}: AP and mAP ({first['metric']}) %"
    notes = dict.fromkeys(note for result in results for note in result.get("notes", ()))
    return ResultTable(title, columns, rows, notes=tuple(notes))
