"""Where a result comes from, for the page: what ran, and the stores that it was computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.activations.run_log import RunLog, describe_shares
from pipeline.cache.inventory import list_stores
from pipeline.io.errors import StoreError
from pipeline.stages import extract
from pipeline.stages.context import RunContext
from pipeline.stages.receipt import read_receipt


@dataclass(frozen=True)
class Stage:
    """One run of a stage, from its log."""

    name: str
    when: str
    rows: int
    seconds: float
    note: str


@dataclass(frozen=True)
class StoreLine:
    """A store that the result stands on."""

    name: str
    fingerprint: str
    role: str
    rows: int
    bytes: int
    raw_bytes: int
    users: tuple[str, ...]


def plain_time(stamp: str) -> str:
    """A time of a log as a person reads it; anything else as it is.

    >>> plain_time("2026-11-29T07:30:46+0100"), plain_time("")
    ('2026-11-29 06:30 UTC', '')
    """
    try:
        return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S%z").astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return stamp


def stages_of(run: RunContext, splits: Mapping[str, str], result: Mapping[str, Any]) -> list[Stage]:
    """What ran, from the logs beside what it made."""
    stages = []
    for role, split in splits.items():
        path = extract.path(run, split)
        if not path.is_file():
            continue
        for entry in RunLog.of_store(run.ws.cache, read_receipt(path).store).read():
            note = describe_shares(entry.stages)
            if entry.adopted:
                note += f"; {sum(entry.adopted.values()):,} rows taken over from {', '.join(entry.adopted)}"
            stages.append(
                Stage(f"extract {split} ({role})", plain_time(entry.finished), entry.rows, entry.seconds, note)
            )
    for name, label in (("fit_head", "fit the head"), ("score", "score")):
        if name in result["seconds"]:
            stages.append(Stage(label, "", 0, result["seconds"][name], ""))
    return stages


def stores_of(run: RunContext, splits: Mapping[str, str]) -> list[StoreLine]:
    """The stores that a result stands on, and what else was made from them."""
    cached = {store.folder.name: store for store in list_stores(run.ws)}
    lines = []
    for role, split in splits.items():
        try:
            receipt = read_receipt(extract.path(run, split))
        except StoreError:
            continue
        store = cached.get(receipt.store)
        users = tuple(sorted({*store.heads, *store.results})) if store else ()
        raw = receipt.rows * receipt.width * 2
        lines.append(
            StoreLine(
                receipt.store,
                receipt.fingerprint,
                f"{split} ({role})",
                receipt.rows,
                receipt.bytes,
                raw,
                users,
            )
        )
    return lines
