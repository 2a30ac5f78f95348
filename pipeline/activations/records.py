"""Records of parts and the seal of a store: typed values with a checksummed JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.activations.identity import Identity, fingerprint
from pipeline.activations.partition import Part
from pipeline.activations.settings import UNNAMED_CODEC
from pipeline.io.checksummed import checksummed_json, read_checksummed_json
from pipeline.io.digests import sha256_bytes


class ForeignRecordError(ValueError):
    """A sound record that belongs elsewhere.

    Attributes
    ----------
    of : ``part or store``, or ``codec``: what differs from the expected record
    """

    def __init__(self, of: str, message: str) -> None:
        super().__init__(message)
        self.of = of


@dataclass(frozen=True)
class FileDigest:
    """Size and digest of a file, as records and seals state them."""

    n_bytes: int
    sha256: str

    @classmethod
    def from_dict(cls, value: Any) -> FileDigest:
        """Read the stored form.

        Raises
        ------
        ValueError
            It is malformed.
        """
        if not isinstance(value, dict) or set(value) != {"bytes", "sha256"}:
            raise ValueError("states no size and digest of a file")
        return cls(value["bytes"], value["sha256"])

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form."""
        return {"bytes": self.n_bytes, "sha256": self.sha256}


def describe_bytes(data: bytes) -> FileDigest:
    """Return the size and the digest of a file's content."""
    return FileDigest(len(data), sha256_bytes(data))


def _describe_files(files: Mapping[str, bytes]) -> dict[str, FileDigest]:
    return {name: describe_bytes(data) for name, data in sorted(files.items())}


def _read_digests(value: Any) -> dict[str, FileDigest]:
    if not isinstance(value, dict):
        raise ValueError("states no files")
    return {name: FileDigest.from_dict(digest) for name, digest in value.items()}


def _write_digests(files: Mapping[str, FileDigest]) -> dict[str, Any]:
    return {name: digest.to_dict() for name, digest in files.items()}


@dataclass(frozen=True)
class PartRecord:
    """The record of a part: written after all of its objects.

    Attributes
    ----------
    fingerprint : of the store
    part : index of the part
    start, stop : range of rows
    codec : of the activations
    objects : digest of each object by its name, in the order in which objects are written
    """

    fingerprint: str
    part: int
    start: int
    stop: int
    codec: str
    objects: Mapping[str, FileDigest]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PartRecord:
        """Read the stored form.

        Raises
        ------
        ValueError
            It is malformed.
        """
        try:
            start, stop = value["rows"]
            codec = value.get("codec", UNNAMED_CODEC)
            return cls(value["fingerprint"], value["part"], start, stop, codec, _read_digests(value["objects"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"is no record of a part ({error!r})") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            "fingerprint": self.fingerprint,
            "part": self.part,
            "rows": [self.start, self.stop],
            # Objects are decoded by the metadata. If these are lost and rebuilt for another codec, the part is missing.
            **({"codec": self.codec} if self.codec != UNNAMED_CODEC else {}),
            "objects": _write_digests(self.objects),
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> PartRecord:
        """Read a record's file.

        Raises
        ------
        ValueError
            Any byte differs from the written ones, or it is no record.
        """
        return cls.from_dict(read_checksummed_json(data))

    def to_bytes(self) -> bytes:
        """Return the content of the record's file."""
        return checksummed_json(self.to_dict())

    @property
    def n_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(digest.n_bytes for digest in self.objects.values())


def make_record(part: Part, store_fingerprint: str, objects: Mapping[str, bytes], codec: str) -> PartRecord:
    """Make the record of a part from the bytes of its objects."""
    digests = {name: describe_bytes(data) for name, data in objects.items()}
    return PartRecord(store_fingerprint, part.index, part.start, part.stop, codec, digests)


def check_record(data: bytes, part: Part, store_fingerprint: str, codec: str | None = None) -> PartRecord:
    """Read the record of a part, and compare it with the part.

    Parameters
    ----------
    codec : of the store; None if its metadata cannot be read

    Raises
    ------
    ForeignRecordError
        It is the record of another part or store, or states another codec.
    ValueError
        It was changed.
    """
    record = PartRecord.from_bytes(data)
    expected = (store_fingerprint, part.index, part.start, part.stop, set(part.object_names))
    if (record.fingerprint, record.part, record.start, record.stop, set(record.objects)) != expected:
        raise ForeignRecordError("part or store", "is the record of another part or store")
    if codec is not None and record.codec != codec:
        raise ForeignRecordError("codec", f"is of another codec than the store's, {codec}")
    return record


@dataclass(frozen=True)
class Seal:
    """The seal of a store: digests of all records and metadata, written last.

    Attributes
    ----------
    fingerprint : of the store
    rows, parts : their numbers
    skipped : pictures that have no rows, each with the reason
    records, metadata : digest of each file by its name
    """

    fingerprint: str
    rows: int
    parts: int
    skipped: tuple[str, ...]
    records: Mapping[str, FileDigest]
    metadata: Mapping[str, FileDigest]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Seal:
        """Read the stored form.

        Raises
        ------
        ValueError
            It is malformed.
        """
        if set(value) != {"fingerprint", "rows", "parts", "skipped", "records", "metadata"}:
            raise ValueError("is no seal")
        if not isinstance(value["skipped"], list):
            raise ValueError("is no seal")
        records, metadata = _read_digests(value["records"]), _read_digests(value["metadata"])
        return cls(value["fingerprint"], value["rows"], value["parts"], tuple(value["skipped"]), records, metadata)

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            "fingerprint": self.fingerprint,
            "rows": self.rows,
            "parts": self.parts,
            "skipped": list(self.skipped),
            "records": _write_digests(self.records),
            "metadata": _write_digests(self.metadata),
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> Seal:
        """Read the seal's file.

        Raises
        ------
        ValueError
            Any byte differs from the written ones, or it is no seal.
        """
        return cls.from_dict(read_checksummed_json(data))

    def to_bytes(self) -> bytes:
        """Return the content of the seal's file."""
        return checksummed_json(self.to_dict())

    @property
    def files(self) -> dict[str, FileDigest]:
        """Digests of all sealed files by name."""
        return {**self.metadata, **self.records}


def make_seal(identity: Identity, records: Mapping[str, bytes], metadata: Mapping[str, bytes]) -> Seal:
    """Make the seal of a store from the content of all of its records and metadata."""
    return Seal(
        fingerprint(identity),
        identity.n_rows,
        len(records),
        tuple(identity.skipped),
        _describe_files(records),
        _describe_files(metadata),
    )
