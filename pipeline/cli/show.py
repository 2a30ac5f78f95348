"""``pipeline show``, and the tables that other commands print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def print_table(table: Any) -> None:
    """A rich table, as wide as the terminal, or as a page."""
    import sys

    from rich.console import Console

    # Without a terminal, rich would fold the table at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)


def _pictures(count: dict[str, int]) -> str:
    """``1,198 of 1,200 pictures``, or without a word of the second number where none is bad."""
    used, skipped = count["used"], count["skipped"]
    return f"{used:,} of {used + skipped:,} pictures" if skipped else f"{used:,} pictures"


def print_result(result: dict[str, Any]) -> None:
    """AP a class, mAP, and where everything is."""
    from rich.table import Table

    from pipeline.scoring.aggregation import Aggregation

    if result["mAP"] is None and "devkit_files" in result:
        click.echo(f"{result['dataset']} {result['split']}: no labels; files for the evaluation server:")
        click.echo(f"  {Path(result['devkit_files'][0]).parent}")
        return
    k = Aggregation.from_json(result["k"])
    click.echo(
        f"{result['dataset']} {result['split']}: head {result['head']} on {result['trunk']} {result['layer']}, k={k}"
    )
    table = Table(show_footer=True)
    table.add_column("class", footer="mAP")
    table.add_column(f"AP ({result['metric']}) %", justify="right", footer=_percent(result["mAP"]))
    pointing = result.get("pointing")
    if pointing:
        table.add_column("map points at it %", justify="right", footer=_percent(pointing["mean"]))
    confusion, taken = result.get("confusion"), {}
    if confusion:
        table.add_column("taken for it %", justify="right", footer=_percent(result["balanced_accuracy"]))
        taken = _recalls(confusion)
    reasons = result.get("why_undefined", {})
    if reasons:
        table.add_column("why no AP")
    for name, value in result["AP"].items():
        cells = [_percent(pointing["share"][name])] if pointing else []
        cells += [_percent(taken[name])] if confusion else []
        table.add_row(name, _percent(value), *cells, *([reasons.get(name, "")] if reasons else []))
    print_table(table)
    if confusion:
        _print_accuracy(result)
    if pointing:
        click.echo(
            f"maps: highest inside of a box of the class; the picture's middle would be: {_percent(pointing['middle'])}"
        )
    for note in result["notes"]:
        click.secho(f"NOTE: {note}", fg="yellow")
    used = result["pictures"]
    fit, measured = (_pictures(used[role]) for role in ("fit", "eval"))
    click.echo(f"fitted on {fit}, measured on {measured}")
    click.echo("k sweep: " + ", ".join(f"{k}: {_percent(v)}" for k, v in result["k_sweep"].items()))
    click.echo("seconds: " + ", ".join(f"{name} {s:g}" for name, s in result["seconds"].items()))
    for name, path in result["paths"].items():
        click.echo(f"{name + ':':8} {path}")


def _recalls(confusion: dict[str, Any]) -> dict[str, float | None]:
    """Share of the pictures of each class that are taken for it; None where there is no picture."""
    shares = {}
    for row, name in enumerate(confusion["classes"]):
        total = sum(confusion["counts"][row]) + confusion["undecided"].get(name, 0)
        shares[name] = confusion["counts"][row][row] / total if total else None
    return shares


def _print_accuracy(result: dict[str, Any]) -> None:
    """Accuracy, and the pairs of classes that are taken for each other most often."""
    confusion = result["confusion"]
    click.echo(
        f"accuracy {_percent(result['accuracy'])} %, balanced {_percent(result['balanced_accuracy'])} %: each picture "
        "shows one class, and is taken for the class of its highest score"
    )
    pairs = worst_pairs(confusion, 5)
    if pairs:
        click.echo("most often wrong: " + ", ".join(f"{shown} taken for {got} {n:,}" for shown, got, n in pairs))
    undecided = sum(confusion["undecided"].values())
    if undecided:
        click.echo(f"undecided, and so wrong: {undecided:,} pictures whose highest score is that of several classes")


def worst_pairs(confusion: dict[str, Any], most: int) -> list[tuple[str, str, int]]:
    """Class, answer and number of pictures, of the wrong answers that are most frequent."""
    names = confusion["classes"]
    pairs = [
        (shown, got, n)
        for shown, row in zip(names, confusion["counts"], strict=True)
        for got, n in zip(names, row, strict=True)
        if n and shown != got
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def print_comparison(joined: dict[str, Any]) -> None:
    """One row a recipe, with its spread, its interval and its difference to the reference."""
    from rich.table import Table

    from pipeline.scoring.aggregation import Aggregation

    click.echo(f"{joined['dataset']} {joined['split']}: mAP ({joined['metric']}) %")
    table = Table()
    has_accuracy = any("accuracy" in recipe for recipe in joined["recipes"])
    measures = ("mAP", "std", "95 % interval", f"to {joined['reference']}", *(("accuracy",) if has_accuracy else ()))
    for column in ("recipe", "trunk", "layer", "k", *measures, "s"):
        table.add_column(column, justify="left" if column in ("recipe", "trunk", "layer") else "right")
    for recipe in joined["recipes"]:
        table.add_row(
            recipe["name"],
            recipe["trunk"],
            recipe["layer"],
            str(Aggregation.from_json(recipe["k"])),
            _percent(recipe["mAP"]),
            _percent(recipe["std"]),
            _range(recipe["interval"]),
            "-" if recipe["name"] == joined["reference"] else _difference(recipe["difference"]),
            *([_percent(recipe.get("accuracy"))] if has_accuracy else []),
            f"{sum(recipe['seconds'].values()):.1f}",
        )
    print_table(table)
    click.echo(
        "interval: over pictures (bootstrap); difference: paired, over the same pictures; s: a seed's, store kept"
    )
    _print_aggregations(joined["recipes"])
    _print_undefined(joined)
    for item in joined["left_out"]:
        click.echo(f"left out: {item['why']}")
    if joined["published"]:
        click.echo(f"published, {joined['published_note']}:")
        for row in joined["published"]:
            click.echo(f"  {row['name']}: {_percent(row['mAP'])}  ({row['source']})")


def _print_undefined(joined: dict[str, Any]) -> None:
    """Classes without an AP by each recipe, with the reason, and over which classes a difference is."""
    for recipe in joined["recipes"]:
        for name, reason in recipe.get("why_undefined", {}).items():
            click.secho(f"NOTE: {recipe['name']}: no AP of {name}, left out of its mean: {reason}", fg="yellow")
        classes = recipe["difference"].get("classes")
        if classes is not None:
            text = f"its difference is over the {len(classes)} classes that {joined['reference']} has an AP of, too"
            click.secho(f"NOTE: {recipe['name']}: {text}", fg="yellow")


def _print_aggregations(recipes: list[dict[str, Any]]) -> None:
    """mAP of each recipe by aggregation, all from the same pass over the store; shown, not chosen from."""
    from rich.table import Table

    from pipeline.scoring.aggregation import Aggregation

    swept = [recipe for recipe in recipes if len(recipe["k_sweep"]) > 1]
    if not swept:
        return
    columns = list(dict.fromkeys(k for recipe in swept for k in recipe["k_sweep"]))
    table = Table(title="by aggregation; * chosen on held-out fit pictures, or stated", title_justify="left")
    table.add_column("recipe")
    for k in columns:
        table.add_column(k, justify="right")
    for recipe in swept:
        chosen = str(Aggregation.from_json(recipe["k"]))
        cells = (_percent(recipe["k_sweep"].get(k)) + ("*" if k == chosen else "") for k in columns)
        table.add_row(recipe["name"], *cells)
    print_table(table)


def _range(interval: dict[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    return "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _difference(difference: dict[str, Any]) -> str:
    if difference["difference"] is None:
        return "-"
    return f"{100 * difference['difference']:+.1f} ({_range(difference)})"


def print_sweep(swept: dict[str, Any]) -> None:
    """One row for each head, reading and k; the chosen one is marked."""
    from rich.table import Table

    click.echo(
        f"{swept['dataset']}: mAP % on {swept['held_out_pictures']} held-out fit pictures, and on {swept['split']}"
    )
    table = Table()
    for column in ("head", "single_object", "k", "held out", swept["split"], ""):
        table.add_column(column, justify="right" if column in ("k", "held out", swept["split"]) else "left")
    for row in swept["rows"]:
        mark = "<- chosen" if row == swept["chosen"] else ""
        table.add_row(
            row["head"], row["single_object"], row["k"], _percent(row["held_out_mAP"]), _percent(row["mAP"]), mark
        )
    print_table(table)


@click.command("show")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def command(files: tuple[Path, ...]) -> None:
    """Print result files (..._map.json, ..._heads.json, ..._sweep.json) as tables.

    \b
    Example:
      pipeline show results/demo_map.json
    """
    from pipeline.io.atomic import read_json
    from pipeline.io.errors import PipelineError

    for path in files:
        try:
            content = read_json(path)
        except (OSError, ValueError, RecursionError) as error:
            raise PipelineError(f"{path}: cannot be read as a result: {error}") from error
        kinds = {"recipes": print_comparison, "rows": print_sweep, "mAP": print_result}
        printer = next((kinds[key] for key in kinds if isinstance(content, dict) and key in content), None)
        if printer is None:
            raise PipelineError(f"{path}: not a result; expected one of {', '.join(kinds)} in it")
        try:
            printer(content)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise PipelineError(f"{path}: not a result of this program: {type(error).__name__} {error}") from error
