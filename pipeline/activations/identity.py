"""The identity of a store: everything that determines its values, and nothing else.

On disk it is a flat JSON object. Keys that start with ``seen.`` state what was read (pictures, rows), keys that start
with ``how.`` state how. The SHA-256 of its canonical JSON is the fingerprint. Not in it: paths, workers, device
numbers, head settings, lossless codecs, library versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.messages import enumerate_problems
from pipeline.patches.table import PatchTable

FORMAT = "activations-2"


@dataclass(frozen=True, eq=False, repr=False)
class Identity(Mapping[str, Any]):
    """The identity of a store: a mapping of the flat keys on disk, with typed access to the fields that code reads.

    The set of fields is open: it depends on the source of the windows and on the format. Two identities are equal
    if all of their fields are. A property of a field that is not there raises `KeyError`.

    Parameters
    ----------
    fields : as on disk
    """

    fields: Mapping[str, Any]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Identity:
        """Wrap fields as they are on disk."""
        return cls(dict(fields))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as they are on disk."""
        return dict(self.fields)

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        return f"Identity({dict(self.fields)!r})"

    @property
    def n_rows(self) -> int:
        return self.fields["seen.n_rows"]

    @property
    def skipped(self) -> list[str]:
        """Pictures without rows, each with the reason."""
        return self.fields["seen.skipped"]

    @property
    def which_rows(self) -> str:
        """``all``, or a digest of the chosen rows' numbers; see `which_rows`."""
        return self.fields["seen.which"]

    @property
    def format(self) -> str | None:
        """Format of the store; None in identities without one."""
        return self.fields.get("how.format")

    @property
    def layer(self) -> str:
        return self.fields["how.layer"]

    @property
    def width(self) -> int:
        return self.fields["how.width"]

    @property
    def dtype(self) -> str:
        """``float16``, or ``8bit`` for codes over each column's range."""
        return self.fields["how.dtype"]

    @property
    def precision(self) -> str:
        """Arithmetic and backend, such as ``cpu-bf16``."""
        return self.fields["how.precision"]

    @property
    def batch(self) -> int:
        """Rows per batch of the trunk."""
        return self.fields["how.batch"]

    @property
    def part_rows(self) -> int:
        """Rows per part."""
        return self.fields["how.part_rows"]


def source_fields(table: PatchTable) -> dict[str, Any]:
    """Return the fields that say where the windows of a table come from."""
    if table.source in ("grid", "whole"):
        source = {"scales": list(table.grid.scales), "overlap": table.grid.overlap}
    else:
        source = {**table.sources.own(), "cut": "each window by itself, mirrored past the picture's edges"}
    return {"how.source": table.source, **{f"how.{name}": value for name, value in source.items()}}


def which_rows(rows: np.ndarray | None) -> str:
    """Return the field ``seen.which``: ``all``, or a digest of the numbers of the stored rows."""
    return "all" if rows is None else f"rows of {sha256_bytes(rows.astype('<i8').tobytes())}"


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the identity's canonical JSON, as hex."""
    return digest_of(dict(identity))


def how_part(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a head carries: it scores only rows that were extracted in the same way."""
    return {key: value for key, value in identity.items() if key.startswith("how.")}


def value_fields(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields of `how_part` that decide values: how rows are divided into parts does not."""
    return {key: value for key, value in how.items() if key != "how.part_rows"}


def row_fields(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that, with a picture and a window, decide a row: equal in stores that may share rows.

    Not the grid, which only decides the windows; and not how a row is stored.
    """
    not_of_rows = {"how.dtype"}
    if identity.get("how.source") in ("grid", "whole"):
        not_of_rows |= {"how.scales", "how.overlap"}
    return {key: value for key, value in value_fields(how_part(identity)).items() if key not in not_of_rows}


@dataclass(frozen=True)
class FieldDifference:
    """A field in which two identities differ.

    Attributes
    ----------
    name : key of the field
    stored, wanted : its two values; None for a missing field
    """

    name: str
    stored: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.name}: got {self.stored!r}, expected {self.wanted!r}"


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[FieldDifference]:
    """Compare two identities field by field.

    >>> print(*differences({"how.layer": "fc6"}, {"how.layer": "fc7"}))
    how.layer: got 'fc6', expected 'fc7'
    """
    names = sorted({*stored, *wanted})
    pairs = [FieldDifference(name, stored.get(name), wanted.get(name)) for name in names]
    return [pair for pair in pairs if pair.stored != pair.wanted]


def explain_differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """List all differing fields, as lines of a message."""
    return enumerate_problems([str(difference) for difference in differences(stored, wanted)], shown=30)
