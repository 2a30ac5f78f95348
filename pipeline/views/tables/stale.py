"""Whether a result that was measured before is of its dataset, settings and files as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.of_result import EvaluatedBefore
from pipeline.dataset.manifest import load_manifest
from pipeline.io.errors import SettingsError


def why_stale(result: Mapping[str, Any], file: Path, before: EvaluatedBefore) -> str | None:
    """Return why a result, or a comparison, is not what would be measured now.

    The manifest's roles, metric and classes are compared, then the files of its runs: pictures, annotations, weights,
    stores, heads and scores. A sweep, a learning curve, a ladder, near-duplicates, judged labels, boxes and scores that
    were given name no files, and of results whose files are not here nothing more can be told: for them the manifest
    alone is compared.

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
    return reason or before.why_due(result, file)


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
