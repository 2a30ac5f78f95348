"""Inspect the pictures of a split: decode each, count its windows, and clip its objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pipeline.dataset.decode_memory import DecodeMemory, KnownFile
from pipeline.dataset.picture import decide_turn, refuse_turned_tiff
from pipeline.dataset.split import Annotation, Split
from pipeline.dataset.voc_xml import clip_box
from pipeline.io.digests import FileState, sha256_bytes
from pipeline.io.errors import BadPictureError
from pipeline.io.picture_file import PictureFile
from pipeline.io.progress import track
from pipeline.io.remote import REQUESTS
from pipeline.patches.rows import plan_picture, split_range
from pipeline.patches.settings import SourceSettings

MAX_FILE_BYTES = 1_000_000_000
"""Larger than any picture that can be decoded, and smaller than a machine's memory."""
PICTURES_AT_WORK = 256
"""Pictures after which what was found is written."""


@dataclass(frozen=True)
class Inspected:
    """Facts of one picture that the table needs, from its decoded pixels and its annotation.

    Attributes
    ----------
    size_wh : of the picture, turned if it is
    orientation : EXIF orientation of the file, 1 for none
    is_told : whether the annotation tells if the picture is turned
    n_clipped : number of boxes that reached out of the picture and were clipped
    n_rows : number of its patches
    box_xyxy, class_index, difficult : float64 (n, 4), int and bool (n,) ndarrays: its objects, clipped
    sample_xyxy : float64 ndarray (4,), box of the person that the sample is; None for none
    """

    sha256: str
    size_wh: tuple[int, int]
    orientation: int
    apply_exif: bool
    is_told: bool
    from_numbers: bool
    is_nearly_constant: bool
    n_clipped: int
    n_rows: int
    box_xyxy: np.ndarray
    class_index: np.ndarray
    difficult: np.ndarray
    sample_xyxy: np.ndarray | None


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


Job = tuple[str, PictureFile, Annotation, str | None]
"""Id, file and annotation of a picture, and the problem if its annotation cannot be used."""


def _inspect_picture(
    job: Job,
    file: KnownFile,
    sources: SourceSettings,
    turn_untold: bool,
    known_turns: Mapping[str, bool],
    memory: DecodeMemory,
    never_turned: bool,
) -> Inspected | Bad:
    """Read and decode a picture, unless it is known what that would tell, and count its windows.

    Parameters
    ----------
    file : its digest, if that is known
    turn_untold : whether a picture is turned by EXIF if its annotation does not tell
    known_turns : the same of single pictures, by the SHA-256 of their bytes
    never_turned : whether the manifest says so
    """
    name, path, annotation, unusable = job
    sha256, data = file.sha256 or "", b""
    try:
        if never_turned:
            refuse_turned_tiff(path, annotation.size_wh, name)
        facts = memory.recall(sha256) if sha256 else None
        if facts is None:
            data = _read_picture(path)
            sha256 = sha256_bytes(data)
        if unusable is not None:
            raise BadPictureError(unusable)
        objects, sample = annotation.box_xyxy, annotation.sample_xyxy
        boxes = objects if sample is None else np.vstack([objects, sample])
        turn_untold = known_turns.get(sha256, turn_untold)
        if facts is None:
            facts = memory.examine(sha256, data, name)
        apply_exif, is_told = decide_turn(
            facts.stored_wh, facts.orientation, annotation.size_wh, name, box_xyxy=boxes, otherwise=turn_untold
        )
        width, height = facts.size_wh(apply_exif)
        n_clipped = annotation.n_clipped
        if annotation.size_wh is None:
            objects, n_outside = _clip_boxes(objects, (width, height))
            sample = None if sample is None else _clip_boxes(sample[None], (width, height))[0][0]
            n_clipped += n_outside
        n_rows = len(plan_picture(width, height, sources, sample).scale)
    except OSError as error:
        return Bad(f"{error.strerror or error}")
    except BadPictureError as error:
        # Without the path: table and identity, which hold the reason, hold no places.
        problem = str(error).removeprefix(f"{name}: ")
        return Bad(problem, sha256, error.remedy)
    return Inspected(
        sha256,
        (width, height),
        facts.orientation,
        apply_exif,
        is_told,
        facts.from_numbers,
        facts.is_nearly_constant,
        n_clipped,
        n_rows,
        objects,
        annotation.class_index,
        annotation.difficult,
        sample,
    )


def _read_picture(path: PictureFile) -> bytes:
    """Read a file that may be a picture.

    Raises
    ------
    BadPictureError, OSError
    """
    if not path.is_file() and path.exists():  # reading a pipe would block
        raise BadPictureError("no plain file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadPictureError(f"{path.stat().st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
    return path.read_bytes()


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


@dataclass(frozen=True)
class _Inspection:
    """Inspects pictures of a split, in threads: hashing and Pillow's decoders release the interpreter lock."""

    sources: SourceSettings
    known_turns: Mapping[str, bool]
    memory: DecodeMemory
    pool: ThreadPoolExecutor
    never_turned: bool

    def run(self, jobs: Sequence[Job], turn_untold: bool) -> Iterator[Inspected | Bad]:
        """Inspect pictures in order; a killed process has lost what was found of `PICTURES_AT_WORK` at most."""
        for some in split_range(len(jobs), PICTURES_AT_WORK):
            own = jobs[some.start : some.stop]
            files = self.memory.find_files([path for _, path, _, _ in own])

            def inspect(job: Job, file: KnownFile) -> Inspected | Bad:
                turns = (turn_untold, self.known_turns)
                return _inspect_picture(job, file, self.sources, *turns, self.memory, self.never_turned)

            new: dict[FileState, str] = {}
            for file, item in zip(files, self.pool.map(inspect, own, files), strict=True):
                if file.state is not None and item.sha256 and item.sha256 != file.sha256:
                    new[file.state] = item.sha256
                yield item
            self.memory.remember_files(new)


def _count_threads(jobs: Sequence[Job], workers: int) -> int:
    """Return a number of threads: pictures elsewhere are waited for, which takes no time of a processor."""
    return workers if all(isinstance(file, Path) for _, file, _, _ in jobs) else max(workers, REQUESTS)


def _jobs_of(split: Split) -> list[Job]:
    problems = [split.unusable.get(i) for i in split.ids]
    return list(zip(split.ids, split.paths, split.annotations, problems, strict=True))


def inspect_split(
    split: Split,
    sources: SourceSettings,
    workers: int,
    what: str,
    known_turns: Mapping[str, bool] = MappingProxyType({}),
    memory: DecodeMemory | None = None,
) -> tuple[list[Inspected | Bad], tuple[int, int]]:
    """Inspect every picture of a split, and count its annotations that tell, see `_count_votes`.

    Parameters
    ----------
    what : name of the progress
    memory : what is known of pictures that were decoded before; None decodes every one
    """
    jobs = _jobs_of(split)
    with memory or DecodeMemory(None) as known, ThreadPoolExecutor(_count_threads(jobs, workers)) as pool:
        inspection = _Inspection(sources, known_turns, known, pool, split.manifest.exif == "ignore")
        first = inspection.run(jobs, turn_untold=split.manifest.exif != "ignore")
        inspected = list(track(first, what, len(jobs), "pictures"))
        votes = _count_votes(inspected)
        if split.manifest.exif is None and votes[0] == 0 < votes[1]:
            untold = [k for k, item in enumerate(inspected) if not (isinstance(item, Inspected) and item.is_told)]
            again = inspection.run([jobs[k] for k in untold], turn_untold=False)
            for k, item in zip(untold, again, strict=True):
                inspected[k] = item
    return inspected, votes


def inspect_share(
    split: Split, sources: SourceSettings, workers: int, what: str, share: tuple[int, int], memory: DecodeMemory
) -> tuple[int, int]:
    """Inspect one of several ranges of a split's pictures, so that `memory` knows them.

    Parameters
    ----------
    what : name of the progress
    share : (i, n) for the i-th (from 1) of n ranges, equal up to one picture

    Returns
    -------
    Number of pictures of the range, and of the bad ones among them, which are named when the table is made
    """
    index, count = share
    jobs = _jobs_of(split)
    jobs = jobs[len(jobs) * (index - 1) // count : len(jobs) * index // count]
    with memory, ThreadPoolExecutor(_count_threads(jobs, workers)) as pool:
        never_turned = split.manifest.exif == "ignore"
        found = _Inspection(sources, {}, memory, pool, never_turned).run(jobs, turn_untold=not never_turned)
        n_bad = sum(isinstance(item, Bad) for item in track(found, what, len(jobs), "pictures"))
    return len(jobs), n_bad


def _count_votes(inspected: Sequence[Inspected | Bad]) -> tuple[int, int]:
    """Count the pictures with an EXIF orientation whose annotation tells: that they are turned, that they are not."""
    told = [
        item.apply_exif for item in inspected if isinstance(item, Inspected) and item.is_told and item.orientation > 1
    ]
    return sum(told), len(told) - sum(told)
