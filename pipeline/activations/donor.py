"""A store from which another one may take over rows."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.activations import SEAL
from pipeline.activations.arrays import GEOMETRY, metadata_names
from pipeline.activations.codec import codec_of
from pipeline.activations.folder import Folder, LocalFolder
from pipeline.activations.identity import Identity, fingerprint, row_fields
from pipeline.activations.part_reader import PartReader
from pipeline.activations.partition import arrays_of, parts_of
from pipeline.activations.records import PartRecord, check_record
from pipeline.activations.store import Store, StoreAttributes, read_attributes
from pipeline.io.errors import StoreDamagedError, StoreError
from pipeline.io.names import make_file_part
from pipeline.patches.rows import Rows


class Donor:
    """A store from which rows can be taken over: sealed, or with some recorded parts.

    Attributes
    ----------
    parts : those with a sound record
    codec : of the activations
    """

    def __init__(self, folder: Folder) -> None:
        """Open a store.

        Raises
        ------
        StoreError
            It is no store, or is damaged.
        """
        self.folder = folder
        self.attributes: StoreAttributes = read_attributes(folder)
        self.identity: Identity = self.attributes.identity
        if folder.exists(SEAL):
            Store(folder)  # compares every record and all metadata with the seal
        metadata = folder.read_many(metadata_names(arrays_of(self.identity)))
        try:
            self.codec = codec_of(metadata)
        except ValueError as error:
            raise StoreDamagedError(f"{folder}: {error}") from error
        self.records = self._sound_records()
        self.parts = [part for part in parts_of(self.identity) if part.index in self.records]
        self.reader = PartReader(folder, self.identity, metadata, self.records)

    def _sound_records(self) -> dict[int, PartRecord]:
        parts = parts_of(self.identity)
        files = self.folder.read_many(part.record_name for part in parts)
        records, key = {}, fingerprint(self.identity)
        for part in parts:
            with contextlib.suppress(ValueError):
                records[part.index] = check_record(files.get(part.record_name, b""), part, key, self.codec)
        return records

    @property
    def place(self) -> str:
        """Path or URL that opens it from any working folder."""
        return str(self.folder.path.absolute()) if isinstance(self.folder, LocalFolder) else str(self.folder)

    def geometry(self) -> Iterator[Rows]:
        """Read the rows of each recorded part, in order; whether they are mirrored is not among what is stored."""
        for part in self.parts:
            yield Rows(**{name: self.reader.read_object(name, part) for name in GEOMETRY}, flip=None)

    def pictures(self) -> Iterator[tuple[np.ndarray, Rows]]:
        """Yield the recorded rows of one picture after another: their numbers (n,) int64, and the rows (n,).

        Memory holds those of one part, and of a picture that goes on in the next.
        """
        waiting: tuple[np.ndarray, Rows] | None = None
        for part, rows in zip(self.parts, self.geometry(), strict=True):
            index = np.arange(part.start, part.stop)
            if waiting is not None:
                index, rows = np.concatenate([waiting[0], index]), waiting[1].followed_by(rows)
            starts = np.flatnonzero(np.diff(rows.picture, prepend=-1)).tolist()
            for start, stop in itertools.pairwise(starts):
                yield index[start:stop], rows.at(slice(start, stop))
            waiting = index[starts[-1] :], rows.at(slice(starts[-1], None))
        if waiting is not None:
            yield waiting

    def whole_batch(self, row: np.ndarray) -> np.ndarray:
        """Return which rows were computed in a batch of the full size: bool ndarray.

        Versions that did not record the files of pictures left the last batch of a part short.
        """
        if self.attributes.picture_files is not None:
            return np.ones(len(row), bool)
        part_rows, batch, n_rows = self.identity.part_rows, self.identity.batch, self.identity.n_rows
        start = row - row % part_rows
        in_part = np.minimum(start + part_rows, n_rows) - start
        return row % part_rows < in_part - in_part % batch


def find_donors(folders: Iterable[Folder], wanted: Identity, own: Folder) -> Iterator[Donor]:
    """Open the stores whose rows are made like the wanted ones; those of most rows first, damaged ones left out.

    Parameters
    ----------
    folders : in which stores lie
    own : the store that takes rows over
    """
    # The name tells the layer: a large cache is not read whole.
    layer = f"-{make_file_part(wanted.layer, '._+')}-"
    stores = [folder.child(name) for folder in folders for name in folder.folders() if name.endswith(".zarr")]
    found = []
    for store in stores:
        if layer not in store.name:
            continue
        if str(store) == str(own):
            continue
        with contextlib.suppress(StoreError):
            identity = read_attributes(store).identity
            if row_fields(identity) == row_fields(wanted) and identity.dtype in ("float16", wanted.dtype):
                found.append((identity.n_rows, store))
    for _, store in sorted(found, key=lambda item: -item[0]):
        with contextlib.suppress(StoreError, OSError):
            yield Donor(store)
