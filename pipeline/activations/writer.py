"""Writing a store: its identity first, each part with its record, the seal last."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.activations import SEAL
from pipeline.activations.folder import Folder, open_folder
from pipeline.activations.identity import Identity, explain_differences, fingerprint
from pipeline.activations.layout import (
    Part,
    arrays_of,
    codec_of,
    encode_part,
    make_metadata,
    make_record,
    make_seal,
    metadata_names,
    parts_of,
)
from pipeline.activations.settings import Codec
from pipeline.activations.store import MEND, check_record, read_identity
from pipeline.io.checksummed import checksummed_json, read_checksummed_json
from pipeline.io.errors import StoreError


def create_store(
    place: str | Path | Folder,
    identity: Identity,
    picture_ids: tuple[str, ...],
    made_from: Mapping[str, str],
    codec: Codec = "small",
) -> None:
    """Create an empty store with its identity, or check that the one there has the same.

    Parameters
    ----------
    made_from : names of dataset, split and trunk, for people; no part of the identity
    codec : of a new store; one that is there keeps its own

    Raises
    ------
    StoreError
        Something else is there; the message names the fields that differ.
    """
    folder = open_folder(place)
    names = metadata_names(arrays_of(identity))
    there = folder.read_many(names)
    if len(there) < len(names):
        codec = _recorded_codec(folder, identity) or codec
        for name, data in make_metadata(identity, picture_ids, made_from, codec).items():
            # What is there stays: whether it is the same is seen below, and by the seal.
            if name not in there:
                folder.create(name, data)
    stated_identity = read_identity(folder)
    if stated_identity != identity:
        raise StoreError(
            f"{folder}: holds other activations than were asked for\n{explain_differences(stated_identity, identity)}\n"
            f"remove it, or ask for what it holds"
        )


def _recorded_codec(folder: Folder, identity: Identity) -> Codec | None:
    """The codec of the parts that are there, for a store that lost its metadata; None for a new store."""
    # A new store has none, which one listing says: asking for each would be as many requests as it will have parts.
    there = folder.sizes()
    for part in parts_of(identity):
        if part.record_name in there:
            with contextlib.suppress(ValueError):
                return read_checksummed_json(folder.read(part.record_name)).get("codec", "zstd")
    return None


class StoreWriter:
    """Writes parts of one store. Several writers, also in several processes, may share a store.

    Parameters
    ----------
    place : of a store made by `create_store`

    Raises
    ------
    StoreError
        Not a store, or its metadata are damaged.
    """

    def __init__(self, place: str | Path | Folder) -> None:
        self.folder = open_folder(place)
        self.identity = read_identity(self.folder)
        self.fingerprint = fingerprint(self.identity)
        self.parts = parts_of(self.identity)
        self._metadata = self.folder.read_many(metadata_names(arrays_of(self.identity)))
        try:
            self.codec = codec_of(self._metadata)
        except ValueError as error:
            raise StoreError(f"{self.folder}: damaged: {error}; {MEND}") from error

    def is_recorded(self, part: Part) -> bool:
        """Whether a part is there, by a sound record."""
        try:
            check_record(self.folder.read(part.record_name), part, self.fingerprint, self.codec)
        except (OSError, ValueError):
            return False
        return True

    def missing(self) -> list[Part]:
        """Parts without a sound record: what is left to do."""
        found = self.folder.read_many(part.record_name for part in self.parts)
        missing = []
        for part in self.parts:
            try:
                check_record(found.get(part.record_name, b""), part, self.fingerprint, self.codec)
            except ValueError:
                missing.append(part)
        return missing

    @property
    def sealed(self) -> bool:
        return self.folder.exists(SEAL)

    def write_part(self, part: Part, columns: Mapping[str, np.ndarray]) -> None:
        """Write all objects of a part, then its record.

        Parameters
        ----------
        columns : ``activations`` (n, width) float16, finite; ``picture``, ``box_xyxy``, ``scale``
        """
        objects = encode_part(self._metadata, part, columns)
        for name, data in objects.items():
            self.folder.write(name, data)
        self.folder.write(part.record_name, checksummed_json(make_record(part, self.fingerprint, objects, self.codec)))

    def seal(self) -> None:
        """Write the seal; every part must have its record.

        Raises
        ------
        StoreError
        """
        missing = self.missing()
        if missing:
            raise StoreError(f"{self.folder}: {len(missing)} parts have no record, it cannot be sealed")
        records = self.folder.read_many(part.record_name for part in self.parts)
        metadata = self.folder.read_many(self._metadata)
        self.folder.write(SEAL, checksummed_json(make_seal(self.identity, records, metadata)))
