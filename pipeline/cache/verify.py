"""Check every byte of the cache: stores against their seals, small files against their checksums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.activations import SEAL
from pipeline.activations.identity import differences
from pipeline.activations.store import Store
from pipeline.activations.verify import Recomputed, Report, recompute_rows, verify_store
from pipeline.cache.inventory import Receipt, extraction_for, find_stores, read_receipts, table_of
from pipeline.head.head import load_head
from pipeline.io.errors import MissingDataError, PipelineError, StoreError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Progress, Say
from pipeline.patches.table_file import read_table
from pipeline.scoring.scores import load_scores
from pipeline.stages.patches import why_table_is_due
from pipeline.stages.workspace import Workspace

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
        table = table_of(ws, receipt)
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
    extraction = extraction_for(ws, store, dataset, split, say, arithmetic)
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


def count_findings(reports: Iterable[Report]) -> str:
    """``2 flipped, 1 missing``."""
    counts = Counter(finding.kind for report in reports for finding in report.findings)
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
