"""A recipe with a grid, or several layers: one point is chosen on held-out fit pictures, by the sweep of its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.head.points import Point, at_point, in_words
from pipeline.recipes.paths import recipe_workspace, recipe_workspaces
from pipeline.scoring.aggregation import Aggregation
from pipeline.stages import extract, trunk
from pipeline.stages.context import RunContext
from pipeline.stages.fit_head import head_device, memory_budget
from pipeline.stages.held_out import HeldOutMeasure
from pipeline.stages.patches import current_table
from pipeline.stages.recipe_settings import RecipeSettings
from pipeline.stages.runner import set_threads
from pipeline.stages.stored import open_rows
from pipeline.stages.sweep import Grid, LabelledRows, sweep_grid
from pipeline.stages.workspace import Workspace
from pipeline.trunk.registry import names_layer


@dataclass(frozen=True)
class Chosen:
    """What a recipe runs with, of what it has to choose from.

    Attributes
    ----------
    aggregation : stated, or chosen
    about : JSON object, how it came about: the fact ``choice`` of an outcome
    layer : None where there is one alone
    point : of the head's grid; empty where it has none
    """

    aggregation: Aggregation
    about: dict[str, Any]
    layer: str | None = None
    point: Point | None = None

    @classmethod
    def of_outcome(cls, outcome: dict[str, Any]) -> Chosen:
        """Return what the runs of an outcome were made with."""
        about = outcome["choice"]
        return cls(Aggregation.from_json(outcome["k"]), about, about.get("layer"), about.get("point"))

    def workspace(self, ws: Workspace, name: str, seed: int) -> Workspace:
        """Return the workspace of the chosen point with one seed; all else is as the recipe says."""
        settings = recipe_workspace(ws, name, seed, self.layer).settings
        head = settings.heads[name]
        heads = {**settings.heads, name: at_point(head, self.point) if head.grid and self.point else head}
        return Workspace(settings.model_copy(update={"heads": heads, "aggregation": self.aggregation.to_json()}))


def choose_point(run: RunContext, name: str, recipe: RecipeSettings) -> Chosen:
    """Choose layer, point and aggregation of a recipe on held-out fit pictures, with heads fitted without them.

    By the mean over the seeds, on the rows of the first seed; of equal ones the first: layers in their order, points in
    that of the grid. The evaluation split is not read.

    Raises
    ------
    HeadError
        Nothing can be chosen: no class has both a positive and a negative held-out picture.
    """
    seed = run.settings.seeds[0]
    _extract_layers(run, [run.on(ws) for ws in recipe_workspaces(run.ws, name, seed)])
    rows: list[dict[str, Any]] = []
    measure: HeldOutMeasure | None = None
    for layer in recipe.layers or (None,):
        of_layer = run.on(recipe_workspace(run.ws, name, seed, layer))
        s = of_layer.settings
        set_threads(s.threads)
        stated = recipe.stated_aggregation
        grid = Grid(
            {name: s.heads[name]},
            [s.labels],
            s.all_aggregations if stated is None else [stated],
            s.held_out,
            run.settings.seeds,
            run.manifest.metric,
            memory_budget(of_layer),
            head_device(of_layer),
        )
        fit = LabelledRows(*open_rows(of_layer, run.manifest.fit))
        measure = HeldOutMeasure.of_share(fit.table, s.held_out, run.manifest.metric)
        for row in sweep_grid(fit, None, grid)["rows"]:
            of_point: dict[str, Any] = {"layer": layer, **row}
            left_out = ("head", *(["layer"] if layer is None else []))
            rows.append({key: value for key, value in of_point.items() if key not in left_out})
    assert measure is not None  # there is one layer at least
    best = measure.choose(rows)
    where = " ".join(filter(None, [best.get("layer"), in_words(best.get("point", {})), f"k {best['k']}"]))
    run.say(f"{name}: {where} chosen among {len(rows)} on {measure.n_held_out} held-out fit pictures by {measure.by}")
    about: dict[str, Any] = {
        "chosen": "held-out",
        "seeds": list(run.settings.seeds),
        "pictures": measure.n_held_out,
        "by": measure.by,
        **{key: best[key] for key in ("layer", "point") if key in best},
        "points": rows,
    }
    return Chosen(Aggregation.parse(best["k"]), about, best.get("layer"), best.get("point"))


def _extract_layers(run: RunContext, at_layers: Sequence[RunContext]) -> None:
    """Make the activations of the fit split at all layers; those that are missing in one pass, where layers can be."""
    split, first = run.manifest.fit, at_layers[0]
    if len(at_layers) > 1 and not names_layer(first.settings.trunk):
        current_table(first, split)
        if trunk.why_due(first) is not None:
            trunk.make(first)
        due = [each.settings.layer for each in at_layers if extract.why_due(each, split) is not None]
        if len(due) > 1:
            extract.make(first, extract.open_inputs(first, split), due)
    for each in at_layers:
        ensure_activations(each, [split])


def ensure_activations(run: RunContext, splits: Sequence[str]) -> None:
    """Make tables, trunk and activations of splits where they are not current."""
    for split in splits:
        current_table(run, split)
    if trunk.why_due(run) is not None:
        trunk.make(run)
    for split in splits:
        if extract.why_due(run, split) is not None:
            extract.make(run, extract.open_inputs(run, split))
