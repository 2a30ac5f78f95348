"""Which rows of a patch table other stores hold, found picture by picture."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.activations.adoption import Adoption, Run
from pipeline.activations.donor import Donor
from pipeline.activations.identity import Identity
from pipeline.activations.layout import PictureFiles
from pipeline.activations.partition import parts_of
from pipeline.io.errors import StoreError
from pipeline.patches.rows import Rows
from pipeline.patches.table import PatchTable


def plan_adoption(table: PatchTable, wanted: Identity, rows: np.ndarray | None, donors: Iterable[Donor]) -> Adoption:
    """Find the rows that other stores hold.

    Parameters
    ----------
    wanted : identity of the store that takes rows over
    rows : int64 ndarray, rising: rows of the table that it holds; None for all
    """
    matching = _Matching(table, wanted, rows)
    for donor in donors:
        if matching.complete:
            break
        with contextlib.suppress(StoreError):
            matching.take_from(donor)
    return Adoption(tuple(sorted(matching.runs, key=lambda run: run.start)))


class _Matching:
    """Rows of a table, matched picture by picture with the rows of donors.

    Memory holds two bytes per row, and windows of one picture and of one part of a donor.
    """

    def __init__(self, table: PatchTable, wanted: Identity, rows: np.ndarray | None) -> None:
        self.table, self.wanted, self.rows = table, wanted, rows
        self.by_scale = wanted["how.source"] not in ("grid", "whole")
        # Where the rows of each picture stand in the store.
        self.first = table.first_row if rows is None else np.searchsorted(rows, table.first_row)
        self.found = np.zeros(int(self.first[-1]), bool)
        self.runs: list[Run] = []
        self.pictures_of: dict[tuple[str, bool], list[int]] = {}
        for index, key in enumerate(zip(table.picture_sha256, table.apply_exif.tolist(), strict=True)):
            self.pictures_of.setdefault(key, []).append(index)

    @property
    def complete(self) -> bool:
        return bool(self.found.all())

    def take_from(self, donor: Donor) -> None:
        """Match the rows that are not found yet with those of a donor, picture by picture."""
        if not donor.parts:
            return
        files = donor.attributes.picture_files or self._files_of_old(donor)
        if files is None:
            return
        found = self.found.copy()
        runs: list[Run] = []
        for row, of_picture in donor.pictures():
            picture = int(of_picture.picture[0])
            usable = donor.whole_batch(row)
            # One file may be several samples, as of several persons.
            for index in self.pictures_of.get((files.sha256[picture], files.apply_exif[picture]), ()):
                here = slice(int(self.first[index]), int(self.first[index + 1]))
                if not found[here].all():
                    rows = self._rows_of_picture(index, here, row[usable], of_picture.at(usable))
                    rows = np.where(found[here], -1, rows)
                    found[here] |= rows >= 0
                    runs += _runs(donor.place, here.start, rows)
        runs = _join(runs)
        if donor.identity.dtype == "8bit":
            runs = _whole_parts(runs, donor, self.wanted)
        for run in runs:
            self.found[run.start : run.stop] = True
        self.runs += runs

    def _rows_of_picture(self, index: int, here: slice, row: np.ndarray, there: Rows) -> np.ndarray:
        """Return the donor's row of each wanted row of a picture: int64 ndarray, -1 for none.

        Parameters
        ----------
        here : where the rows of the picture stand in the store
        row, there : numbers of the donor's rows, and the rows
        """
        windows = self.table.windows_of_picture(index)
        chosen = slice(None) if self.rows is None else self.rows[here] - self.table.first_row[index]
        box_xyxy, scale = windows.box_xyxy[chosen], windows.scale[chosen]
        same = len(row) == len(scale) and np.array_equal(there.box_xyxy, box_xyxy)
        if same and (not self.by_scale or np.array_equal(there.scale, scale)):
            return row
        by_window = dict(zip(self._keys(there.box_xyxy, there.scale), row.tolist(), strict=True))
        return np.array([by_window.get(key, -1) for key in self._keys(box_xyxy, scale)], np.int64)

    def _keys(self, box_xyxy: np.ndarray, scale: np.ndarray) -> list[bytes]:
        """Return what tells a window from the others of its picture; the scale tells whether a crop is mirrored."""
        numbers = scale if self.by_scale else np.zeros(len(scale), np.uint8)
        boxes = np.ascontiguousarray(box_xyxy, "<f4")
        return [box.tobytes() + bytes([number]) for box, number in zip(boxes, numbers.tolist(), strict=True)]

    def _files_of_old(self, donor: Donor) -> PictureFiles | None:
        """Return the files of a store that did not record them, if they are those of the table: its digests tell.

        The store has to hold all rows of its own table, and its pictures have to be in this one, all unchanged.
        """
        ids, identity, table = donor.attributes.picture_ids, donor.identity, self.table
        position = {name: index for index, name in enumerate(table.ids)}
        n_rows = sum(part.n_rows for part in donor.parts)
        if self.by_scale or identity.which_rows != "all" or n_rows != identity.n_rows:
            return None
        if not all(name in position for name in ids):
            return None
        index = np.array([position[name] for name in ids], int)
        names = set(ids)
        own = replace(
            table,
            ids=ids,
            size_wh=table.size_wh[index],
            apply_exif=table.apply_exif[index],
            picture_sha256=tuple(table.picture_sha256[i] for i in index),
            grid=table.grid.model_copy(update={"scales": tuple(identity["how.scales"])}),
            from_numbers=tuple(name for name in table.from_numbers if name in names),
        )
        digests = (own.pictures_digest(), own.compute_rows_digest(donor.geometry()))
        if digests != (identity["seen.pictures"], identity["seen.rows"]):
            return None
        return PictureFiles(own.picture_sha256, tuple(bool(turned) for turned in own.apply_exif))


def _runs(place: str, start: int, rows: np.ndarray) -> Iterator[Run]:
    """Divide the donor's rows of consecutive rows from `start` on into runs; -1 belongs to none."""
    if not len(rows):
        return
    # A run ends where the donor's rows are not consecutive; row 0 does not follow -1.
    consecutive = (np.diff(rows) == 1) & (rows[:-1] >= 0)
    cuts = [0, *(np.flatnonzero(~consecutive) + 1).tolist(), len(rows)]
    for first, last in itertools.pairwise(cuts):
        if rows[first] >= 0:
            yield Run(place, start + first, int(rows[first]), last - first)


def _join(runs: Sequence[Run]) -> list[Run]:
    """Join runs of one donor that follow one another both here and there."""
    joined: list[Run] = []
    for run in sorted(runs, key=lambda run: run.start):
        last = joined[-1] if joined else None
        if last is not None and last.stop == run.start and last.source + last.n_rows == run.source:
            joined[-1] = replace(last, n_rows=last.n_rows + run.n_rows)
        else:
            joined.append(run)
    return joined


def _whole_parts(runs: Sequence[Run], donor: Donor, wanted: Identity) -> list[Run]:
    """Keep what can be taken over from codes of 8 bits: parts with the very rows of a part there, coded together."""
    starts = {part.start: part.n_rows for part in donor.parts}
    kept = []
    for part in parts_of(wanted):
        for run in runs:
            if run.start <= part.start and part.stop <= run.stop:
                piece = run.within(part.start, part.stop)
                if starts.get(piece.source) == part.n_rows:
                    kept.append(piece)
    return kept
