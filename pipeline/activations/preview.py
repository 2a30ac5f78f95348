"""What an extraction would compute and take over, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.activations.adoption import Adoption, name_of_place
from pipeline.activations.extraction import Extraction
from pipeline.activations.partition import Part, parts_of
from pipeline.activations.writer import StoreWriter


@dataclass(frozen=True)
class Preview:
    """What an extraction would do now for one store.

    Attributes
    ----------
    n_rows, n_pictures : rows that would go through the trunk, and pictures that they are of
    adopted : rows that would be taken over, by the name of the store that holds them
    """

    n_rows: int
    n_pictures: int
    adopted: Mapping[str, int]

    def in_words(self) -> str:
        """Describe it, for a line of a message."""
        text = f"{self.n_rows:,} rows of {self.n_pictures:,} pictures through the trunk"
        if not self.adopted:
            return text
        taken = ", ".join(f"{n_rows:,} rows taken over from {name}" for name, n_rows in self.adopted.items())
        return f"{text}; {taken}"


def preview(extraction: Extraction) -> Preview:
    """Return what would be done now for the first store of an extraction; nothing is written.

    Where rows would be mixed with computed ones, the trunk runs on two batches, which try whether they can be.
    """
    identity, folder = extraction.identity, extraction.folder
    left = StoreWriter(folder).missing() if folder.exists("zarr.json") else parts_of(identity)
    adoption = extraction.find_adoption(identity, folder) if extraction.adopt and left else Adoption()
    found = _count(extraction, left, adoption)
    if found.adopted and found.n_rows and not extraction.runner.rows_are_independent(identity.batch):
        return _count(extraction, left, Adoption())
    return found


def _count(extraction: Extraction, left: Sequence[Part], adoption: Adoption) -> Preview:
    table = extraction.table
    rows = extraction.rows
    pictures: set[int] = set()
    adopted: dict[str, int] = {}
    n_rows = 0
    for part in left:
        missing = adoption.missing(part.start, part.stop)
        n_rows += int(missing.sum())
        own = slice(part.start, part.stop)
        pictures.update(np.unique(table.picture_of(own if rows is None else rows[own])[missing]).tolist())
        for place, count in adoption.within(part.start, part.stop).rows_by_place.items():
            name = name_of_place(place)
            adopted[name] = adopted.get(name, 0) + count
    return Preview(n_rows, len(pictures), adopted)
