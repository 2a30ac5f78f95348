"""Rows of a fit on a GPU: all held there, or moved block by block from page-locked memory, one block ahead.

Rows and their order are those of a fit on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise, starmap
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.activations.arrays import ROW_DTYPE
from pipeline.head.bags import Bag, PictureBags
from pipeline.head.device import BLOCK_BYTES, Place, upload
from pipeline.head.fit_rows import FitRows, read_ahead
from pipeline.trunk.windows import page_locked

ROW_TYPE = torch.float16
ROW_BYTES = np.dtype(ROW_DTYPE).itemsize


class RowsOnDevice:
    """Rows on a device, in a fixed order.

    Parameters
    ----------
    rows : float16, in the CPU's memory or in a file
    width : columns
    place : a GPU, and whether it holds all rows
    block_bytes : of rows that are moved at once
    """

    def __init__(self, rows: FitRows, width: int, place: Place, block_bytes: int = BLOCK_BYTES) -> None:
        self._rows, self._width, self._device = rows, width, place.device
        self._block_rows = max(1, block_bytes // (ROW_BYTES * width))
        self._held: Tensor | None = None
        if place.holds_rows:
            self._held = hold(len(rows), width, self._move(rows.chunks(self._block_rows)), place.device)

    def __len__(self) -> int:
        return len(self._rows)

    def _move(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Copy chunks of rows to the device, one ahead."""
        for _, locked in read_ahead(chunks, lock):
            yield locked.to(self._device, non_blocking=True)

    def chunks(self, n_rows: int) -> Iterator[Tensor]:
        """Iterate over all rows in order: Tensors (at most n_rows, width)."""
        yield from self._move(self._rows.chunks(n_rows)) if self._held is None else self._held.split(n_rows)

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Gather the rows of each index Tensor (n,) of the CPU; yields index and rows (n, width) on the device."""
        blocks = list(_blocks(order, self._block_rows))
        if self._held is None:
            for block, locked in read_ahead(blocks, self._read):
                rows = locked.to(self._device, non_blocking=True)
                sizes = [len(chosen) for chosen in block]
                index = upload(torch.cat(block), self._device)
                yield from zip(index.split(sizes), rows.split(sizes), strict=True)
            return
        for block in blocks:
            for chosen in upload(torch.cat(block), self._device).split([len(chosen) for chosen in block]):
                yield chosen, self._held[chosen]

    def _read(self, block: list[Tensor]) -> Tensor:
        chosen = torch.cat(block)
        locked = page_locked((len(chosen), self._width), ROW_TYPE)
        self._rows.read_into(locked, chosen)
        return locked


class BagsOnDevice:
    """Pictures with all of their rows on a device, in the order of `PictureBags`.

    Parameters
    ----------
    bags : of the pictures
    place : a GPU, and whether it holds all rows
    """

    def __init__(self, bags: PictureBags, place: Place) -> None:
        self._bags, self._device = bags, place.device
        self._held: Tensor | None = None
        if place.holds_rows:
            pictures = bags.pictures.tolist()
            first = [0, *accumulate(bags.rows_of(picture) for picture in pictures)]
            self._held_rows = dict(zip(pictures, starmap(slice, pairwise(first)), strict=True))
            moved = self._move([bag] for bag in bags.in_order(once=True))
            self._held = hold(bags.n_rows, bags.store.width, (batch.rows for batch in moved), place.device)

    def _move(self, batches: Iterable[list[Bag]]) -> Iterator[BagsOfStep]:
        for batch, locked in read_ahead(batches, _join):
            pictures, sizes = [picture for picture, _ in batch], [len(rows) for _, rows in batch]
            yield BagsOfStep(pictures, sizes, locked.to(self._device, non_blocking=True))

    def in_order(self) -> Iterator[Tensor]:
        """Yield the rows (n, width) of each picture, in the order of the store."""
        if self._held is None:
            yield from (batch.rows for batch in self._move([bag] for bag in self._bags.in_order()))
        else:
            yield from (self._held[rows] for rows in self._held_rows.values())

    def in_batches(self, size: int, generator: torch.Generator) -> Iterator[BagsOfStep]:
        """Yield all pictures once, `size` at a time, in an order drawn from `generator`."""
        if self._held is None:
            yield from self._move(self._bags.in_batches(size, generator))
            return
        for pictures in list(self._bags.order(size, generator)):
            rows = [self._held[self._held_rows[picture]] for picture in pictures]
            yield BagsOfStep(pictures, [len(each) for each in rows], torch.cat(rows))


class BagsOfStep(NamedTuple):
    """Some pictures with their rows.

    Attributes
    ----------
    pictures : indices into the id list
    sizes : rows of each
    rows : float16 Tensor (sum of the sizes, width), on a device
    """

    pictures: list[int]
    sizes: list[int]
    rows: Tensor


def hold(n_rows: int, width: int, blocks: Iterable[Tensor], device: torch.device) -> Tensor:
    """Join blocks of rows on a device: float16 Tensor (n_rows, width)."""
    held = torch.empty((n_rows, width), dtype=ROW_TYPE, device=device)
    start = 0
    for block in blocks:
        held[start : start + len(block)] = block
        start += len(block)
    return held


def lock(rows: Tensor) -> Tensor:
    """Copy rows into page-locked memory."""
    return page_locked(rows.shape, rows.dtype).copy_(rows)


def _join(batch: list[Bag]) -> Tensor:
    """Join the rows of pictures in page-locked memory."""
    several = [rows for _, rows in batch]
    locked = page_locked((sum(map(len, several)), several[0].shape[1]), ROW_TYPE)
    np.concatenate(several, out=locked.numpy())
    return locked


def _blocks(order: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Group batches so that a group has at most `most` rows, or one batch."""
    block: list[Tensor] = []
    n = 0
    for chosen in order:
        if block and n + len(chosen) > most:
            yield block
            block, n = [], 0
        block.append(chosen)
        n += len(chosen)
    if block:
        yield block
