"""What a report says of a run: values for the page, nothing of its look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipeline.io.progress import track
from pipeline.metrics.average_precision import precision_recall
from pipeline.scoring.aggregation import Aggregation
from pipeline.stages.context import RunContext
from pipeline.views.figures import curves
from pipeline.views.figures.heat_maps import bar_colors, common_scale, overlay
from pipeline.views.figures.ranking import Ranked
from pipeline.views.figures.style import jpeg_uri, svg
from pipeline.views.heat_maps import SplitReader
from pipeline.views.photos import Look
from pipeline.views.ranking import Ranking
from pipeline.views.report.confusion import MOST_CONFUSED, ConfusionRow, confusion_rows, wrong_pairs
from pipeline.views.report.intervals import FEW_PICTURES, Intervals, measure_intervals
from pipeline.views.report.protocol import protocol
from pipeline.views.report.provenance import Stage, StoreLine
from pipeline.views.report.read import FoundRun
from pipeline.views.report.sections.boxes import boxes_section
from pipeline.views.report.sections.data_page import data_sections
from pipeline.views.report.since import Since, since_previous
from pipeline.views.tables.points import chosen_row, points_table

MOST_CLASSES = 40
"""Of so many classes, the first of the manifest, there are curves, pictures and heat maps; of all there is AP."""
PICTURES_A_CLASS = 5
RANKED_PX, RANKED_QUALITY = 240, 75
"""Of the JPEGs of ranked pictures, of which there are ten per class: a report of twenty classes is below 5 MB."""


@dataclass(frozen=True)
class Shown:
    """A picture on the page: what it is, in words, and its bytes as a data URI."""

    source: str
    width: int
    height: int
    alt: str
    caption: str
    note: str


@dataclass(frozen=True)
class ClassRow:
    """A class in the table of results; shares are 0..1, None where they are not defined.

    Attributes
    ----------
    recall : share of its pictures that are taken for it, where every picture shows one class
    why : why it has no AP; empty where it has one
    interval : of the AP, low and high; None where it is not defined
    """

    name: str
    ap: float | None
    pointing: float | None
    positives: int
    patches: int | None
    recall: float | None = None
    why: str = ""
    interval: tuple[float, float] | None = None

    @property
    def is_few(self) -> bool:
        """Whether so few pictures show it that its AP says little."""
        return self.ap is not None and self.positives < FEW_PICTURES


@dataclass(frozen=True)
class MappedClass:
    """The highest right picture of a class, beside its heat map."""

    name: str
    picture: Shown
    map: Shown


def class_rows(result: Mapping[str, Any], ranking: Ranking | None, intervals: Intervals) -> list[ClassRow]:
    """One row a class that is measured."""
    pointing = (result.get("pointing") or {}).get("share", {})
    patches = (result.get("patches") or {}).get("per_class", {})
    recalls, reasons = {row.name: row.recall for row in confusion_rows(result)}, result.get("why_undefined", {})
    rows = []
    for name, ap in result["AP"].items():
        positives = 0
        if ranking is not None:
            positives = int((ranking.labels[:, ranking.scores.classes.index(name)] == 1).sum())
        recall, why = recalls.get(name), reasons.get(name, "")
        sure = intervals.of_class.get(name)
        rows.append(ClassRow(name, ap, pointing.get(name), positives, patches.get(name), recall, why, sure))
    return rows


def chance_of(result: Mapping[str, Any], ranking: Ranking | None) -> float | None:
    """Return the mAP that a random order would have, about: the mean share of pictures that show a class."""
    names = [name for name, ap in result["AP"].items() if ap is not None]
    if ranking is None or not names:
        return None
    labels = ranking.labels[:, [ranking.scores.classes.index(name) for name in names]]
    return float(((labels == 1).sum(0) / np.maximum((labels != 0).sum(0), 1)).mean())


def precision_recall_figures(ranking: Ranking, classes: Sequence[str]) -> dict[str, Figure]:
    """A figure a class: of those that some picture shows."""
    found = {}
    for name in classes:
        column = ranking.scores.classes.index(name)
        labels = ranking.labels[:, column]
        precision, recall = precision_recall(ranking.scores.by(ranking.k)[:, column], labels)
        chance = float((labels == 1).sum() / (labels != 0).sum())
        found[name] = curves.precision_recall_chart(recall, precision, chance)
    return found


def figures_of(
    result: Mapping[str, Any], comparison: Mapping[str, Any] | None, learning: Mapping[str, Any] | None
) -> dict[str, Figure]:
    """The other figures of a result by name: those that this result has."""
    found = {}
    if result["loss"]:
        found["loss"] = curves.loss_chart(result["loss"])
    if len([v for v in result["k_sweep"].values() if v is not None]) > 1:
        found["k_sweep"] = curves.sweep_chart(result["k_sweep"], str(Aggregation.from_json(result["k"])))
    if comparison is not None:
        found["comparison"] = curves.comparison_chart(comparison["recipes"])
    if learning is not None:
        found["learning"] = curves.learning_chart(learning)
    return found


IDS_AND_WORDS = {
    "loss": ("loss", "mean loss by epoch"),
    "k_sweep": ("sweep", "mAP by aggregation"),
    "comparison": ("recipes", "mAP of each recipe with its interval"),
    "learning": ("learning", "mAP of each recipe by the number of fit pictures"),
}
"""What ids of each chart begin with on the page, and what it shows."""


def charts(figures: Mapping[str, Figure]) -> dict[str, str]:
    """SVG elements by name: empty where this result has no such chart."""
    return {name: svg(figures[name], *words) if name in figures else "" for name, words in IDS_AND_WORDS.items()}


def shown_of(picture: Ranked, name: str, right: bool) -> Shown:
    """A ranked picture for the page."""
    shows = ", ".join(picture.shows) or "none of the classes"
    what = "right" if right else "wrong"
    height, width = picture.pixels.shape[:2]
    return Shown(
        jpeg_uri(picture.pixels, RANKED_PX, RANKED_QUALITY),
        width,
        height,
        f"{picture.id}, ranked {picture.rank} for {name}, {what}; it shows {shows}",
        f"{picture.rank}. {picture.score:.3g}",
        shows,
    )


RankedClasses = Mapping[str, tuple[list[Ranked], list[Ranked]]]
"""The highest right and wrong pictures of each class."""


def ranked_pictures(ranked: RankedClasses) -> dict[str, tuple[list[Shown], list[Shown]]]:
    """The highest right and wrong pictures of each class, for the page."""
    return {
        name: ([shown_of(p, name, True) for p in right], [shown_of(p, name, False) for p in wrong])
        for name, (right, wrong) in ranked.items()
    }


def mapped_classes(reader: SplitReader, ranked: RankedClasses) -> list[MappedClass]:
    """For each class its highest right picture and the heat map of the class over it."""
    best = {name: right[0] for name, (right, _) in ranked.items() if right}
    ids = list(dict.fromkeys(picture.id for picture in best.values()))
    looks = dict(zip(ids, reader.looks(ids), strict=True))
    return [_mapped(name, picture, looks[picture.id]) for name, picture in best.items()]


def _mapped(name: str, picture: Ranked, look: Look) -> MappedClass:
    column = look.classes.index(name)
    height, width = picture.pixels.shape[:2]
    drawn = look.shrunk(max(height, width))
    values = drawn.smooth_maps(np.array([column]))[0]
    scale = common_scale(values)
    over = overlay(drawn.pixels, values, scale, *drawn.boxes_of(column))
    highest = float(np.nanmax(values))
    alt = f"heat map of {name} over {picture.id}: yellow where its patches score highest, {highest:.2g} at most"
    return MappedClass(
        name,
        Shown(jpeg_uri(picture.pixels), width, height, f"{picture.id}, which shows {name}", picture.id, ""),
        Shown(jpeg_uri(over), width, height, alt, name, f"{scale.vmin:.2g} to {scale.vmax:.2g}"),
    )


def color_bar() -> str:
    """The colours of heat maps from low to high, as a data URI."""
    return jpeg_uri((255 * bar_colors()(np.linspace(0, 1, 256))[None, :, :3]).astype(np.uint8).repeat(8, axis=0))


@dataclass(frozen=True)
class Choice:
    """What a recipe of the comparison chose from: a heat map, and the rows of its table as people read them."""

    chart: str
    titles: list[str]
    rows: list[list[str]]
    pictures: int
    by: str


def choices_of(comparison: Mapping[str, Any] | None) -> dict[str, tuple[Figure, Mapping[str, Any]]]:
    """The heat map of each recipe that chose among points, and the recipe, by its name."""
    recipes = comparison["recipes"] if comparison is not None else ()
    return {
        recipe["name"]: (curves.points_chart(recipe["choice"], chosen_row(recipe["choice"], recipe["k"])), recipe)
        for recipe in recipes
        if "points" in recipe["choice"]
    }


def _choice(number: int, figure: Figure, recipe: Mapping[str, Any], dataset: str) -> Choice:
    table = points_table({**recipe, "dataset": dataset})
    choice = recipe["choice"]
    words = f"held-out {choice['by']} of each point of {recipe['name']}"
    rows = [[column.shown(cell) for column, cell in zip(table.columns, row, strict=True)] for row in table.rows]
    titles = ["" if column.kind == "flag" else column.title for column in table.columns]
    return Choice(svg(figure, f"points{number}", words), titles, rows, choice["pictures"], choice["by"])


@dataclass(frozen=True)
class Content:
    """Everything on the page; `figures` are the charts as they are, to be written into files.

    `boxes` and `data` are sections as HTML, empty where there is nothing to show.
    """

    title: str
    result: dict[str, Any]
    classes: list[ClassRow]
    shown_classes: list[str]
    precision_recall: dict[str, str]
    charts: dict[str, str]
    figures: dict[str, Figure]
    ranked: dict[str, tuple[list[Shown], list[Shown]]]
    mapped: list[MappedClass]
    color_bar: str
    comparison: dict[str, Any] | None
    choices: dict[str, Choice]
    curve: dict[str, Any] | None
    ladder: dict[str, Any] | None
    stages: list[Stage]
    stores: list[StoreLine]
    protocol: list[str]
    command: str
    paths: dict[str, str]
    confusion: list[ConfusionRow]
    wrong_pairs: list[tuple[str, str, int, float]]
    has_matrix: bool
    has_pointing: bool
    has_patches: bool
    undefined: dict[str, list[str]]
    intervals: Intervals
    chance: float | None
    few: int
    since: Since | None
    boxes: str
    data: str


def undefined_of(comparison: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Classes without an AP of each compared recipe, in words with the reason."""
    recipes = comparison["recipes"] if comparison is not None else ()
    words = {r["name"]: [f"{c} ({why})" for c, why in r.get("why_undefined", {}).items()] for r in recipes}
    return {name: lines for name, lines in words.items() if lines}


def gather(run: RunContext, found: FoundRun) -> Content:
    """Return everything that the report of a run shows."""
    result, ranking = found.result, found.ranking
    intervals = measure_intervals(ranking, result["AP"]) if ranking is not None else Intervals()
    rows = class_rows(result, ranking, intervals)
    shown = [row.name for row in rows if row.ap is not None][:MOST_CLASSES]
    ranked = {}
    if ranking is not None:
        for name in track(shown, "pictures of the report", len(shown), "classes"):
            ranked[name] = ranking.of_class(name, PICTURES_A_CLASS)
    confused = confusion_rows(result)
    figures = figures_of(result, found.comparison, found.curve)
    choices = choices_of(found.comparison)
    of_classes = precision_recall_figures(ranking, shown) if ranking else {}
    return Content(
        title=run.manifest.title,
        result=result,
        classes=rows,
        shown_classes=shown,
        precision_recall={
            name: svg(figure, f"pr{number}", f"precision over recall of {name}")
            for number, (name, figure) in enumerate(of_classes.items())
        },
        charts=charts(figures),
        figures={
            **figures,
            **{f"points_{name}": figure for name, (figure, _) in choices.items()},
            **{f"precision_recall_{name}": figure for name, figure in of_classes.items()},
        },
        ranked=ranked_pictures(ranked),
        mapped=mapped_classes(found.heat_maps, ranked) if found.heat_maps else [],
        color_bar=color_bar(),
        comparison=found.comparison,
        choices={
            name: _choice(number, figure, recipe, run.dataset)
            for number, (name, (figure, recipe)) in enumerate(choices.items())
        },
        curve=found.curve,
        ladder=found.ladder,
        stages=found.stages,
        stores=found.stores,
        protocol=protocol(result, run.settings.sources),
        command=run.command,
        paths=result["paths"],
        confusion=confused,
        wrong_pairs=wrong_pairs(confused),
        has_matrix=0 < len(confused) <= MOST_CONFUSED,
        has_pointing=any(row.pointing is not None for row in rows),
        has_patches=any(row.patches is not None for row in rows),
        undefined=undefined_of(found.comparison),
        intervals=intervals,
        chance=chance_of(result, ranking),
        few=FEW_PICTURES,
        since=since_previous(run, result["head"], result, ranking),
        boxes=boxes_section(run, result["head"], result["split"]),
        data=data_sections(run),
    )
