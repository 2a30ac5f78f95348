"""The whole cache: what is in it, who uses it, whether it is sound, what may go, what a change would cost.

Works on whatever lies in the folders of a `Workspace`, made with these settings or with others: what
a store was made from is in its receipt, with all settings.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pipeline.activations import SEAL
from pipeline.activations.extract import Extraction, log_name
from pipeline.activations.folder import Folder
from pipeline.activations.identity import Identity, differences, fingerprint
from pipeline.activations.layout import Part, make_record, parts_of, stated
from pipeline.activations.store import Store, StoreWriter, read_attributes
from pipeline.activations.verify import Recomputed, Report, recompute_rows, verify_store
from pipeline.dataset.manifest import load_manifest
from pipeline.errors import HeadError, MissingDataError, PipelineError, StoreError, enumerate_problems
from pipeline.files import read_json, read_signed_json, signed_json, sweep_partials
from pipeline.head.head import load_head, read_facts
from pipeline.patches.table import read_table
from pipeline.progress import Progress
from pipeline.run import extraction_of, plan_extraction, read_receipt, run_extract
from pipeline.scoring.scores import load_scores
from pipeline.settings import Codec, parse_run_settings
from pipeline.tables import Say, why_table_is_due
from pipeline.workspace import Workspace

YOUNG_S = 24 * 3600.0
"""What changed more recently may still be at work, and is not offered for removal."""


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


# Is it sound?


def verify_stores(ws: Workspace, names: Sequence[str]) -> Iterable[Report]:
    """Every byte of the named stores against records and seals, and against their sources if at hand."""
    receipts, _ = read_receipts(ws)
    for folder in find_stores(ws, names):
        total = sum(folder.sizes().values())
        with Progress(f"verify {folder.name}", total, "bytes") as progress:
            report = verify_store(folder, progress.advance)
        yield report


def verify_small_files(ws: Workspace) -> dict[Path, str]:
    """Receipts, patch tables, heads and scores that are missing or cannot be trusted, and why."""
    receipts, bad = read_receipts(ws)
    readers: list[tuple[Path, str, Callable[[Path], Any]]] = [
        (ws.cache / "patches", "*.h5", read_table),
        (ws.results / "heads", "*.safetensors", load_head),
        (ws.results / "scores", "*.h5", load_scores),
    ]
    for folder, pattern, read in readers:
        for path in sorted(folder.glob(pattern)):
            try:
                read(path)
            except PipelineError as error:
                bad[path] = str(error)
        # The log of a head or of scores outlives them.
        for log in sorted(folder.glob("*.log.json")):
            path = log.with_name(log.name.removesuffix(".log.json") + pattern.removeprefix("*"))
            if not path.is_file():
                bad[path] = f"{path}: missing"
    for receipt in receipts:
        table = _table_of(ws, receipt)
        if table is not None and not table.is_file():
            bad[table] = f"{table}: missing; {receipt.store} was made from it"
    named = {receipt.store for receipt in receipts}
    if not any(path.parent.name == "receipts" for path in bad):
        for name in ws.stores.folders():
            store = ws.stores.child(name)
            if name.endswith(".zarr") and name not in named and store.exists(SEAL):
                bad[ws.cache / "receipts" / name] = (
                    f"{store}: no receipt names it; with its settings, pipeline extract finds it and writes one"
                )
    return bad


def _table_of(ws: Workspace, receipt: Receipt) -> Path | None:
    try:
        return receipt.workspace(ws).table_path(receipt.content["dataset"], receipt.content["split"])
    except PipelineError:
        return None  # settings of another version: its table is none of this one's


def stale_reasons(ws: Workspace, receipt: Receipt) -> list[str]:
    """What changed in the sources of a store since it was made, as far as they are at hand."""
    made = receipt.workspace(ws)
    dataset, split = receipt.content["dataset"], receipt.content["split"]
    reasons = []
    try:
        _, reason = why_table_is_due(made, dataset, split)
        if reason is not None:
            reasons.append(f"{dataset} {split}: {reason}")
    except MissingDataError:
        pass  # heads need no pictures; nothing can be compared
    except PipelineError as error:
        reasons.append(str(error).partition("\n")[0])
    if made.has_weights() and receipt.content.get("weights") != made.weights_state(dataset):
        reasons.append(f"weights or card of trunk {made.settings.trunk!r} changed")
    return reasons


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


def _extraction_for(
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


def recompute(
    ws: Workspace,
    store: str,
    n_rows: int,
    seed: int,
    say: Say,
    dataset: str | None = None,
    split: str | None = None,
    arithmetic: Mapping[str, str] | None = None,
) -> Recomputed:
    """Send sampled rows of a store through its trunk again.

    Parameters
    ----------
    dataset, split : what it was made from, where no receipt says so
    arithmetic : ``device`` and ``precision`` of the comparison, where they shall not be the store's

    Raises
    ------
    StoreError
        The sources are not what the store was made from; the fields are named.
    """
    opened = Store(ws.stores.child(store))
    extraction = _extraction_for(ws, store, dataset, split, say, arithmetic)
    wanted = {**extraction.identity, "how.precision": opened.identity["how.precision"]}
    wanted["how.batch"] = opened.identity["how.batch"]
    if wanted != opened.identity:
        raise StoreError(
            f"{store}: its sources are not what it was made from\n"
            f"{enumerate_problems(differences(opened.identity, wanted), shown=30)}"
        )
    with Progress(f"recompute {store}", min(n_rows, opened.n_rows), "rows") as progress:
        return recompute_rows(
            opened,
            extraction.table,
            extraction.picture_paths,
            extraction.runner,
            n_rows,
            seed,
            progress.advance,
            extraction.rows,
        )


# Mending


@dataclass
class Repair:
    """What `repair_store` did."""

    store: str
    made: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    differing: list[int] = field(default_factory=list)


def repair_store(
    ws: Workspace, report: Report, say: Say, dataset: str | None = None, split: str | None = None
) -> Repair:
    """Make the bad parts and files of a store again, and nothing else, and seal it anew.

    Parameters
    ----------
    report : what `verify_store` found
    dataset, split : what it was made from, where no receipt says so

    Raises
    ------
    StoreError
        The sources would give another store than this one; nothing was touched.
    """
    folder = report.folder
    extraction = _extraction_for(ws, folder.name, dataset, split, say)
    if extraction.folder.name != folder.name:
        there = report.identity or {}
        lines = differences(there, extraction.identity) if there else [f"they give {extraction.folder.name}"]
        raise StoreError(
            f"{folder}: cannot be repaired: its sources (pictures, weights, settings, this version) give another store "
            f"now\n{enumerate_problems(lines, shown=30)}\nnothing was touched; make that one with: pipeline extract"
        )
    parts = parts_of(extraction.identity)
    records = _rebuilt_records(report, parts)
    bad = [part for part in parts if part.index in report.bad_parts and part.record_name not in records]
    before = folder.read_many(part.record_name for part in bad)
    # The seal goes first and the records before their objects: stopped anywhere, this leaves an
    # incomplete store that the next extraction or repair completes.
    names = [SEAL, *(part.record_name for part in bad), *(finding.name for finding in report.findings)]
    for name in dict.fromkeys(names):
        folder.remove(name)
    for name, data in records.items():
        folder.write(name, data)
    there = folder.read_many(part.record_name for part in parts)
    made = [part.index for part in parts if part.record_name not in there]
    extraction.run()
    after = folder.read_many(part.record_name for part in bad)
    # Only of a record that was sound and sealed is it known what the part's bytes were.
    untrusted = {finding.name for finding in report.findings}
    differing = [
        part.index
        for part in bad
        if part.record_name in before
        and part.record_name not in untrusted
        and before[part.record_name] != after[part.record_name]
    ]
    unexpected = [finding.name for finding in report.findings if finding.kind == "unexpected"]
    return Repair(folder.name, made, unexpected, differing)


def _rebuilt_records(report: Report, parts: Sequence[Part]) -> dict[str, bytes]:
    """Lost or damaged records that follow from their objects: they come out as the seal says they were."""
    folder = report.folder
    try:
        seal = read_signed_json(folder.read(SEAL))
    except (OSError, ValueError):
        return {}
    damaged = {finding.name for finding in report.findings}
    rebuilt = {}
    for part in parts:
        if part.record_name in damaged:
            objects = folder.read_many(part.object_names)
            # In the order in which the writer lists them: the record's bytes depend on it.
            objects = {name: objects[name] for name in part.object_names if name in objects}
            for codec in get_args(Codec):
                data = signed_json(make_record(part, seal["fingerprint"], objects, codec))
                if stated(data) == seal["records"].get(part.record_name):
                    rebuilt[part.record_name] = data
    return rebuilt


def repair_small_file(ws: Workspace, path: Path, say: Say) -> str:
    """Make a bad receipt again from its own settings, or remove what the next run makes anew; what was done."""
    if path.parent.name == "receipts":
        try:
            content = read_json(path)
            made = Receipt(path, content).workspace(ws)
            dataset, split = content["dataset"], content["split"]
            # The file's name holds a digest of the settings: so it is known whether they are still sound.
            if made.receipt_path(dataset, split) == path:
                path.unlink()
                run_extract(made, dataset, split, say)
                return "written again"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
    missing = not path.exists()
    path.unlink(missing_ok=True)
    makers = {"receipts": "extract", "patches": "patches", "heads": "fit-head", "scores": "score"}
    what = "missing" if missing else "removed"
    return f"{what}; the next run makes it again (pipeline {makers[path.parent.name]})"


# Freeing


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


def find_garbage(ws: Workspace, young_s: float = YOUNG_S) -> list[Garbage]:
    """Stores that no head and no result names, receipts and tables of gone stores, what killed writers left.

    Nothing that changed less than `young_s` seconds ago is in the list: it may be at work.
    """
    now = time.time()
    stores = list_stores(ws)
    receipts, _ = read_receipts(ws)
    garbage = []
    kept = set()
    for store in stores:
        if store.used or now - store.changed < young_s:
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
    needed = {_table_of(ws, receipt) for receipt in kept_receipts}
    for path in sorted((ws.cache / "patches").glob("*.h5")):
        if path not in needed and now - path.stat().st_mtime >= young_s:
            garbage.append(Garbage(str(path), "no kept store was made from it", path.stat().st_size, path.unlink))
    return garbage


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
    places = [ws.cache / ".partial", ws.cache, ws.cache / "receipts", ws.cache / "patches"]
    places += [ws.results, ws.results / "heads", ws.results / "scores"]
    return [path for place in places for path in sweep_partials(place)]


# Explaining


@dataclass
class Explanation:
    """What the settings ask for, and what of it is there.

    Attributes
    ----------
    stages : (stage, file or store, state), in the order of the flow
    identity : of the store that is asked for; None while there is no patch table
    others : stores of the same split with the fields in which they differ (kept, asked for)
    """

    stages: list[tuple[str, str, str]]
    identity: Identity | None
    others: dict[str, list[str]]


def explain(ws: Workspace, dataset: str, split: str) -> Explanation:
    """Which files the settings ask for, which are there, and what would be made."""
    table_path = ws.table_path(dataset, split)
    table, reason = why_table_is_due(ws, dataset, split)
    stages = [("patches", str(table_path), "there" if reason is None else f"would be made: {reason}")]
    identity, others = None, {}
    if table is None or reason is not None:
        stages.append(("extract", "a store", "would be made, after the patch table"))
        ready = False
    else:
        extraction = extraction_of(ws, table, {})
        identity = extraction.identity
        folder = extraction.folder
        ready = folder.exists(SEAL)
        if ready:
            state = "there, sealed"
        elif folder.exists("zarr.json"):
            writer = StoreWriter(folder)
            left = writer.missing()
            rows = sum(part.n_rows for part in left)
            state = f"would go on: {len(left)} of {len(writer.parts)} parts, {rows:,} rows through the trunk"
        else:
            state = f"would be made: {table.n_rows:,} rows through the trunk"
        stages.append(("extract", str(folder), state))
        for store in list_stores(ws):
            same = store.made_from.get("dataset") == dataset and store.made_from.get("split") == split
            if same and store.identity is not None and store.identity != identity:
                others[store.folder.name] = differences(store.identity, identity)
    entry = load_manifest(dataset)
    if split == entry.fit:
        path = ws.head_path(dataset, ws.settings.head)
        stages.append(("fit-head", str(path), _there(path, ready)))
    if split == entry.eval:
        path = ws.scores_path(dataset, ws.settings.head, split)
        stages.append(("score", str(path), _there(path, ready)))
        path = ws.run_dir(dataset) / "map.json"
        stages.append(("evaluate", str(path), _there(path, ready)))
    return Explanation(stages, identity, others)


def _there(path: Path, ready: bool) -> str:
    if not path.is_file():
        return "would be made"
    return "there" if ready else "there; made again if the new rows differ"


def count_findings(reports: Iterable[Report]) -> str:
    """``2 flipped, 1 missing``."""
    counts = Counter(finding.kind for report in reports for finding in report.findings)
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
