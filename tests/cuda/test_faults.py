"""What a GPU does differently from a CPU: arithmetic, full memory, a lost device, and clients without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from simulated_cuda import CUDA, simulated_cuda

from pipeline.activations import dask_engine
from pipeline.activations.compute import compute_layers
from pipeline.activations.run_log import StageClock
from pipeline.io.errors import PipelineError, SettingsError
from pipeline.stages.extract import Inputs, extraction_of
from pipeline.trunk import compiled, runner, windows
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.load import load_trunk
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import TrunkRunner

BATCH = 8


# --- arithmetic


def test_fp32_on_cuda_is_fp32(monkeypatch):
    convolutions, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    convolutions.fp32_precision = "tf32"  # torch's default
    with simulated_cuda():
        TrunkRunner(load_trunk("random"), CUDA, "fp32")
    assert convolutions.fp32_precision == products.fp32_precision == "ieee"
    assert not products.allow_fp16_reduced_precision_reduction
    assert not products.allow_bf16_reduced_precision_reduction


def test_batches_on_cuda_are_large():
    trunk = load_trunk("random")
    assert TrunkRunner(trunk, torch.device("cpu"), "fp32").batch_rows == 512
    assert TrunkRunner(trunk, torch.device("cuda"), "fp16", elsewhere=True).batch_rows == 1024
    large = replace(trunk, card=trunk.card.model_copy(update={"input_px": 224}))
    assert TrunkRunner(large, torch.device("cuda"), "fp16", elsewhere=True).batch_rows == 512


def test_the_rate_is_measured_after_the_graph_is_captured_and_one_launch_ahead(monkeypatch):
    events = []
    monkeypatch.setattr(runner.time, "perf_counter", lambda: events.append("clock") or float(len(events)))
    launch, result = TrunkRunner.launch, PendingBatch.result
    monkeypatch.setattr(TrunkRunner, "launch", lambda *a: events.append("launch") or launch(*a))
    monkeypatch.setattr(PendingBatch, "result", lambda *a: events.append("result") or result(*a))
    with simulated_cuda() as device:
        on_gpu = TrunkRunner(load_trunk("random"), CUDA, "fp32")
        device.forget_counts()
        assert on_gpu.measure_rate(4) > 0
    # A compiled network is compiled in the first launch, captured in the second and replayed from the third on.
    assert events[:7] == ["launch", "result"] * 3 + ["clock"]
    assert events[7:10] == ["launch", "launch", "result"] and events[-2:] == ["result", "clock"]
    assert events.count("launch") == 3 + runner.TIMED_LAUNCHES
    assert (device.waits, device.pageable) == ([], [])


# --- full memory

FULL = {
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB"),
    "page-locked": RuntimeError("CUDA error: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
}
PLACES = {
    "weights": (None, None, "the trunk's weights; use a device that nothing else uses"),
    "pictures": ((windows, "page_locked"), TrunkRunner, "the rescaled pictures .* use fewer --threads"),
    "batch": ((TrunkRunner, "new_batch"), TrunkRunner, "a batch of 8 patches; use a smaller --batch"),
    "cut": ((runner, "cut_windows"), TrunkRunner, "a batch of 8 patches; use a smaller --batch"),
    "inputs": ((TrunkRunner, "_inputs"), TrunkRunner, "a batch of 8 patches; use a smaller --batch"),
    "rows": ((TrunkRunner, "_copy_to_cpu"), TrunkRunner, "a batch of 8 patches; use a smaller --batch"),
    "maps": ((DenseRunner, "_inputs"), DenseRunner, "the maps of a rescaled picture .* use --method patches"),
    "vectors": ((torch, "cat"), DenseRunner, "a batch of 8 windows; use a smaller --batch"),
}


@pytest.mark.parametrize("text", FULL)
@pytest.mark.parametrize("place", [place for place in PLACES if place != "weights"])
def test_full_memory_is_explained_wherever_it_is_noticed(plan_of, monkeypatch, place, text):
    target, kind, message = PLACES[place]

    def fail(*arguments, **named):
        raise FULL[text]

    with simulated_cuda():
        on_gpu = kind(load_trunk("random"), CUDA, "fp32")
        with monkeypatch.context() as patch:
            patch.setattr(*target, fail)
            with pytest.raises(PipelineError, match=f"the memory of cuda:0 does not hold {message}"):
                compute_layers(plan_of("grid"), on_gpu, BATCH, StageClock())


def test_weights_that_do_not_fit_are_explained(monkeypatch):
    def fail(*arguments, **named):
        raise FULL["device"]

    trunk = load_trunk("random")
    monkeypatch.setattr(trunk.network, "to", fail)
    with simulated_cuda(), pytest.raises(PipelineError, match=PLACES["weights"][2]):
        TrunkRunner(trunk, CUDA, "fp32")


# --- a lost device


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("shapes do not fit"), False),
    ],
)
def test_a_worker_ends_where_its_device_is_lost(monkeypatch, capsys, error, lost):
    ended = []

    class Failing:
        def make(self, task, clock):
            raise error

    monkeypatch.setattr(dask_engine, "_makers", {})
    monkeypatch.setattr(dask_engine, "_end_process", ended.append)
    if lost:
        dask_engine._run_task(None, "run", Failing)
    else:
        with pytest.raises(type(error)):
            dask_engine._run_task(None, "run", Failing)
    assert ended == [dask_engine.LOST_DEVICE] * lost
    assert ("its device computes nothing more" in capsys.readouterr().err) == lost


# --- a client without a GPU


def test_a_client_needs_no_gpu_and_takes_none(new_context, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run, table, paths = new_context(device="cuda", precision="auto")
    with pytest.raises(SettingsError, match="finds no CUDA device"):
        extraction_of(run, Inputs(table, paths, None))

    planned = extraction_of(run, Inputs(table, paths, None), elsewhere=True)

    identity = planned.identity
    assert (identity["how.precision"], identity["how.batch"]) == ("cuda-fp16", 1024)
    assert planned.runner.measure_rate(8) is None and not planned.runner.rows_are_independent(8)
    assert next(planned.runner.trunk.network.parameters()).device.type == "cpu"
    asked = []
    planned.run_layers((1, 1), lambda tasks, report: asked.extend(task.part.n_rows for task in tasks))
    assert sum(asked) == table.n_rows


# --- a compiler


@pytest.mark.parametrize(
    ("triton", "compiler", "header", "message"),
    [
        (None, "cc", True, "with Triton, which is not installed; install torch's CUDA build, which brings it"),
        ("found", None, True, r"with a C compiler, .* none; install one \(Debian: apt-get install gcc\)"),
        ("found", "cc", False, r"with Python\.h, which is missing; install it \(Debian: .*\)"),
        ("found", "cc", True, None),
    ],
)
def test_a_compiler_is_looked_for_before_anything_is_compiled(monkeypatch, tmp_path, triton, compiler, header, message):
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: triton)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: compiler)
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda name: str(tmp_path))
    if header:
        (tmp_path / "Python.h").touch()
    if message is None:
        assert compiled.find_missing_compiler("cuda") is None
        return
    with pytest.raises(SettingsError, match=f"compiled: torch compiles for a GPU {message}, or leave compiled off"):
        compiled.CompiledNetwork(torch.nn.ReLU(), CUDA)
