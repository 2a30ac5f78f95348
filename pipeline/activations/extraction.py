"""Extraction: each picture decoded once, each patch through the trunk once, rows into the store."""

from __future__ import annotations

import json
import platform
import random
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.activations.folder import Folder, LocalFolder, disk_trouble, open_folder
from pipeline.activations.identity import Identity, fingerprint, make_identity
from pipeline.activations.layout import ROW_DTYPE, Part, parts_within, range_of, rows_a_part
from pipeline.activations.parts import PartMaker, PartTask
from pipeline.activations.row_plan import RowPlan, plan_rows
from pipeline.activations.run_log import StageClock, log_name
from pipeline.activations.settings import Codec, StoredDtype
from pipeline.activations.store import Store
from pipeline.activations.writer import StoreWriter, create_store
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.io.names import make_file_part
from pipeline.io.numbers import format_seconds
from pipeline.io.progress import Progress, Say, silent
from pipeline.patches.table import PatchTable
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import Trunk
from pipeline.version import __version__


def identity_of(
    table: PatchTable,
    runner: TrunkRunner,
    batch: int | None = None,
    trunk: Trunk | None = None,
    dtype: StoredDtype = "float16",
    rows: np.ndarray | None = None,
) -> Identity:
    """The identity of the store that an extraction would make; `trunk` is the runner's at another layer."""
    trunk = trunk or runner.trunk
    return make_identity(
        table,
        trunk,
        runner.precision_name,
        batch or runner.batch_rows,
        rows_a_part(trunk.width),
        runner.places,
        dtype,
        rows,
    )


def store_name(table: PatchTable, runner: TrunkRunner, identity: Identity) -> str:
    """``<dataset>-<split>-<trunk>-<layer>-<first 12 of the fingerprint>.zarr``."""
    layer = make_file_part(identity["how.layer"], "._+")
    return f"{table.dataset}-{table.split}-{runner.trunk.slug}-{layer}-{fingerprint(identity)[:12]}.zarr"


Engine = Callable[[Sequence[PartTask], Callable[[PartTask, Mapping[str, float]], None]], None]
"""Makes all tasks, in any order and anywhere, and reports each when its part is recorded."""


@dataclass(frozen=True)
class AskedStore:
    """A store that an extraction makes: of one layer, in one folder."""

    layer: str
    identity: Identity
    folder: Folder


@dataclass
class Extraction:
    """The making of a store, or of one a layer in the same pass: identities, folders, parts that are left, seals.

    Parameters
    ----------
    table : the row plan
    picture_paths : file of each id of the table
    runner : the trunk on its device
    stores : where stores are kept
    batch : rows at once; None for the usual number of the trunk's input size
    say : takes lines for the user
    log_folder : where the run log goes; it is no part of the store
    layers : of the trunk, each into a store of its own with the very bytes that it has when it is made alone;
        none for the runner's layer
    dtype, codec : what the stores keep of the rows, and how a new one compresses it
    rows : int64 ndarray, rising: rows of the table that are made; None for all

    Attributes
    ----------
    asked : the stores, in the order of the layers
    identity, folder : of the first of them

    Raises
    ------
    TrunkError, SettingsError
        The trunk has no such layer; the layers cannot come from one pass with this batch.
    """

    table: PatchTable
    picture_paths: Mapping[str, Path]
    runner: TrunkRunner
    stores: Folder
    batch: int | None = None
    say: Say = silent
    log_folder: Path | None = None
    layers: Sequence[str] = ()
    dtype: StoredDtype = "float16"
    codec: Codec = "small"
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        asked = []
        for layer in dict.fromkeys(self.layers or (self.runner.trunk.layer,)):
            identity = identity_of(
                self.table, self.runner, self.batch, self.runner.trunk.at(layer), self.dtype, self.rows
            )
            asked.append(AskedStore(layer, identity, self.stores.child(store_name(self.table, self.runner, identity))))
        self.asked = tuple(asked)
        self.identity, self.folder = asked[0].identity, asked[0].folder
        self._check_batches_coincide()

    def _check_batches_coincide(self) -> None:
        """Batches begin at a part's first row: over parts of several sizes they must be the same ones."""
        part_rows = {item.identity["how.part_rows"] for item in self.asked}
        smallest, batch = min(part_rows), self.identity["how.batch"]
        if len(part_rows) > 1 and (smallest % batch or max(part_rows) % smallest):
            sizes = ", ".join(f"{item.layer} {item.identity['how.part_rows']:,}" for item in self.asked)
            raise SettingsError(
                f"batch {batch}: these layers cannot come from one pass: it must divide {smallest:,}, since batches "
                f"begin at a part's first row and parts are of different size (rows: {sizes}); give another --batch, "
                "or extract one layer at a time"
            )

    def run(self, share: tuple[int, int] | None = None, engine: Engine | None = None) -> Store | None:
        """Make the store of one layer: `run_layers`, and of what that gives the first."""
        return next(iter(self.run_layers(share, engine)), None)

    def run_layers(self, share: tuple[int, int] | None = None, engine: Engine | None = None) -> list[Store]:
        """Make the stores, or go on with them; a complete one is left alone.

        Each patch goes through the trunk once, however many layers are asked for, and no further than to
        the last one that is missing.

        Parameters
        ----------
        share : (i, n) for the i-th (from 1) of n ranges of parts only; nothing is sealed then
        engine : what makes the parts; None for this process, one after the other

        Returns
        -------
        list of Store
            Sealed and checked, in the order of the layers; empty after a share.

        Raises
        ------
        PipelineError
            A picture changed or vanished since the table was made, an activation is not finite (the
            picture is named), or the disk will not hold the stores. Recorded parts are kept.
        """
        writers, all_new = self._open()
        unsealed = [writer for writer in writers if not writer.sealed]
        for writer in writers:
            if writer not in unsealed:
                self.say(f"{writer.folder}: complete, the trunk does not run")
        # The largest parts: each holds whole parts of all other layers.
        spans = max((writer.parts for writer in writers), key=lambda parts: parts[0].n_rows if parts else 0)
        mine = spans if share is None else share_of(spans, *share)
        missing = {writer.fingerprint: writer.missing() for writer in unsealed}
        todo = [part for part in (range_of(missing.values(), span) for span in mine) if part is not None]
        if todo:
            self._announce(unsealed, missing, mine, todo)
            # Another process may be at work on the same store: beginning elsewhere, both meet late.
            first = 0 if all_new else random.randrange(len(todo))
            self._make(unsealed, missing, todo[first:] + todo[:first], engine)
        if share is not None:
            return []
        for writer in unsealed:
            try:
                writer.seal()
            except OSError as error:
                raise disk_trouble(error, writer.folder) from error
            self.say(f"{writer.folder}: sealed")
        return [Store(item.folder, item.identity) for item in self.asked]

    def _open(self) -> tuple[list[StoreWriter], bool]:
        """A writer a store, and whether all of them are new."""
        folder = self.folder
        try:
            new = [item for item in self.asked if not item.folder.exists("zarr.json")]
            self._check_room(sum(_raw_bytes(item.identity, item.identity["seen.n_rows"]) for item in new))
            trunk = self.runner.trunk.card.name
            made_from = {"dataset": self.table.dataset, "split": self.table.split, "trunk": trunk}
            writers = []
            for item in self.asked:
                folder = item.folder
                create_store(folder, item.identity, self.table.ids, made_from, self.codec)
                writers.append(StoreWriter(folder))
        except OSError as error:
            raise disk_trouble(error, folder) from error
        return writers, len(new) == len(self.asked)

    def _check_room(self, needed: int) -> None:
        """Stop before the trunk runs if the disk will not hold what is to come."""
        # Compression took 0.5 of the raw size or less wherever it was measured; no promise is built on it.
        free = self.stores.free_bytes()
        if free is not None and free < needed:
            raise PipelineError(
                f"{self.stores}: {needed / 2**30:.1f} GiB may be needed and {free / 2**30:.1f} GiB are free; "
                "free some space, or choose another --cache or --stores folder"
            )

    def _name(self, writers: Sequence[StoreWriter]) -> str:
        """What is made, for messages: the store, or the layers of several."""
        if len(writers) == 1:
            return str(writers[0].folder)
        return f"{self.stores}: {', '.join(writer.identity['how.layer'] for writer in writers)} in one pass"

    def _announce(
        self,
        writers: Sequence[StoreWriter],
        missing: Mapping[str, Sequence[Part]],
        mine: Sequence[Part],
        todo: Sequence[Part],
    ) -> None:
        """Rows, bytes and time, before anything long begins."""
        n_rows = sum(part.n_rows for part in todo)
        needed = 0
        for writer in writers:
            own = [part for span in mine for part in parts_within(writer.parts, span)]
            left = set(missing[writer.fingerprint]) & set(own)
            needed += _raw_bytes(writer.identity, sum(part.n_rows for part in left))
            if len(left) < len(own):
                self.say(f"{writer.folder}: going on, {len(own) - len(left)} of {len(own)} parts are there")
        self._check_room(needed)
        batch = self.identity["how.batch"]
        text = f"{self._name(writers)}: {n_rows:,} rows to make, at most {needed / 2**20:,.0f} MiB"
        # What a dense trunk needs hangs on the sizes of the pictures and scales.
        if not isinstance(self.runner, DenseRunner):
            rate = self.runner.measure_rate(min(batch, n_rows))
            needed_s = format_seconds(n_rows / rate)
            text += f"; the trunk alone needs about {needed_s} ({rate:,.0f} patches/s in a trial batch)"
        self.say(text)

    def _make(
        self,
        writers: Sequence[StoreWriter],
        missing: Mapping[str, Sequence[Part]],
        todo: Sequence[Part],
        engine: Engine | None,
    ) -> None:
        clock = StageClock()
        started = time.perf_counter()
        n_rows = sum(part.n_rows for part in todo)
        what = f"extract {self.table.dataset} {self.table.split}"

        def plan(part: Part) -> RowPlan:
            rows = slice(part.start, part.stop) if self.rows is None else self.rows[part.start : part.stop]
            return plan_rows(self.table, self.picture_paths, rows)

        tasks = (PartTask(part, plan(part)) for part in todo)
        total = self.identity["seen.n_rows"]
        with Progress(what, total, "patches", done=total - n_rows) as progress:
            if engine is None:
                maker = PartMaker(self.runner, *(writer.folder for writer in writers))
                # Parts of one task are written while the next one is computed.
                with ThreadPoolExecutor(1) as pool:
                    writing: list[Future[None]] = []
                    for task in tasks:
                        made = maker.compute(task, clock, lambda n: progress.advance(n, note=clock.summary()))
                        for future in writing:
                            future.result()
                        writing = [pool.submit(part.write, clock) for part in made]
                    for future in writing:
                        future.result()
            else:

                def done(task: PartTask, seconds: Mapping[str, float]) -> None:
                    clock.add(seconds)
                    progress.advance(task.part.n_rows, note=clock.summary())

                engine(list(tasks), done)
        elapsed = time.perf_counter() - started
        rate = f"{n_rows:,} patches in {elapsed:.1f} s ({n_rows / elapsed:,.0f}/s)"
        self.say(f"{self._name(writers)}: {rate}; {clock.summary()}")
        for writer in writers:
            parts = [part for span in todo for part in parts_within(missing[writer.fingerprint], span)]
            if parts:
                self._log(writer, clock, elapsed, sum(part.n_rows for part in parts), len(parts), len(writers))

    def _log(
        self, writer: StoreWriter, clock: StageClock, elapsed_s: float, n_rows: int, n_parts: int, n_stores: int
    ) -> None:
        """Append what this run did to the log beside a store; the log is no part of the store."""
        if self.log_folder is None:
            return
        entry: dict[str, Any] = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": platform.node(),
            "rows": n_rows,
            "parts": n_parts,
            # Of the whole pass, which made so many stores at once.
            "stores": n_stores,
            "seconds": round(elapsed_s, 2),
            "stages": {name: round(s, 2) for name, s in clock.seconds.items()},
            "versions": {
                "pipeline": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "threads": torch.get_num_threads(),
            # Kilobytes on Linux; of the whole process, its imports included.
            "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        self.log_folder.mkdir(parents=True, exist_ok=True)
        with open(self.log_folder / log_name(writer.folder.name), "a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")


def _raw_bytes(identity: Identity, n_rows: int) -> int:
    # Activations, and picture, box and scale beside them.
    return n_rows * (identity["how.width"] * ROW_DTYPE().itemsize + 4 + 16 + 1)


def share_of(parts: Sequence[Part], index: int, count: int) -> list[Part]:
    """The `index`-th (from 1) of `count` contiguous ranges, equal up to one part.

    >>> from pipeline.activations.layout import parts_of
    >>> parts = parts_of({"seen.n_rows": 10, "how.part_rows": 1, "how.dtype": "float16"})
    >>> [len(share_of(parts, i, 4)) for i in (1, 2, 3, 4)]
    [2, 3, 2, 3]
    """
    return list(parts[len(parts) * (index - 1) // count : len(parts) * index // count])


def extract(
    table: PatchTable,
    picture_paths: Mapping[str, Path],
    runner: TrunkRunner,
    stores: str | Path | Folder,
    batch: int | None = None,
    say: Say = silent,
) -> Store:
    """Make or complete the store of one layer over one patch table, in this process; see `Extraction`."""
    folder = open_folder(stores)
    log_folder = folder.path if isinstance(folder, LocalFolder) else None
    store = Extraction(table, picture_paths, runner, folder, batch, say, log_folder).run()
    assert store is not None  # it is after a share only
    return store
