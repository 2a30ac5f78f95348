"""Shares of the scoring of a split: ranges of pictures that are scored apart, in files of their own, and joined.

Every share holds the bits that one process computes. A share is read again only by what joins it, and not at all where
it was made from anything else than there is now.
"""

from __future__ import annotations

import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pipeline.activations.engines import Engine, find_engine
from pipeline.activations.identity import explain_differences
from pipeline.activations.run_log import StageClock
from pipeline.activations.store import Store
from pipeline.head.device import HeadDevice
from pipeline.head.file import load_head
from pipeline.head.task import Columns
from pipeline.io.errors import StoreError
from pipeline.io.progress import Progress
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.table_file import read_table
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.score import SplitScoring
from pipeline.scoring.share_file import load_share, save_share
from pipeline.stages.context import RunContext
from pipeline.stages.extract import absolute_place
from pipeline.stages.runner import set_threads, worker_threads
from pipeline.stages.workspace import VERSIONS

PARTS_PER_SHARE = 32
"""In one process: an interruption costs at most so many parts, and one part in so many is read twice."""
PARTS_PER_TASK = 4
"""On workers: enough shares to spread, at the price of reading one part in so many twice."""


@dataclass(frozen=True)
class ShareTask:
    """One share to score, as a task of an engine.

    Attributes
    ----------
    index, count : the `index`-th (from 1) of `count` shares of the store's parts
    n_rows : of its pictures
    files : of the share of each head
    """

    index: int
    count: int
    n_rows: int
    files: tuple[Path, ...]

    kind: ClassVar[str] = "share"


class ShareScorer:
    """Scores shares and writes them: one per worker of an engine.

    Parameters
    ----------
    scoring : of a split by several heads
    """

    def __init__(self, scoring: SplitScoring) -> None:
        self.scoring = scoring
        self._made_from = [scoring.made_from(index) for index in range(len(scoring.heads))]

    def load(self, task: ShareTask, head: int) -> tuple[Columns, float]:
        """Read the share of one head; see `load_share`."""
        return load_share(self._made_from_share(task, head), task.files[head])

    def why_due(self, task: ShareTask, head: int) -> str | None:
        """Return why the share of one head must be scored, or None if its file was made from what is there now."""
        try:
            self.load(task, head)
        except StoreError as error:
            return str(error)
        return None

    def make(self, task: ShareTask, clock: StageClock, advance: Callable[[int], None] = lambda n: None) -> None:
        """Score a share with those heads that have no current file of it, and write it."""
        due = [head for head in range(len(task.files)) if self.why_due(task, head) is not None]
        if not due:
            advance(task.n_rows)
            return
        started = time.perf_counter()
        with clock.measure("score"):
            columns = self.scoring.score(self.scoring.share(task.index, task.count), due, advance)
        seconds = (time.perf_counter() - started) / len(due)
        for head, of_head in zip(due, columns, strict=True):
            save_share(of_head, self._made_from_share(task, head), seconds, task.files[head])

    def _made_from_share(self, task: ShareTask, head: int) -> dict[str, Any]:
        return {**self._made_from[head], "share": f"{task.index}/{task.count}"}


@dataclass(frozen=True)
class ScoringFiles:
    """What a worker opens to score, by absolute paths, and what it must find there.

    Attributes
    ----------
    table, heads : files
    store : path or URL
    aggregations : of the settings
    held_out : share of the pictures that alone are scored; None for all pictures
    threads : of torch, 0 for one per core
    device : kind of the device that scores patches, ``cpu`` or ``cuda``
    expected : `SplitScoring.made_from` of each head
    versions : of the rooms
    """

    table: Path
    store: str
    heads: tuple[Path, ...]
    aggregations: tuple[Aggregation, ...]
    held_out: float | None
    threads: int
    device: str
    expected: tuple[dict[str, Any], ...]
    versions: dict[str, int]


def open_scorer(files: ScoringFiles) -> ShareScorer:
    """Return a worker's scorer, checked to give the scores that were asked for.

    Raises
    ------
    StoreError, HeadError
        A file is not there, or the worker would make other scores; the fields are named.
    """
    set_threads(files.threads)
    table, heads = read_table(files.table), [load_head(path) for path in files.heads]
    wanted = None if files.held_out is None else hold_out_pictures(table.picture_sha256, files.held_out)
    scoring = SplitScoring(Store(files.store), table, heads, files.aggregations, wanted, HeadDevice(files.device))
    for index, expected in enumerate(files.expected):
        own = {**scoring.made_from(index), **_name_versions(VERSIONS)}
        asked = {**expected, **_name_versions(files.versions)}
        if own != asked:
            raise StoreError(
                f"worker {platform.node()}: would make other scores than were asked for\n"
                f"{explain_differences(own, asked)}\nuse workers with the same package and kind of processor"
            )
    return ShareScorer(scoring)


def _name_versions(versions: Mapping[str, int]) -> dict[str, int]:
    return {f"version.{room}": version for room, version in versions.items()}


class Scored(NamedTuple):
    """Columns of all heads, range by range, and the seconds that each head took."""

    ranges: list[list[Columns]]
    seconds: float


class SharedScoring:
    """The scoring of a split in one process, in several, or from shares that are there.

    Parameters
    ----------
    scoring : of the split
    heads : names of its heads
    held_out : whether it is of the fit split's held-out pictures alone
    """

    def __init__(self, run: RunContext, scoring: SplitScoring, heads: Sequence[str], held_out: bool = False) -> None:
        self._run, self._scoring, self._heads, self._held_out = run, scoring, tuple(heads), held_out
        self._scorer = ShareScorer(scoring)

    def task(self, index: int, count: int) -> ShareTask:
        """Return the task of the `index`-th (from 1) of `count` shares."""
        table = self._scoring.table
        files = [
            self._run.ws.scores_share_path(table.dataset, head, table.split, index, count, self._held_out).absolute()
            for head in self._heads
        ]
        return ShareTask(index, count, self._scoring.n_rows(self._scoring.share(index, count)), tuple(files))

    def make_share(self, index: int, count: int) -> list[Path]:
        """Score one share; return its files, one per head."""
        task = self.task(index, count)
        with self._progress(task.n_rows) as progress:
            self._scorer.make(task, StageClock(), progress.advance)
        return list(task.files)

    def score(self) -> Scored:
        """Score all pictures; shares that are there and current are read."""
        scheduler = self._run.scheduler
        n_parts, n_heads = len(self._scoring.store.parts), len(self._heads)
        engine, n_local = (None, 1) if scheduler is None else self._engine(scheduler)
        least = -(-n_parts // (PARTS_PER_SHARE if engine is None else PARTS_PER_TASK))
        count = self._count_there() or max(1, min(n_parts, max(least, n_local)))
        tasks = [self.task(index, count) for index in range(1, count + 1)]
        missing = [task for task in tasks if not self._is_there(task)]
        total = sum(task.n_rows for task in tasks)
        if count == 1 and missing and engine is None:
            started = time.perf_counter()
            with self._progress(total) as progress:
                columns = self._scoring.score(self._scoring.pictures, advance=progress.advance)
            return Scored([columns], (time.perf_counter() - started) / n_heads)
        self._say(f"{count} shares, {count - len(missing)} of them scored already")
        with self._progress(total, done=total - sum(task.n_rows for task in missing)) as progress:
            if missing and engine is not None:
                engine(missing, lambda n_rows, seconds: progress.advance(n_rows))
            for task in missing if engine is None else ():
                self._scorer.make(task, StageClock(), progress.advance)
        loaded = [[self._scorer.load(task, head) for head in range(n_heads)] for task in tasks]
        seconds = sum(seconds for of_share in loaded for _, seconds in of_share) / n_heads
        return Scored([[columns for columns, _ in of_share] for of_share in loaded], seconds)

    def remove_shares(self) -> None:
        """Remove the files of all shares, which the joined scores hold."""
        for path in self._files_there():
            path.unlink(missing_ok=True)

    def _is_there(self, task: ShareTask) -> bool:
        """Return whether the files of all heads are there and current; say why one that is there is not used."""
        there = True
        for head, file in enumerate(task.files):
            reason = self._scorer.why_due(task, head)
            there = there and reason is None
            if reason is not None and file.is_file():
                self._run.say(f"{reason}\nthis share is scored again")
        return there

    def _files_there(self) -> list[Path]:
        """Return the files of shares of these scores, of any number of shares."""
        first = self.task(1, 1).files
        names = [re.compile(re.escape(file.name.removesuffix("-1of1.h5")) + r"-\d+of\d+\.h5") for file in first]
        return [
            file for file in sorted(first[0].parent.glob("*.h5")) if any(name.fullmatch(file.name) for name in names)
        ]

    def _count_there(self) -> int | None:
        """Return the number of shares of which most are there, the smallest of several; None where there is none."""
        counts = Counter(int(file.stem.rpartition("of")[2]) for file in self._files_there())
        return max(counts, key=lambda count: (counts[count], -count), default=None)

    def _engine(self, scheduler: str) -> tuple[Engine[ShareTask], int]:
        """Return the engine of a scheduler, and how many workers of it are on this machine."""
        on_workers = find_engine(scheduler)
        n_local = on_workers.n_local(scheduler)
        ws, s, table = self._run.ws, self._run.settings, self._scoring.table
        dataset, split = table.dataset, table.split
        files = ScoringFiles(
            table=ws.table_path(dataset, split).absolute(),
            store=absolute_place(self._scoring.store.folder),
            heads=tuple(ws.head_path(dataset, head, self._held_out).absolute() for head in self._heads),
            aggregations=tuple(s.all_aggregations),
            held_out=s.held_out if self._held_out else None,
            threads=worker_threads(s.threads, n_local),
            device=self._scoring.place.device.type,
            expected=tuple(self._scoring.made_from(head) for head in range(len(self._heads))),
            versions=VERSIONS,
        )
        return on_workers(scheduler, partial(open_scorer, files), False, self._run.say), n_local or 1

    def _progress(self, n_rows: int, done: int = 0) -> Progress:
        table = self._scoring.table
        return Progress(f"score {table.dataset} {table.split}", n_rows, "patches", done=done)

    def _say(self, text: str) -> None:
        table = self._scoring.table
        self._run.say(f"{table.dataset} {table.split}: {text}")
