"""What a report stands on, read from the files of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.head.file import load_head
from pipeline.io.atomic import read_json
from pipeline.io.errors import PipelineError
from pipeline.recipes import compare, curve, ladder
from pipeline.stages import evaluate, fit_head
from pipeline.stages.context import RunContext
from pipeline.stages.hints import name_command
from pipeline.stages.workspace import Workspace
from pipeline.views.heat_maps import SplitReader, open_split_reader
from pipeline.views.ranking import Ranking, read_ranking
from pipeline.views.report.provenance import Stage, StoreLine, stages_of, stores_of


@dataclass(frozen=True)
class FoundRun:
    """The files of an evaluated run, read and current.

    Attributes
    ----------
    ranking : of the split that was measured; None where nothing was
    heat_maps : scores its pictures patch by patch; None where the head has no scores of patches of a grid
    comparison : of recipes or heads on the dataset; None where there is none
    curve, ladder : learning curves of the dataset, and recipes by trunk; None where there are none that are current
    stages, stores : what ran, and what the result was computed from
    """

    result: dict[str, Any]
    ranking: Ranking | None
    heat_maps: SplitReader | None
    comparison: dict[str, Any] | None
    curve: dict[str, Any] | None
    ladder: dict[str, Any] | None
    stages: list[Stage]
    stores: list[StoreLine]


def read_run(run: RunContext, head: str) -> FoundRun:
    """Read everything that a report of a run shows.

    Raises
    ------
    PipelineError
        There is no result yet, or something that it stands on is damaged.
    """
    result = evaluate.require(run, head)
    splits = {"fit": result["fit_split"], "measured": result["split"]}
    ranking, heat_maps = None, None
    if result["mAP"] is not None:
        ranking = read_ranking(run, result["split"], head)
        fitted = load_head(fit_head.path(run, head))
        if fitted.scores_patches and fitted.facts.how["how.source"] == "grid":
            heat_maps = open_split_reader(run, fitted, result["split"])
    comparison = current_comparison(run) or current_comparison(run, of_heads=True)
    return FoundRun(
        result=result,
        ranking=ranking,
        heat_maps=heat_maps,
        comparison=comparison,
        curve=_read_current(run, curve.path(run), curve.why_due, curve.command_again),
        ladder=_read_current(run, ladder.path(run), ladder.why_due, ladder.command_again),
        stages=stages_of(run, splits, result),
        stores=stores_of(run, splits),
    )


def _read_current(
    run: RunContext, file: Path, why_due: Callable[[RunContext], str | None], again: Callable[[RunContext], str]
) -> dict[str, Any] | None:
    """Return the content of a file, or None if it is not there or not current; says where it is not."""
    if not file.is_file():
        return None
    try:
        reason = why_due(run)
    except PipelineError as error:  # a store that is gone, a recipe that is not known any more
        reason = str(error).partition("\n")[0]
    if reason is not None:
        run.say(f"{file}: {reason}; left out of the report; make it again: {again(run)}")
        return None
    return read_json(file)


def current_comparison(run: RunContext, of_heads: bool = False) -> dict[str, Any] | None:
    """Return the comparison of recipes, or of heads, if there is one of these settings and of the files as they are.

    One that is of others is left out and named.
    """
    file = compare.path(run, of_heads)
    found = read_comparison(file)
    if found is None:
        return None
    names: tuple[str, ...] = ()
    try:
        # Of the recipes that it was asked for, which need not be those of the settings; where some are left out, it
        # was asked for all.
        names = () if found["left_out"] else tuple(item["name"] for item in found["recipes"])
        asked = {} if of_heads else {"comparison": names}
        reason = compare.why_due(run.on(Workspace(run.settings.model_copy(update=asked))), of_heads)
    except PipelineError as error:
        reason = str(error)
    except (KeyError, TypeError) as error:
        reason = f"not a comparison: {type(error).__name__} {error}"
    if reason is None:
        return found
    options = ["--heads"] if of_heads else [word for name in names for word in ("--recipe", name)]
    again = name_command("compare", "--dataset", run.dataset, *options)
    run.say(f"{file}: left out of the report: {reason}; make it again: {again}")
    return None


def read_comparison(path: Path) -> dict[str, Any] | None:
    """Return a comparison of recipes, or None if there is none.

    Raises
    ------
    PipelineError
        The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        return found if found["recipes"] else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path}: cannot be read as a comparison: {error}; make it again: pipeline compare"
        ) from error
