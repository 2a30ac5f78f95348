"""Verify a store: every file against record and seal, and sampled rows against the trunk itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.activations import SEAL
from pipeline.activations.arrays import metadata_names
from pipeline.activations.codec import CODEC_AT, codec_of
from pipeline.activations.compute import compute_layers
from pipeline.activations.folder import Folder
from pipeline.activations.identity import FORMAT, Identity, fingerprint
from pipeline.activations.partition import Part, arrays_of, parts_of
from pipeline.activations.records import FileDigest, ForeignRecordError, Seal, check_record, describe_bytes
from pipeline.activations.row_plan import plan_rows
from pipeline.activations.run_log import StageClock
from pipeline.activations.store import Store, read_attributes
from pipeline.io.errors import StoreError, StoreNotFoundError
from pipeline.io.picture_file import PictureFile
from pipeline.patches.table import PatchTable
from pipeline.trunk.runner import TrunkRunner

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Damage:
    """One file that differs from what was written.

    Attributes
    ----------
    name : relative to the store
    kind : ``missing``, ``torn`` (shorter or longer than written), ``flipped`` (of the written length, with other
        content), ``stale`` (sound, but not the sealed one), ``unexpected`` (no file of a store)
    part : index of the part that it belongs to, or None
    """

    name: str
    kind: str
    part: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


@dataclass
class VerifyReport:
    """The result of `verify_store`.

    Attributes
    ----------
    identity : None if the stored one is damaged
    parts, recorded : number of parts, and of those with a sound record; parts is 0 without an identity
    """

    folder: Folder
    identity: Identity | None = None
    sealed: bool = False
    parts: int = 0
    recorded: int = 0
    bytes: int = 0
    findings: list[Damage] = field(default_factory=list)

    @property
    def bad_parts(self) -> list[int]:
        return sorted({damage.part for damage in self.findings if damage.part is not None})

    @property
    def state(self) -> str:
        if self.findings:
            return "damaged"
        return "sealed" if self.sealed else f"incomplete, {self.recorded} of {self.parts} parts"


def verify_store(folder: Folder, advance: Advance = lambda n: None) -> VerifyReport:
    """Read every byte of a store and compare it with record and seal.

    Parameters
    ----------
    advance : called with the number of bytes after each file

    Raises
    ------
    StoreNotFoundError
        The folder holds no file.
    """
    sizes = folder.sizes()
    if not sizes:
        raise StoreNotFoundError(f"{folder}: no such store; list all stores with: pipeline cache ls")
    return _Verification(folder, sizes, advance).run()


class _Verification:
    """One pass over the files of a store."""

    def __init__(self, folder: Folder, sizes: Mapping[str, int], advance: Advance) -> None:
        self.folder, self.sizes, self.advance = folder, sizes, advance
        self.report = VerifyReport(folder, sealed=SEAL in sizes, bytes=sum(sizes.values()))
        self.sealed: Mapping[str, FileDigest] = {}

    def run(self) -> VerifyReport:
        seal = self._read_seal() if self.report.sealed else None
        identity, parts = self._read_identity()
        if identity is None:
            return self.report
        if seal is not None and seal.fingerprint != fingerprint(identity):
            self._add(SEAL, "stale", detail="the seal of another store")
        if identity.format != FORMAT:
            detail = f"format {identity.format}, this version makes {FORMAT}"
            self._add("zarr.json", "stale", detail=detail)
        codec = self._read_codec()
        expected = {SEAL, *_metadata_of(identity)}
        for part in parts:
            expected |= {part.record_name, *part.object_names}
            self._verify_part(part, identity, codec)
        for name in self.sizes:
            if name not in expected:
                self._add(name, "unexpected")
        return self.report

    def _add(self, name: str, kind: str, part: int | None = None, detail: str = "") -> None:
        self.report.findings.append(Damage(name, kind, part, detail))

    def _is_damaged(self, name: str) -> bool:
        return any(damage.name == name for damage in self.report.findings)

    def _read_seal(self) -> Seal | None:
        data = self.folder.read(SEAL)
        self.advance(len(data))
        try:
            seal = Seal.from_bytes(data)
        except ValueError:
            self._add(SEAL, _classify_json(data))
            return None
        self.sealed = seal.files
        return seal

    def _read_identity(self) -> tuple[Identity | None, list[Part]]:
        """Verify all metadata, and return the identity and its parts; None and no parts if it is damaged."""
        identity, parts, metadata = None, [], metadata_names()
        try:
            identity = read_attributes(self.folder).identity
            parts, metadata = parts_of(identity), _metadata_of(identity)
        except (StoreError, KeyError, TypeError, ValueError):
            pass
        for name in metadata:
            self._compare(name, self.sealed.get(name))
        if identity is None:
            if not self._is_damaged("zarr.json"):
                self._add("zarr.json", "flipped", detail="its identity disagrees with its fingerprint")
        else:
            self.report.identity, self.report.parts = identity, len(parts)
        return identity, parts

    def _read_codec(self) -> str | None:
        try:
            return codec_of(self.folder.read_many([CODEC_AT]))
        except ValueError as error:
            if not self._is_damaged(CODEC_AT):
                self._add(CODEC_AT, "flipped", detail=str(error))
            return None

    def _verify_part(self, part: Part, identity: Identity, codec: str | None) -> None:
        name = part.record_name
        if name not in self.sizes:
            if self.report.sealed:
                self._add(name, "missing", part.index)
            return
        data = self.folder.read(name)
        try:
            record = check_record(data, part, fingerprint(identity), codec)
        except ForeignRecordError as error:
            # A sound record of another part, store or codec is neither torn nor flipped.
            self._add(name, "stale", part.index, str(error))
            return
        except ValueError:
            self._add(name, _classify_json(data, self.sealed.get(name)), part.index)
            return
        if self.sealed and self.sealed.get(name) != describe_bytes(data):
            self._add(name, "stale", part.index, "a sound record, but not the sealed one")
        self.report.recorded += 1
        for object_name in part.object_names:
            self._compare(object_name, record.objects[object_name], part.index)

    def _compare(self, name: str, expected: FileDigest | None, part: int | None = None) -> None:
        """Compare one file with its digest; if that is None, check only that it is JSON."""
        try:
            data = self.folder.read(name)
        except FileNotFoundError:
            self._add(name, "missing", part)
            return
        except OSError as error:
            self._add(name, "torn", part, f"cannot be read: {error}")
            return
        self.advance(len(data))
        if expected is None:
            try:
                json.loads(data)
            except ValueError:
                self._add(name, _classify_json(data), part)
        elif len(data) != expected.n_bytes:
            self._add(name, "torn", part, f"{len(data):,} bytes, {expected.n_bytes:,} were written")
        elif describe_bytes(data) != expected:
            self._add(name, "flipped", part, "of the written length, with other content")


def _metadata_of(identity: Identity) -> tuple[str, ...]:
    return metadata_names(arrays_of(identity))


def _classify_json(data: bytes, expected: FileDigest | None = None) -> str:
    """Return ``torn`` or ``flipped`` for a small JSON file that disagrees with its own digest."""
    if expected is not None:
        return "flipped" if len(data) == expected.n_bytes else "torn"
    return "flipped" if data.endswith(b"}\n") else "torn"


TOLERANCES = {"fp32": 2e-3, "fp16": 1e-2, "bf16": 4e-2}
"""Largest difference of a recomputed row, as a share of the row's norm, by the arithmetic of the computation.

Rows are stored in float16, batches differ, and another machine may multiply in another order. Other weights, another
layer or another way of cutting give differences of the order of the row itself.
"""


@dataclass(frozen=True)
class Recomputed:
    """Recomputed rows, compared with the stored ones.

    Attributes
    ----------
    rows : indices of the compared rows
    difference : float ndarray (n,), norm of the difference over the norm of the stored row; differences within
        the rounding of codes count as none
    equal : number of rows that are equal bit for bit
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
        stored = "" if self.precision_now == self.precision_then else f" (stored: {self.precision_then})"
        return (
            f"{len(self.rows)} rows recomputed in {self.precision_now}{stored}: {self.equal} equal bit for bit, "
            f"largest difference {self.difference.max():.2g} of the row's norm, tolerance {self.tolerance:g}"
        )

    @property
    def bad_rows(self) -> np.ndarray:
        return self.rows[~(self.difference <= self.tolerance)]


def recompute_rows(
    store: Store,
    table: PatchTable,
    picture_paths: Mapping[str, PictureFile],
    runner: TrunkRunner,
    n_rows: int,
    seed: int = 0,
    advance: Advance = lambda n: None,
    stored_rows: np.ndarray | None = None,
) -> Recomputed:
    """Run the trunk again on sampled rows and compare the result with the store.

    Parameters
    ----------
    n_rows : rows to sample, without replacement; all rows if there are fewer
    runner : the store's trunk, on any device and in any arithmetic
    stored_rows : int64 ndarray, rising: rows of the table that the store holds; None for all
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(store.n_rows, min(n_rows, store.n_rows), replace=False))
    stored = store.read_rows(rows).astype(np.float32)
    in_table = rows if stored_rows is None else stored_rows[rows]
    batch = min(store.identity.batch, len(rows))
    plan = plan_rows(table, picture_paths, in_table)
    (recomputed,) = compute_layers(plan, runner, batch, StageClock(), advance=advance).values()
    recomputed = recomputed.astype(np.float32)
    norm = np.maximum(np.linalg.norm(stored, axis=1), np.finfo(np.float16).tiny)
    rounding = np.empty_like(stored)
    for part in store.parts:
        rounding[(rows >= part.start) & (rows < part.stop)] = store.rounding(part)
    difference = np.linalg.norm(np.maximum(np.abs(recomputed - stored) - rounding, 0), axis=1) / norm
    equal = int((recomputed == stored).all(axis=1).sum())
    return Recomputed(rows, difference, equal, store.identity.precision, runner.precision_name)
