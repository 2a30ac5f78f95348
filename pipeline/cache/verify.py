"""Check every byte of the cache: stores against their seals, small files against their checksums."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.activations import SEAL
from pipeline.activations.identity import explain_differences
from pipeline.activations.store import Store
from pipeline.activations.verify import Recomputed, VerifyReport, recompute_rows, verify_store
from pipeline.cache.inventory import find_stores, read_receipts
from pipeline.cache.sources import FROM_RECEIPT, Origin, extraction_for
from pipeline.head.file import check_head
from pipeline.io.errors import MissingDataError, PipelineError, StoreError
from pipeline.io.progress import Progress, Say
from pipeline.patches.table_file import verify_table
from pipeline.scoring.scores_file import load_scores
from pipeline.stages import extract
from pipeline.stages.context import Opened, RunContext
from pipeline.stages.workspace import Workspace


@dataclass(frozen=True)
class BadFile:
    """A receipt, patch table, head or file of scores that is missing or cannot be trusted.

    Attributes
    ----------
    stage : command that makes such files
    problem : what is wrong, path included
    """

    path: Path
    stage: Literal["extract", "patches", "fit-head", "score"]
    problem: str


@dataclass(frozen=True)
class CheckedStore:
    """A store whose bytes were checked, and compared with its sources.

    Attributes
    ----------
    stale : why its sources give another store now; None if they give this one, are not available, or the store is
        damaged
    """

    report: VerifyReport
    stale: str | None
    has_receipt: bool

    @property
    def sound(self) -> bool:
        return self.report.sealed and not self.report.findings


def check_stores(ws: Workspace, names: Sequence[str]) -> Iterator[CheckedStore]:
    """Check every byte of the named stores, and whether their sources are still what they were made from."""
    receipts = {cached.store: cached for cached in read_receipts(ws)[0]}
    opened: defaultdict[str, Opened] = defaultdict(Opened)
    for report in verify_stores(ws, names):
        stale, cached = None, receipts.get(report.folder.name)
        if report.sealed and not report.findings and cached is not None:
            dataset = cached.receipt.dataset
            stale = why_stale(replace(cached.context(ws), opened=opened[dataset]), cached.receipt.split)
        yield CheckedStore(report, stale, cached is not None)


def verify_stores(ws: Workspace, names: Sequence[str]) -> Iterable[VerifyReport]:
    """Check every byte of the named stores against records and seals."""
    for folder in find_stores(ws, names):
        total = sum(folder.sizes().values())
        with Progress(f"verify {folder.name}", total, "bytes") as progress:
            report = verify_store(folder, progress.advance)
        yield report


def verify_small_files(ws: Workspace) -> list[BadFile]:
    """Check receipts, patch tables, heads and scores; return those that are missing or cannot be trusted."""
    receipts, damaged = read_receipts(ws)
    bad = [BadFile(path, "extract", problem) for path, problem in damaged.items()]
    readers: list[tuple[Path, str, Any, Callable[[Path], Any]]] = [
        (ws.cache / "patches", "*.h5", "patches", verify_table),
        (ws.results / "heads", "*.safetensors", "fit-head", check_head),
        (ws.results / "scores", "*.h5", "score", load_scores),
    ]
    for folder, pattern, stage, read in readers:
        for path in sorted(folder.glob(pattern)):
            try:
                read(path)
            except PipelineError as error:
                text = str(error)
                bad.append(BadFile(path, stage, text if str(path) in text else f"{path}: {text}"))
        # The log of a head or of scores outlives them.
        for log in sorted(folder.glob("*.log.json")):
            path = log.with_name(log.name.removesuffix(".log.json") + pattern.removeprefix("*"))
            if not path.is_file():
                bad.append(BadFile(path, stage, f"{path}: missing"))
    tables = {cached.table_path(ws): cached.store for cached in receipts}
    for table, store in tables.items():
        if table is not None and not table.is_file():
            bad.append(BadFile(table, "patches", f"{table}: missing; {store} was made from it"))
    # A damaged receipt may be the one of a store that no other names.
    return bad if damaged else [*bad, *_stores_without_receipt(ws, {cached.store for cached in receipts})]


def _stores_without_receipt(ws: Workspace, named: Collection[str]) -> Iterator[BadFile]:
    for name in ws.stores.folders():
        store = ws.stores.child(name)
        if name.endswith(".zarr") and name not in named and store.exists(SEAL):
            problem = f"{store}: no receipt names it; with its settings, pipeline extract finds it and writes one"
            yield BadFile(ws.cache / "receipts" / name, "extract", problem)


def why_stale(run: RunContext, split: str) -> str | None:
    """Return why a sound store is not what its sources give now, as far as these are available; None if it is."""
    try:
        return extract.why_due(run, split)
    except MissingDataError:
        return None  # heads need no pictures; nothing can be compared
    except PipelineError as error:
        return str(error).partition("\n")[0]


def recompute(
    ws: Workspace,
    store: str,
    n_rows: int,
    seed: int,
    say: Say,
    origin: Origin = FROM_RECEIPT,
    arithmetic: Mapping[str, str] | None = None,
) -> Recomputed:
    """Send sampled rows of a store through its trunk again.

    Parameters
    ----------
    origin : what it was made from, where no receipt says so
    arithmetic : ``device`` and ``precision`` of the comparison, where they shall not be the store's

    Raises
    ------
    StoreError
        The sources are not what the store was made from; the fields are named.
    """
    opened = Store(ws.stores.child(store))
    extraction = extraction_for(ws, store, origin, say, arithmetic)
    wanted = {**extraction.identity, "how.precision": opened.identity["how.precision"]}
    wanted["how.batch"] = opened.identity["how.batch"]
    if wanted != opened.identity:
        raise StoreError(
            f"{store}: its sources are not what it was made from\n{explain_differences(opened.identity, wanted)}"
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


def count_findings(reports: Iterable[VerifyReport]) -> str:
    """Count findings by kind: ``2 flipped, 1 missing``."""
    counts = Counter(finding.kind for report in reports for finding in report.findings)
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
