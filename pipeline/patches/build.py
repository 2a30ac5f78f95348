"""Build a patch table: decode every picture of a split, plan its windows, measure their overlap with objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pipeline.dataset.picture import decode_annotated, is_nearly_constant
from pipeline.dataset.split import Annotation, Split
from pipeline.dataset.voc_xml import clip_box
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
    orientation: int
    apply_exif: bool
    is_told: bool
    from_numbers: bool
    is_nearly_constant: bool
    n_clipped: int
    box_xyxy: np.ndarray
    scale: np.ndarray
    flip: np.ndarray | None
    overlap: Overlap


@dataclass(frozen=True)
class _Bad:
    """A picture with a problem, and the digest of its bytes if they could be read."""

    problem: str
    sha256: str = ""


_Job = tuple[str, Path, Annotation, str | None]
"""Id, file and annotation of a picture, and the problem if its annotation cannot be used."""


def _inspect(
    job: _Job, sources: SourceSettings, turn_untold: bool, known_turns: Mapping[str, bool]
) -> _Inspected | _Bad:
    """Decode a picture and plan its windows.

    Parameters
    ----------
    turn_untold : whether a picture is turned by EXIF if its annotation does not tell
    known_turns : the same of single pictures, by the SHA-256 of their bytes
    """
    name, path, annotation, unusable = job
    data = None
    try:
        if not path.is_file() and path.exists():  # reading a pipe would block
            raise BadPictureError("no plain file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadPictureError(f"{path.stat().st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
        data = path.read_bytes()
        if unusable is not None:
            raise BadPictureError(unusable)
        objects, sample = annotation.box_xyxy, annotation.sample_xyxy
        boxes = objects if sample is None else np.vstack([objects, sample])
        sha256 = sha256_bytes(data)
        turn_untold = known_turns.get(sha256, turn_untold)
        decoded = decode_annotated(data, annotation.size_wh, name, box_xyxy=boxes, otherwise=turn_untold)
        height, width = decoded.pixels.shape[:2]
        n_clipped = annotation.n_clipped
        if annotation.size_wh is None:
            objects, n_outside = _clip_boxes(objects, (width, height))
            sample = None if sample is None else _clip_boxes(sample[None], (width, height))[0][0]
            n_clipped += n_outside
        windows, scale, flip = plan_windows(width, height, sources, sample)
    except OSError as error:
        return _Bad(f"{error.strerror or error}")
    except BadPictureError as error:
        # Without the path: table and identity, which hold the reason, hold no places.
        return _Bad(str(error).removeprefix(f"{name}: "), "" if data is None else sha256_bytes(data))
    # The table holds float32, and labels follow from the table.
    windows = windows.astype(np.float32)
    # The square of a person may be mostly surroundings; the patch has the label of the person's action all the same.
    area = windows
    if sources.source == "boxes":
        assert sample is not None  # see `_check_source`
        area = np.repeat(sample[None], len(windows), axis=0)
    return _Inspected(
        sha256,
        (width, height),
        decoded.orientation,
        decoded.apply_exif,
        decoded.is_told,
        decoded.from_numbers,
        is_nearly_constant(decoded.pixels),
        n_clipped,
        windows,
        scale,
        flip,
        measure_overlap(area, objects, annotation.class_index, annotation.difficult),
    )


def _clip_boxes(box_xyxy: np.ndarray, size_wh: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Clip the boxes of an annotation without a size; return them, and how many reached out of the picture.

    Raises
    ------
    BadPictureError
        A box lies outside by more than a little.
    """
    clipped, n_clipped = box_xyxy.copy(), 0
    for index, box in enumerate(box_xyxy):
        try:
            clipped[index], is_clipped = clip_box(box, size_wh)
        except ValueError as error:
            raise BadPictureError(str(error)) from error
        n_clipped += is_clipped
    return clipped, n_clipped


def make_table(
    split: Split,
    sources: SourceSettings,
    *,
    on_error: str = "fail",
    max_skipped: float = 0.05,
    workers: int = 1,
    known_turns: Mapping[str, bool] = MappingProxyType({}),
    say: Say = silent,
) -> PatchTable:
    """Decode every picture of a split and plan its rows.

    A picture is turned by its EXIF orientation as its annotation tells. Where that does not tell, the manifest's
    ``exif`` decides; without it, the other pictures of the split, if their annotations agree; else the picture is
    turned, so that it is read as it is shown.

    Parameters
    ----------
    on_error : {"fail", "skip"}
        With bad pictures: list all of them and make nothing, or leave them out of rows and id list and record them.
    max_skipped : largest share of pictures that may be skipped, 0..1
    workers : number of decoding threads
    known_turns : whether pictures without an annotation are turned by EXIF, by the SHA-256 of their bytes
    say : takes notes: pictures left out, turned, all but constant, and boxes clipped

    Raises
    ------
    DatasetError
        Bad pictures under ``fail``; under ``skip`` if all or more than `max_skipped` are bad. A source that does
        not go with the samples: ``boxes`` is for persons, and ``grid`` is not.
    """
    _check_source(split, sources.source)
    problems = [split.unusable.get(i) for i in split.ids]
    jobs: list[_Job] = list(zip(split.ids, split.paths, split.annotations, problems, strict=True))
    what = f"patches {split.manifest.name} {split.name}"
    turn_untold = split.manifest.exif != "ignore"
    # Threads, not processes: hashing and Pillow's decoders release the interpreter lock.
    with ThreadPoolExecutor(workers) as pool:
        inspect = partial(_inspect, sources=sources, turn_untold=turn_untold, known_turns=known_turns)
        inspected = list(track(pool.map(inspect, jobs), what, len(jobs), "pictures"))
        votes = _count_votes(inspected)
        if split.manifest.exif is None and votes[0] == 0 < votes[1]:
            inspect = partial(_inspect, sources=sources, turn_untold=False, known_turns=known_turns)
            untold = [k for k, item in enumerate(inspected) if isinstance(item, _Inspected) and not item.is_told]
            for k, item in zip(untold, pool.map(inspect, [jobs[k] for k in untold]), strict=True):
                inspected[k] = item
    _report_bad(split, inspected, on_error, max_skipped, say)
    for note in (*_explain_exif(split, inspected, votes), *_explain_content(split, inspected)):
        say(f"{split.manifest.name} {split.name}: {note}")
    return _assemble(split, sources, inspected)


def _count_votes(inspected: Sequence[_Inspected | _Bad]) -> tuple[int, int]:
    """Count the pictures with an EXIF orientation whose annotation tells: that they are turned, that they are not."""
    told = [
        item.apply_exif for item in inspected if isinstance(item, _Inspected) and item.is_told and item.orientation > 1
    ]
    return sum(told), len(told) - sum(told)


def _explain_exif(split: Split, inspected: Sequence[_Inspected | _Bad], votes: tuple[int, int]) -> list[str]:
    """Say how many pictures with an EXIF orientation are turned, and by which rule."""
    of_file = dict(zip(split.paths, inspected, strict=True))  # persons share a picture
    marked = [item for item in of_file.values() if isinstance(item, _Inspected) and item.orientation > 1]
    if not marked:
        return []
    manifest, agreed = split.manifest, sum(votes) > 0 and 0 in votes
    if manifest.exif is not None:
        why = f"'exif: {manifest.exif}' in the manifest"
    elif agreed:
        why = "as the others of the split"
    elif sum(votes):
        why = f"as they are shown: the others disagree, {votes[0]} turned and {votes[1]} not"
    else:
        why = "as they are shown" if not manifest.has_boxes else "as they are shown: no annotation tells"
    counts = {
        "turned (their annotations tell)": [item for item in marked if item.is_told and item.apply_exif],
        "as stored (their annotations tell)": [item for item in marked if item.is_told and not item.apply_exif],
        f"turned ({why})": [item for item in marked if not item.is_told and item.apply_exif],
        f"as stored ({why})": [item for item in marked if not item.is_told and not item.apply_exif],
    }
    parts = [f"{len(items)} {_n_of(items)}{what}" for what, items in counts.items() if items]
    guessed = any(not item.is_told for item in marked) and manifest.exif is None and not agreed and manifest.has_boxes
    hint = "; if the boxes lie elsewhere, write 'exif: ignore' into the manifest" if guessed else ""
    return [f"EXIF orientation: {', '.join(parts)}{hint}"]


def _n_of(items: Sequence[object]) -> str:
    """Return the word after the number of some pictures."""
    return "picture " if len(items) == 1 else "pictures "


def _explain_content(split: Split, inspected: Sequence[_Inspected | _Bad]) -> list[str]:
    """Name the pictures that show next to nothing, and those with clipped boxes."""
    notes = []
    pairs = [(i, item) for i, item in zip(split.ids, inspected, strict=True) if isinstance(item, _Inspected)]
    if constant := [i for i, item in pairs if item.is_nearly_constant]:
        notes.append(
            f"NOTE: {len(constant)} of {len(pairs)} pictures are all but constant after decoding, so nothing can be "
            f"seen in them (fewer bits than the file's type holds?): {_first(constant)}"
        )
    if clipped := [i for i, item in pairs if item.n_clipped]:
        n_boxes = sum(item.n_clipped for _, item in pairs)
        notes.append(
            f"{n_boxes} box(es) reached a little out of the picture and were clipped, in {len(clipped)} picture(s): "
            f"{_first(clipped)}"
        )
    return notes


def _first(names: Sequence[str], shown: int = 5) -> str:
    """Join the first of some names."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _report_bad(
    split: Split, inspected: Sequence[_Inspected | _Bad], on_error: str, max_skipped: float, say: Say
) -> None:
    """List bad pictures; raise DatasetError unless they may be skipped."""
    problems = [
        f"{name}: {path}: {item.problem}"
        for name, path, item in zip(split.ids, split.paths, inspected, strict=True)
        if isinstance(item, _Bad)
    ]
    if not problems:
        return
    count = f"{len(problems)} of {len(inspected)} pictures are bad"
    where = f"{split.manifest.name} {split.name}: {count}\n{enumerate_problems(problems)}"
    if on_error == "fail":
        raise DatasetError(
            f"{where}\nfix them, or leave them out with --on-error skip (setting max_skipped: the largest share)"
        )
    if len(problems) == len(inspected) or len(problems) > max_skipped * len(inspected):
        raise DatasetError(
            f"{where}\nmore than may be skipped (setting max_skipped: {max_skipped:g} of all, and never all)"
        )
    say(f"{where}\nleft out of this run, and recorded in the patch table")


def _assemble(split: Split, sources: SourceSettings, inspected: Sequence[_Inspected | _Bad]) -> PatchTable:
    """Join the facts of all good pictures into a table."""
    good = [index for index, item in enumerate(inspected) if isinstance(item, _Inspected)]
    good_ids = tuple(split.ids[index] for index in good)
    pictures = [item for item in inspected if isinstance(item, _Inspected)]
    bad = [(split.ids[index], item) for index, item in enumerate(inspected) if isinstance(item, _Bad)]
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
        ids=good_ids,
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
        exif=split.manifest.exif,
        from_numbers=tuple(i for i, item in zip(good_ids, pictures, strict=True) if item.from_numbers),
    )
    return replace(table, rows_digest=table.compute_rows_digest())


def _check_source(split: Split, source: Source) -> None:
    """Raise an error for a source that does not fit a split's samples."""
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
