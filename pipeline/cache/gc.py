"""Free what nothing uses."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.activations import SEAL
from pipeline.activations.run_log import log_name
from pipeline.cache.inventory import CachedStore, list_stores, read_receipts
from pipeline.cache.shared import Sharing, find_sharing
from pipeline.io.atomic import remove_stale_partials
from pipeline.stages.workspace import Workspace

YOUNG_S = 24 * 3600.0
"""What changed more recently may still be at work, and is not offered for removal."""


@dataclass(frozen=True)
class Garbage:
    """Something that nothing uses.

    Attributes
    ----------
    what : path or URL
    remove : does it
    """

    what: str
    why: str
    bytes: int
    remove: Callable[[], Any]


def find_garbage(ws: Workspace, young_s: float = YOUNG_S, shared: bool = False) -> list[Garbage]:
    """Stores that no head and no result names, receipts and tables of gone stores, shares that nothing joined.

    Nothing that changed less than `young_s` seconds ago is in the list: it may be at work.

    Parameters
    ----------
    shared : also sealed stores of which another store that stays holds every row; when they are needed again, their
        rows are taken over from it
    """
    now = time.time()
    stores = list_stores(ws)
    receipts, _ = read_receipts(ws)
    garbage = []
    kept = set()
    held = _held_elsewhere(stores) if shared else {}
    holders = {sharing.holder for sharing in held.values()}
    for store in stores:
        if store.folder.name in held and now - store.changed >= young_s:
            why = f"{held[store.folder.name]}; when it is needed again, its rows are taken over, and no trunk runs"
            garbage.append(Garbage(str(store.folder), why, store.bytes, _remover(ws, store)))
            continue
        if store.used or store.folder.name in holders or now - store.changed < young_s:
            kept.add(store.folder.name)
            continue
        if store.sealed:
            why = "no head and no result was made from it"
        else:
            why = f"incomplete ({store.state})"
        garbage.append(Garbage(str(store.folder), why, store.bytes, _remover(ws, store)))
    kept_receipts = [receipt for receipt in receipts if receipt.store in kept]
    there = {store.folder.name for store in stores}
    for receipt in receipts:
        if receipt.store not in there:
            size = receipt.path.stat().st_size
            garbage.append(Garbage(str(receipt.path), "its store is gone", size, receipt.path.unlink))
    needed = {receipt.table_path(ws) for receipt in kept_receipts}
    for path in sorted((ws.cache / "patches").glob("*.h5")):
        if path not in needed and now - path.stat().st_mtime >= young_s:
            garbage.append(Garbage(str(path), "no kept store was made from it", path.stat().st_size, path.unlink))
    return garbage + _old_shares(ws, now - young_s)


def _old_shares(ws: Workspace, before: float) -> list[Garbage]:
    """List the files of shares of works of which no share changed since a time, in seconds since 1970.

    What joins shares removes them, so these are of works that were given up, or killed and not yet gone on with.
    """
    of_work: dict[str, list[Path]] = {}
    for path in sorted((ws.cache / "shares").glob("*-*of*.*")):
        of_work.setdefault(re.sub(r"-\d+of\d+(?=[.-])", "", path.name), []).append(path)
    why = "a share that nothing joined; going on with that work would make it again"
    return [
        Garbage(str(path), why, path.stat().st_size, partial(path.unlink, missing_ok=True))
        for paths in of_work.values()
        if max(path.stat().st_mtime for path in paths) <= before
        for path in paths
    ]


def _held_elsewhere(stores: Sequence[CachedStore]) -> dict[str, Sharing]:
    """Return the sealed stores of which another one holds every row; never both of two that hold the same."""
    held: dict[str, Sharing] = {}
    sharing = find_sharing(stores)
    # Small ones first, so that the largest stays.
    for store in sorted(stores, key=lambda store: (store.bytes, store.folder.name)):
        of_store = sharing.get(store.folder.name)
        if store.sealed and of_store is not None and of_store.whole and of_store.holder not in held:
            held[store.folder.name] = of_store
    return held


def _remover(ws: Workspace, store: CachedStore) -> Callable[[], None]:
    def remove() -> None:
        # Receipts first: stopped in between, this leaves a store without a receipt, not the reverse.
        for receipt in store.receipts:
            receipt.path.unlink(missing_ok=True)
        # The seal before the rest: a half-removed store is an incomplete one.
        store.folder.remove(SEAL)
        store.folder.remove_all()
        (ws.cache / log_name(store.folder.name)).unlink(missing_ok=True)

    return remove


def sweep(ws: Workspace) -> list[Path]:
    """Remove temporary files of writers of this machine that are no more."""
    places = [ws.cache / ".partial", ws.cache, ws.cache / "receipts", ws.cache / "patches", ws.cache / "shares"]
    places += [ws.results, ws.results / "heads", ws.results / "scores"]
    return [path for place in places for path in remove_stale_partials(place)]
