"""What is left to extract, and what of it other stores hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.activations.adoption import Adoption, name_of_place
from pipeline.activations.partition import Part, parts_within
from pipeline.activations.writer import StoreWriter


@dataclass(frozen=True)
class Work:
    """What is left to extract.

    Attributes
    ----------
    writers : of the stores that are not sealed
    missing : parts without a record, by the fingerprint of their store
    spans : ranges of rows of this run's share, each with whole parts of all stores
    todo : the smallest ranges inside of them that cover all missing parts
    adoption : rows that other stores hold, by layer
    """

    writers: Sequence[StoreWriter]
    missing: Mapping[str, Sequence[Part]]
    spans: Sequence[Part]
    todo: Sequence[Part]
    adoption: Mapping[str, Adoption] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return sum(part.n_rows for part in self.todo)

    @property
    def n_computed(self) -> int:
        """Number of rows that go through the trunk."""
        return sum(int(rows.sum()) for rows in map(self._computed, self.todo))

    def _computed(self, part: Part) -> np.ndarray:
        computed = np.zeros(part.n_rows, bool)
        for writer in self.writers:
            adoption = self.adoption.get(writer.identity.layer, Adoption())
            for own in parts_within(self.missing[writer.fingerprint], part):
                rows = slice(own.start - part.start, own.stop - part.start)
                computed[rows] |= adoption.missing(own.start, own.stop)
        return computed

    def adopted(self, writer: StoreWriter) -> dict[str, int]:
        """Number of rows of missing parts of this share that each other store gives, by its name."""
        counts: dict[str, int] = {}
        adoption = self.adoption.get(writer.identity.layer, Adoption())
        for part in self.missing_in_share(writer):
            for place, n_rows in adoption.within(part.start, part.stop).rows_by_place.items():
                name = name_of_place(place)
                counts[name] = counts.get(name, 0) + n_rows
        return counts

    def parts_in_share(self, writer: StoreWriter) -> list[Part]:
        return [part for span in self.spans for part in parts_within(writer.parts, span)]

    def missing_in_share(self, writer: StoreWriter) -> list[Part]:
        return [part for span in self.spans for part in parts_within(self.missing[writer.fingerprint], span)]
