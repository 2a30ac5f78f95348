"""Reading rows that are taken over from other stores."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from pipeline.activations.adoption import Adoption
from pipeline.activations.donor import Donor
from pipeline.activations.folder import open_folder
from pipeline.activations.identity import Identity
from pipeline.activations.partition import Part

PARTS_HELD = 2
"""Parts of other stores that stay in memory: rows are taken over mostly in order."""


class RowSource:
    """Reads rows that are taken over, for parts that are written now; holds the last parts that it read.

    Parameters
    ----------
    held : parts of other stores to hold in memory
    """

    def __init__(self, held: int = PARTS_HELD) -> None:
        self._held = held
        self._donors: dict[str, Donor] = {}
        self._values: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def read(self, adoption: Adoption, start: int, out: np.ndarray) -> None:
        """Write rows into their places of `out`, float16 (n, width), whose first row is row `start`.

        Raises
        ------
        StoreDamagedError
        """
        for run in adoption.runs:
            donor = self._donor(run.place)
            for part in donor.parts:
                first, last = max(run.source, part.start), min(run.source + run.n_rows, part.stop)
                if first < last:
                    target = run.start - start + first - run.source
                    rows = self._part(donor, part)[first - part.start : last - part.start]
                    out[target : target + last - first] = rows

    def encoded(self, adoption: Adoption, part: Part, identity: Identity, codec: str) -> Mapping[str, bytes] | None:
        """Return the objects of a part that can be taken over as they are, by array; None where rows are coded anew.

        They can if one donor has a part of the very same rows, and stores it in the same way.
        """
        if len(adoption.runs) != 1 or adoption.runs[0].n_rows != part.n_rows:
            return None
        (run,) = adoption.runs
        donor = self._donor(run.place)
        like = (identity.dtype, identity.part_rows, identity.layer, codec)
        if (donor.identity.dtype, donor.identity.part_rows, donor.identity.layer, donor.codec) != like:
            return None
        same = [item for item in donor.parts if item.start == run.source and item.n_rows == part.n_rows]
        if not same:
            return None
        names = [name for name in ("activations", "column_range") if name in part.arrays]
        return {name: donor.reader.read_bytes(name, same[0]) for name in names}

    def _donor(self, place: str) -> Donor:
        if place not in self._donors:
            self._donors[place] = Donor(open_folder(place))
        return self._donors[place]

    def _part(self, donor: Donor, part: Part) -> np.ndarray:
        key = (donor.place, part.index)
        if key not in self._values:
            self._values[key] = donor.reader.read_part(part)
            while len(self._values) > self._held:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]
