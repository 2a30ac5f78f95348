"""What the simulated device notices: the extraction with one fault at a time."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from simulated_cuda import CUDA, simulated_cuda

from pipeline.activations.compute import compute_layers
from pipeline.activations.run_log import StageClock
from pipeline.io.errors import PipelineError
from pipeline.trunk import windows
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.load import load_trunk
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import TrunkRunner

CPU = torch.device("cpu")
BATCH = 8


def copy_rows(runner, activations, target_of, event_first):
    """Copy rows as the runner does, into memory of `target_of`, with the event where it belongs or too early."""
    rows, done = {}, torch.cuda.Event()
    if event_first:
        done.record()
    for layer, values in activations.items():
        rows[layer] = target_of(values.shape, torch.float16)
        rows[layer].copy_(values.to(torch.float16), non_blocking=True)
    if not event_first:
        done.record()
    return PendingBatch(rows, done)


def one_buffer():
    """Allocate page-locked memory once per shape, and hand it out again and again."""

    @functools.cache
    def allocate(shape, dtype):
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    return lambda shape, dtype: allocate(tuple(shape), dtype)


def one_buffer_for_pictures():
    shared, own = one_buffer(), windows.page_locked
    return lambda shape, dtype: (shared if dtype is torch.uint8 else own)(shape, dtype)


def copy_rows_into(target_of):
    return lambda runner, activations: copy_rows(runner, activations, target_of, False)


def pageable(shape, dtype):
    return torch.empty(tuple(shape), dtype=dtype)


def mean_on_the_cpu(runner, *arguments, **options):
    INIT(runner, *arguments, **options)
    runner._mean = runner._mean.cpu()


def corners_on_the_cpu(corners, device):
    return UPLOAD_CORNERS(corners, CPU)


INIT, UPLOAD_CORNERS = TrunkRunner.__init__, windows._upload_corners
MUTATIONS = {
    "none": lambda patch: None,
    "no wait for the event": lambda patch: patch(
        PendingBatch, "result", lambda self: {layer: rows.numpy().copy() for layer, rows in self.rows.items()}
    ),
    "event before the copies": lambda patch: patch(
        TrunkRunner, "_copy_to_cpu", lambda self, found: copy_rows(self, found, windows.page_locked, True)
    ),
    "one buffer for pictures": lambda patch: patch(windows, "page_locked", one_buffer_for_pictures()),
    "one buffer for rows": lambda patch: patch(TrunkRunner, "_copy_to_cpu", copy_rows_into(one_buffer())),
    "mean on the CPU": lambda patch: patch(TrunkRunner, "__init__", mean_on_the_cpu),
    "corners on the CPU": lambda patch: patch(windows, "_upload_corners", corners_on_the_cpu),
    "pictures in pageable memory": lambda patch: patch(windows, "page_locked", pageable),
}
NOTICED = {
    ("none", "late"): "",
    ("none", "early"): "",
    ("no wait for the event", "late"): "rows",
    ("no wait for the event", "early"): "",
    ("event before the copies", "late"): "rows",
    ("event before the copies", "early"): "",
    ("one buffer for pictures", "late"): "rows",
    ("one buffer for pictures", "early"): "",
    ("one buffer for rows", "early"): "rows",
    ("mean on the CPU", "late"): "error",
    ("corners on the CPU", "late"): "waits pageable",
    ("pictures in pageable memory", "late"): "pageable",
}
"""By mutation and timing, what gives it away: rows that differ, an error, waits, pageable copies; or nothing."""


@pytest.fixture(scope="module")
def expected(plan_of):
    return {
        kind: compute_layers(plan_of("grid"), kind(load_trunk("random"), CPU, "fp32"), BATCH, StageClock())["fc7"]
        for kind in (TrunkRunner, DenseRunner)
    }


CASES = [(TrunkRunner, *case) for case in NOTICED] + [(DenseRunner, *case) for case in NOTICED if NOTICED[case]]


TRIES = 4
"""Whether a fault shows in one run hangs on which of two threads comes first."""


@pytest.mark.parametrize(("kind", "mutation", "timing"), CASES)
def test_a_mutation_is_noticed(plan_of, expected, monkeypatch, kind, mutation, timing):
    wanted = set(NOTICED[mutation, timing].split())
    for _ in range(TRIES if wanted else 1):
        with monkeypatch.context() as patch:
            noticed = run_mutated(plan_of("grid"), expected[kind], patch.setattr, kind, mutation, timing)
        if noticed == wanted:
            break
    assert noticed == wanted


def run_mutated(plan, expected, patch, kind, mutation, timing):
    """Extract with a fault; return what gives it away."""
    noticed = set()
    with simulated_cuda(timing) as device:
        MUTATIONS[mutation](patch)
        try:
            runner = kind(load_trunk("random"), CUDA, "fp32")
            device.forget_counts()
            rows = compute_layers(plan, runner, BATCH, StageClock())["fc7"]
            noticed |= {"rows"} if not np.array_equal(rows, expected) else set()
        except PipelineError as error:
            # Rows that nobody has written yet are NaN, which an extraction refuses.
            noticed |= {"rows"} if "are not finite" in str(error) else {str(error)}
        except RuntimeError as error:
            noticed |= {"error"} if "Expected all tensors to be on the same device" in str(error) else {str(error)}
    noticed |= {"waits"} if device.waits else set()
    noticed |= {"pageable"} if device.pageable else set()
    return noticed
