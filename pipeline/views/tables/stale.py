"""Whether a result that was measured before is of its dataset, settings and files as they are now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.of_result import EvaluatedBefore
from pipeline.dataset.manifest import load_manifest
from pipeline.io.errors import MissingDataError, PipelineError, SettingsError, StoreNotExtractedError
from pipeline.recipes import curve, ladder
from pipeline.stages import label_faults, localise, near, sweep
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.workspace import Workspace
from pipeline.views.tables.results import kind_of


def why_stale(result: Mapping[str, Any], file: Path, before: EvaluatedBefore) -> str | None:
    """Return why a result, or a comparison, is not what would be measured now.

    The manifest's roles, metric and classes are compared, then the files of its runs: pictures, annotations, weights,
    stores, heads and scores. Of a sweep, a learning curve, a ladder, near-duplicates, judged labels and boxes their
    stage is asked, with the settings that they name. Of scores that were given, and of results whose files are not
    here, nothing more can be told: for them the manifest alone is compared.

    Parameters
    ----------
    file : from which it was read
    before : shared where several results are compared, so that each input is opened once

    Returns
    -------
    The first difference, in words; None if there is none, or no manifest that can be read.
    """
    try:
        reason = _contradicted(result)
    except SettingsError:
        return None
    return reason or before.why_due(result, file) or _why_due(result, file, before)


def _stage_of(run: RunContext, result: Mapping[str, Any]) -> tuple[Path, Callable[[], str | None]] | None:
    """Return the file of the stage that made a result, and what says why it is due; None for results of runs."""
    kind = kind_of(result)
    if kind == "boxes":
        head, split = result["head"], result["split"]
        return localise.path(run, head, split), lambda: localise.why_due(run, head, split)
    stages: dict[str | None, Any] = {
        "near": near,
        "labels": label_faults,
        "sweep": sweep,
        "curve": curve,
        "ladder": ladder,
    }
    stage = stages.get(kind)
    return None if stage is None else (stage.path(run), lambda: stage.why_due(run))


def _why_due(result: Mapping[str, Any], file: Path, before: EvaluatedBefore) -> str | None:
    """Return why the stage that made a result would make it again, with the settings that it names."""
    if not isinstance(result.get("settings"), dict):
        return None  # of a version that did not record them
    try:
        ws = Workspace(parse_run_settings(result["settings"], str(file)))
    except SettingsError:  # of another version, or the class of a head that is not here
        return None
    run = before.context(ws, str(result["dataset"]))
    found = _stage_of(run, result)
    if found is None or not found[0].is_file():
        return None
    made, why_due = found
    if not made.samefile(file) and made.read_bytes() != file.read_bytes():
        is_here = file.resolve().is_relative_to(Path.cwd())
        return f"{made} was made again since, and differs" if is_here else None
    try:
        return why_due()
    except (MissingDataError, StoreNotExtractedError):
        return None
    except PipelineError as error:  # a store that is damaged, a recipe that is not known any more
        return str(error).partition("\n")[0]


def _contradicted(result: Mapping[str, Any]) -> str | None:
    """Return what a manifest says against a result."""
    manifest = load_manifest(str(result["dataset"]))
    scored = [name for name in manifest.classes if name not in manifest.unscored]
    named = [list(item["AP"]) for item in (result, *result.get("recipes", ())) if "AP" in item]
    if "box_AP" in result:
        named.append(list(result["box_AP"]["by_class"]))
    if "faults" in result and result["split"] != manifest.fit:
        return f"labels of {result['split']!r} were judged, and the manifest says fit: {manifest.fit}"
    if "faults" in result:  # judged, or not and why
        judged = {*result["classes"], *result["left_out"]}
        named.append([*filter(judged.__contains__, scored), *sorted(judged - set(scored))])
    if any(names != scored for names in named):
        return f"the manifest has other classes: {', '.join(scored[:10])}{', ...' if len(scored) > 10 else ''}"
    roles = list(dict.fromkeys((manifest.fit, manifest.eval)))
    if "splits" in result and list(result["splits"]) != roles:  # of what was searched in both
        return f"it is of {', '.join(result['splits'])}, and the manifest says {', '.join(roles)}"
    if result.get("split", manifest.eval) not in manifest.splits:
        return f"the manifest has no split {result['split']!r}"
    # Scores that were given were fitted elsewhere.
    if result.get("fit_split", manifest.fit) not in (manifest.fit, result.get("split")):
        return f"fitted on {result['fit_split']!r}, and the manifest says fit: {manifest.fit}"
    if result.get("metric", manifest.metric) != manifest.metric:
        return f"measured by {result['metric']}, and the manifest says metric: {manifest.metric}"
    return None
