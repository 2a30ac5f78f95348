"""What the settings ask for, and what of it is cached."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.activations import SEAL
from pipeline.activations.identity import FieldDifference, Identity, differences
from pipeline.activations.preview import preview
from pipeline.activations.writer import StoreWriter
from pipeline.cache.inventory import list_stores
from pipeline.io.errors import PipelineError
from pipeline.stages import evaluate, extract, fit_head, patches, score
from pipeline.stages.context import RunContext
from pipeline.stages.extract import extraction_of, without_pictures
from pipeline.stages.stored import sealed_store


@dataclass(frozen=True)
class StageState:
    """One stage of a run: its file or store, whether that is current, and in words what would be made."""

    stage: str
    what: str
    current: bool
    words: str


@dataclass(frozen=True)
class Explanation:
    """What the settings ask for, and what of it is cached.

    Attributes
    ----------
    stages : in the order of the flow
    others : stores of the same split with the fields in which they differ (stored, asked for)
    """

    stages: list[StageState]
    others: dict[str, list[FieldDifference]]


def explain(run: RunContext, split: str) -> Explanation:
    """Say which files the settings ask for, which are current, and what would be made."""
    reason = patches.why_due(run, split)
    table = StageState("patches", str(patches.path(run, split)), reason is None, _words(reason))
    others: dict[str, list[FieldDifference]] = {}
    if reason is not None:
        store = StageState("extract", "a store", False, "would be made, after the patch table")
    else:
        store, identity = _explain_store(run, split)
        for cached in list_stores(run.ws):
            same = cached.made_from.get("dataset") == run.dataset and cached.made_from.get("split") == split
            if same and cached.identity is not None and cached.identity != identity:
                others[cached.folder.name] = differences(cached.identity, identity)
    return Explanation([table, store, *_explain_results(run, split, store.current)], others)


def _explain_store(run: RunContext, split: str) -> tuple[StageState, Identity]:
    if extract.why_due(run, split) is None:
        store = sealed_store(run, split)
        return StageState("extract", str(store.folder), True, "there, sealed"), store.identity
    # The trunk is loaded only to learn which store it would make.
    extraction = extraction_of(run, without_pictures(run, patches.require(run, split)))
    folder = extraction.folder
    if folder.exists(SEAL):
        words = "there, sealed; its receipt would be written"
    elif folder.exists("zarr.json"):
        writer = StoreWriter(folder)
        words = f"would resume: {len(writer.missing())} of {len(writer.parts)} parts, {preview(extraction).in_words()}"
    else:
        words = f"would be made: {preview(extraction).in_words()}"
    return StageState("extract", str(folder), folder.exists(SEAL), words), extraction.identity


def _explain_results(run: RunContext, split: str, rows_are_current: bool) -> list[StageState]:
    """Return the states of head, scores and result, as far as this split has a part in them."""
    if not run.manifest.has_labels:
        return []
    head, manifest = run.head, run.manifest
    stages = []
    if split == manifest.fit:
        stages.append(("fit-head", fit_head.path(run, head), lambda: fit_head.why_due(run, head)))
    if split == manifest.eval:
        stages.append(("score", score.path(run, head), lambda: score.why_due(run, head)))
        stages.append(("evaluate", evaluate.path(run, head), lambda: evaluate.why_due(run, head)))
    states = []
    for name, file, why_due in stages:
        if rows_are_current:
            try:
                reason = why_due()
            except PipelineError as error:
                reason = str(error).partition("\n")[0]
        else:
            reason = "after the rows" if not file.is_file() else "again if the new rows differ"
        states.append(StageState(name, str(file), reason is None, _words(reason)))
    return states


def _words(reason: str | None) -> str:
    return "there" if reason is None else f"would be made: {reason}"
