"""Writing a store: its identity first, each part with its record, the seal last."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from pipeline.activations import SEAL
from pipeline.activations.arrays import metadata_names
from pipeline.activations.codec import codec_of
from pipeline.activations.folder import Folder, open_folder
from pipeline.activations.identity import Identity, explain_differences, fingerprint
from pipeline.activations.layout import PictureFiles, encode_part, make_metadata
from pipeline.activations.part_reader import REPAIR
from pipeline.activations.partition import Part, arrays_of, parts_of
from pipeline.activations.records import PartRecord, check_record, make_record, make_seal
from pipeline.activations.settings import Codec
from pipeline.activations.store import read_attributes
from pipeline.io.errors import StoreDamagedError, StoreError, StoreIncompleteError


def create_store(
    place: str | Path | Folder,
    identity: Mapping[str, Any],
    picture_ids: tuple[str, ...],
    made_from: Mapping[str, str],
    codec: Codec = "small",
    picture_files: PictureFiles | None = None,
) -> None:
    """Create an empty store with its identity, or check that an existing one has the same.

    Parameters
    ----------
    identity : an `Identity`, or its fields
    made_from : names of dataset, split and trunk, for people; no part of the identity
    codec : of a new store; an existing one keeps its own
    picture_files : of the pictures, so that other stores may take over rows

    Raises
    ------
    StoreError
        There is another store; the message names the differing fields.
    """
    folder, identity = open_folder(place), Identity.from_dict(identity)
    names = metadata_names(arrays_of(identity))
    existing = folder.read_many(names)
    if len(existing) < len(names):
        codec = _recorded_codec(folder, identity) or codec
        for name, data in make_metadata(identity, picture_ids, made_from, codec, picture_files).items():
            # An existing file stays: the comparison below, and the seal, show whether it is the same.
            if name not in existing:
                folder.create(name, data)
    stored_identity = read_attributes(folder).identity
    if stored_identity != identity:
        raise StoreError(
            f"{folder}: holds other activations than are needed\n{explain_differences(stored_identity, identity)}\n"
            f"remove it, or give the settings of the stored ones"
        )


def _recorded_codec(folder: Folder, identity: Identity) -> Codec | None:
    """Return the codec of the recorded parts, for a store that lost its metadata; None for a new store."""
    # One listing shows that a new store has no records: reading each would take one request per part.
    sizes = folder.sizes()
    for part in parts_of(identity):
        if part.record_name in sizes:
            with contextlib.suppress(ValueError):
                return cast(Codec, PartRecord.from_bytes(folder.read(part.record_name)).codec)
    return None


class StoreWriter:
    """Writes parts of one store. Several writers, also in several processes, may share a store.

    Parameters
    ----------
    place : of a store that `create_store` made

    Raises
    ------
    StoreDamagedError
        Not a store, or its metadata is damaged.
    """

    def __init__(self, place: str | Path | Folder) -> None:
        self.folder = open_folder(place)
        self.identity = read_attributes(self.folder).identity
        self.fingerprint = fingerprint(self.identity)
        self.parts = parts_of(self.identity)
        self._metadata = self.folder.read_many(metadata_names(arrays_of(self.identity)))
        try:
            self.codec = codec_of(self._metadata)
        except ValueError as error:
            raise StoreDamagedError(f"{self.folder}: damaged: {error}; {REPAIR}") from error

    def is_recorded(self, part: Part) -> bool:
        """Return whether a part has a sound record."""
        try:
            check_record(self.folder.read(part.record_name), part, self.fingerprint, self.codec)
        except (OSError, ValueError):
            return False
        return True

    def missing(self) -> list[Part]:
        """Return the parts without a sound record: those that are left to extract."""
        records = self.folder.read_many(part.record_name for part in self.parts)
        missing = []
        for part in self.parts:
            try:
                check_record(records.get(part.record_name, b""), part, self.fingerprint, self.codec)
            except ValueError:
                missing.append(part)
        return missing

    @property
    def sealed(self) -> bool:
        return self.folder.exists(SEAL)

    def write_part(
        self, part: Part, columns: Mapping[str, np.ndarray], encoded: Mapping[str, bytes] = MappingProxyType({})
    ) -> None:
        """Write all objects of a part, then its record.

        Parameters
        ----------
        columns : ``activations`` (n, width) float16, finite; ``picture``, ``box_xyxy``, ``scale``
        encoded : objects of other arrays that are encoded already, by the array's name

        Raises
        ------
        ValueError
            A column has another number of rows than the part.
        """
        objects = encode_part(self._metadata, part, columns, encoded)
        for name, data in objects.items():
            self.folder.write(name, data)
        self.folder.write(part.record_name, make_record(part, self.fingerprint, objects, self.codec).to_bytes())

    def seal(self) -> None:
        """Write the seal; every part must have its record.

        Raises
        ------
        StoreIncompleteError
        """
        missing = self.missing()
        if missing:
            raise StoreIncompleteError(f"{self.folder}: {len(missing)} parts have no record, it cannot be sealed")
        records = self.folder.read_many(part.record_name for part in self.parts)
        metadata = self.folder.read_many(self._metadata)
        self.folder.write(SEAL, make_seal(self.identity, records, metadata).to_bytes())
