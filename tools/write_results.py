"""Write ``docs/results.md`` from its template and the measured JSON files, so that no figure is typed by hand.

Run it after a change of ``docs/results.md.jinja`` or of a file in ``docs/measured``: ``python tools/write_results.py``.
A test checks that the page is current.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEMPLATE = "results.md.jinja"
NOTE = "<!-- Written by tools/write_results.py from results.md.jinja and measured/*.json: change those. -->\n"


def percent(share: float) -> str:
    """Write a share in per cent, as the tables of papers have it."""
    return f"{100 * share:.1f}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Comparison:
    """What ``pipeline compare`` or ``pipeline recipe run`` measured, row by row."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.rows = {row["name"]: row for row in content["recipes"]}

    def mean(self, name: str) -> str:
        """Mean mAP over seeds, in per cent."""
        return percent(self.rows[name]["mAP"])

    def spread(self, name: str) -> str:
        """Mean and standard deviation of mAP over seeds, in per cent."""
        return f"{self.mean(name)} ± {percent(self.rows[name]['std'])}"

    def points(self, name: str) -> str:
        """Distance to the reference in points, without its sign."""
        return percent(abs(self.rows[name]["difference"]["difference"]))

    def bounds(self, name: str) -> str:
        """Interval of the distance to the reference, in points, without its sign."""
        found = self.rows[name]["difference"]
        low, high = sorted(abs(found[end]) for end in ("low", "high"))
        return f"{percent(low)} to {percent(high)}"

    def signed(self, name: str) -> str:
        """Interval of the difference to the reference, in points, with its signs."""
        found = self.rows[name]["difference"]
        return f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}"

    @staticmethod
    def _aggregation(row: Mapping[str, Any]) -> str:
        return f"{row['k']:g}" if isinstance(row["k"], float) else str(row["k"])

    def table(self) -> str:
        """One row per recipe: mAP, its interval, and the paired difference to the reference."""
        columns = [
            "recipe",
            "aggregation",
            "mAP ± seeds",
            "95 % interval over pictures",
            "to `strong`, paired",
            "seconds",
        ]
        return markdown(columns, [self._row(name) for name in self.rows])

    def _row(self, name: str) -> list[str]:
        row = self.rows[name]
        found, interval = row["difference"], row["interval"]
        aggregation = {"rank": "mean rank"}.get(row["by"], row["by"]) if "by" in row else self._aggregation(row)
        difference = f"{100 * found['difference']:+.1f} ({percent(found['low'])} to {percent(found['high'])})"
        return [
            f"`{name}`",
            aggregation,
            self.spread(name),
            f"{percent(interval['low'])} to {percent(interval['high'])}",
            "" if name == found["to"] else difference,
            f"{sum(row['seconds'].values()):.0f}",
        ]

    def aggregations(self) -> str:
        """MAP of one scoring pass under each aggregation, per cent; the chosen one has a star."""
        # A recipe that takes one patch per picture has the same value under each.
        swept = {name: row for name, row in self.rows.items() if len(set(row["k_sweep"].values())) > 1}
        columns = list(max((row["k_sweep"] for row in swept.values()), key=len))
        rows = []
        for name, row in swept.items():
            cells = {k: percent(mean) + "*" * (k == self._aggregation(row)) for k, mean in row["k_sweep"].items()}
            rows.append([f"`{name}`", *(cells.get(k, "") for k in columns)])
        return markdown(["recipe", *columns], rows)


class Sweep:
    """What ``pipeline sweep`` measured."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def table(self) -> str:
        """MAP by head, reading and aggregation, per cent; that of held-out pictures in brackets."""
        ks = list(dict.fromkeys(row["k"] for row in self.content["rows"]))
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in self.content["rows"]:
            cell = f"{percent(row['mAP'])} ({percent(row['held_out_mAP'])})"
            cells.setdefault((row["single_object"], row["head"]), {})[row["k"]] = cell
        rows = [[f"`{head}`", f"`{reading}`", *(found[k] for k in ks)] for (reading, head), found in cells.items()]
        return markdown(["head", "reading", *(k if k == "max" else f"k={k}" for k in ks)], rows)


class Ladder:
    """What ``pipeline ladder`` measured, rung by rung."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.rungs = {rung["name"]: {row["name"]: row for row in rung["recipes"]} for rung in content["rungs"]}
        self.names = list(dict.fromkeys(name for rows in self.rungs.values() for name in rows))

    def mean(self, rung: str, recipe: str) -> str:
        """Mean mAP over seeds, in per cent."""
        return percent(self.rungs[rung][recipe]["mAP"])

    def table(self) -> str:
        """One row per trunk: mAP of each recipe with its interval over pictures, and what its rows cost."""
        rows = [
            [f"`{rung['name']}`", f"{rung['columns']:,}", *(self._cell(rung["name"], name) for name in self.names)]
            for rung in self.content["rungs"]
        ]
        return markdown(["trunk", "columns", *(f"`{name}`" for name in self.names)], rows)

    def _cell(self, rung: str, name: str) -> str:
        row = self.rungs[rung].get(name)
        if row is None:
            return ""
        return f"{percent(row['mAP'])} ({percent(row['interval']['low'])} to {percent(row['interval']['high'])})"

    def costs(self) -> str:
        """One row per trunk: rows and bytes of its stores, pointing game, seconds of fitting and scoring per recipe."""
        rows = []
        for rung in self.content["rungs"]:
            of = self.rungs[rung["name"]]
            seconds = " / ".join(f"{sum(of[name]['seconds'].values()):.0f}" for name in self.names)
            pointing = " / ".join(percent(of[name]["pointing"]) for name in self.names if of[name]["pointing"])
            rows.append([f"`{rung['name']}`", f"{rung['rows']:,}", f"{rung['bytes'] / 2**20:,.0f}", pointing, seconds])
        pointed = [name for name in self.names if any(of[name]["pointing"] for of in self.rungs.values())]
        named = [" / ".join(f"`{name}`" for name in names) for names in (pointed, self.names)]
        return markdown(["trunk", "rows", "MiB", f"pointing: {named[0]}", f"seconds: {named[1]}"], rows)

    def few(self, shots: int) -> str:
        """One row per trunk: mAP after so many positive pictures per class, with its deviation over draws."""
        names = [name for name in self.names if any(rows.get(name, {}).get("few") for rows in self.rungs.values())]
        rows = []
        for rung, of in self.rungs.items():
            points = [next(p for p in of[name]["few"] if p["size"] == shots) for name in names]
            rows.append([f"`{rung}`", *(f"{percent(p['mAP'])} ± {percent(p['std'])}" for p in points)])
        return markdown(["trunk", *(f"`{name}`" for name in names)], rows)


class Curve:
    """What ``pipeline curve`` measured."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.curves = content["curves"]

    def table(self) -> str:
        """One row per recipe: mAP by the number of fit pictures, with its deviation over draws."""
        sizes = list(dict.fromkeys(point["size"] for curve in self.curves for point in curve["points"]))
        rows = []
        for curve in self.curves:
            of = {point["size"]: f"{percent(point['mAP'])} ± {percent(point['std'])}" for point in curve["points"]}
            rows.append([f"`{curve['name']}`", *(of.get(size, "") for size in sizes)])
        return markdown(["recipe", *map(str, sizes)], rows)


def load(name: str) -> Any:
    """Read a measured file: a comparison, a sweep, a ladder, a curve, or as it is."""
    content = json.loads((DOCS / "measured" / f"{name}.json").read_text())
    if "rungs" in content:
        return Ladder(content)
    if "curves" in content:
        return Curve(content)
    if "recipes" in content:
        return Comparison(content)
    return Sweep(content) if "rows" in content else content


def page() -> str:
    """Fill the template."""
    loader = jinja2.FileSystemLoader(DOCS)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.globals["measured"] = load
    environment.filters["percent"] = percent
    return NOTE + environment.get_template(TEMPLATE).render()


if __name__ == "__main__":
    (DOCS / "results.md").write_text(page())
