"""Is a store what it says? Every file against record and seal; sampled rows against the trunk itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations import SEAL
from pipeline.activations.compute import compute_rows
from pipeline.activations.folder import Folder
from pipeline.activations.identity import FORMAT, Identity, fingerprint
from pipeline.activations.layout import CODEC_AT, Part, arrays_of, codec_of, metadata_names, parts_of, stated
from pipeline.activations.row_plan import plan_rows
from pipeline.activations.run_log import StageClock
from pipeline.activations.store import Store, check_record, read_identity
from pipeline.io.checksummed import read_checksummed_json
from pipeline.io.errors import StoreError
from pipeline.patches.table import PatchTable
from pipeline.trunk.runner import TrunkRunner

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Finding:
    """One file that is not as it should be.

    Attributes
    ----------
    name : relative to the store
    kind : ``missing``, ``torn`` (not all of it, or more), ``flipped`` (as long as it was, other
        content), ``stale`` (sound, but not what was sealed), ``unexpected`` (no file of a store)
    part : index of the part that it belongs to, or None
    """

    name: str
    kind: str
    part: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


@dataclass
class Report:
    """What `verify_store` found.

    Attributes
    ----------
    identity : None where the store's own statement of it cannot be trusted
    parts, recorded : number of parts, and of those with a sound record; parts is 0 without an identity
    """

    folder: Folder
    identity: Identity | None = None
    sealed: bool = False
    parts: int = 0
    recorded: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def bad_parts(self) -> list[int]:
        return sorted({finding.part for finding in self.findings if finding.part is not None})

    @property
    def state(self) -> str:
        if self.findings:
            return "damaged"
        return "sealed" if self.sealed else f"incomplete, {self.recorded} of {self.parts} parts"


def verify_store(folder: Folder, advance: Advance = lambda n: None) -> Report:
    """Read every byte of a store and compare it with what record and seal say.

    Parameters
    ----------
    advance : hears of bytes as they are read

    Raises
    ------
    StoreError
        There is nothing at all.
    """
    sizes = folder.sizes()
    if not sizes:
        raise StoreError(f"{folder}: no such store; what there is: pipeline cache ls")
    report = Report(folder, sealed=SEAL in sizes, bytes=sum(sizes.values()))
    found = report.findings
    sealed: dict[str, Any] = {}
    if report.sealed:
        data = folder.read(SEAL)
        advance(len(data))
        try:
            seal = read_checksummed_json(data)
            sealed = {**seal["metadata"], **seal["records"]}
        except (ValueError, KeyError, TypeError):
            found.append(Finding(SEAL, _how_bad(data)))
    identity, parts, metadata = None, [], metadata_names()
    try:
        identity = read_identity(folder)
        parts, metadata = parts_of(identity), metadata_names(arrays_of(identity))
    except (StoreError, KeyError, TypeError, ValueError):
        pass
    for name in metadata:
        found.extend(_compare(folder, name, sealed.get(name), None, advance))
    if identity is None:
        if not any(finding.name == "zarr.json" for finding in found):
            found.append(Finding("zarr.json", "flipped", None, "its identity disagrees with its fingerprint"))
        return report
    report.identity, report.parts = identity, len(parts)
    if report.sealed and not any(f.name == SEAL for f in found) and seal["fingerprint"] != fingerprint(identity):
        found.append(Finding(SEAL, "stale", None, "the seal of another store"))
    if identity.get("how.format") != FORMAT:
        format_there = identity.get("how.format")
        found.append(Finding("zarr.json", "stale", None, f"format {format_there}, this version makes {FORMAT}"))
    expected = {SEAL, *metadata}
    try:
        codec = codec_of(folder.read_many([CODEC_AT]))
    except ValueError as error:
        codec = None
        if not any(finding.name == CODEC_AT for finding in found):
            found.append(Finding(CODEC_AT, "flipped", None, str(error)))
    for part in parts:
        expected |= {part.record_name, *part.object_names}
        _verify_part(report, part, codec, sealed, sizes, advance)
    found.extend(Finding(name, "unexpected") for name in sizes if name not in expected)
    return report


def _verify_part(
    report: Report, part: Part, codec: str | None, sealed: Mapping[str, Any], sizes: Mapping[str, int], advance: Advance
) -> None:
    folder, identity = report.folder, report.identity
    assert identity is not None  # without one there are no parts
    if part.record_name not in sizes:
        if report.sealed:
            report.findings.append(Finding(part.record_name, "missing", part.index))
        return
    data = folder.read(part.record_name)
    try:
        record = check_record(data, part, fingerprint(identity), codec)
    except ValueError as error:
        report.findings.append(Finding(part.record_name, _how_bad(data, sealed.get(part.record_name)), part.index))
        # A sound record of something else is neither torn nor flipped.
        if "another" in str(error):  # part, store or codec
            report.findings[-1] = Finding(part.record_name, "stale", part.index, str(error))
        return
    if sealed and sealed.get(part.record_name) != stated(data):
        detail = "a sound record, but not the one that was sealed"
        report.findings.append(Finding(part.record_name, "stale", part.index, detail))
    report.recorded += 1
    for name in part.object_names:
        report.findings.extend(_compare(folder, name, record["objects"][name], part.index, advance))


def _compare(
    folder: Folder, name: str, expected: Mapping[str, Any] | None, part: int | None, advance: Advance
) -> list[Finding]:
    """What is wrong with one file; nothing is known of it where `expected` is None."""
    try:
        data = folder.read(name)
    except FileNotFoundError:
        return [Finding(name, "missing", part)]
    except OSError as error:
        return [Finding(name, "torn", part, f"cannot be read: {error}")]
    advance(len(data))
    if expected is None:
        try:
            json.loads(data)
        except ValueError:
            return [Finding(name, _how_bad(data), part)]
        return []
    if stated(data) == expected:
        return []
    if len(data) != expected["bytes"]:
        return [Finding(name, "torn", part, f"{len(data):,} bytes, {expected['bytes']:,} were written")]
    return [Finding(name, "flipped", part, "as long as it was, with other content")]


def _how_bad(data: bytes, expected: Mapping[str, Any] | None = None) -> str:
    """Torn or flipped, for a small JSON file that disagrees with its own digest."""
    if expected is not None:
        return "flipped" if len(data) == expected["bytes"] else "torn"
    return "flipped" if data.endswith(b"}\n") else "torn"


TOLERANCES = {"fp32": 2e-3, "fp16": 1e-2, "bf16": 4e-2}
"""Largest difference of a row made again, as a share of the row's norm, by the arithmetic it was made in.

Rows are kept in float16, batches differ, and another machine may multiply in another order; other
weights, another layer or another way of cutting give differences of the order of the row itself.
"""


@dataclass(frozen=True)
class Recomputed:
    """Rows made again, beside the kept ones.

    Attributes
    ----------
    rows : indices that were compared
    difference : float ndarray (n,), norm of the difference over the norm of the kept row; differences within
        the rounding of codes count as none
    equal : how many rows are the same bit for bit
    precision_then, precision_now : arithmetic of the store, and of this comparison
    """

    rows: np.ndarray
    difference: np.ndarray
    equal: int
    precision_then: str
    precision_now: str

    @property
    def tolerance(self) -> float:
        return max(TOLERANCES[name.split("-")[1]] for name in (self.precision_then, self.precision_now))

    def __str__(self) -> str:
        kept = "" if self.precision_now == self.precision_then else f" (kept: {self.precision_then})"
        return (
            f"{len(self.rows)} rows made again in {self.precision_now}{kept}: {self.equal} equal bit for bit, "
            f"largest difference {self.difference.max():.2g} of the row's norm, tolerance {self.tolerance:g}"
        )

    @property
    def bad_rows(self) -> np.ndarray:
        return self.rows[~(self.difference <= self.tolerance)]


def recompute_rows(
    store: Store,
    table: PatchTable,
    picture_paths: Mapping[str, Path],
    runner: TrunkRunner,
    n_rows: int,
    seed: int = 0,
    advance: Advance = lambda n: None,
    held: np.ndarray | None = None,
) -> Recomputed:
    """Send sampled rows through the trunk again and compare them with what the store holds.

    Parameters
    ----------
    n_rows : rows to sample, without replacement; all rows if there are fewer
    runner : the store's trunk, on any device and in any arithmetic
    held : int64 ndarray, rising: rows of the table that the store holds; None for all
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(store.n_rows, min(n_rows, store.n_rows), replace=False))
    kept = store.read_rows(rows).astype(np.float32)
    in_table = rows if held is None else held[rows]
    batch = min(store.identity["how.batch"], len(rows))
    again = compute_rows(plan_rows(table, picture_paths, in_table), runner, batch, StageClock(), advance)
    again = again.astype(np.float32)
    norm = np.maximum(np.linalg.norm(kept, axis=1), np.finfo(np.float16).tiny)
    rounding = np.empty_like(kept)
    for part in store.parts:
        rounding[(rows >= part.start) & (rows < part.stop)] = store.rounding(part)
    difference = np.linalg.norm(np.maximum(np.abs(again - kept) - rounding, 0), axis=1) / norm
    equal = int((again == kept).all(axis=1).sum())
    return Recomputed(rows, difference, equal, store.identity["how.precision"], runner.precision_name)
