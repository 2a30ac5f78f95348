"""Activations of planned rows: pictures in, finite rows of each layer out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np

from pipeline.activations.part_reader import all_finite
from pipeline.activations.prefetch import prefetch_scales
from pipeline.activations.row_plan import RowPlan
from pipeline.activations.run_log import StageClock
from pipeline.io.errors import PipelineError
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.windows import ScaledWindows


def compute_layers(
    plan: RowPlan,
    runner: TrunkRunner,
    batch: int,
    clock: StageClock,
    *,
    layers: Sequence[str] = (),
    advance: Callable[[int], None] = lambda n: None,
    windows: Iterable[ScaledWindows] | None = None,
) -> dict[str, np.ndarray]:
    """Compute the activations of planned rows at some layers, in one pass.

    Batches start at the plan's first row, so that a part's bytes depend on nothing outside of it.

    Parameters
    ----------
    batch : rows per batch of the trunk
    clock : takes the time of each stage
    layers : of the runner's trunk; none for the runner's own layer
    advance : called with the number of rows after each batch
    windows : of the plan's rows, where its pictures are decoded and rescaled already; None to read them from files

    Returns
    -------
    dict of layer -> float16 ndarray (n, width), finite

    Raises
    ------
    PipelineError
        A picture changed or vanished, or an activation is not finite; the picture is named.
    """
    layers = tuple(layers) or (runner.trunk.layer,)
    out = {layer: runner.new_rows(plan.n_rows, runner.trunk.at(layer).width) for layer in layers}
    written, finite = 0, True
    windows = prefetch_scales(plan, runner, clock) if windows is None else windows
    for pending in delay_by_one(runner.launch_batches(windows, layers, batch, clock.measure)):
        with clock.measure("wait for the device") if pending.done else nullcontext():
            activations = pending.result()
        for layer, rows in activations.items():
            out[layer][written : written + len(rows)] = rows
            # While a GPU computes the next batch.
            finite = finite and all_finite(rows)
        written += len(rows)
        advance(len(rows))
    if not finite:
        raise PipelineError(_describe_not_finite(out, plan, runner))
    return out


def delay_by_one(batches: Iterator[PendingBatch]) -> Iterator[PendingBatch]:
    """Yield each batch after the next one was launched, so that a device with a queue of its own never waits."""
    before = None
    for batch in batches:
        if before is not None:
            yield before
        before = batch
    if before is not None:
        yield before


def _describe_not_finite(activations: dict[str, np.ndarray], plan: RowPlan, runner: TrunkRunner) -> str:
    """Name the pictures of rows that are not finite, and what to change."""
    finite = [np.isfinite(rows).all(axis=1) for rows in activations.values()]
    bad = np.flatnonzero(~np.logical_and.reduce(finite))
    indices = set(plan.picture[bad].tolist())
    names = [picture.id for picture in plan.pictures if picture.index in indices]
    wider = "bf16, then fp32," if runner.precision == "fp16" else "fp32"
    return (
        f"activations of {len(bad)} patches are not finite in {runner.precision_name} and float16, "
        f"in picture(s) {', '.join(names[:10])}; try --precision {wider} or check the trunk's weights"
    )
