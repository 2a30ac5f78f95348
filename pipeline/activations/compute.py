"""Activations of planned rows: batches of patches, or maps of whole pictures, through the trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch

from pipeline.activations.layout import ROW_DTYPE
from pipeline.activations.prefetch import prefetch_scales
from pipeline.activations.row_plan import RowPlan
from pipeline.activations.run_log import StageClock
from pipeline.io.errors import PipelineError
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.runner import PendingBatch, TrunkRunner


def compute_rows(
    plan: RowPlan,
    runner: TrunkRunner,
    batch: int,
    clock: StageClock,
    advance: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Activations of planned rows at the runner's layer: float16 ndarray of shape (n, width), finite."""
    layer = runner.trunk.layer
    return compute_layers(plan, runner, (layer,), batch, clock, advance)[layer]


def compute_layers(
    plan: RowPlan,
    runner: TrunkRunner,
    layers: Sequence[str],
    batch: int,
    clock: StageClock,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, np.ndarray]:
    """Activations of planned rows at some layers, from one pass: float16 ndarrays of shape (n, width), finite.

    Batches start at the plan's first row, so that a part's bytes depend on nothing outside of it.

    Raises
    ------
    PipelineError
        A picture changed or vanished, or an activation is not finite; the picture is named.
    """
    out = {layer: np.empty((plan.n_rows, runner.trunk.at(layer).width), ROW_DTYPE) for layer in layers}
    written = 0
    if isinstance(runner, DenseRunner):
        batches = dense_batches(plan, runner, layers, batch, clock)
    else:
        batches = patch_batches(plan, runner, layers, batch, clock)
    for launched in delay_by_one(batches):
        with clock.measure("wait for the device") if launched.done else nullcontext():
            found = launched.result()
        for layer, rows in found.items():
            out[layer][written : written + len(rows)] = rows
        written += len(rows)
        advance(len(rows))
    # NaN comes through both, each infinity through one of them.
    finite = [np.isfinite(rows.max(axis=1)) & np.isfinite(rows.min(axis=1)) for rows in out.values()]
    bad = np.flatnonzero(~np.logical_and.reduce(finite))
    if len(bad):
        indices = set(plan.picture[bad].tolist())
        names = [picture.id for picture in plan.pictures if picture.index in indices]
        raise PipelineError(
            f"activations of {len(bad)} patches are not finite in {runner.precision_name} and float16, "
            f"in picture(s) {', '.join(names[:10])}; try --precision fp32, or check the trunk's weights"
        )
    return out


def delay_by_one(launched: Iterator[PendingBatch]) -> Iterator[PendingBatch]:
    """The same batches, each when the next one has been launched: a device that works by itself never waits."""
    before = None
    for batch in launched:
        if before is not None:
            yield before
        before = batch
    if before is not None:
        yield before


def patch_batches(
    plan: RowPlan, runner: TrunkRunner, layers: Sequence[str], batch: int, clock: StageClock
) -> Iterator[PendingBatch]:
    """Rows of the plan, a batch of patches after the other."""
    pending = runner.new_batch(batch)
    filled = 0
    for scales in prefetch_scales(plan, runner, clock):
        for scaled, x, y in scales:
            position = 0
            while position < len(x):
                n = min(batch - filled, len(x) - position)
                own = slice(position, position + n)
                with clock.measure("cut"):
                    runner.cut(scaled, x[own], y[own], pending[filled : filled + n])
                filled += n
                position += n
                if filled == batch:
                    with clock.measure("trunk"):
                        launched = runner.launch(pending, layers)
                    yield launched
                    filled = 0
    if filled:
        with clock.measure("trunk"):
            launched = runner.launch(pending[:filled], layers)
        yield launched


def dense_batches(
    plan: RowPlan, runner: DenseRunner, layers: Sequence[str], batch: int, clock: StageClock
) -> Iterator[PendingBatch]:
    """Rows of the plan: the maps of a picture's scales, and of all windows a batch after the other."""
    pending: list[torch.Tensor] = []
    waiting = 0
    for scales in prefetch_scales(plan, runner, clock):
        for scaled, x, y in scales:
            with clock.measure("maps"):
                pending.append(runner.look(scaled, x, y))
            waiting += len(x)
            if waiting >= batch:
                whole = torch.cat(pending)
                for ready in whole[: waiting - waiting % batch].split(batch):
                    with clock.measure("rows"):
                        launched = runner.finish(ready, layers)
                    yield launched
                waiting %= batch
                pending = [whole[len(whole) - waiting :]]
    if waiting:
        with clock.measure("rows"):
            launched = runner.finish(torch.cat(pending), layers)
        yield launched
