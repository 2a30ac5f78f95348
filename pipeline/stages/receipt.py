"""Receipts: which store holds the activations of a split, and what it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.io.atomic import write_atomic
from pipeline.io.checksummed import checksummed_json, read_checksummed_json
from pipeline.io.errors import StoreError


@dataclass(frozen=True)
class Receipt:
    """What an extraction leaves when its store is sealed; fields in the order of the file.

    Attributes
    ----------
    store, fingerprint : the store's folder, and the digest of its identity
    rows, width, bytes : of the store
    pictures : how many were ``used`` and ``skipped``
    weights : state of the trunk's weight files, as `Workspace.weights_state` gives it
    made : which making of the store it is, from 1
    settings : all settings of the run: with them rows can be extracted again
    adopted : how many rows were taken over from each other store, by its name, as the log of the runs that ended says
    """

    dataset: str
    split: str
    store: str
    fingerprint: str
    rows: int
    width: int
    bytes: int
    pictures: dict[str, int]
    trunk: str
    layer: str
    weights: str
    made: int
    settings: dict[str, Any]
    adopted: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form; without `adopted` where nothing was."""
        return {name: value for name, value in asdict(self).items() if name != "adopted" or value}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Receipt:
        """
        Raises
        ------
        ValueError
            A field is missing.
        """
        missing = [item.name for item in fields(cls) if item.name not in value and item.name != "adopted"]
        if missing:
            raise ValueError(f"lacks {', '.join(missing)}")
        return cls(**{item.name: value[item.name] for item in fields(cls) if item.name in value})


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Write a receipt with its checksum, atomically."""
    write_atomic(path, checksummed_json(receipt.to_dict()))


def read_receipt(path: Path) -> Receipt:
    """Read the receipt of an extraction.

    Raises
    ------
    StoreError
        It is missing or was changed.
    """
    try:
        return Receipt.from_dict(read_checksummed_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: missing or damaged receipt ({error}); run pipeline extract again") from error
