"""Heads and scores on the simulated device: those of the CPU, one wait per epoch, and faults that are noticed."""

from __future__ import annotations

import functools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from simulated_cuda import CUDA, simulated_cuda
from support.heads import fit_head
from support.stores import draw_rows, seal_store
from support.tables import table_of_eights

from pipeline.head import adapted, device_rows, joint_fit, pooled, score_on_device, svm
from pipeline.head import device as head_device
from pipeline.head.device import HeadDevice, Place
from pipeline.head.fit import fit_heads
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.fitting import LossSum
from pipeline.head.rows import RowReader
from pipeline.head.settings import AdaptedSettings, HeadSettings, SvmSettings, WeakSettings
from pipeline.io.errors import HeadError
from pipeline.io.progress import silent
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.score import score_split
from pipeline.trunk import devices

LABELS = LabelSettings()
STRONG = HeadSettings(hidden=(6,), batch=16, max_epochs=(1, 1, 0), background_share=1.0, settled=0)
WEAK = WeakSettings(kind="weak", hidden=(6,), top=3, batch=4, max_epochs=(2, 0), settled=0)
HELD, IN_BLOCKS = ("late", 0.5), ("early", 0.0)
"""Timing, and the share of the device's memory that may hold rows."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of 8 pictures of 8 patches, and a store of their rows."""
    table = table_of_eights(8)
    rows = draw_rows(table, 8, 0)
    return table, seal_store(tmp_path_factory.mktemp("heads") / "train.zarr", table, rows, 40)


@pytest.fixture(autouse=True)
def own_leases(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_leases", {})
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))


@pytest.fixture
def on_device(monkeypatch, data):
    """Fit heads on the simulated device; returns them, and the waits and pageable copies before each step."""

    def fit(settings, timing="late", share=0.5, seed=0, label_rule=LABELS):
        table, store = data
        monkeypatch.setattr(head_device, "SHARE_FOR_ROWS", share)
        seen = []
        add = LossSum.add

        def count(self, losses, n_rows):
            seen.append((len(device.waits), len(device.pageable)))
            add(self, losses, n_rows)

        with simulated_cuda(timing) as device, monkeypatch.context() as patch:
            patch.setattr(LossSum, "add", count)
            heads = dict(fit_heads(store, table, settings, label_rule, seed, device=HeadDevice("cuda")))
            for head in heads.values():
                assert all(type(tensor) is torch.Tensor for tensor in head.network.state_dict().values())
        return heads, seen

    return fit


def weights(head):
    return {name: tensor.numpy() for name, tensor in head.network.state_dict().items()}


def assert_near(a, b, **tolerance):
    for name, tensor in weights(a).items():
        np.testing.assert_allclose(tensor, weights(b)[name], **tolerance, err_msg=name)


def steps_wait_for_nothing(seen, n_epochs):
    """Whether the device was waited for once per epoch, for its losses, and nothing was copied from pageable memory."""
    waits, pageable = zip(*seen, strict=True)
    per_epoch = len(seen) // n_epochs
    epochs = [set(waits[first : first + per_epoch]) for first in range(0, len(seen), per_epoch)]
    return epochs == [{waits[0] + epoch} for epoch in range(n_epochs)] and len(set(pageable)) == 1


@pytest.mark.parametrize(("timing", "share"), [HELD, IN_BLOCKS])
def test_a_strong_head_is_that_of_the_cpu(data, on_device, monkeypatch, timing, share):
    monkeypatch.setattr(device_rows.RowsOnDevice.__init__, "__defaults__", (20 * 16,))  # blocks of 20 rows
    of_cpu = fit_head(data[1], data[0], "s", STRONG, LABELS, 0)
    heads, seen = on_device({"s": STRONG}, timing, share)
    for name, tensor in weights(of_cpu).items():
        assert np.array_equal(tensor, weights(heads["s"])[name]), name
    assert heads["s"].facts.epochs == of_cpu.facts.epochs
    assert heads["s"].facts.of_kind == {**of_cpu.facts.of_kind, "device": "cuda"}
    assert steps_wait_for_nothing(seen, 2)


def test_a_linear_probe_and_several_targets_are_those_of_the_cpu(data, on_device):
    settings = {
        "probe": STRONG.model_copy(update={"hidden": ()}),
        "several": STRONG.model_copy(update={"targets": "several", "max_epochs": (1, 0, 0)}),
    }
    heads, _ = on_device(settings)
    for name, head in heads.items():
        of_cpu = fit_head(data[1], data[0], name, settings[name], LABELS, 0)
        for key, tensor in weights(of_cpu).items():
            assert np.array_equal(tensor, weights(head)[key]), (name, key)


def test_several_heads_of_one_shape_are_one_stack(data, on_device, monkeypatch):
    changes = ({}, {"dropout": 0.25}, {"rates": (0.05, 0.01), "max_epochs": (1, 1)}, {"weight_decay": 0.01})
    settings = {f"h{i}": HeadSettings(**{**STRONG.model_dump(), **change}) for i, change in enumerate(changes)}
    made = []
    stack = joint_fit.StackedHeads
    monkeypatch.setattr(joint_fit, "StackedHeads", lambda *of: made.append(len(of[0])) or stack(*of))
    heads, seen = on_device(settings)
    assert made == [4] and steps_wait_for_nothing(seen, 2)
    for name, head in heads.items():
        of_cpu = fit_head(data[1], data[0], name, settings[name], LABELS, 0)
        assert_near(of_cpu, head, atol=2e-6)
        assert [epoch["rate"] for epoch in head.facts.epochs] == [epoch["rate"] for epoch in of_cpu.facts.epochs]
    assert not np.allclose(weights(heads["h0"])["layers.1.weight"], weights(heads["h2"])["layers.1.weight"], atol=1e-4)


def test_a_weak_head_is_near_that_of_the_cpu_where_nothing_is_dropped(data, on_device):
    settings = WEAK.model_copy(update={"dropout": 0.0})
    of_cpu = fit_head(data[1], data[0], "w", settings, LABELS, 0)
    heads, seen = on_device({"w": settings}, *HELD)
    assert_near(of_cpu, heads["w"], atol=2e-6)
    assert steps_wait_for_nothing(seen, 2)


def test_a_weak_head_hangs_on_its_seed_alone(on_device):
    held, _ = on_device({"w": WEAK}, *HELD)
    in_blocks, seen = on_device({"w": WEAK}, *IN_BLOCKS)
    other, _ = on_device({"w": WEAK}, *HELD, seed=1)
    for name, tensor in weights(held["w"]).items():
        assert np.array_equal(tensor, weights(in_blocks["w"])[name]), name
    assert not np.allclose(weights(held["w"])["layers.1.weight"], weights(other["w"])["layers.1.weight"], atol=1e-3)
    assert steps_wait_for_nothing(seen, 2)


def test_svms_score_as_those_of_the_cpu(data, on_device):
    settings = SvmSettings(kind="svm", costs=(0.3, 3.0))
    table, store = data
    of_cpu = fit_head(store, table, "svm", settings, LABELS, 0)
    heads, _ = on_device({"svm": settings})
    for fact in ("cost", "cross_validated_mAP", "never_both", "unsettled"):
        assert heads["svm"].facts.of_kind["svm"][fact] == of_cpu.facts.of_kind["svm"][fact]
    a, b = (score_split(store, table, [head], ())[0].scores for head in (of_cpu, heads["svm"]))
    np.testing.assert_allclose(a, b, atol=5e-3)


@pytest.fixture(scope="module")
def scored(data):
    """Two heads, and their scores on the CPU."""
    settings = {"s": STRONG, "p": STRONG.model_copy(update={"hidden": ()})}
    table, store = data
    heads = list(dict(fit_heads(store, table, settings, LABELS, 0)).values())
    return heads, score_split(store, table, heads, (3.0, "max"))


@pytest.mark.parametrize("timing", ["late", "early"])
def test_scores_are_those_of_the_cpu_and_nothing_waits(data, scored, monkeypatch, timing):
    heads, expected = scored
    with simulated_cuda(timing) as device:
        begin = score_on_device.DeviceScorer.__init__
        monkeypatch.setattr(score_on_device.DeviceScorer, "__init__", lambda *of: begin(*of) or device.forget_counts())
        got = score_split(data[1], data[0], heads, (3.0, "max"), device=HeadDevice("cuda"))
    for one, other in zip(got, expected, strict=True):
        assert np.array_equal(one.scores, other.scores)
        assert replace(one.facts, device="cpu") == other.facts and one.facts.device == "cuda"
    assert (device.waits, device.pageable) == ([], [])


# ---- which device


def test_a_gpu_is_chosen_by_the_work_and_by_its_memory(monkeypatch):
    said = []
    auto, asked = HeadDevice("auto", said.append), HeadDevice("cuda", said.append)
    with simulated_cuda():
        assert not auto.choose("fit a", 10**11, 0).on_gpu and not HeadDevice("cpu").choose("fit a", 10**15, 0).on_gpu
        place = auto.choose("fit a", 10**12, 2**30, rows=2**35)
        assert place.on_gpu and place.holds_rows and "rows held there" in said[-1]
        place = auto.choose("fit a", 10**12, 2**30, rows=2**35 + 1)  # more than half of 64 GiB
        assert place.on_gpu and not place.holds_rows and "block by block" in said[-1]
        assert not auto.choose("fit a", 10**12, 2**36).on_gpu and said[-1].endswith("on the CPU")
        with pytest.raises(HeadError, match="fit a: .* of the memory of cuda:0 are needed, .* --head-device cpu"):
            asked.choose("fit a", 1, 2**36)
    assert not auto.choose("fit a", 10**15, 0).on_gpu  # there is none


def test_memory_that_torch_keeps_unused_is_free(monkeypatch):
    """As after an extraction in the same process: the driver says that all of it is taken."""
    with simulated_cuda():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**30, 2**37))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 2**36)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 2**32)
        assert head_device.free_memory(CUDA) == 2**30 + 2**36 - 2**32
        place = HeadDevice("cuda").choose("fit a", 1, 2**33, rows=2**34)
        assert place.on_gpu and place.holds_rows


def test_a_weak_head_whose_rows_a_gpu_holds_asks_for_the_memory_of_reading_them(data):
    table, store = data
    said: list[str] = []

    def fit(n_bytes):
        reader = RowReader(store, budget=MemoryBudget(n_bytes, say=said.append))
        with simulated_cuda():
            return dict(fit_heads(store, table, {"w": WEAK}, LABELS, 0, reader=reader, device=HeadDevice("cuda")))

    with pytest.raises(HeadError, match=r"fit w: 64 rows of 8 columns, .* needed.* --memory"):
        fit(2**20)
    assert not said
    fit(2**40)
    assert [": rows on a GPU; at most" in line for line in said] == [True]


def test_an_svm_beside_a_gpu_takes_no_more_than_it_says(tmp_path, monkeypatch):
    """numpy's memory alone is traced, which is what a fit has on the CPU beside a GPU."""
    table = table_of_eights(256)
    store = seal_store(tmp_path / "train.zarr", table, draw_rows(table, 256, 0), 512)
    monkeypatch.setattr(svm, "BLOCK_BYTES", 0)
    monkeypatch.setattr(pooled, "SLACK", 0)
    asked: list[int] = []

    def choose(self, what, ways, peak=0):
        asked.extend(ways.values())
        tracemalloc.start()
        return next(iter(ways))

    monkeypatch.setattr(MemoryBudget, "choose", choose)
    settings = SvmSettings(kind="svm", costs=(1.0,), pooling=("mean", "max"), standardise=True)
    try:
        with simulated_cuda():
            dict(fit_heads(store, table, {"svm": settings}, LABELS, 0, device=HeadDevice("cuda")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (stated,) = asked
    assert peak <= stated <= 2 * peak


def test_a_full_device_is_explained(on_device, monkeypatch):
    def full(*of):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(joint_fit, "RowsOnDevice", full)
    with pytest.raises(Exception, match="the memory of cuda:0 does not hold fit s; use --head-device cpu"):
        on_device({"s": STRONG})


# ---- mutations


@functools.cache
def _shared(shape, dtype):
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def one_buffer(shape, dtype):
    return _shared(tuple(shape), dtype)


def pageable(shape, dtype):
    return torch.empty(tuple(shape), dtype=dtype)


ADD = LossSum.add


def ask_each_step(self, losses, n_rows):
    losses.sum().item()
    ADD(self, losses, n_rows)


FIT_MUTATIONS = {
    "one buffer for blocks": lambda patch: patch(device_rows, "page_locked", one_buffer),
    "pageable blocks": lambda patch: patch(device_rows, "page_locked", pageable),
    "targets on the CPU": lambda patch: patch(joint_fit, "upload", lambda tensor, device: tensor),
    "losses asked for at each step": lambda patch: patch(LossSum, "add", ask_each_step),
}


@pytest.mark.parametrize(
    ("mutation", "noticed"),
    [
        ("one buffer for blocks", "rows"),
        ("pageable blocks", "copies"),
        ("targets on the CPU", "error"),
        ("losses asked for at each step", "waits"),
    ],
)
def test_a_mutation_of_a_fit_is_noticed(data, on_device, monkeypatch, mutation, noticed):
    of_cpu = fit_head(data[1], data[0], "s", STRONG, LABELS, 0)
    monkeypatch.setattr(device_rows.RowsOnDevice.__init__, "__defaults__", (16 * 16,))
    FIT_MUTATIONS[mutation](monkeypatch.setattr)
    try:
        heads, seen = on_device({"s": STRONG}, "late", 0.0)
    except (RuntimeError, HeadError) as error:
        # Rows that nobody has written yet are NaN, and so is a loss of them.
        found = "rows" if "not finite" in str(error) else "error"
    else:
        equal = all(np.array_equal(tensor, weights(heads["s"])[name]) for name, tensor in weights(of_cpu).items())
        pageable = len({copies for _, copies in seen}) > 1
        found = "rows" if not equal else "copies" if pageable else "" if steps_wait_for_nothing(seen, 2) else "waits"
    assert found == noticed


def test_scores_that_are_not_waited_for_are_noticed(data, scored, monkeypatch):
    monkeypatch.setattr(score_on_device.PendingScores, "result", lambda self: self.scores.numpy())
    with simulated_cuda("late"), pytest.raises(ValueError, match="patch scores must be finite"):
        score_split(data[1], data[0], scored[0], (3.0,), device=HeadDevice("cuda", silent))


def test_an_adapted_head_is_that_of_the_cpu():
    settings = AdaptedSettings(kind="adapted", hidden=(6,), batch=16, max_epochs=(1, 1, 0), retrain=("fc6", "fc7"))
    rng = np.random.default_rng(0)
    rows, targets = np.abs(rng.normal(0, 1, (48, 12))).astype(np.float16), rng.integers(0, 4, 48)

    def fit(place):
        network = adapted.make_network(12, 3, settings, (10, 8))
        generator = torch.Generator().manual_seed(1)
        for layer in (network.fc6, network.fc7):
            torch.nn.init.normal_(layer.weight, 0, 0.3, generator=generator)
            torch.nn.init.zeros_(layer.bias)
        joint = joint_fit.JointFit(0)
        joint.add(network, settings)
        joint.place = place
        curve = joint.run(rows, targets)
        return network.state_dict(), curve

    of_cpu, curve = fit(Place())
    with simulated_cuda("late"):
        weights, curve_there = fit(Place(CUDA, True))
    assert curve == curve_there
    for name, tensor in of_cpu.items():
        assert torch.equal(tensor, weights[name]), name
