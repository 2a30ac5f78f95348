"""The store: one zarr v3 group per fingerprint, written part by part, sealed last, checked as it is read.

Life of a store: metadata with the identity (the group's own last) -> the objects of a part -> the part's record ->
... -> seal. A store without a seal is incomplete; parts without a record are extracted again. Files are read whole,
and zarr only decodes their content: the checked bytes are the decoded bytes, on every kind of folder.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activations import SEAL
from pipeline.activations.arrays import ROW_DTYPE, metadata_names
from pipeline.activations.codec import codec_of
from pipeline.activations.folder import Folder, open_folder
from pipeline.activations.identity import Identity, explain_differences, fingerprint
from pipeline.activations.layout import PictureFiles
from pipeline.activations.part_reader import REPAIR, PartReader
from pipeline.activations.partition import Part, arrays_of, parts_of
from pipeline.activations.records import PartRecord, Seal, check_record, describe_bytes, make_seal
from pipeline.io.errors import StoreDamagedError, StoreError, StoreIncompleteError, StoreNotFoundError
from pipeline.io.messages import enumerate_problems

PARTS_AHEAD = 2
"""Parts that are read ahead, and wait in memory while the caller uses another one."""


@dataclass(frozen=True)
class StoreAttributes:
    """Attributes of a store's group.

    Attributes
    ----------
    made_from : names of dataset, split and trunk
    picture_files : of the pictures; None in stores of versions that did not record them
    """

    identity: Identity
    picture_ids: tuple[str, ...]
    made_from: Mapping[str, str]
    picture_files: PictureFiles | None = None


def read_attributes(folder: Folder) -> StoreAttributes:
    """Read the attributes of a store's group, and check its identity against the fingerprint next to it.

    Raises
    ------
    StoreDamagedError
    """
    try:
        attributes = json.loads(folder.read("zarr.json"))["attributes"]
        identity, stated_fingerprint = Identity.from_dict(attributes["identity"]), attributes["fingerprint"]
        picture_ids, made_from = tuple(attributes["picture_ids"]), dict(attributes["made_from"])
        files = PictureFiles.from_dict(attributes.get("picture_files"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreDamagedError(f"{folder}: not a store: zarr.json cannot be read ({error!r}); {REPAIR}") from error
    if fingerprint(identity) != stated_fingerprint:
        raise StoreDamagedError(
            f"{folder}: the identity disagrees with its fingerprint: zarr.json was changed; {REPAIR}"
        )
    return StoreAttributes(identity, picture_ids, made_from, files)


class Store:
    """A sealed store, for reading. Everything that is read is checked.

    Parameters
    ----------
    place : path or URL of the zarr group, or its folder
    expected : fields that its identity must have; other fields may have any value

    Raises
    ------
    StoreNotFoundError
    StoreIncompleteError
        Not sealed; the message says how much is missing.
    StoreDamagedError
    StoreError
        Another store than `expected`; the message names the differing fields.
    """

    def __init__(self, place: str | Path | Folder, expected: Mapping[str, Any] | None = None) -> None:
        self.folder = open_folder(place)
        if not self.folder.exists("zarr.json") and not self.folder.sizes():
            raise StoreNotFoundError(f"{self.folder}: no such store; make it with: pipeline extract")
        attributes = read_attributes(self.folder)
        self.identity = attributes.identity
        self.fingerprint = fingerprint(self.identity)
        self._check_identity(expected or {})
        self.parts = parts_of(self.identity)
        self._metadata = self.folder.read_many(metadata_names(arrays_of(self.identity)))
        self._records = self._check_seal()
        self._reader = PartReader(self.folder, self.identity, self._metadata, dict(enumerate(self._records)))
        self.picture_ids = attributes.picture_ids
        self._held: dict[int, np.ndarray] = {}

    def _check_identity(self, expected: Mapping[str, Any]) -> None:
        stored = {key: self.identity.get(key) for key in expected}
        if stored != expected:
            raise StoreError(
                f"{self.folder}: holds other activations than are needed\n{explain_differences(stored, expected)}\n"
                "extract the needed ones with: pipeline extract"
            )

    @property
    def n_rows(self) -> int:
        return self.identity.n_rows

    @property
    def width(self) -> int:
        return self.identity.width

    @property
    def n_bytes(self) -> int:
        """Bytes of all objects of all parts, as recorded."""
        return sum(record.n_bytes for record in self._records)

    @property
    def bytes_ahead(self) -> int:
        """Most bytes that `iter_parts` and its caller hold at a time.

        Parts that are ahead, the one that is handed over, the one that the caller still has, and what is being decoded.
        """
        part = max((part.n_rows for part in self.parts), default=0) * self.width
        encoded = max((record.n_bytes for record in self._records), default=0)
        # Codes of 8 bits lie in memory beside the rows that they become.
        decoding = encoded + (part if self.identity.dtype == "8bit" else 0)
        n_ahead = min(PARTS_AHEAD, len(self.parts))
        return min(PARTS_AHEAD + 2, len(self.parts)) * part * np.dtype(ROW_DTYPE).itemsize + n_ahead * decoding

    def _check_seal(self) -> list[PartRecord]:
        """Read the records of all parts, and check that they and all metadata agree with the seal."""
        records = self.folder.read_many(part.record_name for part in self.parts)
        if not self.folder.exists(SEAL):
            missing = [part.index for part in self.parts if part.record_name not in records]
            raise StoreIncompleteError(
                f"{self.folder}: not complete: {len(missing)} of {len(self.parts)} parts are missing"
                + (f" (first: {missing[0]})" if missing else ", and the seal")
                + "; resume with the same: pipeline extract"
            )
        try:
            seal = Seal.from_bytes(self.folder.read(SEAL))
        except (OSError, ValueError) as error:
            raise StoreDamagedError(f"{self.folder}: damaged: {SEAL} {error}; {REPAIR}") from error
        self._compare_with_seal(seal, records)
        try:
            codec = codec_of(self._metadata)
            return [check_record(records[part.record_name], part, self.fingerprint, codec) for part in self.parts]
        except ValueError as error:
            raise StoreDamagedError(f"{self.folder}: damaged: a record {error}; {REPAIR}") from error

    def _compare_with_seal(self, seal: Seal, records: Mapping[str, bytes]) -> None:
        problems = []
        names = metadata_names(arrays_of(self.identity))
        for name in (*names, *(part.record_name for part in self.parts)):
            data = self._metadata.get(name, records.get(name))
            if data is None:
                problems.append(f"{name}: missing")
            elif describe_bytes(data) != seal.files.get(name):
                problems.append(f"{name}: changed since it was sealed")
        if not problems and seal != make_seal(self.identity, records, self._metadata):
            problems.append(f"{SEAL}: is the seal of another store")
        if problems:
            raise StoreDamagedError(f"{self.folder}: damaged\n{enumerate_problems(problems)}\n{REPAIR}")

    def read_object(self, name: str, part: Part) -> np.ndarray:
        """Read one part of one array; the digest is checked on the very bytes that are decoded.

        Raises
        ------
        StoreDamagedError
        """
        return self._reader.read_object(name, part)

    def read_part(self, part: Part) -> np.ndarray:
        """Read the activations of one part: float16 ndarray of shape (rows of the part, width), finite."""
        held = self._held.get(part.index)
        return self._reader.read_part(part) if held is None else held.copy()

    def hold(self, advance: Callable[[int], None] = lambda n_rows: None) -> None:
        """Read all rows, and keep them in memory: reading a part gives a copy from then on.

        Parameters
        ----------
        advance : called with numbers of rows as they are read
        """
        for part, rows in self.iter_parts():
            self._held[part.index] = rows
            advance(part.n_rows)

    def release(self) -> int:
        """Keep no rows in memory any more; return the bytes of those that were."""
        n_bytes = sum(rows.nbytes for rows in self._held.values())
        self._held = {}
        return n_bytes

    def rounding(self, part: Part) -> np.ndarray:
        """Return the largest error of each column's values beyond float16: float32 ndarray (width,).

        Half a step of the codes, and 0 if the store holds rows as they are.
        """
        if "column_range" not in part.arrays:
            return np.zeros(self.width, np.float32)
        return self.read_object("column_range", part)[0, 1] / 2

    def read_geometry(self, name: str) -> np.ndarray:
        """Read ``picture`` (n_rows,), ``box_xyxy`` (n_rows, 4) or ``scale`` (n_rows,) of all rows."""
        return np.concatenate([self.read_object(name, part) for part in self.parts])

    def iter_parts(self, parts: Iterable[Part] | None = None) -> Iterator[tuple[Part, np.ndarray]]:
        """Iterate over the activations of all or some parts in order; reads ahead while the caller works on one."""
        with ThreadPoolExecutor(PARTS_AHEAD) as pool:
            waiting: deque[tuple[Part, Future[np.ndarray]]] = deque()
            for part in self.parts if parts is None else parts:
                waiting.append((part, pool.submit(self.read_part, part)))
                if len(waiting) > PARTS_AHEAD:
                    ready, values = waiting.popleft()
                    yield ready, values.result()
                    # Otherwise its rows would stay in memory while the next ones are read.
                    del values
            while waiting:
                ready, values = waiting.popleft()
                yield ready, values.result()

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """Read chosen rows, in rising order, in one pass over the parts that hold any.

        Parameters
        ----------
        rows : int ndarray of shape (n,), rising

        Returns
        -------
        float16 ndarray of shape (n, width)
        """
        out = np.empty((len(rows), self.width), ROW_DTYPE)
        start = 0
        for block in self.iter_rows(rows):
            out[start : start + len(block)] = block
            start += len(block)
        return out

    def iter_rows(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Read chosen rows as `read_rows` does, part by part: float16 ndarrays (any, width)."""
        targets = {part: slice(*np.searchsorted(rows, [part.start, part.stop])) for part in self.parts}
        for part, values in self.iter_parts(part for part, target in targets.items() if target.start < target.stop):
            block = values[rows[targets[part]] - part.start]
            # Otherwise the part, and then the block, would stay in memory while the next ones are read.
            del values
            yield block
            del block
