"""What a cached store was made from: its receipt's settings and dataset, or those that the user names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.activations.extraction import Extraction
from pipeline.activations.store import read_attributes
from pipeline.cache.inventory import find_receipt
from pipeline.io.errors import StoreError
from pipeline.io.progress import Say
from pipeline.stages.context import RunContext
from pipeline.stages.extract import extraction_of, open_inputs
from pipeline.stages.workspace import Workspace
from pipeline.trunk.backends import has_openvino


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
    # The table's name depends on none of these, so it is the same table.
    changes = {**_backend_of(ws, store, run.settings.backend, free=bool(arithmetic)), **(arithmetic or {})}
    run = run.on(Workspace(run.settings.model_copy(update=changes)))
    return extraction_of(run, open_inputs(run, split))


def _backend_of(ws: Workspace, store: str, asked: str, *, free: bool) -> dict[str, str]:
    """Return the backend that made a store, where settings leave it to the machine: other rows come from another one.

    Parameters
    ----------
    free : whether other arithmetic is asked for, which OpenVINO may not have
    """
    try:
        precision = read_attributes(ws.stores.child(store)).identity.precision
    except (StoreError, KeyError):
        return {}
    if asked != "auto":
        return {}
    if not precision.endswith("-openvino"):
        return {"backend": "torch"}
    # Where it is not installed, torch may still compare rows; a repair then names the difference.
    return {"backend": "openvino"} if has_openvino() and not free else {}
