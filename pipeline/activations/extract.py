"""Extraction: each picture decoded once, each patch through the trunk once, rows into the store."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline import __version__
from pipeline.activations.cutting import cut_patches
from pipeline.activations.identity import Identity, fingerprint, make_identity
from pipeline.activations.store import (
    ROW_DTYPE,
    Part,
    Store,
    StoreWriter,
    create_store,
    disk_trouble,
    rows_a_part,
)
from pipeline.dataset.picture import decode_picture
from pipeline.errors import BadPictureError, PipelineError
from pipeline.files import sha256_bytes
from pipeline.patches.table import PatchTable
from pipeline.progress import Progress
from pipeline.trunk.runner import TrunkRunner

PICTURES_AHEAD = 3


@dataclass
class StageClock:
    """Seconds of each stage, summed over threads."""

    seconds: dict[str, float]

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    def summary(self) -> str:
        """Shares of the stages, for the progress line."""
        total = sum(self.seconds.values()) or 1.0
        return ", ".join(f"{name} {100 * s / total:.0f} %" for name, s in sorted(self.seconds.items()))


def batch_rows(input_px: int) -> int:
    """Rows that go through the trunk at once: more for smaller patches, a function of nothing else."""
    return 512 if input_px <= 96 else 64


def identity_of(table: PatchTable, runner: TrunkRunner, batch: int | None = None) -> Identity:
    """The identity of the store that `extract` would make."""
    trunk = runner.trunk
    return make_identity(
        table,
        trunk,
        runner.precision_name,
        batch or batch_rows(trunk.card.input_px),
        rows_a_part(trunk.width),
    )


def store_path(cache: Path, table: PatchTable, runner: TrunkRunner, identity: Identity) -> Path:
    """``cache/<dataset>-<split>-<trunk>-<layer>-<first 12 of the fingerprint>.zarr``."""
    layer = "".join(c if c.isalnum() or c in "._+" else "-" for c in runner.trunk.layer)
    name = f"{table.dataset}-{table.split}-{runner.trunk.slug}-{layer}-{fingerprint(identity)[:12]}.zarr"
    return cache / name


def extract(
    table: PatchTable,
    picture_paths: dict[str, Path],
    runner: TrunkRunner,
    cache: Path,
    batch: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Store:
    """Make the store of one layer over one patch table, or go on with it; a complete one is left alone.

    Parameters
    ----------
    table : the row plan
    picture_paths : file of each id of the table
    runner : the trunk on its device
    cache : folder of the stores
    batch : rows at once; None for the usual number of the trunk's input size

    Returns
    -------
    Store
        Sealed and checked.

    Raises
    ------
    PipelineError
        A picture changed or vanished since the table was made, an activation is not finite (the
        picture is named), or the disk will not hold the store. Recorded parts are kept.
    """
    identity = identity_of(table, runner, batch)
    path = store_path(cache, table, runner, identity)
    if not path.exists():
        _check_disk(cache, table.n_rows * identity["how.width"] * ROW_DTYPE().itemsize)
    try:
        create_store(path, identity, table.ids, table.skipped)
    except OSError as error:
        raise disk_trouble(error, path) from error
    writer = StoreWriter(path)
    if writer.sealed:
        say(f"{path}: complete, the trunk does not run")
        return Store(path, identity)

    todo = writer.missing()
    if len(todo) < len(writer.parts):
        say(f"{path}: going on, {len(writer.parts) - len(todo)} of {len(writer.parts)} parts are there")
    clock = StageClock(defaultdict(float))
    started = time.perf_counter()
    done = table.n_rows - sum(part.stop - part.start for part in todo)
    what = f"extract {table.dataset} {table.split}"
    with Progress(what, table.n_rows, "patches", done=done) as progress:
        for part in todo:
            activations = compute_part(part, table, picture_paths, runner, identity["how.batch"], clock, progress)
            rows = slice(part.start, part.stop)
            with clock.measure("write"):
                writer.write_part(
                    part,
                    {
                        "activations": activations,
                        "picture": table.picture[rows],
                        "box_xyxy": table.box_xyxy[rows],
                        "scale": table.scale[rows],
                    },
                )
    writer.seal()
    elapsed = time.perf_counter() - started
    n_new = table.n_rows - done
    _log_run(path, clock, elapsed, n_new, len(todo))
    say(f"{path}: sealed; {n_new:,} patches in {elapsed:.1f} s ({n_new / elapsed:,.0f}/s); busy: {clock.summary()}")
    return Store(path, identity)


def compute_part(
    part: Part,
    table: PatchTable,
    picture_paths: dict[str, Path],
    runner: TrunkRunner,
    batch: int,
    clock: StageClock,
    progress: Progress,
) -> np.ndarray:
    """Activations of one part: float16 ndarray of shape (rows of the part, width), finite.

    Batches start at the part's first row, so that a part's bytes depend on nothing outside of it.
    """
    px = runner.trunk.card.input_px
    out = np.empty((part.stop - part.start, runner.trunk.width), ROW_DTYPE)
    pending = np.empty((batch, px, px, 3), np.uint8)
    filled = written = 0

    def flush() -> None:
        nonlocal filled, written
        with clock.measure("trunk"):
            rows = runner(pending[:filled])
        out[written : written + filled] = rows
        written += filled
        progress.advance(filled, note=clock.summary())
        filled = 0

    for patches in _patches_ahead(part, table, picture_paths, px, clock):
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
        names = sorted({table.ids[i] for i in table.picture[part.start + bad]})
        raise PipelineError(
            f"activations of {len(bad)} patches are not finite in {runner.precision_name} and float16, "
            f"in picture(s) {', '.join(names[:10])}; try --precision fp32, or check the trunk's weights"
        )
    return out


def _patches_ahead(
    part: Part, table: PatchTable, picture_paths: dict[str, Path], px: int, clock: StageClock
) -> Iterator[np.ndarray]:
    """Patches of the part's rows, a picture at a time, made in threads a few pictures ahead."""
    first_row = table.first_row
    first, last = int(table.picture[part.start]), int(table.picture[part.stop - 1])

    def make(picture: int) -> np.ndarray:
        rows = slice(max(part.start, first_row[picture]), min(part.stop, first_row[picture + 1]))
        name = table.ids[picture]
        with clock.measure("decode"):
            pixels = _decode_unchanged(table, picture, picture_paths[name])
        with clock.measure("rescale and cut"):
            return cut_patches(pixels, table.box_xyxy[rows], table.scale[rows], table.source, px)

    with ThreadPoolExecutor(2) as pool:
        ahead: list[Future[np.ndarray]] = []
        upcoming = iter(range(first, last + 1))
        try:
            for picture in upcoming:
                ahead.append(pool.submit(make, picture))
                if len(ahead) > PICTURES_AHEAD:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()


def _decode_unchanged(table: PatchTable, picture: int, path: Path) -> np.ndarray:
    """Decode a picture whose bytes must be those that the table was made from."""
    name = table.ids[picture]
    again = f"make the patch table again: pipeline patches --dataset {table.dataset} --split {table.split}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PipelineError(f"{name}: {path}: {error.strerror}; it was there before; {again}") from error
    if sha256_bytes(data) != table.picture_sha256[picture]:
        raise PipelineError(f"{name}: {path}: the picture changed since the patch table was made; {again}")
    try:
        return decode_picture(data, bool(table.apply_exif[picture]), name)
    except BadPictureError as error:
        raise PipelineError(f"{error}; it could be decoded before; {again}") from error


def _check_disk(cache: Path, n_bytes: int) -> None:
    """Stop before the trunk runs if the disk will not hold what is to come."""
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    # Compression took 0.5 of the raw size or less wherever it was measured; no promise is built on it.
    if free < n_bytes:
        raise PipelineError(
            f"{cache}: {n_bytes / 2**30:.1f} GiB may be needed and {free / 2**30:.1f} GiB are free; "
            "free some space, or choose another --cache folder"
        )


def _log_run(path: Path, clock: StageClock, elapsed_s: float, n_rows: int, n_parts: int) -> None:
    """Append what this run did to the log beside the store; the log is no part of the store."""
    entry = {
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
    with open(path.with_name(path.name.removesuffix(".zarr") + ".log.jsonl"), "a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")
