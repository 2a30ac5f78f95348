"""Build a patch table: decode every picture of a split, plan its windows, measure their overlap with objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.dataset.picture import decode_annotated
from pipeline.dataset.split import Annotation, Split
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import BadPictureError, DatasetError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Say, silent, track
from pipeline.patches.labels import Overlap, measure_overlap
from pipeline.patches.settings import Source, SourceSettings
from pipeline.patches.sources import plan_windows
from pipeline.patches.table import PatchTable

MAX_FILE_BYTES = 1_000_000_000
"""Larger than any picture that can be decoded, and smaller than a machine's memory."""


@dataclass(frozen=True)
class _Inspected:
    """Facts of one picture that the table needs, from its decoded pixels."""

    sha256: str
    size_wh: tuple[int, int]
    apply_exif: bool
    box_xyxy: np.ndarray
    scale: np.ndarray
    flip: np.ndarray | None
    overlap: Overlap


@dataclass(frozen=True)
class Bad:
    """A picture with a problem.

    Attributes
    ----------
    sha256 : digest of its bytes, if they could be read
    remedy : setting that would let it pass, and its value, if there is one
    """

    problem: str
    sha256: str = ""
    remedy: tuple[str, float] | None = None


def _inspect(job: tuple[str, Path, Annotation], sources: SourceSettings) -> _Inspected | Bad:
    name, path, annotation = job
    data = None
    try:
        if not path.is_file() and path.exists():  # reading a pipe would block
            raise BadPictureError("no plain file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadPictureError(f"{path.stat().st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
        data = path.read_bytes()
        pixels, apply_exif = decode_annotated(data, annotation.size_wh, name)
        height, width = pixels.shape[:2]
        objects, sample = annotation.box_xyxy, annotation.sample_xyxy
        boxes = objects if sample is None else np.vstack([objects, sample])
        if annotation.size_wh is None and len(boxes) and (boxes > np.array([width, height] * 2) + 1).any():
            raise BadPictureError(f"a box lies outside of the picture of {width} x {height}")
        windows, scale, flip = plan_windows(width, height, sources, sample)
    except OSError as error:
        return Bad(f"{error.strerror or error}")
    except BadPictureError as error:
        # Without the path: table and identity, which hold the reason, hold no places.
        problem = str(error).removeprefix(f"{name}: ")
        return Bad(problem, "" if data is None else sha256_bytes(data), error.remedy)
    # The table holds float32, and labels follow from the table.
    windows = windows.astype(np.float32)
    # The square of a person may be mostly surroundings; the patch has the label of the person's action all the same.
    area = windows
    if sources.source == "boxes":
        assert sample is not None  # see `check_source`
        area = np.repeat(sample[None], len(windows), axis=0)
    overlap = measure_overlap(area, objects, annotation.class_index, annotation.difficult)
    return _Inspected(sha256_bytes(data), (width, height), apply_exif, windows, scale, flip, overlap)


def make_table(
    split: Split,
    sources: SourceSettings,
    *,
    on_error: str = "fail",
    max_skipped: float = 0.05,
    workers: int = 1,
    say: Say = silent,
) -> PatchTable:
    """Decode every picture of a split and plan its rows.

    Parameters
    ----------
    on_error : {"fail", "skip"}
        With bad pictures: list all of them and make nothing, or leave them out of rows and id list and record them.
    max_skipped : largest share of pictures that may be skipped, 0..1
    workers : number of decoding threads

    Raises
    ------
    DatasetError
        Bad pictures under ``fail``; under ``skip`` if all or more than `max_skipped` are bad. A source that does
        not go with the samples: ``boxes`` is for persons, and ``grid`` is not.
    """
    check_source(split, sources.source)
    jobs = list(zip(split.ids, split.paths, split.annotations, strict=True))
    what = f"patches {split.manifest.name} {split.name}"
    # Threads, not processes: hashing and Pillow's decoders release the interpreter lock.
    with ThreadPoolExecutor(workers) as pool:
        inspected = list(track(pool.map(partial(_inspect, sources=sources), jobs), what, len(jobs), "pictures"))
    _report_bad(split, inspected, on_error, max_skipped, say)
    return _assemble(split, sources, inspected)


def find_bad(split: Split, sources: SourceSettings, workers: int = 1) -> list[Bad | None]:
    """Inspect every picture of a split as `make_table` does; return what is wrong with each, None if nothing is."""
    jobs = list(zip(split.ids, split.paths, split.annotations, strict=True))

    def bad(job: tuple[str, Path, Annotation]) -> Bad | None:
        item = _inspect(job, sources)
        return item if isinstance(item, Bad) else None  # overlaps of a large split would fill the memory

    with ThreadPoolExecutor(workers) as pool:
        return list(track(pool.map(bad, jobs), f"check {split.name}", len(jobs), "pictures"))


def _report_bad(split: Split, inspected: Sequence[object], on_error: str, max_skipped: float, say: Say) -> None:
    """List the bad pictures among those inspected; raise an error unless they may be skipped.

    Raises
    ------
    DatasetError
    """
    problems = [
        f"{name}: {path}: {item.problem}"
        for name, path, item in zip(split.ids, split.paths, inspected, strict=True)
        if isinstance(item, Bad)
    ]
    if not problems:
        return
    count = f"{len(problems)} of {len(inspected)} pictures are bad"
    where = f"{split.manifest.name} {split.name}: {count}\n{enumerate_problems(problems)}"
    ways = list_remedies(inspected)
    if not may_pass(inspected, on_error, max_skipped):
        if on_error == "fail":
            raise DatasetError(f"{where}\n{ways}")
        raise DatasetError(
            f"{where}\nmore than may be skipped (setting max_skipped: {max_skipped:g} of all, and never all)\n{ways}"
        )
    say(f"{where}\nleft out of this run, and recorded in the patch table")


def may_pass(inspected: Sequence[object], on_error: str, max_skipped: float) -> bool:
    """Whether a table is made of these pictures: none is bad, or few enough to be skipped."""
    n_bad = sum(isinstance(item, Bad) for item in inspected)
    return not n_bad or (on_error == "skip" and n_bad < len(inspected) and n_bad <= max_skipped * len(inspected))


def list_remedies(inspected: Sequence[object]) -> str:
    """Return what lets bad pictures pass: repaired files, settings, or leaving them out."""
    values: dict[str, list[float]] = {}
    for item in inspected:
        if isinstance(item, Bad) and item.remedy is not None:
            values.setdefault(item.remedy[0], []).append(item.remedy[1])
    ways = []
    if (sides := values.get("grid.min_side_px")) and min(sides) >= 0.1:
        ways.append(f"grid.min_side_px: {math.floor(min(sides) * 10) / 10:g} or less")
    if totals := values.get("grid.max_patches"):
        ways.append(f"grid.max_patches: {max(totals)} or more")
    if values:
        ways.append("source: whole (a patch per picture)")
    settings = f"\nor set {', or '.join(ways)}, in a file for --config" if ways else ""
    return f"fix them, or leave them out with --on-error skip{settings}"


def _assemble(split: Split, sources: SourceSettings, inspected: Sequence[_Inspected | Bad]) -> PatchTable:
    """Join the facts of all good pictures into a table."""
    good = [index for index, item in enumerate(inspected) if isinstance(item, _Inspected)]
    pictures = [item for item in inspected if isinstance(item, _Inspected)]
    bad = [(split.ids[index], item) for index, item in enumerate(inspected) if isinstance(item, Bad)]
    flips = [item.flip for item in pictures if item.flip is not None]
    table = PatchTable(
        dataset=split.manifest.name,
        split=split.name,
        classes=split.manifest.classes,
        source=sources.source,
        grid=sources.grid,
        picture=np.repeat(np.arange(len(pictures)), [len(item.scale) for item in pictures]).astype(np.int32),
        box_xyxy=np.concatenate([item.box_xyxy for item in pictures]),
        scale=np.concatenate([item.scale for item in pictures]),
        overlap=Overlap.concatenate([item.overlap for item in pictures]),
        ids=tuple(split.ids[index] for index in good),
        size_wh=np.array([item.size_wh for item in pictures], np.int32),
        apply_exif=np.array([item.apply_exif for item in pictures], bool),
        picture_sha256=tuple(item.sha256 for item in pictures),
        picture_labels=np.zeros((len(pictures), 0), np.int8) if split.labels is None else split.labels[good],
        skipped=tuple((i, item.problem) for i, item in bad),
        annotation_digest=split.annotation_digest,
        skipped_sha256=tuple(item.sha256 for _, item in bad),
        flip=np.concatenate(flips) if flips else None,
        crops=sources.crops,
        boxes=sources.boxes,
        unscored=split.manifest.unscored,
        has_boxes=split.manifest.has_boxes,
    )
    return replace(table, rows_digest=table.compute_rows_digest())


def check_source(split: Split, source: Source) -> None:
    """Raise an error for a source that does not fit a split's samples.

    Raises
    ------
    DatasetError
    """
    name = split.manifest.name
    if split.manifest.by_person and source == "grid":
        raise DatasetError(
            f"{name} {split.name}: samples are persons, and a grid covers pictures: all persons of one would score "
            "the same; use the setting source=boxes, or a manifest with 'samples: pictures'"
        )
    if source == "boxes" and not split.manifest.by_person:
        raise DatasetError(
            f"{name} {split.name}: source boxes is for samples that are persons, as in layout voc-action "
            "with 'samples: persons'; these are pictures: use source=grid, whole or crops"
        )
