"""The store: one zarr v3 group a fingerprint, written part by part, sealed last, checked as it is read.

Life of a store: metadata with the identity (the group's own last) -> the objects of a part -> the
part's record -> ... -> seal. A store without a seal is incomplete; parts without a record are made
again. Files are written and read here, each whole, and zarr codes what is in them: so the bytes that
were checked are the bytes that are used, on every kind of folder.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations import SEAL
from pipeline.activations.folder import Folder, open_folder
from pipeline.activations.identity import Identity, explain_differences, fingerprint
from pipeline.activations.layout import (
    ROW_DTYPE,
    Part,
    arrays_of,
    codec_of,
    decode_object,
    make_seal,
    metadata_names,
    parts_of,
    restore,
    stated,
)
from pipeline.io.checksummed import read_checksummed_json
from pipeline.io.errors import StoreError
from pipeline.io.messages import enumerate_problems

PARTS_AHEAD = 2
"""Parts that are read at once, and wait in memory while another one is used."""
FINITE_BLOCK_ROWS = 128
MEND = "see what is wrong with: pipeline cache verify, and mend it with: pipeline cache repair"


def read_attributes(folder: Folder) -> dict[str, Any]:
    """Attributes of a store's group, its identity checked against the fingerprint beside it.

    Raises
    ------
    StoreError
    """
    try:
        attributes = json.loads(folder.read("zarr.json"))["attributes"]
        identity, stated_fingerprint = attributes["identity"], attributes["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}: not a store: zarr.json cannot be read ({error!r}); {MEND}") from error
    if fingerprint(identity) != stated_fingerprint:
        raise StoreError(f"{folder}: the identity disagrees with its fingerprint: zarr.json was changed; {MEND}")
    return attributes


def read_identity(folder: Folder) -> Identity:
    """The identity that a store states."""
    return read_attributes(folder)["identity"]


def check_record(data: bytes, part: Part, store_fingerprint: str, codec: str | None = None) -> dict[str, Any]:
    """The record of a part.

    Parameters
    ----------
    codec : of the store; None where its metadata cannot say

    Raises
    ------
    ValueError
        It was changed, is another part's or another store's, or says another codec.
    """
    record = read_checksummed_json(data)
    expected = (store_fingerprint, part.index, [part.start, part.stop], set(part.object_names))
    got = (record.get("fingerprint"), record.get("part"), record.get("rows"), set(record.get("objects", ())))
    if got != expected:
        raise ValueError("is the record of another part or store")
    if codec is not None and record.get("codec", "zstd") != codec:
        raise ValueError(f"is of another codec than the store's, {codec}")
    return record


def all_finite(values: np.ndarray) -> bool:
    """Whether float16 values are neither infinite nor NaN.

    Several times as fast as `numpy.isfinite`: as integers, and a block at a time, so that no copy leaves the cache.
    """
    bits = values.view(np.uint16)
    blocks = range(0, len(bits), FINITE_BLOCK_ROWS)
    return not any((bits[start : start + FINITE_BLOCK_ROWS] & 0x7C00 == 0x7C00).any() for start in blocks)


class Store:
    """A sealed store, for reading. Everything read is checked.

    Parameters
    ----------
    place : path or URL of the zarr group, or its folder
    expected : fields of the identity that it must have; others may be what they are

    Raises
    ------
    StoreError
        Not a store, not sealed (the message says how much is missing), damaged, or another one than
        `expected` (the message names the fields that differ).
    """

    def __init__(self, place: str | Path | Folder, expected: Identity | None = None) -> None:
        self.folder = open_folder(place)
        if not self.folder.exists("zarr.json") and not self.folder.sizes():
            raise StoreError(f"{self.folder}: no such store; make it with: pipeline extract")
        attributes = read_attributes(self.folder)
        self.identity: Identity = attributes["identity"]
        self.fingerprint = fingerprint(self.identity)
        if expected is not None:
            got = {key: self.identity.get(key) for key in expected}
            if got != expected:
                raise StoreError(
                    f"{self.folder}: holds other activations than are needed\n{explain_differences(got, expected)}\n"
                    "extract what is needed with: pipeline extract"
                )
        self.parts = parts_of(self.identity)
        self._metadata = self.folder.read_many(metadata_names(arrays_of(self.identity)))
        self._records = self._check_seal()
        self.picture_ids: tuple[str, ...] = tuple(attributes["picture_ids"])

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

    def _check_seal(self) -> list[dict[str, Any]]:
        """Records of all parts, which agree with the seal, as all metadata does."""
        records = self.folder.read_many(part.record_name for part in self.parts)
        if not self.folder.exists(SEAL):
            missing = [part.index for part in self.parts if part.record_name not in records]
            raise StoreError(
                f"{self.folder}: not complete: {len(missing)} of {len(self.parts)} parts are missing"
                + (f" (first: {missing[0]})" if missing else ", and the seal")
                + "; go on with the same: pipeline extract"
            )
        try:
            seal = read_checksummed_json(self.folder.read(SEAL))
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.folder}: damaged: {SEAL} {error}; {MEND}") from error
        problems = []
        sealed = {**seal.get("metadata", {}), **seal.get("records", {})}
        names = metadata_names(arrays_of(self.identity))
        for name in (*names, *(part.record_name for part in self.parts)):
            data = self._metadata.get(name, records.get(name))
            if data is None:
                problems.append(f"{name}: missing")
            elif stated(data) != sealed.get(name):
                problems.append(f"{name}: changed since it was sealed")
        if not problems and seal != make_seal(self.identity, records, self._metadata):
            problems.append(f"{SEAL}: is the seal of another store")
        if problems:
            raise StoreError(f"{self.folder}: damaged\n{enumerate_problems(problems)}\n{MEND}")
        try:
            codec = codec_of(self._metadata)
            return [check_record(records[part.record_name], part, self.fingerprint, codec) for part in self.parts]
        except ValueError as error:
            raise StoreError(f"{self.folder}: damaged: a record {error}; {MEND}") from error

    def read_object(self, name: str, part: Part) -> np.ndarray:
        """One part of one array; the object's digest is that of the bytes that are decoded."""
        object_name = part.object_name(name)
        try:
            data = self.folder.read(object_name)
        except OSError as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
            raise StoreError(f"{self.folder}: {object_name} {reason}; {MEND}") from error
        if stated(data) != self._records[part.index]["objects"][object_name]:
            raise StoreError(f"{self.folder}: {object_name} changed since it was written; {MEND}")
        return decode_object(name, self._metadata[f"{name}/zarr.json"], part, data)

    def read_part(self, part: Part) -> np.ndarray:
        """Activations of one part: float16 ndarray of shape (rows of the part, width), finite."""
        values = self.read_object("activations", part)
        if "column_range" in part.arrays:
            values = restore(values, self.read_object("column_range", part)[0])
        if not all_finite(values):
            raise StoreError(f"{self.folder}: part {part.index} holds values that are not finite; {MEND}")
        return values

    def rounding(self, part: Part) -> np.ndarray:
        """How far a value of each column may be from what the trunk gave, beyond float16: float32 ndarray (width,).

        Half a step of the codes, and 0 where rows are kept as they are.
        """
        if "column_range" not in part.arrays:
            return np.zeros(self.width, np.float32)
        return self.read_object("column_range", part)[0, 1] / 2

    def read_geometry(self, name: str) -> np.ndarray:
        """``picture`` (n_rows,), ``box_xyxy`` (n_rows, 4) or ``scale`` (n_rows,) of all rows."""
        return np.concatenate([self.read_object(name, part) for part in self.parts])

    def iter_parts(self, parts: Iterable[Part] | None = None) -> Iterator[tuple[Part, np.ndarray]]:
        """Activations of all parts, or of some, in order; the next ones are read while the caller works on one."""
        with ThreadPoolExecutor(PARTS_AHEAD) as pool:
            waiting: deque[tuple[Part, Future[np.ndarray]]] = deque()
            for part in self.parts if parts is None else parts:
                waiting.append((part, pool.submit(self.read_part, part)))
                if len(waiting) > PARTS_AHEAD:
                    ready, values = waiting.popleft()
                    yield ready, values.result()
                    # Else its rows would stay in memory while the next ones come.
                    del values
            while waiting:
                ready, values = waiting.popleft()
                yield ready, values.result()

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
        places = {part: slice(*np.searchsorted(rows, [part.start, part.stop])) for part in self.parts}
        for part, values in self.iter_parts(part for part, place in places.items() if place.start < place.stop):
            out[places[part]] = values[rows[places[part]] - part.start]
        return out
