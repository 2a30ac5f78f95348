"""The rows that a head is fitted on: in memory if they fit into a budget, else in a scratch file.

Both give the same rows in the same order, so that a head has the same bytes either way.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.activations.arrays import ROW_DTYPE
from pipeline.io.errors import HeadError, PipelineError
from pipeline.io.memory import available_memory, release_memory, resident_memory
from pipeline.io.numbers import format_bytes
from pipeline.io.progress import Say, silent

T = TypeVar("T")
R = TypeVar("R")
SHARE_OF_AVAILABLE = 0.5
"""Of the memory that programs may still use: what a fit takes where no budget is set."""
IN_MEMORY = "in memory"
"""Where rows lie, for messages."""
RESERVE = 384 * 2**20
"""For a fit that does not say what it takes beside its rows."""


class FitRows(Protocol):
    """Rows of one width, in a fixed order."""

    def __len__(self) -> int: ...

    def chunks(self, n_rows: int) -> Iterable[Tensor]:
        """Iterate over all rows in order: Tensors (at most n_rows, width)."""
        ...

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Gather the rows of each index Tensor (n,); yields the index and the rows (n, width)."""
        ...

    def read_into(self, rows: Tensor, chosen: Tensor) -> None:
        """Gather the rows of an index Tensor (n,) into memory of the CPU (n, width)."""
        ...

    def ranges(self, order: Iterable[Sequence[slice]]) -> Iterator[list[np.ndarray]]:
        """Read several ranges of rows at a time: ndarrays (length of the range, width)."""
        ...


class RowsInMemory:
    """Rows of an array: float16 or float32 ndarray (n, width)."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def chunks(self, n_rows: int) -> Iterable[Tensor]:
        return self._rows.split(n_rows)

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in order:
            yield chosen, self._rows[chosen]

    def read_into(self, rows: Tensor, chosen: Tensor) -> None:
        torch.index_select(self._rows, 0, chosen, out=rows)

    def ranges(self, order: Iterable[Sequence[slice]]) -> Iterator[list[np.ndarray]]:
        rows = self._rows.numpy()
        for several in order:
            yield [rows[each] for each in several]


class RowsOnDisk:
    """float16 rows in a file without a name, which the system removes with the process.

    Rows are read with system calls: those of a mapped file would count as memory of the process.

    Parameters
    ----------
    folder : in which the file lies
    blocks : float16 ndarrays (any, width), in order

    Raises
    ------
    PipelineError
        The disk does not hold them.
    """

    def __init__(self, folder: Path, width: int, n_rows: int, blocks: Iterable[np.ndarray]) -> None:
        self._width, self._n_rows = width, n_rows
        self._row_bytes = width * np.dtype(ROW_DTYPE).itemsize
        needed, free = n_rows * self._row_bytes, shutil.disk_usage(folder).free
        if free < needed:
            raise PipelineError(
                f"{folder}: {format_bytes(needed)} are needed for the rows of the fit and {format_bytes(free)} are "
                "free; free some space, choose another --cache, or allow more memory with the setting memory"
            )
        # Open as long as the object lives, which is not known to a with statement.
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        for block in filter(len, blocks):
            left = np.ascontiguousarray(block).data.cast("B")
            while left:
                left = left[self._file.write(left) or 0 :]

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def __len__(self) -> int:
        return self._n_rows

    def _read(self, rows: np.ndarray, position: int) -> None:
        """Fill `rows` from row `position` on."""
        view, offset = rows.data.cast("B"), position * self._row_bytes
        while view:
            n = os.preadv(self._file.fileno(), [view], offset)
            view, offset = view[n:], offset + n

    def _take(self, chosen: Tensor) -> Tensor:
        rows = torch.from_numpy(np.empty((len(chosen), self._width), ROW_DTYPE))
        self.read_into(rows, chosen)
        return rows

    def read_into(self, rows: Tensor, chosen: Tensor) -> None:
        descriptor, row_bytes = self._file.fileno(), self._row_bytes
        for row, position in zip(rows.numpy(), chosen.tolist(), strict=True):
            if os.preadv(descriptor, [row.data], position * row_bytes) != row_bytes:
                self._read(row, position)

    def chunks(self, n_rows: int) -> Iterable[Tensor]:
        for start in range(0, self._n_rows, n_rows):
            yield torch.from_numpy(self._read_range(slice(start, min(start + n_rows, self._n_rows))))

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """See `FitRows`; the next batch is read while the caller works on one."""
        return read_ahead(order, self._take)

    def ranges(self, order: Iterable[Sequence[slice]]) -> Iterator[list[np.ndarray]]:
        """See `FitRows`; the next ranges are read while the caller works on some."""
        return (rows for _, rows in read_ahead(order, lambda several: list(map(self._read_range, several))))

    def _read_range(self, rows: slice) -> np.ndarray:
        values = np.empty((rows.stop - rows.start, self._width), ROW_DTYPE)
        self._read(values, rows.start)
        return values


def read_ahead(order: Iterable[T], read: Callable[[T], R]) -> Iterator[tuple[T, R]]:
    """Yield each item and what was read for it; the next one is read while the caller works on one."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in order:
            following = item, pool.submit(read, item)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def halvings(n: int) -> list[int]:
    """Return a number, its half and so on, down to 1: how many at a time, for the `MemoryBudget` to choose from.

    >>> halvings(6)
    [6, 3, 1]
    """
    return [n, *halvings(n // 2)] if n > 1 else [1]


@dataclass(frozen=True)
class MemoryBudget:
    """Memory of a fit, and where rows lie that do not fit into it.

    Attributes
    ----------
    n_bytes : of the whole process; None for a share of what is free
    scratch : folder of scratch files
    say : takes one line for each fit: where its rows lie, and how much memory it takes at its peak
    drop : frees what is kept for further fits, and returns how many bytes that were; called where a fit needs them
    """

    n_bytes: int | None = None
    scratch: Path = Path(tempfile.gettempdir())
    say: Say = silent
    drop: Callable[[], int] = lambda: 0

    @property
    def in_scratch(self) -> str:
        """Where rows lie that are in a scratch file, for messages."""
        return f"in a scratch file in {self.scratch}"

    def choose(self, what: str, ways: Mapping[str, int], peak: int = 0) -> str:
        """Choose the first way whose peak fits, and say it.

        Parameters
        ----------
        what : is fitted, for messages
        ways : where the rows lie, and the most bytes that are added to what the process holds now
            The last one takes the least.
        peak : most bytes that the process held while the rows were chosen; it is part of what is said

        Returns
        -------
        where the rows lie; the last way where nothing fits and no budget is set

        Raises
        ------
        HeadError
            Nothing fits into the budget that is set.
        """
        self.has_room(next(iter(ways.values())))
        held, allowed = resident_memory(), self.room()
        way = next((way for way, added in ways.items() if added <= allowed), list(ways)[-1])
        self.refuse_beyond(what, held, ways[way])
        needed = max(held + ways[way], peak)
        holds = f"at most {format_bytes(needed)} of memory, {format_bytes(held)} of them held already"
        self.say(f"{what}: rows {way}; {holds}")
        return way

    def room(self) -> int:
        """Return how many bytes may be added to what the process holds now; below 0 where it holds too many."""
        if self.n_bytes is None:
            return int(available_memory() * SHARE_OF_AVAILABLE)
        return self.n_bytes - resident_memory()

    def has_room(self, n_bytes: int) -> bool:
        """Whether so many bytes may be added; what is kept for further fits is dropped where that is needed."""
        release_memory()
        if n_bytes <= self.room():
            return True
        if not self.drop():
            return False
        release_memory()
        return n_bytes <= self.room()

    def refuse_beyond(self, what: str, held: int, added: int) -> None:
        """Refuse what needs more memory than the budget that is set.

        Parameters
        ----------
        what : is done, for the message
        held, added : bytes that the process holds, and that are added to them

        Raises
        ------
        HeadError
        """
        if self.n_bytes is not None and held + added > self.n_bytes:
            held -= self.drop()
        needed = held + added
        if self.n_bytes is not None and needed > self.n_bytes:
            enough = math.ceil(needed / 2**30 * 10) / 10
            raise HeadError(
                f"{what}: {format_bytes(needed)} of memory are needed, {format_bytes(held)} for what the process holds "
                f"already and {format_bytes(added)} for the fit, and the setting memory allows "
                f"{format_bytes(self.n_bytes)}; allow more with memory: {enough:g} in the file of --config, or with: "
                f"pipeline fit-head --memory {enough:g}"
            )

    def hold(
        self,
        n_rows: int,
        width: int,
        blocks: Iterable[np.ndarray],
        what: str = "fit",
        working: int | None = None,
        peak: int = 0,
    ) -> FitRows:
        """Hold rows for a fit.

        Parameters
        ----------
        blocks : float16 ndarrays (any, width), together `n_rows`, in order
        what : is fitted, for messages
        working : most bytes that reading and the fit take beside the rows; None: `RESERVE`, and never too many
        peak : see `choose`

        Raises
        ------
        HeadError, PipelineError
            Not even the fit alone fits into the budget; the disk does not hold the rows.
        """
        needed = n_rows * width * np.dtype(ROW_DTYPE).itemsize
        what = f"{what}: {n_rows:,} rows of {width:,} columns, {format_bytes(needed)}"
        in_memory, on_disk = (RESERVE, 0) if working is None else (working, working)
        ways = {IN_MEMORY: needed + in_memory, self.in_scratch: on_disk}
        return self.read(self.choose(what, ways, peak), n_rows, width, blocks)

    def read(self, way: str, n_rows: int, width: int, blocks: Iterable[np.ndarray]) -> FitRows:
        """Read rows into memory or a scratch file, as `choose` said; see `hold`."""
        if way == self.in_scratch:
            self.scratch.mkdir(parents=True, exist_ok=True)
            rows: FitRows = RowsOnDisk(self.scratch, width, n_rows, blocks)
        else:
            values = np.empty((n_rows, width), ROW_DTYPE)
            start = 0
            for block in blocks:
                values[start : start + len(block)] = block
                start += len(block)
                del block  # before the next one is read
            rows = RowsInMemory(values)
        release_memory()
        return rows
