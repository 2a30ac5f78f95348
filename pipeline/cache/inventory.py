"""Every store of the cache, with what made it and what uses it.

Works on whatever lies in the folders of a `Workspace`, made with these settings or with others: what
a store was made from is in its receipt, with all settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.activations import SEAL
from pipeline.activations.folder import Folder
from pipeline.activations.identity import Identity, fingerprint
from pipeline.activations.layout import PictureFiles
from pipeline.activations.partition import parts_of
from pipeline.activations.store import read_attributes
from pipeline.dataset.manifest import load_manifest
from pipeline.head.facts import read_fingerprint
from pipeline.io.atomic import read_json
from pipeline.io.errors import HeadError, PipelineError, SettingsError, StoreError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Say, silent
from pipeline.stages import patches
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.receipt import Receipt, read_receipt
from pipeline.stages.workspace import Workspace


@dataclass(frozen=True)
class CachedReceipt:
    """A sound receipt and its file: which store, made from what, with which settings."""

    path: Path
    receipt: Receipt

    @property
    def store(self) -> str:
        return self.receipt.store

    def context(self, like: Workspace, say: Say = silent) -> RunContext:
        """Return the context that the store was made in, with the folders of the workspace `like`.

        Raises
        ------
        SettingsError
            Settings of another version.
        """
        places = {key: getattr(like.settings, key) for key in ("cache", "results", "stores")}
        settings = parse_run_settings({**without_code(self.receipt.settings), **places}, str(self.path))
        return RunContext(Workspace(settings), self.receipt.dataset, say)

    def table_path(self, like: Workspace) -> Path | None:
        """Return the patch table from which the store was made; None if the settings are of another version."""
        try:
            return patches.path(self.context(like), self.receipt.split)
        except PipelineError:
            return None


def without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which heads of a user's own code are plain ones: no row depends on them.

    So a store is read and repaired where their classes changed, or are not there.
    """

    def plain(head: Any) -> Any:
        return {} if isinstance(head, dict) and head.get("kind") == "code" else head

    heads = {name: plain(head) for name, head in settings.get("heads", {}).items()}
    recipes = {
        name: {**recipe, "head": plain(recipe.get("head"))} for name, recipe in settings.get("recipes", {}).items()
    }
    return {**settings, "heads": heads, "recipes": recipes}


@dataclass
class CachedStore:
    """One store of the cache, from its metadata alone.

    Attributes
    ----------
    identity : None if zarr.json cannot be read
    made_from : names of dataset, split and trunk
    picture_files : of its pictures; None if the store does not record them
    parts, recorded : number of parts, and of those that have a record
    heads, results : names of what was fitted on it, or measured with it
    without_labels : whether nothing uses it, and it holds the features of a dataset without labels, which no head can
        ever use
    changed : seconds since 1970 of its youngest file or log, 0.0 where that is not known
    """

    folder: Folder
    identity: Identity | None
    made_from: dict[str, str]
    bytes: int
    parts: int
    recorded: int
    sealed: bool
    receipts: list[CachedReceipt]
    heads: list[str]
    results: list[str]
    changed: float
    picture_files: PictureFiles | None = None
    without_labels: bool = False

    @property
    def state(self) -> str:
        if self.identity is None:
            return "unreadable"
        return "sealed" if self.sealed else f"{self.recorded}/{self.parts} parts"

    @property
    def used(self) -> bool:
        return bool(self.heads or self.results or self.without_labels)


def read_receipts(ws: Workspace) -> tuple[list[CachedReceipt], dict[Path, str]]:
    """Read all receipts of a cache: the sound ones, and what is wrong with each of the others."""
    sound, bad = [], {}
    for path in sorted((ws.cache / "receipts").glob("*.json")):
        try:
            sound.append(CachedReceipt(path, read_receipt(path)))
        except StoreError as error:
            bad[path] = str(error)
    return sound, bad


def _uses(ws: Workspace) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Names of heads and of results, by the fingerprint of each store that they name."""
    heads: dict[str, list[str]] = {}
    results: dict[str, list[str]] = {}
    for path in sorted((ws.results / "heads").glob("*.safetensors")):
        try:
            heads.setdefault(read_fingerprint(path), []).append(path.name)
        except HeadError:
            continue  # `verify` names it; it uses nothing
    for path in sorted((ws.results / "runs").glob("*/map.json")):
        try:
            for used in set(read_json(path)["fingerprints"].values()):
                results.setdefault(used, []).append(path.parent.name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return heads, results


def _has_no_labels(dataset: str) -> bool:
    """Whether a dataset is known and has no labels."""
    try:
        return not load_manifest(dataset).has_labels
    except SettingsError:
        return False


def list_stores(ws: Workspace) -> list[CachedStore]:
    """Return every store of the cache, in order of their names."""
    receipts, _ = read_receipts(ws)
    heads, results = _uses(ws)
    has_no_labels = cache(_has_no_labels)
    found = []
    for name in ws.stores.folders():
        if not name.endswith(".zarr"):
            continue
        folder = ws.stores.child(name)
        sizes = folder.sizes()
        identity, made_from, parts, files = None, {}, [], None
        try:
            attributes = read_attributes(folder)
            identity, made_from = attributes.identity, dict(attributes.made_from)
            parts, files = parts_of(identity), attributes.picture_files
        except (StoreError, KeyError, TypeError):
            pass
        key = fingerprint(identity) if identity else ""
        is_used = key in heads or key in results  # then the manifest need not be read
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
                picture_files=files,
                without_labels=not is_used
                and any(has_no_labels(receipt.receipt.dataset) for receipt in receipts if receipt.store == name),
            )
        )
    return found


def find_stores(ws: Workspace, names: Sequence[str]) -> list[Folder]:
    """Return the folders of the named stores: names in the cache, or paths; all of the cache where none is named.

    Raises
    ------
    StoreError
        No such store; those that there are.
    """
    cached = [name for name in ws.stores.folders() if name.endswith(".zarr")]
    if not names:
        return [ws.stores.child(name) for name in cached]
    wanted = [Path(name).name for name in names]
    unknown = [name for name in wanted if name not in cached]
    if unknown:
        known = enumerate_problems(cached) if cached else "  (none)"
        raise StoreError(f"{ws.stores}: no store {', '.join(unknown)}; there are\n{known}")
    return [ws.stores.child(name) for name in wanted]


def find_receipt(ws: Workspace, store: str) -> CachedReceipt:
    """Return a receipt that names the store.

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
