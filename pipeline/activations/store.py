"""The store: one zarr v3 group a fingerprint, written part by part, sealed last.

Life of a store: identity (exclusive create) -> the objects of a part, forced to disk -> the part's
record -> ... -> seal. A store without a seal is incomplete; parts without a record are made again.

Layout of the group::

    zarr.json                     attributes: identity, fingerprint, ids, classes
    activations/                  (row, <layer>_column) float16, one shard a part, fill value NaN
    picture/ box_xyxy/ scale/     geometry of each row, one chunk a part
    integrity/part-00000.json     record: rows of the part, digest of each of its objects
    integrity/seal.json           digests of all records and of every zarr.json
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from pipeline.activations.identity import Identity, explain_differences, fingerprint
from pipeline.errors import PipelineError, StoreError, enumerate_problems
from pipeline.files import fsync_path, read_json, sha256_file, write_json

ARRAYS = ("activations", "picture", "box_xyxy", "scale")
METADATA = ("zarr.json", *(f"{name}/zarr.json" for name in ARRAYS), "integrity/zarr.json")
INNER_CHUNK_ROWS = 1024
ROW_DTYPE = np.float16


def rows_a_part(width: int) -> int:
    """Rows of one shard: a power of two, near 64 MiB of float16.

    Small enough that an interruption costs seconds, large enough that a picture which straddles two
    parts, and is decoded for both, is rare.

    >>> rows_a_part(1024), rows_a_part(4096), rows_a_part(1512)
    (32768, 8192, 16384)
    """
    rows = 1024
    while rows * 2 * width * ROW_DTYPE().itemsize <= 64 * 2**20:
        rows *= 2
    return rows


@dataclass(frozen=True)
class Part:
    """A part: the range of rows of one shard, written by one task."""

    index: int
    start: int
    stop: int

    @property
    def record_name(self) -> str:
        return f"integrity/part-{self.index:05d}.json"

    @property
    def object_names(self) -> tuple[str, ...]:
        """Objects of this part, relative to the store."""
        i = self.index
        return (f"activations/c/{i}/0", f"picture/c/{i}", f"box_xyxy/c/{i}/0", f"scale/c/{i}")


def parts_of(n_rows: int, part_rows: int) -> list[Part]:
    """All parts of a store, in order."""
    return [
        Part(index, start, min(start + part_rows, n_rows)) for index, start in enumerate(range(0, n_rows, part_rows))
    ]


def create_store(path: Path, identity: Identity, ids: tuple[str, ...], skipped: tuple[tuple[str, str], ...]) -> None:
    """Create an empty store with its identity, or check that the one there has the same.

    Raises
    ------
    StoreError
        Something else is at `path`; the message names the fields that differ.
    """
    if not path.exists():
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_metadata(partial, identity, ids, skipped)
            # Fails where another process was first: a rename never replaces a folder with content.
            os.rename(partial, path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        fsync_path(path.parent)
    there = read_identity(path)
    if there != identity:
        raise StoreError(
            f"{path}: holds other activations than were asked for\n{explain_differences(there, identity)}\n"
            f"remove the folder, or ask for what it holds"
        )


def _write_metadata(path: Path, identity: Identity, ids: tuple[str, ...], skipped: tuple[tuple[str, str], ...]) -> None:
    n_rows, width, rows = identity["seen.n_rows"], identity["how.width"], identity["how.part_rows"]
    layer = identity["how.layer"]
    group = zarr.open_group(
        str(path),
        mode="w-",
        attributes={
            "identity": identity,
            "fingerprint": fingerprint(identity),
            "picture_ids": list(ids),
            "skipped": [list(item) for item in skipped],
        },
    )
    codec = {"compressors": [ZstdCodec(level=1, checksum=True)]}
    group.create_array(
        "activations",
        shape=(n_rows, width),
        dtype=ROW_DTYPE,
        chunks=(min(INNER_CHUNK_ROWS, rows), width),
        shards=(rows, width),
        fill_value=float("nan"),
        dimension_names=["row", f"{layer}_column"],
        **codec,
    )
    group.create_array(
        "picture", shape=(n_rows,), dtype="int32", chunks=(rows,), fill_value=-1, dimension_names=["row"], **codec
    )
    group.create_array(
        "box_xyxy",
        shape=(n_rows, 4),
        dtype="float32",
        chunks=(rows, 4),
        fill_value=float("nan"),
        dimension_names=["row", "corner"],
        **codec,
    )
    group.create_array(
        "scale", shape=(n_rows,), dtype="uint8", chunks=(rows,), fill_value=255, dimension_names=["row"], **codec
    )
    # Records and seal live in a group of their own, so that zarr's listing of the store stays clean.
    group.create_group("integrity")
    for name in METADATA:
        fsync_path(path / name)


def read_identity(path: Path) -> Identity:
    """The identity that a store states, checked against the fingerprint beside it."""
    metadata = path / "zarr.json"
    try:
        attributes = read_json(metadata)["attributes"]
        identity, stated = attributes["identity"], attributes["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: not a store: {metadata.name} cannot be read ({error!r})") from error
    if fingerprint(identity) != stated:
        raise StoreError(f"{path}: the identity disagrees with its fingerprint: zarr.json was changed")
    return identity


class StoreWriter:
    """Writes parts of one store. Several writers, also in several processes, may share a store.

    Parameters
    ----------
    path : a store made by `create_store`
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity = read_identity(path)
        self.parts = parts_of(self.identity["seen.n_rows"], self.identity["how.part_rows"])
        self._group = zarr.open_group(str(path), mode="r+")
        self._arrays = {name: self._group[name].with_config({"write_empty_chunks": True}) for name in ARRAYS}

    def is_recorded(self, part: Part) -> bool:
        return (self.path / part.record_name).is_file()

    def missing(self) -> list[Part]:
        """Parts without a record: what is left to do."""
        return [part for part in self.parts if not self.is_recorded(part)]

    @property
    def sealed(self) -> bool:
        return (self.path / "integrity/seal.json").is_file()

    def write_part(self, part: Part, columns: dict[str, np.ndarray]) -> None:
        """Write all arrays of a part, force them to disk, then write its record.

        Parameters
        ----------
        columns : ``activations`` (n, width) float16, finite; ``picture``, ``box_xyxy``, ``scale``
        """
        n_rows = part.stop - part.start
        for name, values in columns.items():
            if len(values) != n_rows:
                raise ValueError(f"{name}: {len(values)} rows, expected {n_rows} in part {part.index}")
        try:
            for name in ARRAYS:
                self._arrays[name][part.start : part.stop] = columns[name]
            objects = {}
            for name in part.object_names:
                fsync_path(self.path / name)
                fsync_path((self.path / name).parent)
                objects[name] = {
                    "sha256": sha256_file(self.path / name),
                    "bytes": (self.path / name).stat().st_size,
                }
            write_json(
                self.path / part.record_name,
                {"part": part.index, "rows": [part.start, part.stop], "objects": objects},
            )
        except OSError as error:
            raise disk_trouble(error, self.path) from error

    def seal(self) -> None:
        """Write the seal; every part must have its record."""
        missing = self.missing()
        if missing:
            raise StoreError(f"{self.path}: {len(missing)} parts have no record, it cannot be sealed")
        write_json(self.path / "integrity/seal.json", seal_content(self.path, self.parts, self.identity))


def seal_content(path: Path, parts: list[Part], identity: Identity) -> dict[str, Any]:
    """What the seal of a store must say, from the files as they are."""
    return {
        "fingerprint": fingerprint(identity),
        "rows": identity["seen.n_rows"],
        "parts": len(parts),
        "records": {part.record_name: sha256_file(path / part.record_name) for part in parts},
        "metadata": {name: sha256_file(path / name) for name in METADATA},
    }


def disk_trouble(error: OSError, path: Path) -> PipelineError:
    """An `OSError` while writing, in the words of a user who can mend it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path if path.exists() else path.parent).free
        return PipelineError(
            f"{path}: the disk is full ({free / 2**30:.1f} GiB free); what is recorded is kept: "
            "free some space and start the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PipelineError(f"{path}: cannot be written: {error.strerror}; check the folder's rights")
    return PipelineError(f"{path}: {error.strerror or error}; start the same command again to go on")


class Store:
    """A sealed store, for reading. Everything read is checked.

    Parameters
    ----------
    path : the zarr group
    expected : fields of the identity that it must have; others may be what they are

    Raises
    ------
    StoreError
        Not a store, not sealed (the message says how much is missing), damaged, or another one than
        `expected` (the message names the fields that differ).
    """

    def __init__(self, path: Path, expected: Identity | None = None) -> None:
        if not path.is_dir():
            raise StoreError(f"{path}: no such store; make it with: pipeline extract")
        self.path = path
        self.identity = read_identity(path)
        self.fingerprint = fingerprint(self.identity)
        if expected is not None:
            got = {key: self.identity.get(key) for key in expected}
            if got != expected:
                raise StoreError(
                    f"{path}: holds other activations than are needed\n{explain_differences(got, expected)}\n"
                    "extract what is needed with: pipeline extract"
                )
        self.parts = parts_of(self.identity["seen.n_rows"], self.identity["how.part_rows"])
        self._check_seal()
        attributes = read_json(path / "zarr.json")["attributes"]
        self.picture_ids: tuple[str, ...] = tuple(attributes["picture_ids"])
        self.skipped: list[list[str]] = attributes["skipped"]
        self._group = zarr.open_group(str(path), mode="r")
        self._checked: set[str] = set()

    @property
    def n_rows(self) -> int:
        return self.identity["seen.n_rows"]

    @property
    def width(self) -> int:
        return self.identity["how.width"]

    @property
    def n_bytes(self) -> int:
        """Bytes of all objects of all parts, as recorded."""
        return sum(item["bytes"] for record in self._records for item in record["objects"].values())

    def _check_seal(self) -> None:
        seal_path = self.path / "integrity/seal.json"
        if not seal_path.is_file():
            missing = [p for p in self.parts if not (self.path / p.record_name).is_file()]
            raise StoreError(
                f"{self.path}: not complete: {len(missing)} of {len(self.parts)} parts are missing"
                + (f" (first: {missing[0].index})" if missing else ", and the seal")
                + "; go on with the same: pipeline extract"
            )
        try:
            seal = read_json(seal_path)
            real = seal_content(self.path, self.parts, self.identity)
            problems = [
                f"{key}: disagrees with the seal" for key in ("fingerprint", "rows", "parts") if seal[key] != real[key]
            ]
            for group in ("metadata", "records"):
                for name, digest in real[group].items():
                    if seal[group].get(name) != digest:
                        problems.append(f"{name}: changed since it was sealed")
            self._records = [read_json(self.path / part.record_name) for part in self.parts]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            # The repr of an OSError lacks the file's name, the text of a KeyError lacks that it is one.
            reason = str(error) if isinstance(error, OSError) else repr(error)
            raise StoreError(f"{self.path}: damaged: {reason}; {MEND}") from error
        if problems:
            raise StoreError(f"{self.path}: damaged\n{enumerate_problems(problems)}\n{MEND}")

    def _read(self, name: str, part: Part) -> np.ndarray:
        """One part of one array, its object's digest checked the first time it is read."""
        object_name = part.object_names[ARRAYS.index(name)]
        if object_name not in self._checked:
            recorded = self._records[part.index]["objects"][object_name]
            try:
                digest = sha256_file(self.path / object_name)
            except OSError as error:
                raise StoreError(f"{self.path}: {object_name} is missing; {MEND}") from error
            if digest != recorded["sha256"]:
                raise StoreError(f"{self.path}: {object_name} changed since it was written; {MEND}")
            self._checked.add(object_name)
        return self._group[name][part.start : part.stop]

    def read_part(self, part: Part) -> np.ndarray:
        """Activations of one part: float16 ndarray of shape (rows of the part, width), finite."""
        values = self._read("activations", part)
        # Reinterpreted as integers this is several times faster than isfinite on float16.
        if (values.view(np.uint16) & 0x7C00 == 0x7C00).any():
            raise StoreError(f"{self.path}: part {part.index} holds values that are not finite; {MEND}")
        return values

    def read_geometry(self, name: str) -> np.ndarray:
        """``picture`` (n_rows,), ``box_xyxy`` (n_rows, 4) or ``scale`` (n_rows,) of all rows."""
        return np.concatenate([self._read(name, part) for part in self.parts])

    def iter_parts(self) -> Iterator[tuple[Part, np.ndarray]]:
        """All parts in order, one in memory at a time."""
        for part in self.parts:
            yield part, self.read_part(part)

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """Chosen rows, in rising order, from one pass over the parts that hold any.

        Parameters
        ----------
        rows : int ndarray of shape (n,), rising

        Returns
        -------
        float16 ndarray of shape (n, width)
        """
        out = np.empty((len(rows), self.width), ROW_DTYPE)
        for part in self.parts:
            first, last = np.searchsorted(rows, [part.start, part.stop])
            if first < last:
                out[first:last] = self.read_part(part)[rows[first:last] - part.start]
        return out


MEND = "remove the store's folder and make it again with: pipeline extract"
