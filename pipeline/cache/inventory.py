"""Every store of the cache, with what made it and what uses it.

Works on whatever lies in the folders of a `Workspace`, made with these settings or with others: what
a store was made from is in its receipt, with all settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.activations import SEAL
from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import Folder
from pipeline.activations.identity import Identity, fingerprint
from pipeline.activations.layout import parts_of
from pipeline.activations.store import read_attributes
from pipeline.head.head import read_facts
from pipeline.io.atomic import read_json
from pipeline.io.errors import HeadError, PipelineError, StoreError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Say
from pipeline.stages.extract import plan_extraction
from pipeline.stages.receipt import read_receipt
from pipeline.stages.settings import parse_run_settings
from pipeline.stages.workspace import Workspace

# What is there


@dataclass(frozen=True)
class Receipt:
    """A sound receipt: which store, made from what, with which settings."""

    path: Path
    content: dict[str, Any]

    @property
    def store(self) -> str:
        return str(self.content["store"])

    def workspace(self, like: Workspace) -> Workspace:
        """The workspace that the store was made in, with the folders of this one."""
        places = {key: getattr(like.settings, key) for key in ("cache", "results", "stores")}
        settings = {**self.content["settings"], **places}
        return Workspace(parse_run_settings(settings, str(self.path)))


@dataclass
class CachedStore:
    """One store of the cache, from its metadata alone.

    Attributes
    ----------
    identity : None if zarr.json cannot be read
    made_from : names of dataset, split and trunk
    parts, recorded : number of parts, and of those that have a record
    heads, results : names of what was fitted on it, or measured with it
    changed : seconds since 1970 of its youngest file or log, 0.0 where that is not known
    """

    folder: Folder
    identity: Identity | None
    made_from: dict[str, str]
    bytes: int
    parts: int
    recorded: int
    sealed: bool
    receipts: list[Receipt]
    heads: list[str]
    results: list[str]
    changed: float

    @property
    def state(self) -> str:
        if self.identity is None:
            return "unreadable"
        return "sealed" if self.sealed else f"{self.recorded}/{self.parts} parts"

    @property
    def used(self) -> bool:
        return bool(self.heads or self.results)


def read_receipts(ws: Workspace) -> tuple[list[Receipt], dict[Path, str]]:
    """All sound receipts of a cache, and what is wrong with each of the others."""
    sound, bad = [], {}
    for path in sorted((ws.cache / "receipts").glob("*.json")):
        try:
            sound.append(Receipt(path, read_receipt(path)))
        except StoreError as error:
            bad[path] = str(error)
    return sound, bad


def _uses(ws: Workspace) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Names of heads and of results, by the fingerprint of each store that they name."""
    heads: dict[str, list[str]] = {}
    results: dict[str, list[str]] = {}
    for path in sorted((ws.results / "heads").glob("*.safetensors")):
        try:
            heads.setdefault(read_facts(path)["fingerprint"], []).append(path.name)
        except (HeadError, KeyError):
            continue  # `verify` names it; it uses nothing
    for path in sorted((ws.results / "runs").glob("*/map.json")):
        try:
            for used in set(read_json(path)["fingerprints"].values()):
                results.setdefault(used, []).append(path.parent.name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return heads, results


def list_stores(ws: Workspace) -> list[CachedStore]:
    """Every store of the cache, in order of their names."""
    receipts, _ = read_receipts(ws)
    heads, results = _uses(ws)
    found = []
    for name in ws.stores.folders():
        if not name.endswith(".zarr"):
            continue
        folder = ws.stores.child(name)
        sizes = folder.sizes()
        identity, made_from, parts = None, {}, []
        try:
            attributes = read_attributes(folder)
            identity, made_from = attributes["identity"], attributes["made_from"]
            parts = parts_of(identity)
        except (StoreError, KeyError, TypeError):
            pass
        key = fingerprint(identity) if identity else ""
        found.append(
            CachedStore(
                folder=folder,
                identity=identity,
                made_from=made_from,
                bytes=sum(sizes.values()),
                parts=len(parts),
                recorded=sum(part.record_name in sizes for part in parts),
                sealed=SEAL in sizes,
                receipts=[receipt for receipt in receipts if receipt.store == name],
                heads=heads.get(key, []),
                results=results.get(key, []),
                changed=folder.changed(),
            )
        )
    return found


def find_stores(ws: Workspace, names: Sequence[str]) -> list[Folder]:
    """Folders of the named stores: names in the cache, or paths; all of the cache where none is named.

    Raises
    ------
    StoreError
        No such store; those that there are.
    """
    there = [name for name in ws.stores.folders() if name.endswith(".zarr")]
    if not names:
        return [ws.stores.child(name) for name in there]
    wanted = [Path(name).name for name in names]
    unknown = [name for name in wanted if name not in there]
    if unknown:
        known = enumerate_problems(there) if there else "  (none)"
        raise StoreError(f"{ws.stores}: no store {', '.join(unknown)}; there are\n{known}")
    return [ws.stores.child(name) for name in wanted]


def table_of(ws: Workspace, receipt: Receipt) -> Path | None:
    try:
        return receipt.workspace(ws).table_path(receipt.content["dataset"], receipt.content["split"])
    except PipelineError:
        return None  # settings of another version: its table is none of this one's


def the_receipt(ws: Workspace, store: str) -> Receipt:
    """A receipt that names the store.

    Raises
    ------
    StoreError
    """
    for receipt in read_receipts(ws)[0]:
        if receipt.store == store:
            return receipt
    raise StoreError(
        f"{store}: no receipt in {ws.cache / 'receipts'} names it, so it is not known what it was made from; "
        "give its --dataset and --split, with the settings that it was made with"
    )


def extraction_for(
    ws: Workspace,
    store: str,
    dataset: str | None,
    split: str | None,
    say: Say,
    arithmetic: Mapping[str, str] | None = None,
) -> Extraction:
    """The extraction that makes a store: from its receipt, or as the settings say."""
    if dataset is None or split is None:
        receipt = the_receipt(ws, store)
        ws, dataset, split = receipt.workspace(ws), receipt.content["dataset"], receipt.content["split"]
    # The table's name depends on none of these two, so it is the same table.
    ws = Workspace(ws.settings.model_copy(update=dict(arithmetic or {})))
    return plan_extraction(ws, dataset, split, say)
