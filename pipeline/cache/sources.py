"""What a cached store was made from: its receipt's settings and dataset, or those that the user names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.activations.extraction import Extraction
from pipeline.cache.inventory import find_receipt
from pipeline.io.progress import Say
from pipeline.stages.context import RunContext
from pipeline.stages.extract import plan_extraction
from pipeline.stages.workspace import Workspace


@dataclass(frozen=True)
class Origin:
    """What a store was made from, where no receipt says so; None for what the receipt says."""

    dataset: str | None = None
    split: str | None = None


FROM_RECEIPT = Origin()


def extraction_for(
    ws: Workspace, store: str, origin: Origin, say: Say, arithmetic: Mapping[str, str] | None = None
) -> Extraction:
    """Return the extraction that makes a store: from its receipt, or as the settings say.

    Parameters
    ----------
    arithmetic : ``device`` and ``precision``, where they shall not be the store's
    """
    if origin.dataset is None or origin.split is None:
        cached = find_receipt(ws, store)
        run, split = cached.context(ws, say), cached.receipt.split
    else:
        run, split = RunContext(ws, origin.dataset, say), origin.split
    # The table's name depends on neither of the two, so it is the same table.
    return plan_extraction(run.on(Workspace(run.settings.model_copy(update=dict(arithmetic or {})))), split)
