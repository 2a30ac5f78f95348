"""The size of parts: the rule by itself, and what is counted of a network."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.activations.part_size import (
    FEW_BATCHES,
    MOST_ROWS,
    OPERATIONS_PER_SECOND,
    PART_BYTES,
    PART_SECONDS,
    rows_per_part,
)
from pipeline.trunk.dense import DenseRunner
from pipeline.trunk.load import load_trunk
from pipeline.trunk.operations import VALUE_OPERATIONS, count_operations
from pipeline.trunk.runner import TrunkRunner

widths, batches = st.integers(1, 10**5), st.integers(1, 2000)
counts = st.none() | st.integers(1, 10**12)
devices = st.sampled_from(["cpu", "cuda", "mps"])


# --- the rule


@given(widths, counts, batches, devices)
def test_a_part_is_a_batch_times_a_power_of_two_within_the_bounds(width, operations, batch, device):
    rows = rows_per_part(width, operations, batch, device)
    steps, rest = divmod(rows, batch)
    assert rest == 0 and steps.bit_count() == 1
    assert rows == batch or (rows <= MOST_ROWS and rows * width * 2 <= PART_BYTES)


@given(widths, st.integers(1, 10**12), batches, devices)
def test_it_is_the_power_nearest_to_a_minute(width, operations, batch, device):
    """Against a search over all powers: the nearest by ratio, of those within the bounds."""
    rate = OPERATIONS_PER_SECOND.get(device, OPERATIONS_PER_SECOND["cpu"])
    allowed = [
        n for n in (batch << k for k in range(20)) if n == batch or (n <= MOST_ROWS and n * width * 2 <= PART_BYTES)
    ]
    at_least = [n for n in allowed if n >= FEW_BATCHES * batch] or allowed[-1:]
    rows = rows_per_part(width, operations, batch, device)
    ratios = {n: abs(math.log(n * operations / rate / PART_SECONDS)) for n in at_least}
    assert rows in at_least and ratios[rows] <= min(ratios.values()) + 1e-9


@given(widths, st.integers(1, 10**12), st.integers(2, 50), batches)
def test_slower_and_wider_rows_make_no_larger_parts(width, operations, more, batch):
    rows = rows_per_part(width, operations, batch)
    assert rows_per_part(width, operations * more, batch) <= rows <= rows_per_part(width, None, batch)
    assert rows_per_part(width * more, operations, batch) <= rows


@given(widths, widths, counts, counts, batches)
def test_parts_of_several_layers_hold_each_other(width, other, operations, more, batch):
    one, two = sorted((rows_per_part(width, operations, batch), rows_per_part(other, more, batch)))
    assert two % one == 0 and one % batch == 0


def test_the_family_keeps_the_parts_that_it_had():
    """They were a power of two near 64 MiB: stores of the shipped trunk have the names that they had."""
    for layer, rows in {"pool5": 16384, "fc6": 32768, "fc7": 32768}.items():
        runner = TrunkRunner(load_trunk("alexnet64", layer), torch.device("cpu"), "bf16")
        counted = runner.operations_per_row(runner.trunk)
        assert rows_per_part(runner.trunk.width, counted, runner.batch_rows) == rows


# --- what is counted


def count_by_hand(convs: list[tuple[int, int, int, int, int]], values: int) -> int:
    """Multiply-adds of convolutions, by loops over output places and channels, and the values that are written."""
    multiply_adds = 0
    for channels, into, kernel, groups, side in convs:
        for _ in product(range(side), range(side)):
            multiply_adds += into * (channels // groups) * kernel * kernel
    return multiply_adds + VALUE_OPERATIONS * values


def test_a_small_network_counted_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 8 x 10 x 10
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.AvgPool2d(10),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()
    values = 800 + 800 + 800 + 8 + 5
    assert count_operations(network, 10) == count_by_hand([(3, 8, 3, 1, 10), (8, 8, 3, 8, 10)], values) + 8 * 5


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].flatten(1)


def test_attention_counts_though_torch_runs_it_in_one_piece():
    network, n = Attention().eval(), 64
    embed, joined = n * 16 * 48, 3 * n * 16 * 16 + 2 * n * n * 16 + n * 16 * 16
    counted = count_operations(network, 32)
    values = (counted - embed - joined) / VALUE_OPERATIONS
    assert values == int(values) and n * 16 * 6 < values < n * n * 2 * 12
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("layers", [("pool5", "fc6", "fc7")])
def test_later_layers_count_more_and_arithmetic_changes_nothing(layers):
    runner = TrunkRunner(load_trunk("random"), torch.device("cpu"), "fp32")
    counted = [runner.operations_per_row(runner.trunk.at(layer)) for layer in layers]
    assert counted == sorted(set(counted))
    in_bf16 = TrunkRunner(load_trunk("random"), torch.device("cpu"), "bf16")
    assert counted == [in_bf16.operations_per_row(in_bf16.trunk.at(layer)) for layer in layers]


def test_rows_read_off_maps_have_no_count_of_their_own():
    runner = DenseRunner(load_trunk("random"), torch.device("cpu"), "fp32")
    assert runner.operations_per_row(runner.trunk) is None
