"""Charts of a result, as small as they can be read, in colours that hold on white and on black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pipeline.head.points import in_words, value_in_words
from pipeline.views.figures.style import INK, LINE, MAP_COLORS, QUIET, SECOND, WRONG, new_figure

LEAST_APART = 0.06
"""Of an axis: marks that are nearer than this run into each other."""


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=QUIET, alpha=0.25, linewidth=0.6)


def precision_recall_chart(recall: np.ndarray, precision: np.ndarray, chance: float) -> Figure:
    """Precision over recall of one class, with the share of positives as the level of chance; small."""
    figure = new_figure(2.1, 1.6)
    axes = figure.subplots()
    _plain(axes)
    axes.plot(recall, precision, color=LINE, linewidth=1.5)
    axes.axhline(chance, color=SECOND, linewidth=1, linestyle=(0, (3, 2)))
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    return figure


def loss_chart(epochs: Sequence[Mapping[str, float]]) -> Figure:
    """Mean training loss an epoch, with the learning rates below it."""
    figure = new_figure(4.6, 2.6)
    axes = figure.subplots()
    _plain(axes)
    losses = [epoch["loss"] for epoch in epochs]
    axes.plot(np.arange(1, len(losses) + 1), losses, color=LINE, marker="o", markersize=3.5, linewidth=1.4)
    rates = [epoch["rate"] for epoch in epochs]
    for index in range(1, len(rates)):
        if rates[index] != rates[index - 1]:
            axes.axvline(index + 0.5, color=SECOND, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xlabel("epoch; dashed: a lower learning rate", fontsize=9, color=INK)
    axes.set_ylabel("mean loss", fontsize=9, color=INK)
    locator = axes.xaxis.get_major_locator()
    assert isinstance(locator, MaxNLocator)  # of all linear axes
    locator.set_params(integer=True)
    return figure


def sweep_chart(values: Mapping[str, float | None], chosen: str) -> Figure:
    """mAP by aggregation; the one that was used is filled. The axis is cut, so that differences are seen."""
    known = {k: v for k, v in values.items() if v is not None}
    figure = new_figure(4.6, 0.32 * len(known) + 0.8)
    axes = figure.subplots()
    _plain(axes)
    axes.grid(visible=False, axis="y")
    places = np.arange(len(known))[::-1]
    numbers = [100 * v for v in known.values()]
    for place, (k, number) in zip(places, zip(known, numbers, strict=True), strict=True):
        color = LINE if k == chosen else SECOND
        axes.plot(number, place, "o", color=color, markersize=7, markerfacecolor=color if k == chosen else "none")
        axes.annotate(
            f"{number:.1f}", (number, place), (9, 0), textcoords="offset points", va="center", fontsize=8, color=INK
        )
    axes.set_yticks(places, [f"k = {k}" if k[0].isdigit() else k for k in known])
    low, high = min(numbers, default=0), max(numbers, default=1)
    room = max(1.0, high - low)
    axes.set_xlim(max(0, low - 0.15 * room), high + 0.35 * room)
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.set_xlabel("mAP %; filled: the one used", fontsize=9, color=INK)
    return figure


def comparison_chart(recipes: Sequence[Mapping[str, Any]]) -> Figure:
    """mAP of each recipe with its interval over pictures, and a mark for each seed; the highest first."""
    ranked = sorted((r for r in recipes if r["mAP"] is not None), key=lambda r: r["mAP"])
    figure = new_figure(8.4, 0.3 * len(ranked) + 0.8)
    axes = figure.subplots()
    _plain(axes)
    for place, recipe in enumerate(ranked):
        interval = recipe["interval"]
        if interval["low"] is not None:
            axes.plot([100 * interval["low"], 100 * interval["high"]], [place, place], color=SECOND, linewidth=4)
        seeds = [100 * run["mAP"] for run in recipe.get("runs", ()) if run.get("mAP") is not None]
        axes.plot(seeds, [place] * len(seeds), "|", color=INK, markersize=9)
        axes.plot(100 * recipe["mAP"], place, "o", color=LINE, markersize=5.5)
    axes.set_yticks(range(len(ranked)), [recipe["name"] for recipe in ranked])
    axes.set_ylim(-0.7, len(ranked) - 0.3)
    axes.set_xlabel("mAP %; bar: 95 % interval over pictures, strokes: seeds", fontsize=9, color=INK)
    return figure


def _mark_sizes(axes: Axes, sizes: Sequence[float]) -> None:
    """Mark the numbers of pictures that were tried on a logarithmic axis, as far as they have room."""
    marked: list[float] = []
    for size in sorted(set(sizes), reverse=True):
        if not marked or np.log(marked[-1] / size) > LEAST_APART * np.log(max(sizes) / min(sizes)):
            marked.append(size)
    axes.set_xticks(marked, [f"{size:,.0f}" for size in marked])
    axes.minorticks_off()


def learning_chart(joined: Mapping[str, Any]) -> Figure:
    """mAP of each recipe over the number of fit pictures, with its interval over pictures as a band."""
    figure = new_figure(8.4, 3.4)
    axes = figure.subplots()
    _plain(axes)
    for number, curve in enumerate(joined["curves"]):
        points = [point for point in curve["points"] if point["mAP"] is not None]
        if not points:
            continue
        sizes = [float(np.mean(point["pictures"])) for point in points]
        color, style = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]
        low, high = ([100 * point["interval"][end] for point in points] for end in ("low", "high"))
        axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
        means = [100 * point["mAP"] for point in points]
        axes.plot(sizes, means, style, color=color, marker="o", markersize=4, linewidth=1.5, label=curve["name"])
    axes.set_xscale("log")
    _mark_sizes(axes, [size for line in axes.lines for size in np.asarray(line.get_xdata(), float).tolist()])
    axes.set_xlabel("fit pictures; band: 95 % interval over pictures", fontsize=9, color=INK)
    axes.set_ylabel("mAP %", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


MOST_ROWS = 60
"""Of a heat map of points; of further ones the table says more."""


def points_chart(choice: Mapping[str, Any], chosen: Mapping[str, Any]) -> Figure:
    """Measure of each point that a recipe chose from: the last setting of the grid to the right, all else downwards.

    Parameters
    ----------
    choice : of an outcome, with ``points``
    chosen : the one of them that is framed
    """
    points = choice["points"]
    across = list(points[0].get("point", {}))[-1:]

    def place(row: Mapping[str, Any]) -> tuple[str, str]:
        point = row.get("point", {})
        column = " ".join(value_in_words(point[name]) for name in across)
        others = in_words({name: value for name, value in point.items() if name not in across})
        several_k = f"k {row['k']}" if len({each["k"] for each in points}) > 1 else ""
        return " ".join(filter(None, [row.get("layer"), others, several_k])), column

    places = [place(row) for row in points]
    lines = list(dict.fromkeys(line for line, _ in places))
    columns = list(dict.fromkeys(column for _, column in places))
    # The chosen line is among those that are drawn.
    first = max(0, min(lines.index(place(chosen)[0]) - MOST_ROWS // 2, len(lines) - MOST_ROWS))
    lines = lines[first : first + MOST_ROWS]
    values = np.full((len(lines), len(columns)), np.nan)
    for row, (line, column) in zip(points, places, strict=True):
        if line in lines and row[f"held_out_{choice['by']}"] is not None:
            values[lines.index(line), columns.index(column)] = 100 * row[f"held_out_{choice['by']}"]
    figure = new_figure(2.2 + 0.75 * len(columns), 0.34 * len(lines) + 1.0)
    axes = figure.subplots()
    image = axes.imshow(values, cmap=MAP_COLORS, aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for y, x in zip(*np.nonzero(~np.isnan(values)), strict=True):
        color = "black" if values[y, x] > middle else "white"
        axes.text(x, y, f"{values[y, x]:.1f}", ha="center", va="center", fontsize=8, color=color)
    at = columns.index(place(chosen)[1]), lines.index(place(chosen)[0])
    axes.add_patch(Rectangle((at[0] - 0.5, at[1] - 0.5), 1, 1, fill=False, edgecolor=WRONG, linewidth=2.5))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(lines)), lines)
    axes.tick_params(colors=INK, labelsize=8)
    axes.set_xlabel(" ".join(across), fontsize=9, color=INK)
    figure.colorbar(image, ax=axes).ax.tick_params(colors=INK, labelsize=8)
    return figure
