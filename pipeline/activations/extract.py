"""Extraction: each picture decoded once, each patch through the trunk once, rows into the store."""

from __future__ import annotations

import json
import platform
import random
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import __version__
from pipeline.activations.cutting import cut_patches
from pipeline.activations.folder import Folder, LocalFolder, disk_trouble, open_folder
from pipeline.activations.identity import Identity, fingerprint, make_identity
from pipeline.activations.layout import ROW_DTYPE, Part, rows_a_part
from pipeline.activations.store import Store, StoreWriter, create_store
from pipeline.dataset.picture import decode_picture
from pipeline.errors import BadPictureError, PipelineError
from pipeline.files import sha256_bytes
from pipeline.patches.table import PatchTable
from pipeline.progress import Progress, format_seconds
from pipeline.trunk.runner import TrunkRunner

PICTURES_AHEAD = 3
Say = Callable[[str], None]


@dataclass
class StageClock:
    """Seconds of each stage, summed over threads."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    def add(self, seconds: Mapping[str, float]) -> None:
        """Seconds that another process measured."""
        for stage, spent in seconds.items():
            self.seconds[stage] += spent

    def summary(self) -> str:
        """Shares of the stages, for the progress line."""
        total = sum(self.seconds.values()) or 1.0
        return ", ".join(f"{name} {100 * s / total:.0f} %" for name, s in sorted(self.seconds.items()))


def batch_rows(input_px: int) -> int:
    """Rows that go through the trunk at once: more for smaller patches, a function of nothing else."""
    return 512 if input_px <= 96 else 64


def identity_of(table: PatchTable, runner: TrunkRunner, batch: int | None = None) -> Identity:
    """The identity of the store that an extraction would make."""
    trunk = runner.trunk
    return make_identity(
        table,
        trunk,
        runner.precision_name,
        batch or batch_rows(trunk.card.input_px),
        rows_a_part(trunk.width),
    )


def store_name(table: PatchTable, runner: TrunkRunner, identity: Identity) -> str:
    """``<dataset>-<split>-<trunk>-<layer>-<first 12 of the fingerprint>.zarr``."""
    layer = "".join(c if c.isalnum() or c in "._+" else "-" for c in runner.trunk.layer)
    return f"{table.dataset}-{table.split}-{runner.trunk.slug}-{layer}-{fingerprint(identity)[:12]}.zarr"


@dataclass(frozen=True)
class PlannedPicture:
    """A picture of a plan: where it is, and what its bytes must be."""

    index: int
    id: str
    path: Path
    sha256: str
    apply_exif: bool


@dataclass(frozen=True)
class RowPlan:
    """All that is needed to compute some rows: small, and independent of table and dataset.

    Attributes
    ----------
    picture : int32 ndarray (n,), rising; index of each row's picture in the id list
    box_xyxy : float32 ndarray (n, 4)
    scale : uint8 ndarray (n,)
    source : where the windows come from
    flip : bool ndarray (n,), rows of mirrored patches; None for none
    pictures : those that hold the rows, in rising order of their index
    """

    picture: np.ndarray
    box_xyxy: np.ndarray
    scale: np.ndarray
    source: str
    flip: np.ndarray | None
    pictures: tuple[PlannedPicture, ...]

    @property
    def n_rows(self) -> int:
        return len(self.picture)


def plan_rows(table: PatchTable, picture_paths: Mapping[str, Path], rows: slice | np.ndarray) -> RowPlan:
    """The plan of a range of rows, or of chosen ones in rising order."""
    picture = table.picture[rows]
    pictures = tuple(
        PlannedPicture(
            index,
            table.ids[index],
            picture_paths[table.ids[index]].absolute(),
            table.picture_sha256[index],
            bool(table.apply_exif[index]),
        )
        for index in np.unique(picture).tolist()
    )
    flip = None if table.flip is None else table.flip[rows]
    return RowPlan(picture, table.box_xyxy[rows], table.scale[rows], table.source, flip, pictures)


def compute_rows(
    plan: RowPlan,
    runner: TrunkRunner,
    batch: int,
    clock: StageClock,
    advance: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Activations of planned rows: float16 ndarray of shape (n, width), finite.

    Batches start at the plan's first row, so that a part's bytes depend on nothing outside of it.

    Raises
    ------
    PipelineError
        A picture changed or vanished, or an activation is not finite; the picture is named.
    """
    px = runner.trunk.card.input_px
    out = np.empty((plan.n_rows, runner.trunk.width), ROW_DTYPE)
    pending = np.empty((batch, px, px, 3), np.uint8)
    filled = written = 0

    def flush() -> None:
        nonlocal filled, written
        with clock.measure("trunk"):
            rows = runner(pending[:filled])
        out[written : written + filled] = rows
        written += filled
        advance(filled)
        filled = 0

    for patches in _patches_ahead(plan, px, clock):
        position = 0
        while position < len(patches):
            n = min(batch - filled, len(patches) - position)
            pending[filled : filled + n] = patches[position : position + n]
            filled += n
            position += n
            if filled == batch:
                flush()
    if filled:
        flush()
    # NaN comes through both, each infinity through one of them.
    bad = np.flatnonzero(~(np.isfinite(out.max(axis=1)) & np.isfinite(out.min(axis=1))))
    if len(bad):
        indices = set(plan.picture[bad].tolist())
        names = [picture.id for picture in plan.pictures if picture.index in indices]
        raise PipelineError(
            f"activations of {len(bad)} patches are not finite in {runner.precision_name} and float16, "
            f"in picture(s) {', '.join(names[:10])}; try --precision fp32, or check the trunk's weights"
        )
    return out


def _patches_ahead(plan: RowPlan, px: int, clock: StageClock) -> Iterator[np.ndarray]:
    """Patches of the plan's rows, a picture at a time, made in threads a few pictures ahead."""

    def make(picture: PlannedPicture) -> np.ndarray:
        rows = slice(*np.searchsorted(plan.picture, [picture.index, picture.index + 1]))
        with clock.measure("decode"):
            pixels = _decode_unchanged(picture)
        with clock.measure("rescale and cut"):
            flip = None if plan.flip is None else plan.flip[rows]
            return cut_patches(pixels, plan.box_xyxy[rows], plan.scale[rows], plan.source, px, flip)

    with ThreadPoolExecutor(2) as pool:
        ahead: list[Future[np.ndarray]] = []
        try:
            for picture in plan.pictures:
                ahead.append(pool.submit(make, picture))
                if len(ahead) > PICTURES_AHEAD:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()


def _decode_unchanged(picture: PlannedPicture) -> np.ndarray:
    """Decode a picture whose bytes must be those that the table was made from."""
    again = "make the patch table again with: pipeline patches, then go on with: pipeline extract"
    try:
        data = picture.path.read_bytes()
    except OSError as error:
        raise PipelineError(f"{picture.id}: {picture.path}: {error.strerror}; it was there before; {again}") from error
    if sha256_bytes(data) != picture.sha256:
        raise PipelineError(f"{picture.id}: {picture.path}: changed since the patch table was made; {again}")
    try:
        return decode_picture(data, picture.apply_exif, picture.id)
    except BadPictureError as error:
        raise PipelineError(f"{error}; it could be decoded before; {again}") from error


@dataclass(frozen=True)
class PartTask:
    """One part to make: the unit that engines schedule."""

    part: Part
    plan: RowPlan


class PartMaker:
    """Computes parts of one store and writes them: what every engine's worker holds, once.

    Parameters
    ----------
    runner : the trunk on this worker's device
    folder : the store's, made by `create_store`
    """

    def __init__(self, runner: TrunkRunner, folder: Folder) -> None:
        self.runner = runner
        self.writer = StoreWriter(folder)

    def make(self, task: PartTask, clock: StageClock, advance: Callable[[int], None] = lambda n: None) -> None:
        """Make a part, unless another writer has recorded it by now; `advance` hears of all of its rows."""
        if self.writer.is_recorded(task.part):
            advance(task.part.n_rows)
            return
        batch = self.writer.identity["how.batch"]
        activations = compute_rows(task.plan, self.runner, batch, clock, advance)
        columns = {
            "activations": activations,
            "picture": task.plan.picture,
            "box_xyxy": task.plan.box_xyxy,
            "scale": task.plan.scale,
        }
        with clock.measure("write"):
            try:
                self.writer.write_part(task.part, columns)
            except OSError as error:
                raise disk_trouble(error, self.writer.folder) from error


Engine = Callable[[Sequence[PartTask], Callable[[PartTask, Mapping[str, float]], None]], None]
"""Makes all tasks, in any order and anywhere, and reports each when its part is recorded."""


@dataclass
class Extraction:
    """The making of one store: its identity, its folder, the parts that are left, the seal.

    Parameters
    ----------
    table : the row plan
    picture_paths : file of each id of the table
    runner : the trunk on its device
    stores : where stores are kept
    batch : rows at once; None for the usual number of the trunk's input size
    say : takes lines for the user
    log_folder : where the run log goes; it is no part of the store
    """

    table: PatchTable
    picture_paths: Mapping[str, Path]
    runner: TrunkRunner
    stores: Folder
    batch: int | None = None
    say: Say = lambda text: None
    log_folder: Path | None = None

    def __post_init__(self) -> None:
        self.identity = identity_of(self.table, self.runner, self.batch)
        self.folder = self.stores.child(store_name(self.table, self.runner, self.identity))

    def run(self, share: tuple[int, int] | None = None, engine: Engine | None = None) -> Store | None:
        """Make the store, or go on with it; a complete one is left alone.

        Parameters
        ----------
        share : (i, n) for the i-th (from 1) of n ranges of parts only; the store is not sealed then
        engine : what makes the parts; None for this process, one after the other

        Returns
        -------
        Store or None
            Sealed and checked; None after a share.

        Raises
        ------
        PipelineError
            A picture changed or vanished since the table was made, an activation is not finite (the
            picture is named), or the disk will not hold the store. Recorded parts are kept.
        """
        try:
            writer, is_new = self._open()
        except OSError as error:
            raise disk_trouble(error, self.folder) from error
        if writer.sealed:
            self.say(f"{self.folder}: complete, the trunk does not run")
            return None if share else Store(self.folder, self.identity)
        mine = writer.parts if share is None else share_of(writer.parts, *share)
        missing = set(writer.missing())
        todo = [part for part in mine if part in missing]
        if todo:
            self._announce(writer, mine, todo)
            # Another process may be at work on the same store: beginning elsewhere, both meet late.
            first = 0 if is_new else random.randrange(len(todo))
            self._make(writer, todo[first:] + todo[:first], engine)
        if share is not None:
            return None
        try:
            writer.seal()
        except OSError as error:
            raise disk_trouble(error, self.folder) from error
        self.say(f"{self.folder}: sealed")
        return Store(self.folder, self.identity)

    def _open(self) -> tuple[StoreWriter, bool]:
        is_new = not self.folder.exists("zarr.json")
        if is_new:
            self._check_room(self.table.n_rows)
        trunk = self.runner.trunk.card.name
        made_from = {"dataset": self.table.dataset, "split": self.table.split, "trunk": trunk}
        create_store(self.folder, self.identity, self.table.ids, made_from)
        return StoreWriter(self.folder), is_new

    def _check_room(self, n_rows: int) -> None:
        """Stop before the trunk runs if the disk will not hold what is to come."""
        # Compression took 0.5 of the raw size or less wherever it was measured; no promise is built on it.
        needed, free = self._raw_bytes(n_rows), self.stores.free_bytes()
        if free is not None and free < needed:
            raise PipelineError(
                f"{self.stores}: {needed / 2**30:.1f} GiB may be needed and {free / 2**30:.1f} GiB are free; "
                "free some space, or choose another --cache or --stores folder"
            )

    def _raw_bytes(self, n_rows: int) -> int:
        # Activations, and picture, box and scale beside them.
        return n_rows * (self.identity["how.width"] * ROW_DTYPE().itemsize + 4 + 16 + 1)

    def _announce(self, writer: StoreWriter, mine: Sequence[Part], todo: Sequence[Part]) -> None:
        """Rows, bytes and time, before anything long begins."""
        n_rows = sum(part.n_rows for part in todo)
        if len(todo) < len(mine):
            self.say(f"{self.folder}: going on, {len(mine) - len(todo)} of {len(mine)} parts are there")
        self._check_room(n_rows)
        batch = self.identity["how.batch"]
        rate = self.runner.measure_rate(min(batch, n_rows))
        self.say(
            f"{self.folder}: {n_rows:,} rows to make, at most {self._raw_bytes(n_rows) / 2**20:,.0f} MiB; "
            f"the trunk alone needs about {format_seconds(n_rows / rate)} ({rate:,.0f} patches/s in a trial batch)"
        )

    def _make(self, writer: StoreWriter, todo: Sequence[Part], engine: Engine | None) -> None:
        clock = StageClock()
        started = time.perf_counter()
        n_rows = sum(part.n_rows for part in todo)
        what = f"extract {self.table.dataset} {self.table.split}"
        tasks = (
            PartTask(part, plan_rows(self.table, self.picture_paths, slice(part.start, part.stop))) for part in todo
        )
        total = self.table.n_rows
        with Progress(what, total, "patches", done=total - n_rows) as progress:
            if engine is None:
                maker = PartMaker(self.runner, self.folder)
                for task in tasks:
                    maker.make(task, clock, lambda n: progress.advance(n, note=clock.summary()))
            else:

                def done(task: PartTask, seconds: Mapping[str, float]) -> None:
                    clock.add(seconds)
                    progress.advance(task.part.n_rows, note=clock.summary())

                engine(list(tasks), done)
        elapsed = time.perf_counter() - started
        self.say(f"{self.folder}: {n_rows:,} patches in {elapsed:.1f} s ({n_rows / elapsed:,.0f}/s); {clock.summary()}")
        self._log(clock, elapsed, n_rows, len(todo))

    def _log(self, clock: StageClock, elapsed_s: float, n_rows: int, n_parts: int) -> None:
        """Append what this run did to the log beside the store; the log is no part of the store."""
        if self.log_folder is None:
            return
        entry: dict[str, Any] = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": platform.node(),
            "rows": n_rows,
            "parts": n_parts,
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
        with open(self.log_folder / log_name(self.folder.name), "a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")


def log_name(store: str) -> str:
    """File name of a store's run log."""
    return store.removesuffix(".zarr") + ".log.jsonl"


def share_of(parts: Sequence[Part], index: int, count: int) -> list[Part]:
    """The `index`-th (from 1) of `count` contiguous ranges, equal up to one part.

    >>> from pipeline.activations.layout import parts_of
    >>> [len(share_of(parts_of({"seen.n_rows": 10, "how.part_rows": 1}), i, 4)) for i in (1, 2, 3, 4)]
    [2, 3, 2, 3]
    """
    return list(parts[len(parts) * (index - 1) // count : len(parts) * index // count])


def extract(
    table: PatchTable,
    picture_paths: Mapping[str, Path],
    runner: TrunkRunner,
    stores: str | Path | Folder,
    batch: int | None = None,
    say: Say = lambda text: None,
) -> Store:
    """Make or complete the store of one layer over one patch table, in this process; see `Extraction`."""
    folder = open_folder(stores)
    log_folder = folder.path if isinstance(folder, LocalFolder) else None
    store = Extraction(table, picture_paths, runner, folder, batch, say, log_folder).run()
    assert store is not None  # it is after a share only
    return store
