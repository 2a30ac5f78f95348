"""The network of a head: its layers, its standardisation, its initialisation."""

import numpy as np
import pytest
import torch
from support.heads import fit_network
from torch import nn

from pipeline.head.dropout import CountedDropout, Dropout, count_words
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import HEADS, HeadSettings

FCB = HeadSettings(hidden=())


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        pytest.param("fca", [(2048, 64), (21, 2048)], id="fca"),
        pytest.param("fcb", [(21, 64)], id="fcb"),
        pytest.param("fca2", [(2048, 64), (2048, 2048), (21, 2048)], id="fca2"),
    ],
)
def test_layers_of_the_built_in_heads(name, shapes):
    network = HeadNetwork(64, 20, HEADS[name])

    linear = [m for m in network.layers if isinstance(m, nn.Linear)]
    assert [tuple(m.weight.shape) for m in linear] == shapes
    # Dropout before every linear layer, ReLU after all but the last.
    assert [type(m) for m in network.layers] == ([Dropout, nn.Linear, nn.ReLU] * len(shapes))[:-1]
    assert network(torch.zeros(5, 64)).shape == (5, 21)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        pytest.param(HeadSettings(hidden=(4, 4)), [0.5, 0.5, 0.5], id="everywhere"),
        pytest.param(HeadSettings(hidden=(4, 4), input_dropout=0.0), [0.0, 0.5, 0.5], id="none on the input"),
        pytest.param(HeadSettings(hidden=(), input_dropout=0.2), [51 / 256], id="FCb alone"),
        pytest.param(HeadSettings(hidden=(4,), dropout=0.0), [0.0, 0.0], id="nowhere"),
    ],
)
def test_dropout(settings, rates):
    assert [m.threshold / 256 for m in HeadNetwork(8, 2, settings).layers if isinstance(m, Dropout)] == rates


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_dropped_values_are_a_share_and_the_mean_stays(share):
    dropout = Dropout(share).train()
    x = torch.full((1000, 1003), 2.0, requires_grad=True)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = dropout(x)
        again = dropout(x)
    out.sum().backward()

    dropped = (out == 0).double()
    assert dropped.mean().item() == pytest.approx(share, abs=0.004)
    # No row, column or neighbour is dropped more than others: a byte a value is as good as a draw a value.
    assert dropped.mean(0).std() < 1.2 * (share * (1 - share) / 1000) ** 0.5
    assert dropped.mean(1).std() < 1.2 * (share * (1 - share) / 1003) ** 0.5
    assert abs(np.corrcoef(dropped[:, :-1].flatten(), dropped[:, 1:].flatten())[0, 1]) < 0.005
    assert out.mean().item() == pytest.approx(2, abs=0.04)
    assert torch.equal(x.grad * 2, out.detach())
    assert not torch.equal(out, again)
    assert dropout.eval()(x) is x


# ---- arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(64,), (64, 32)], ids=["one", "two"])
def test_bf16_and_fp32_against_float64(hidden):
    rows = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (5000, 48)).astype(np.float16))
    networks = {}
    for precision in ("fp32", "bf16"):
        network = HeadNetwork(48, 5, HeadSettings(hidden=hidden, precision=precision)).eval()
        network.initialise(torch.Generator().manual_seed(0))
        network.standardise_to(rows)
        networks[precision] = network
    hidden_values = (rows.double() - network.mean) * network.inv_std
    for layer in network.layers[:-1]:
        hidden_values = layer.double()(hidden_values) if isinstance(layer, nn.Linear) else layer(hidden_values)
    reference = network.layers[-1].double()(hidden_values).detach()
    network.float()

    differences = {p: float((n.score(rows) - reference).norm() / reference.norm()) for p, n in networks.items()}

    assert differences["fp32"] < 1e-5 < differences["bf16"] < 0.01


def test_one_layer_alone_is_in_fp32():
    assert HeadNetwork(8, 2, HeadSettings(hidden=(), precision="bf16")).precision == "fp32"


# ---- standardisation -------------------------------------------------------------------------------

# Columns: any, of deviation 1 and mean 0, large, tiny, constant 0, constant 250.
RNG = np.random.default_rng(0)
COLUMNS = np.stack(
    [
        RNG.normal(3, 2, 300),
        RNG.normal(0, 1, 300),
        RNG.normal(1000, 50, 300),
        RNG.normal(0, 0.001, 300),
        np.zeros(300),
        np.full(300, 250.0),
    ],
    axis=1,
).astype(np.float16)


def standardised(rows: np.ndarray, of: np.ndarray) -> np.ndarray:
    network = HeadNetwork(rows.shape[1], 2, FCB)
    network.standardise_to(torch.from_numpy(of))
    network.layers = nn.Sequential(nn.Identity())
    return network(torch.from_numpy(rows)).numpy()


def test_columns_get_mean_0_and_deviation_1():
    out = standardised(COLUMNS, of=COLUMNS)

    np.testing.assert_allclose(out[:, :4].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(out[:, :4].std(0), 1, atol=1e-4)


def test_a_column_without_deviation_becomes_0_on_other_rows_too():
    assert (standardised(COLUMNS, of=COLUMNS)[:, 4:] == 0).all()
    other = COLUMNS + np.float16(1)
    assert (standardised(other, of=COLUMNS)[:, 4:] == 0).all()


def test_rows_above_one_chunk_are_all_counted():
    rows = np.concatenate([np.zeros((8192, 1)), np.ones((8192, 1))]).astype(np.float16)

    out = standardised(rows, of=rows)

    assert out[0] == pytest.approx(-1) and out[-1] == pytest.approx(1)


@pytest.mark.parametrize("sizes", [[300], [1, 299], [100, 0, 150, 50], [1] * 300], ids=str)
def test_chunks_of_any_size_standardise_alike(sizes):
    network = HeadNetwork(COLUMNS.shape[1], 2, FCB)

    network.standardise_over(torch.from_numpy(COLUMNS).split(sizes))

    values = COLUMNS.astype(float)
    np.testing.assert_allclose(network.mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(network.inv_std[:4], 1 / values.std(0)[:4], rtol=1e-5)
    assert (network.inv_std[4:] == 0).all()


def test_float16_does_not_overflow_in_the_sums():
    rows = np.tile(np.array([[60000.0], [50000.0]], np.float16), (500, 1))

    out = standardised(rows, of=rows)

    assert np.isfinite(out).all()
    np.testing.assert_allclose(np.unique(np.round(out, 3)), [-1, 1])


def test_one_row_alone_becomes_0():
    assert (standardised(COLUMNS[:1], of=COLUMNS[:1]) == 0).all()


def two_clouds() -> tuple[np.ndarray, np.ndarray]:
    """240 rows of 6 columns; the first two tell two classes apart. Multiples of 1/16, so that halving is exact."""
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, 240)
    rows = rng.normal(0, 1, (240, 6))
    rows[:, 0] += 3 * targets
    rows[:, 1] -= 3 * targets
    return (np.round(rows * 16) / 16).astype(np.float16), targets


@pytest.mark.parametrize(
    ("scale", "shift"),
    [pytest.param(4, 0, id="scaled"), pytest.param(1, 32, id="shifted"), pytest.param(0.5, -16, id="both")],
)
def test_rescaled_and_shifted_input_gives_the_same_fit(scale, shift):
    rows, targets = two_clouds()
    moved = (rows.astype(float) * scale + shift).astype(np.float16)
    np.testing.assert_array_equal((moved.astype(float) - shift) / scale, rows)  # float16 keeps it exactly
    settings = HeadSettings(hidden=(8,), batch=32, rates=(0.01,), max_epochs=(4,), settled=0)

    network, log = fit_network(rows, targets, 3, settings, seed=0)
    other, other_log = fit_network(moved, targets, 3, settings, seed=0)

    assert [e["loss"] for e in log] == pytest.approx([e["loss"] for e in other_log], rel=1e-4)
    with torch.inference_mode():
        ours, theirs = network(torch.from_numpy(rows)), other(torch.from_numpy(moved))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_without_standardise_the_input_is_taken_as_it_is():
    rows, targets = two_clouds()
    settings = HeadSettings(hidden=(), standardise=False, rates=(0.01,), max_epochs=(1,))

    network, _ = fit_network(rows, targets, 3, settings, seed=0)

    assert (network.mean == 0).all() and (network.inv_std == 1).all()


# ---- initialisation --------------------------------------------------------------------------------


def test_initial_weights():
    network = HeadNetwork(512, 20, HEADS["fca"])
    network.initialise(torch.Generator().manual_seed(0))

    first, last = (m for m in network.layers if isinstance(m, nn.Linear))
    assert first.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert last.weight.std().item() == pytest.approx(0.1 * (2 / 2048) ** 0.5, rel=0.02)
    assert (first.bias == 0).all() and (last.bias == 0).all()


def test_initial_weights_follow_the_generator_alone():
    def weights(seed: int, world: int) -> torch.Tensor:
        torch.manual_seed(world)
        network = HeadNetwork(8, 2, FCB)
        network.initialise(torch.Generator().manual_seed(seed))
        return network.layers[1].weight

    assert torch.equal(weights(1, world=5), weights(1, world=6))
    assert not torch.equal(weights(1, world=5), weights(2, world=5))


def test_counted_words_are_splitmix64():
    """Against Python's integers, word by word."""
    mask = 2**64 - 1

    def next_word(state):
        state = (state + 0x9E3779B97F4A7C15) & mask
        word = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & mask
        word = ((word ^ word >> 27) * 0x94D049BB133111EB) & mask
        return state, word ^ word >> 31

    for seed, call in ((0, 0), (7, 3), (2**31, 10**6)):
        _, state = next_word(seed)
        _, state = next_word(state ^ call)
        expected = []
        for _ in range(50):
            state, word = next_word(state)
            expected.append(word - 2**64 if word >= 2**63 else word)
        assert count_words(50, seed, call, torch.device("cpu")).tolist() == expected


def test_counted_dropout_drops_its_share():
    x = torch.ones(200, 100)
    drop = CountedDropout(3)
    first, second = drop(x, 64), drop(x, 64)
    assert not torch.equal(first, second) and torch.equal(first, CountedDropout(3)(x, 64))
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.015)
    assert first.unique().tolist() == [0, pytest.approx(4 / 3)]
