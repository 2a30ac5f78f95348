"""What an extraction, and all after it, will take: a small model over measured unit costs.

Parts are tasks that equal workers take in order; everything else is a straight line in pictures or
rows. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec

from pipeline.activations.arrays import files_per_part, files_per_store, raw_bytes_per_row
from pipeline.dataset.picture import picture_size
from pipeline.dataset.split import Split
from pipeline.io.errors import BadPictureError, SettingsError
from pipeline.io.numbers import estimate_bytes
from pipeline.patches.settings import SourceSettings
from pipeline.patches.sources import count_windows
from pipeline.preflight.costs import MEASURE, Costs, Stage, TrunkCost

STORE_FILES = files_per_store() + 2
"""Files per store without its parts: also its receipt and its run log."""


@dataclass(frozen=True)
class Counts:
    """A split by its numbers."""

    pictures: int
    rows: int


@dataclass(frozen=True)
class Workers:
    """Who makes the parts: `n` alike, each with so many cores and, if `gpu`, one GPU."""

    n: int = 1
    cores: int = 1
    gpu: bool = False


@dataclass(frozen=True)
class Speed:
    """Patches a second of one worker: of the trunk alone, of the cores that feed it alone, of all together.

    Attributes
    ----------
    feed_by : what the cores do: they decode and cut; for a GPU, which rescales and cuts itself, decode and write
    """

    trunk: float
    feed: float
    together: float
    bound_by: str
    feed_by: str


@dataclass(frozen=True)
class Left:
    """What is left to extract of a split: rows through the trunk, and rows that other stores hold."""

    computed: int
    adopted: int = 0

    @property
    def rows(self) -> int:
        return self.computed + self.adopted

    def seconds(self, speed: Speed, trunk: TrunkCost) -> float:
        """Return the seconds of one worker; a row that is taken over costs no more than to code it anew."""
        return self.computed / speed.together + self.adopted * trunk.write_s


@dataclass(frozen=True)
class StagePlan:
    """One stage. Bytes are on disk, memory is that of its largest process."""

    hours: float
    dollars: float | None
    bytes_expected: float
    bytes_at_most: float
    files: int
    memory_bytes: float


@dataclass(frozen=True)
class Plan:
    """All stages, and how the workers of the extraction spend their time.

    Attributes
    ----------
    parts, part_rows : number of parts that are left to make, and rows of each
    busy : share of the workers' time that goes into parts; start-up and the last wave are the rest
    """

    stages: dict[str, StagePlan]
    speed: Speed
    parts: int
    part_rows: int
    part_seconds: float
    busy: float

    def without_head(self) -> Plan:
        """Return the plan of pictures without labels, whose last stage is the extraction."""
        return replace(self, stages={name: self.stages[name] for name in ("patches", "extract")})


def count_split(split: Split, sources: SourceSettings) -> tuple[Counts, list[str]]:
    """Pictures and patches from sizes alone (XML, else the header of the file), and what is wrong with the others."""

    @cache
    def n_windows(size_wh: tuple[int, int]) -> int:
        return count_windows(*size_wh, sources)

    rows, problems = [], []
    for name, path, annotation in zip(split.ids, split.paths, split.annotations, strict=True):
        try:
            size_wh = annotation.size_wh
            if size_wh is None:
                size_wh = picture_size(path, path.name)
            rows.append(n_windows(size_wh))
        except (BadPictureError, OSError) as error:
            problems.append(f"{name}: {error}")
    return Counts(len(rows), sum(rows)), problems


def makespan(parts: int, part_s: float, last_s: float, workers: int, startup_s: float) -> float:
    """Seconds until all parts are made; the last one may be shorter, never longer.

    >>> makespan(5, 10.0, 4.0, workers=2, startup_s=1.0)  # 10 + 10 + 4 beside 10 + 10
    25.0
    """
    waves, beside = divmod(parts - 1, workers)
    return startup_s + waves * part_s + (part_s if beside else last_s)


def trunk_rate(trunk: TrunkCost, workers: Workers, precision: str, backend: str = "torch") -> tuple[str, float]:
    """Arithmetic, and patches a second of the trunk alone on one worker, from the table.

    Parameters
    ----------
    precision, backend : as in the settings, where ``auto`` takes OpenVINO if it is installed and the trunk was measured
        with it

    Raises
    ------
    SettingsError
        Not measured.
    """
    usual: tuple[str, ...] = ("cuda-fp16",) if workers.gpu else ("cpu-bf16", "cpu-fp32")
    keys: tuple[str, ...] = usual if precision == "auto" else (f"{usual[0].partition('-')[0]}-{precision}",)
    if backend == "openvino" or (backend == "auto" and find_spec("openvino") is not None):
        by_openvino = tuple(f"{key}-openvino" for key in keys if key == "cpu-bf16" or backend == "openvino")
        keys = by_openvino if backend == "openvino" else (*by_openvino, *keys)
    for key in keys:
        rate = trunk.rates.get(key)
        if rate is not None:
            return key, rate if workers.gpu else rate * workers.cores / trunk.cores
    names = " and ".join(keys)
    raise SettingsError(
        f"{names}: not measured; give --rate, patches a second of the trunk on one worker, or {MEASURE}"
    )


def worker_speed(trunk: TrunkCost, rate: float, decode_s: float, workers: Workers) -> Speed:
    """How fast one worker makes parts.

    Parameters
    ----------
    rate : of the trunk alone
    decode_s : of one core, a patch
    """
    if workers.gpu:
        feed_by, feed = "decoding and writing", workers.cores / (decode_s + trunk.write_s)
        together = min(rate, feed)
    else:
        feed_by, feed_s = "decoding and cutting", decode_s + trunk.cut_s
        feed = workers.cores / feed_s
        # Trunk and decoding threads share the cores.
        together = 1 / (1 / rate + feed_s / workers.cores + trunk.write_s)
    return Speed(rate, feed, together, feed_by if feed < rate else "the trunk", feed_by)


def make_plan(
    splits: Sequence[Counts],
    trunk: TrunkCost,
    rate: float,
    workers: Workers,
    costs: Costs,
    price: float | None = None,
    *,
    batch: int | None = None,
    left: Sequence[Left] = (),
) -> Plan:
    """Plan all four stages; a head is fitted on the first split, and the last one is scored.

    Parameters
    ----------
    rate : patches a second of the trunk alone on one worker
    price : dollars a worker and hour; all workers are paid until the last part is made
    batch : rows per batch; None for the trunk's own
    left : what is left to extract of each split; none for everything
    """
    n_rows, n_pictures = sum(s.rows for s in splits), sum(s.pictures for s in splits)
    speed = worker_speed(trunk, rate, costs.picture.decode_s * n_pictures / n_rows, workers)
    part_rows = trunk.rows_per_part(batch, workers.gpu)
    left = left or [Left(s.rows) for s in splits]
    parts = [math.ceil(some.rows / part_rows) for some in left]
    stages: dict[str, StagePlan] = {}
    busy = 0.0
    its_splits: dict[Stage, Sequence[Counts]] = {
        "patches": splits,
        "extract": splits,
        "fit-head": splits[:1],
        "score": splits[-1:],
    }
    for name, some_splits in its_splits.items():
        cost = costs.stages[name]
        wider = trunk.width / cost.width if cost.width else 1.0
        units = sum(s.pictures if cost.unit == "picture" else s.rows for s in some_splits)
        memory_mib = cost.memory_mib
        if name == "extract":
            seconds = sum(
                _extract_seconds(some, n, part_rows, speed, trunk, workers.n, cost.startup_s)
                for some, n in zip(left, parts, strict=True)
            )
            paid_s = seconds * workers.n
            busy = sum(some.seconds(speed, trunk) for some in left) / paid_s if paid_s else 0.0
            n_left = sum(some.rows for some in left)
            expected, at_most = n_left * trunk.bytes_a_row, float(n_left * raw_bytes_per_row(trunk.width))
            n_files = sum(n * files_per_part() + STORE_FILES for n in parts if n)
            memory_mib += max(0.0, trunk.extra_mib)
        else:
            seconds = len(some_splits) * cost.startup_s + units * cost.unit_s * wider * cost.cores / workers.cores
            paid_s = seconds
            expected = at_most = len(some_splits) * cost.disk_bytes + units * cost.disk_bytes_a_unit
            # Tables, and the one memory of digests; head or scores, and their log.
            n_files = len(some_splits) + 1
        # A fit holds its rows, the other stages hold the patch table, which is as wide for all trunks.
        row_bytes = cost.memory_bytes_a_row * (wider if name == "fit-head" else 1)
        grown = max(s.rows * row_bytes + s.pictures * costs.picture.memory_bytes for s in some_splits)
        dollars = None if price is None else price * paid_s / 3600
        stages[name] = StagePlan(seconds / 3600, dollars, expected, at_most, n_files, memory_mib * 2**20 + grown)
    return Plan(stages, speed, sum(parts), part_rows, part_rows / speed.together, busy)


def _extract_seconds(
    left: Left, parts: int, part_rows: int, speed: Speed, trunk: TrunkCost, workers: int, startup_s: float
) -> float:
    if not parts:
        return startup_s
    if not left.adopted:
        last_s = (left.rows - (parts - 1) * part_rows) / speed.together
        return makespan(parts, part_rows / speed.together, last_s, workers, startup_s)
    # Where in the parts the new rows lie is not foreseen: all parts count alike.
    mean_s = left.seconds(speed, trunk) / parts
    return makespan(parts, mean_s, mean_s, workers, startup_s)


def warn(plan: Plan, stores: str, free_bytes: int | None, memory_bytes: int) -> list[str]:
    """Say what will not fit: into the disk of the stores, and into the memory of a machine.

    Parameters
    ----------
    stores : where they lie
    free_bytes : free there; None where that is not known
    memory_bytes : of the machine
    """
    warnings = []
    needed = plan.stages["extract"].bytes_at_most
    if free_bytes is not None and needed > free_bytes:
        warnings.append(
            f"{stores}: up to {estimate_bytes(needed)} are needed and {estimate_bytes(free_bytes)} are free; extract "
            "refuses to begin like that: choose another --cache or --stores"
        )
    large = [name for name, stage in plan.stages.items() if stage.memory_bytes > memory_bytes]
    if large:
        warnings.append(
            f"{', '.join(large)}: more memory than the {estimate_bytes(memory_bytes)} of this machine; pictures, "
            "annotations and the rows of a fit are held whole, so cut the pictures into several datasets"
        )
    return warnings
