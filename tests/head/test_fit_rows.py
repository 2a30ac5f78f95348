"""Rows of a fit in memory and in a scratch file: the same rows, the same head, and a budget that holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.head.fit_rows import MemoryBudget, RowsInMemory, RowsOnDisk
from pipeline.head.joint_fit import JointFit
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import HeadSettings
from pipeline.io.errors import HeadError, PipelineError
from pipeline.io.memory import resident_memory

RNG = np.random.default_rng(0)


def blocks_of(rows: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(rows, sorted(cuts))


@given(st.integers(1, 40), st.integers(1, 9), st.lists(st.integers(0, 40), max_size=4), st.integers(1, 50))
def test_rows_on_disk_are_those_in_memory(tmp_path_factory, n_rows, width, cuts, batch):
    rows = RNG.normal(size=(n_rows, width)).astype(np.float16)
    disk = RowsOnDisk(tmp_path_factory.getbasetemp(), width, n_rows, blocks_of(rows, [c for c in cuts if c <= n_rows]))
    memory = RowsInMemory(rows)
    assert len(disk) == len(memory) == n_rows
    assert torch.equal(torch.cat(list(disk.chunks(batch))), torch.from_numpy(rows))
    order = torch.randperm(n_rows).split(batch)
    for (chosen, a), (same, b), expected in zip(disk.batches(order), memory.batches(order), order, strict=True):
        assert torch.equal(chosen, expected) and torch.equal(same, expected) and torch.equal(a, b)


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_a_head_has_the_same_bits_either_way(tmp_path, hidden):
    rows, targets = RNG.normal(size=(300, 16)).astype(np.float16), RNG.integers(0, 3, 300)
    settings = HeadSettings(hidden=hidden, batch=32, max_epochs=(3, 1, 1))
    fitted = []
    for held in (rows, RowsOnDisk(tmp_path, 16, 300, [rows[:100], rows[100:]])):
        network = HeadNetwork(16, 2, settings, "softmax")
        joint = JointFit(0)
        joint.add(network, settings)
        fitted.append((network.state_dict(), joint.run(held, targets)))
    (first, curve), (second, same_curve) = fitted
    assert curve == same_curve
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_fits_lies_in_memory_and_the_rest_in_a_file_without_a_name(tmp_path):
    rows, said = np.ones((2**20, 64), np.float16), []
    less = MemoryBudget(resident_memory() + rows.nbytes, tmp_path, said.append)
    assert isinstance(MemoryBudget(None, tmp_path, said.append).hold(2**20, 64, [rows], "fit a", 10), RowsInMemory)
    assert isinstance(less.hold(2**20, 64, [rows], "fit b", 64 * 2**20), RowsOnDisk)
    assert list(tmp_path.iterdir()) == []
    peak = r"at most [\d.,]+ .iB of memory, [\d.,]+ .iB of them held already"
    counts = "1,048,576 rows of 64 columns, 128.0 MiB: rows"
    assert re.fullmatch(rf"fit a: {counts} in memory; {peak}", said[0])
    assert re.fullmatch(rf"fit b: {counts} in a scratch file in {tmp_path}; {peak}", said[1])


def test_a_fit_that_cannot_keep_its_budget_is_refused_with_what_it_needs(tmp_path):
    said = []
    budget = MemoryBudget(resident_memory() + 2**30, tmp_path, said.append)
    message = (
        r"fit a: 10 rows of 4 columns, 80 B: [\d.,]+ GiB of memory are needed, .* 1\.1 GiB for the fit, .*--memory \d"
    )
    with pytest.raises(HeadError, match=message):
        budget.hold(10, 4, iter([]), "fit a", int(1.1 * 2**30))
    assert said == []
    assert budget.choose("fit b", {"here": 2**40, "there": 2**20}) == "there"
    # Without a budget nothing is refused: the least is taken, and said.
    assert MemoryBudget(None, tmp_path, said.append).choose("fit c", {"here": 2**60, "there": 2**59}) == "there"
    assert "fit c: rows there; at most " in said[-1]


def test_a_disk_that_does_not_hold_them_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(PipelineError, match="are needed for the rows of the fit and"):
        RowsOnDisk(tmp_path, 4096, 10**12, iter([]))


MEASURE = """
import sys
import numpy as np
from pathlib import Path
from pipeline.head.fit_rows import RESERVE, MemoryBudget
from pipeline.head.joint_fit import JointFit
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import HeadSettings
from pipeline.io.memory import peak_memory, resident_memory
import torch

torch.set_num_threads(1)
settings = HeadSettings(hidden=(), batch=2048, max_epochs=(1, 0, 0))


def fit(n_rows, width, budget):
    blocks = (np.full((10_000, width), i / 20, np.float16) for i in range(n_rows // 10_000))
    rows = budget.hold(n_rows, width, blocks)
    joint = JointFit(0)
    joint.add(HeadNetwork(width, 2, settings, "softmax"), settings)
    joint.run(rows, np.zeros(n_rows, np.int64))
    return type(rows).__name__


fit(10_000, 8, MemoryBudget())  # imports what a fit needs
before = resident_memory()
budget = before + RESERVE
print(fit(220_000, 1024, MemoryBudget(budget, Path(sys.argv[1]))), budget - peak_memory())
"""


def test_a_fit_stays_within_its_budget(tmp_path):
    """430 MiB of rows, where 384 may be added to what the process holds after a small fit."""
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=Path.cwd())
    kind, left = done.stdout.split()
    assert kind == "RowsOnDisk" and int(left) > 0


def test_what_is_kept_for_further_fits_is_dropped_where_a_fit_needs_the_memory():
    """Rather than refuse a fit, or give it less; the budget is that of all that the process holds."""
    kept = [2**30]
    held = resident_memory()

    class Holding(MemoryBudget):
        def room(self):
            return super().room() - sum(kept)  # as if so much were held

    def drop():
        return kept.pop() if kept else 0

    budget = Holding(held + 2**30 + 2**29, drop=drop)
    assert budget.has_room(2**20) and kept
    assert budget.choose("a fit", {"in memory": 2**28, "on disk": 0}) == "in memory" and kept
    assert budget.choose("a fit", {"in memory": 2**30, "on disk": 0}) == "in memory" and not kept
    kept.append(2**30)
    budget.refuse_beyond("a fit", resident_memory() + 2**30, 2**30)
    assert not kept
    with pytest.raises(HeadError, match="a fit: .* needed"):
        budget.refuse_beyond("a fit", resident_memory() + 2**30, 2**30)
