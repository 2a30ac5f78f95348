"""What a manifest says against a result that was measured before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.dataset.manifest import load_manifest
from pipeline.io.errors import SettingsError


def why_stale(result: Mapping[str, Any]) -> str | None:
    """Return why a result, or a comparison, is not of its dataset as the manifest describes it now.

    Roles, metric and classes are compared. Pictures, annotations and settings are not: a result file does not say where
    they lie; ``pipeline report`` and ``pipeline cache explain`` compare them.

    Returns
    -------
    The first difference, in words; None if there is none, or no manifest that can be read.
    """
    try:
        manifest = load_manifest(str(result["dataset"]))
    except SettingsError:
        return None
    scored = [name for name in manifest.classes if name not in manifest.unscored]
    measured = [item["AP"] for item in (result, *result.get("recipes", ())) if "AP" in item]
    if any(list(aps) != scored for aps in measured):
        return f"the manifest has other classes: {', '.join(scored[:10])}{', ...' if len(scored) > 10 else ''}"
    if result["split"] not in manifest.splits:
        return f"the manifest has no split {result['split']!r}"
    # Scores that were given were fitted elsewhere.
    if result.get("fit_split", manifest.fit) not in (manifest.fit, result["split"]):
        return f"fitted on {result['fit_split']!r}, and the manifest says fit: {manifest.fit}"
    if result["metric"] != manifest.metric:
        return f"measured by {result['metric']}, and the manifest says metric: {manifest.metric}"
    return None
