"""Extraction: decode each picture once, run the trunk on each patch once, write the rows into stores."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.activations.adoption import Adoption
from pipeline.activations.arrays import raw_bytes_per_row
from pipeline.activations.donor import find_donors
from pipeline.activations.engines import Engine, InProcessEngine
from pipeline.activations.folder import Folder, LocalFolder, disk_trouble, open_folder
from pipeline.activations.identity import Identity
from pipeline.activations.layout import PictureFiles
from pipeline.activations.matching import plan_adoption
from pipeline.activations.partition import Part, range_of, share_of
from pipeline.activations.parts import PartMaker, PartTask, PlannedTasks
from pipeline.activations.request import PartRows, request_store
from pipeline.activations.row_plan import plan_rows
from pipeline.activations.run_log import LogEntry, RunLog, StageClock
from pipeline.activations.settings import Codec, StoredDtype
from pipeline.activations.store import Store
from pipeline.activations.work import Work
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.io.numbers import format_seconds
from pipeline.io.picture_file import PictureFile
from pipeline.io.progress import Progress, Say, silent
from pipeline.patches.table import PatchTable
from pipeline.trunk.runner import TrunkRunner

WRITING_BESIDE_A_GPU = 3
"""Tasks whose parts are written at the same time while a GPU computes; a CPU's cores are the trunk's."""
LEAST_BATCHES_FOR_A_TRIAL = 20
"""Runs of fewer batches begin without a trial of the trunk's rate."""


@dataclass
class Extraction:
    """The extraction of one store, or of one store per layer in the same pass.

    Parameters
    ----------
    table : patches and the pictures that they are cut from
    picture_paths : file of each id of the table
    runner : the trunk on its device
    stores : folder of the stores
    batch : rows per batch; None for the runner's default
    say : takes lines for the user
    log_folder : folder of the run log, which is no part of the store; None for no log
    layers : of the trunk, each into a store of its own with the very bytes that it has when extracted alone;
        none for the runner's layer
    dtype, codec : how the stores hold the rows, and how a new one compresses them
    rows : int64 ndarray, rising: rows of the table to extract; None for all
    part_rows : rows per part, from the width of a row; None for the rule of `rows_per_part`, or for the size that
        a store of the same rows has which is there already
    adopt : take over the rows that other stores hold
    other_stores : further folders of stores from which rows are taken over

    Attributes
    ----------
    requested : the stores, in the order of the layers
    identity, folder : of the first of them

    Raises
    ------
    TrunkError, SettingsError
        The trunk has no such layer; the layers cannot come from one pass with this batch.
    """

    table: PatchTable
    picture_paths: Mapping[str, PictureFile]
    runner: TrunkRunner
    stores: Folder
    batch: int | None = None
    say: Say = silent
    log_folder: Path | None = None
    layers: Sequence[str] = ()
    dtype: StoredDtype = "float16"
    codec: Codec = "small"
    rows: np.ndarray | None = None
    part_rows: PartRows | None = None
    adopt: bool = True
    other_stores: Sequence[Folder] = ()

    def __post_init__(self) -> None:
        make = partial(
            request_store, self.stores, self.table, self.runner, self.batch, self.dtype, self.rows, self.part_rows
        )
        requested = [make(layer) for layer in dict.fromkeys(self.layers or (self.runner.trunk.layer,))]
        self.requested = tuple(requested)
        self.identity, self.folder = requested[0].identity, requested[0].folder
        self._check_batches_coincide()

    def _check_batches_coincide(self) -> None:
        """Check that batches, which begin at a part's first row, are the same for parts of all sizes."""
        part_rows = {item.identity.part_rows for item in self.requested}
        smallest, batch = min(part_rows), self.identity.batch
        if len(part_rows) > 1 and (smallest % batch or max(part_rows) % smallest):
            sizes = ", ".join(f"{item.layer} {item.identity.part_rows:,}" for item in self.requested)
            raise SettingsError(
                f"batch {batch}: these layers cannot come from one pass: it must divide {smallest:,}, since batches "
                f"begin at a part's first row and parts are of different size (rows: {sizes}); give another --batch, "
                "or extract one layer at a time"
            )

    def run_layers(self, share: tuple[int, int] | None = None, engine: Engine[PartTask] | None = None) -> list[Store]:
        """Extract the stores, or resume them; a complete one is left alone.

        The trunk runs once on each patch for all layers together, and only up to the last missing layer.

        Parameters
        ----------
        share : (i, n) for the i-th (from 1) of n ranges of parts only; nothing is sealed then
        engine : computes and writes the parts; None for `InProcessEngine`

        Returns
        -------
        list of Store
            Sealed and checked, in the order of the layers; empty after a share.

        Raises
        ------
        PipelineError
            A picture changed or vanished since the table was made, an activation is not finite (the
            picture is named), or the disk will not hold the stores. Recorded parts stay.
        """
        writers, all_new = self._open_writers()
        work = self._with_adoption(self._find_work(writers, share))
        for writer in writers:
            if writer not in work.writers:
                self.say(f"{writer.folder}: complete, the trunk does not run")
        if work.todo:
            self._announce(work)
            # Another process may extract the same store: from different starts, both meet late.
            first = 0 if all_new else random.randrange(len(work.todo))
            self._make(work, [*work.todo[first:], *work.todo[:first]], engine)
        if share is not None:
            return []
        for writer in work.writers:
            try:
                writer.seal()
            except OSError as error:
                raise disk_trouble(error, writer.folder) from error
            self.say(f"{writer.folder}: sealed")
        return [Store(item.folder, item.identity) for item in self.requested]

    # Planning

    def _open_writers(self) -> tuple[list[StoreWriter], bool]:
        """Create missing stores and open a writer per store; return also whether all stores are new."""
        folder = self.folder
        try:
            new = [item for item in self.requested if not item.folder.exists("zarr.json")]
            self._check_room(sum(_raw_bytes(item.identity, item.identity.n_rows) for item in new))
            trunk = self.runner.trunk.card.name
            made_from = {"dataset": self.table.dataset, "split": self.table.split, "trunk": trunk}
            writers = []
            for item in self.requested:
                folder = item.folder
                create_store(folder, item.identity, self.table.ids, made_from, self.codec, self._picture_files())
                writers.append(StoreWriter(folder))
        except OSError as error:
            raise disk_trouble(error, folder) from error
        return writers, len(new) == len(self.requested)

    def _find_work(self, writers: Sequence[StoreWriter], share: tuple[int, int] | None) -> Work:
        # The largest parts: each holds whole parts of all other layers.
        spans = max((writer.parts for writer in writers), key=lambda parts: parts[0].n_rows if parts else 0)
        if share is not None:
            spans = share_of(spans, *share)
        unsealed = [writer for writer in writers if not writer.sealed]
        missing = {writer.fingerprint: writer.missing() for writer in unsealed}
        ranges = (range_of(missing.values(), span) for span in spans)
        return Work(unsealed, missing, spans, [part for part in ranges if part is not None])

    def _picture_files(self) -> PictureFiles:
        return PictureFiles(self.table.picture_sha256, tuple(bool(turned) for turned in self.table.apply_exif))

    def _with_adoption(self, work: Work) -> Work:
        """Find the rows of the missing parts that other stores hold."""
        if not (self.adopt and work.todo):
            return work
        found = {}
        for writer in work.writers:
            if work.missing_in_share(writer):
                found[writer.identity.layer] = self.find_adoption(writer.identity, writer.folder)
        found = {layer: adoption for layer, adoption in found.items() if adoption.runs}
        adopting = replace(work, adoption=found)
        if found and adopting.n_computed and not self.runner.rows_are_independent(self.identity.batch):
            why = "on this machine the last bits of a row depend on its place in the batch"
            if self.runner.elsewhere:
                why = "only a worker's GPU could tell whether the bits of a row depend on its place in the batch"
            text = "other stores hold rows of these pictures, and none is taken over"
            self.say(f"{self._describe(work.writers)}: {text}: {why}")
            return work
        return adopting

    def find_adoption(self, identity: Identity, folder: Folder) -> Adoption:
        """Find the rows of one of the stores that other stores hold."""
        donors = find_donors([self.stores, *self.other_stores], identity, folder)
        return plan_adoption(self.table, identity, self.rows, donors)

    def _check_room(self, n_bytes: int) -> None:
        """Stop before the trunk runs if the disk will not hold so many bytes."""
        # Compression took half of the raw size or less in all measurements; this check does not rely on it.
        free = self.stores.free_bytes()
        if free is not None and free < n_bytes:
            raise PipelineError(
                f"{self.stores}: {n_bytes / 2**30:.1f} GiB may be needed and {free / 2**30:.1f} GiB are free; "
                "free some space, or choose another --cache or --stores folder"
            )

    def _announce(self, work: Work) -> None:
        """Tell the user rows, bytes and time before anything long begins."""
        n_bytes = 0
        for writer in work.writers:
            n_parts, missing = len(work.parts_in_share(writer)), work.missing_in_share(writer)
            n_bytes += _raw_bytes(writer.identity, sum(part.n_rows for part in missing))
            if len(missing) < n_parts:
                self.say(f"{writer.folder}: resuming, {n_parts - len(missing)} of {n_parts} parts are recorded")
            for name, n_rows in work.adopted(writer).items():
                self.say(f"{writer.folder}: {n_rows:,} rows are taken over from {name}")
        self._check_room(n_bytes)
        n_computed = work.n_computed
        text = f"{self._describe(work.writers)}: {n_computed:,} rows to extract, at most {n_bytes / 2**20:,.0f} MiB"
        # A trial takes two batches: too much of a short run, which soon says its rate itself.
        long = n_computed > LEAST_BATCHES_FOR_A_TRIAL * self.identity.batch
        rate = self.runner.measure_rate(self.identity.batch) if long else None
        if rate is not None:
            seconds = format_seconds(n_computed / rate)
            text += f"; the trunk alone needs about {seconds} ({rate:,.0f} patches/s in a trial batch)"
        self.say(text)

    def _describe(self, writers: Sequence[StoreWriter]) -> str:
        """Name what is extracted, for messages: the store, or the layers of several."""
        if len(writers) == 1:
            return str(writers[0].folder)
        return f"{self.stores}: {', '.join(writer.identity.layer for writer in writers)} in one pass"

    # Running

    def _make(self, work: Work, spans: Sequence[Part], engine: Engine[PartTask] | None) -> None:
        """Let an engine compute and write the missing parts of some ranges, then log the run."""
        if engine is None:
            n_writing = WRITING_BESIDE_A_GPU if self.runner.device.type == "cuda" else 1
            engine = InProcessEngine(PartMaker(self.runner, *(writer.folder for writer in work.writers)), n_writing)
        clock = StageClock()
        started = time.perf_counter()
        total, name = self.identity.n_rows, f"extract {self.table.dataset} {self.table.split}"
        with Progress(name, total, "patches", done=total - work.n_rows) as progress:

            def report(n_rows: int, seconds: Mapping[str, float]) -> None:
                clock.add(seconds)
                if n_rows:
                    progress.advance(n_rows, note=clock.summary())

            engine(PlannedTasks(spans, lambda part: self._plan_task(part, work.adoption)), report)
        self._log(work, clock, time.perf_counter() - started)

    def _plan_task(self, part: Part, adoption: Mapping[str, Adoption]) -> PartTask:
        rows = slice(part.start, part.stop) if self.rows is None else self.rows[part.start : part.stop]
        inside = {layer: of_layer.within(part.start, part.stop) for layer, of_layer in adoption.items()}
        return PartTask(part, plan_rows(self.table, self.picture_paths, rows), inside)

    def _log(self, work: Work, clock: StageClock, seconds: float) -> None:
        """Tell the user the rate of a run, and append it to the log of each store."""
        rate = f"{work.n_rows:,} patches in {seconds:.1f} s ({work.n_rows / seconds:,.0f}/s)"
        self.say(f"{self._describe(work.writers)}: {rate}; {clock.summary()}")
        if self.log_folder is None:
            return
        for writer in work.writers:
            parts = work.missing_in_share(writer)
            if parts:
                entry = LogEntry.of_this_run(
                    rows=sum(part.n_rows for part in parts),
                    parts=len(parts),
                    adopted=work.adopted(writer),
                    stores=len(work.writers),
                    seconds=seconds,
                    stages=clock.seconds,
                )
                RunLog.of_store(self.log_folder, writer.folder.name).append(entry)


def _raw_bytes(identity: Identity, n_rows: int) -> int:
    return n_rows * raw_bytes_per_row(identity.width)


def extract(
    table: PatchTable,
    picture_paths: Mapping[str, PictureFile],
    runner: TrunkRunner,
    stores: str | Path | Folder,
    batch: int | None = None,
    say: Say = silent,
    part_rows: PartRows | None = None,
) -> Store:
    """Extract or complete the store of the runner's layer over one patch table, in this process; see `Extraction`."""
    folder = open_folder(stores)
    log_folder = folder.path if isinstance(folder, LocalFolder) else None
    extraction = Extraction(table, picture_paths, runner, folder, batch, say, log_folder, part_rows=part_rows)
    (store,) = extraction.run_layers()
    return store
