"""Every path of an extraction on the simulated device: the rows of the CPU, and no wait but the planned one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from simulated_cuda import CUDA, simulated_cuda

from pipeline.activations.compute import compute_layers
from pipeline.activations.run_log import StageClock
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner

CPU = torch.device("cpu")
BATCH = 16
PATHS = {
    "patches": (TrunkRunner, "grid", ("fc7",)),
    "dense": (DenseRunner, "grid", ("fc7",)),
    "boxes": (TrunkRunner, "boxes", ("fc7",)),
    "crops": (TrunkRunner, "crops", ("fc7",)),
    "several layers": (TrunkRunner, "grid", ("pool5", "fc6", "fc7")),
    "several layers, dense": (DenseRunner, "grid", ("pool5", "fc7")),
}


@pytest.mark.parametrize("path", PATHS)
def test_rows_are_those_of_the_cpu_and_nothing_waits(plan_of, path):
    kind, source, layers = PATHS[path]
    plan = plan_of(source)
    expected = compute_layers(plan, kind(load_trunk("random"), CPU, "fp32"), BATCH, StageClock(), layers=layers)
    for timing in ("late", "early"):
        with simulated_cuda(timing) as device:
            runner = kind(load_trunk("random"), CUDA, "fp32")
            device.forget_counts()
            rows = compute_layers(plan, runner, BATCH, StageClock(), layers=layers)
        for layer in layers:
            assert np.array_equal(rows[layer], expected[layer]), (timing, layer)
        assert (device.waits, device.pageable) == ([], []), timing


def test_where_pillow_takes_another_order_the_cpu_rescales(plan_of, monkeypatch):
    plan = plan_of("grid")
    expected = compute_layers(plan, TrunkRunner(load_trunk("random"), CPU, "fp32"), BATCH, StageClock())["fc7"]
    monkeypatch.setattr("pipeline.trunk.runner.equals_pillow", lambda interpolation: False)
    with simulated_cuda() as device:
        runner = TrunkRunner(load_trunk("random"), CUDA, "fp32")
        device.forget_counts()
        rows = compute_layers(plan, runner, BATCH, StageClock())["fc7"]
    assert np.array_equal(rows, expected)
    assert (device.waits, device.pageable) == ([], [])
