"""The rows that a head is fitted on: in memory if they fit into a budget, else in a scratch file.

Both give the same rows in the same order, so that a head has the same bytes either way.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.activations.arrays import ROW_DTYPE
from pipeline.io.errors import PipelineError
from pipeline.io.memory import available_memory, resident_memory
from pipeline.io.numbers import format_bytes
from pipeline.io.progress import Say, silent

SHARE_OF_AVAILABLE = 0.5
"""Of the memory that programs may still use: what rows take where no budget is set."""
RESERVE = 384 * 2**20
"""For parts that are read ahead, the networks, and their steps."""


class FitRows(Protocol):
    """Rows of one width, in a fixed order."""

    def __len__(self) -> int: ...

    def chunks(self, n_rows: int) -> Iterable[Tensor]:
        """Iterate over all rows in order: Tensors (at most n_rows, width)."""
        ...

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Gather the rows of each index Tensor (n,); yields the index and the rows (n, width)."""
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
        rows = np.empty((len(chosen), self._width), ROW_DTYPE)
        descriptor, row_bytes = self._file.fileno(), self._row_bytes
        for row, position in zip(rows, chosen.tolist(), strict=True):
            if os.preadv(descriptor, [row.data], position * row_bytes) != row_bytes:
                self._read(row, position)
        return torch.from_numpy(rows)

    def chunks(self, n_rows: int) -> Iterable[Tensor]:
        for start in range(0, self._n_rows, n_rows):
            rows = np.empty((min(n_rows, self._n_rows - start), self._width), ROW_DTYPE)
            self._read(rows, start)
            yield torch.from_numpy(rows)

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """See `FitRows`; the next batch is read while the caller works on one."""
        with ThreadPoolExecutor(1) as pool:
            waiting = None
            for chosen in order:
                following = chosen, pool.submit(self._take, chosen)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = following
            if waiting is not None:
                yield waiting[0], waiting[1].result()


@dataclass(frozen=True)
class MemoryBudget:
    """Memory of a fit, and where rows lie that do not fit into it.

    Attributes
    ----------
    n_bytes : of the whole process; None for a share of what is free
    scratch : folder of scratch files
    say : takes one line for each fit: how much its rows take, and where
    """

    n_bytes: int | None = None
    scratch: Path = Path(tempfile.gettempdir())
    say: Say = silent

    def for_rows(self) -> int:
        """Return the bytes that rows may take in memory now."""
        if self.n_bytes is None:
            return int(available_memory() * SHARE_OF_AVAILABLE)
        return max(0, self.n_bytes - resident_memory() - RESERVE)

    def hold(self, n_rows: int, width: int, blocks: Iterable[np.ndarray]) -> FitRows:
        """Hold rows for a fit.

        Parameters
        ----------
        blocks : float16 ndarrays (any, width), together `n_rows`, in order
        """
        needed, allowed = n_rows * width * np.dtype(ROW_DTYPE).itemsize, self.for_rows()
        text = f"{n_rows:,} rows of {width:,} columns, {format_bytes(needed)}"
        if needed > allowed:
            self.scratch.mkdir(parents=True, exist_ok=True)
            self.say(f"{text}: in a scratch file in {self.scratch}, since {format_bytes(allowed)} of memory are left")
            return RowsOnDisk(self.scratch, width, n_rows, blocks)
        self.say(f"{text}: in memory")
        rows = np.empty((n_rows, width), ROW_DTYPE)
        start = 0
        for block in blocks:
            rows[start : start + len(block)] = block
            start += len(block)
        return RowsInMemory(rows)
