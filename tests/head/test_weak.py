"""Weak heads: from picture labels alone, through the best patches, and only through them."""

import copy
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.bags import WIDTH, draw_rows, make_table
from support.heads import fit_head
from torch import nn

from pipeline.head import weak
from pipeline.head.bags import PictureBags
from pipeline.head.file import load_head, save_head
from pipeline.head.fitting import Sgd, logistic_loss, make_optimizer
from pipeline.head.joint_fit import JointFit
from pipeline.head.networks import HeadNetwork
from pipeline.head.settings import WeakSettings
from pipeline.io.errors import HeadError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings

LABELS = LabelSettings()
QUICK = WeakSettings(kind="weak", hidden=(8,), top=2, batch=4, rates=(0.01, 0.001), max_epochs=(2, 1), settled=0)


@pytest.fixture(scope="module")
def scene(make, tmp_path_factory):
    """Forty pictures of 1 to 40 patches, in parts of 50: most parts end within a picture."""
    sizes = np.random.default_rng(3).integers(1, 41, 40).tolist()
    rows, labels = draw_rows(0, sizes)
    table = make_table(sizes, labels)
    return table, make.store(tmp_path_factory.mktemp("weak") / "s.zarr", table, rows), rows


def fit(store, table, settings=QUICK, seed=0, held_out_share=0.0):
    return fit_head(store, table, "weak", settings, LABELS, seed, held_out_share=held_out_share)


# ---- it learns what it should ----------------------------------------------------------------------


def picture_ap(network: nn.Module, rows: np.ndarray, sizes: list[int], labels: np.ndarray) -> float:
    """Mean AP over classes of the maximum over patches."""
    with torch.inference_mode():
        scores = torch.stack([part.max(0).values for part in network(torch.from_numpy(rows)).split(sizes)])
    return mean_average_precision(scores.numpy(), labels, "voc12")[0]


SIZES = [30] * 150


def test_few_patches_of_a_picture_carry_its_class(make, tmp_path):
    settings = QUICK.model_copy(update={"hidden": (), "top": 1, "max_epochs": (20, 6), "dropout": 0.2})
    ours, theirs = [], []
    for seed in (0, 7):
        rows, labels = draw_rows(seed, SIZES)
        table = make_table(SIZES, labels)
        head = fit(make.store(tmp_path / f"{seed}.zarr", table, rows, 4096), table, settings)
        # The same network, for which every patch of a picture shows what the picture shows.
        every = HeadNetwork(WIDTH, 3, settings, "log-odds")
        joint = JointFit(0, logistic_loss)
        joint.add(every, settings.model_copy(update={"batch": 4 * 30}))
        joint.run(rows, np.repeat(labels, 30, axis=0))
        unseen = draw_rows(seed + 100, SIZES)
        ours.append(picture_ap(head.network, unseen[0], SIZES, unseen[1]))
        theirs.append(picture_ap(every, unseen[0], SIZES, unseen[1]))

    assert np.mean(ours) > 0.9
    assert np.mean(ours) > np.mean(theirs) + 0.2, (ours, theirs)


def test_one_row_a_picture(make, tmp_path):
    sizes = [1] * 300
    rows, labels = draw_rows(0, sizes)
    table = make_table(sizes, labels)

    head = fit(
        make.store(tmp_path / "whole.zarr", table, rows, 100), table, QUICK.model_copy(update={"max_epochs": (6, 2)})
    )

    unseen = draw_rows(1, sizes)
    assert picture_ap(head.network, unseen[0], sizes, unseen[1]) > 0.95


# ---- the gradient flows through the best patches ---------------------------------------------------


def loss_in_loops(network, rows, sizes, labels, top) -> torch.Tensor:
    """All rows with their gradient, picture by picture and class by class."""
    total = torch.zeros(())
    first = 0
    for size, of_classes in zip(sizes, labels.tolist(), strict=True):
        logits = network(rows[first : first + size])
        for c, label in enumerate(of_classes):
            if label:
                best = sorted(logits[:, c], key=lambda logit: logit.item(), reverse=True)[:top]
                score = sum(best) / len(best)
                probability = torch.sigmoid(score)
                total = total - torch.log(probability if label == 1 else 1 - probability)
        first += size
    return total / len(sizes)


@pytest.mark.parametrize("top", [1, 3, 7, 1000])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)], ids=["fcb", "fca", "fca2"])
def test_the_gradient_is_that_of_all_rows(top, hidden):
    sizes = [12, 1, 5, 30, 2]
    rows, labels = draw_rows(4, sizes)
    labels[0, 1] = labels[3, 0] = labels[3, 2] = 0
    settings = WeakSettings(kind="weak", hidden=hidden, dropout=0, precision="fp32")
    network = weak.make_network(WIDTH, 3, settings)
    network.initialise(torch.Generator().manual_seed(0))
    network.standardise_to(torch.from_numpy(rows))
    slow = copy.deepcopy(network)
    expected = loss_in_loops(slow, torch.from_numpy(rows), sizes, labels, top)
    expected.backward()
    batch = list(enumerate(np.split(rows, np.cumsum(sizes)[:-1])))

    loss = weak.take_step(network, make_optimizer(network, settings), batch, torch.from_numpy(labels), top)

    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(network.layers.parameters(), slow.layers.parameters(), strict=True):
        assert theirs.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
        # One step of plain SGD has been taken along it.
        assert not torch.equal(ours, theirs)


def test_only_the_best_patches_are_run_with_a_gradient(monkeypatch):
    sizes = [50, 50]
    rows, labels = draw_rows(0, sizes)
    network = weak.make_network(WIDTH, 3, QUICK)
    network.initialise(torch.Generator().manual_seed(0))
    seen = []
    network.register_forward_hook(lambda module, inputs, out: seen.append((len(out), out.requires_grad)))
    batch = list(enumerate(np.split(rows, [50])))

    weak.take_step(network, make_optimizer(network, QUICK), batch, torch.from_numpy(labels), 2)

    (n_scored, scored_with), (n_chosen, chosen_with) = seen
    assert (n_scored, scored_with, chosen_with) == (100, False, True)
    assert n_chosen <= 2 * 3 * 2  # two patches for each of three classes and two pictures, less those in common


def test_patches_are_chosen_without_dropout():
    rows = torch.from_numpy(draw_rows(0, [100])[0])
    network = weak.make_network(WIDTH, 3, QUICK).train()
    network.initialise(torch.Generator().manual_seed(0))

    first, second = (network.score(rows) for _ in range(2))

    assert torch.equal(first, second) and network.training
    assert not torch.equal(network(rows), network(rows))


def test_best_patches_by_hand():
    # Pictures of three and one patches, two classes.
    scores = torch.tensor([[1.0, 9.0], [3.0, 8.0], [2.0, 0.0], [5.0, 5.0]])

    best = weak.choose_best(scores, [3, 1], top=2)

    assert best.row_index.tolist() == [0, 1, 2, 3]
    assert best.picture_logits(scores).tolist() == [[2.5, 8.5], [5.0, 5.0]]
    one = weak.choose_best(scores, [3, 1], top=1)
    assert one.row_index.tolist() == [0, 1, 3]
    assert one.picture_logits(scores[one.row_index]).tolist() == [[3.0, 9.0], [5.0, 5.0]]


@pytest.mark.parametrize("hidden", [(64,), (64, 32)], ids=["one", "two"])
def test_scores_in_bf16_are_near(hidden):
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (9000, WIDTH)) * np.geomspace(0.01, 100, WIDTH)
    # A column of large mean and small deviation, and one without any.
    rows[:, 3] = 250 + rng.normal(0, 1, len(rows))
    rows[:, 4] = 250
    rows = torch.from_numpy(rows.astype(np.float16))
    found = []
    for precision in ("fp32", "bf16"):
        network = weak.make_network(WIDTH, 3, WeakSettings(kind="weak", hidden=hidden, precision=precision))
        network.initialise(torch.Generator().manual_seed(0))
        network.standardise_to(rows)
        found.append(network.score(rows))

    exact, near = found
    assert exact.dtype == near.dtype == torch.float32
    deviation = (exact - exact.mean(0)).std(0)
    assert ((near - exact).abs().mean(0) < 0.02 * deviation).all()


# ---- which pictures and labels count ---------------------------------------------------------------


def digest(head, path) -> str:
    return save_head(head, path / "digest.safetensors")


def poisoned(make, path, table, rows, bad: np.ndarray):
    """A store of the same identity, in which the rows of some pictures are wild."""
    rows = rows.copy()
    rows[bad[table.picture]] = -999
    return make.store(path, table, rows)


def test_held_out_pictures_are_not_looked_at(scene, make, tmp_path):
    table, store, rows = scene
    out = hold_out_pictures(table.picture_sha256, 0.4)
    assert 5 <= out.sum() <= 30
    other = poisoned(make, tmp_path / "p.zarr", table, rows, out)
    assert other.fingerprint == store.fingerprint
    lies = replace(table, picture_labels=np.where(out[:, None], -table.picture_labels, table.picture_labels))

    kept = fit(store, table, held_out_share=0.4)

    assert digest(fit(other, table, held_out_share=0.4), tmp_path) == digest(kept, tmp_path)
    for name, tensor in fit(store, lies, held_out_share=0.4).network.state_dict().items():
        assert torch.equal(tensor, kept.network.state_dict()[name])
    assert digest(fit(other, table), tmp_path) != digest(fit(store, table), tmp_path)
    assert kept.facts.patches["looked_at"] == int((~out)[table.picture].sum())


def test_a_picture_without_a_sure_label_is_not_looked_at(scene, make, tmp_path):
    table, _, rows = scene
    unsure = np.arange(40) % 5 == 0
    table = replace(table, picture_labels=np.where(unsure[:, None], 0, table.picture_labels).astype(np.int8))

    heads = [
        fit(make.store(tmp_path / "a.zarr", table, rows), table),
        fit(poisoned(make, tmp_path / "b.zarr", table, rows, unsure), table),
    ]

    assert digest(heads[0], tmp_path) == digest(heads[1], tmp_path)


def test_difficult_labels_teach_nothing():
    sizes = [6] * 8
    rows, labels = draw_rows(0, sizes)
    labels[:, 1] = 0
    network = weak.make_network(WIDTH, 3, WeakSettings(kind="weak", hidden=(), weight_decay=0, dropout=0))
    network.initialise(torch.Generator().manual_seed(0))
    before = copy.deepcopy(network.layers[-1])
    optimizer = Sgd(network.parameter_groups(), 0.1, momentum=0, weight_decay=0)

    batch = list(enumerate(np.split(rows, 8)))
    weak.take_step(network, optimizer, batch, torch.from_numpy(labels), 2)

    moved = (network.layers[-1].weight != before.weight).any(1)
    assert moved.tolist() == [True, False, True]
    assert network.layers[-1].bias[1] == before.bias[1]


def test_labels_of_patches_are_not_looked_at(made, tmp_path):
    true = made.table.overlap
    false = replace(true, filling_class=(true.filling_class + 1) % 3, fill_class=(true.fill_class + 1) % 3)
    lies = replace(made.table, overlap=false)

    heads = [fit(made.store, table) for table in (made.table, lies)]

    for name, tensor in heads[0].network.state_dict().items():
        assert torch.equal(tensor, heads[1].network.state_dict()[name]), name


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(np.zeros((40, 0), np.int8), id="no labels"),
        pytest.param(np.full((40, 3), -1, np.int8), id="no positive"),
        pytest.param(np.zeros((40, 3), np.int8), id="all difficult"),
    ],
)
def test_no_label_at_all(scene, labels):
    table, store, _ = scene

    with pytest.raises(
        HeadError, match="made train: no picture to fit weak on has a label .* pipeline data check made"
    ):
        fit(store, replace(table, picture_labels=labels))


# ---- standardisation and start ---------------------------------------------------------------------


def test_standardised_over_all_patches_of_the_fit_pictures(scene):
    table, store, rows = scene
    out = hold_out_pictures(table.picture_sha256, 0.4)

    network = fit(store, table, held_out_share=0.4).network

    used = rows[~out[table.picture]].astype(float)
    np.testing.assert_allclose(network.mean, used.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.inv_std, 1 / used.std(0), rtol=1e-5)


def test_without_standardise(scene):
    table, store, _ = scene

    network = fit(store, table, QUICK.model_copy(update={"standardise": False})).network

    assert (network.mean == 0).all() and (network.inv_std == 1).all()


def test_classes_begin_at_their_share_of_the_pictures():
    network = weak.make_network(4, 3, WeakSettings(kind="weak"))
    labels = np.array([[1, -1, 0]] * 10 + [[-1, -1, 1]] * 30, np.int8)

    weak.start_at_shares(network, labels)

    odds = network.layers[-1].bias.exp().tolist()
    assert odds == pytest.approx([10.5 / 30.5, 0.5 / 40.5, 30.5 / 0.5], rel=1e-4)


# ---- the same bytes, and the file ------------------------------------------------------------------


@pytest.mark.parametrize("cache_bytes", [2**31, 0, 300 * 2 * WIDTH], ids=["held", "streamed", "pooled"])
def test_one_seed_gives_the_same_bytes(scene, tmp_path, monkeypatch, cache_bytes):
    monkeypatch.setattr(PictureBags.__init__, "__defaults__", (cache_bytes,))
    table, store, _ = scene

    first = digest(fit(store, table), tmp_path)
    torch.manual_seed(99)
    np.random.seed(99)

    assert digest(fit(store, table), tmp_path) == first
    assert digest(fit(store, table, seed=1), tmp_path) != first


def test_parts_of_another_size_teach_the_same(scene, make, tmp_path):
    # Held in memory, pictures come in an order that does not depend on the parts in which they lay.
    table, store, rows = scene
    heads = [fit(s, table) for s in (store, make.store(tmp_path / "s.zarr", table, rows, part_rows=130))]

    for name, tensor in heads[0].network.state_dict().items():
        assert torch.equal(tensor, heads[1].network.state_dict()[name]), name


def test_round_trip(scene, tmp_path):
    table, store, rows = scene
    head = fit(store, table)
    written = save_head(head, tmp_path / "weak.safetensors")

    loaded = load_head(tmp_path / "weak.safetensors")

    data = (tmp_path / "weak.safetensors").read_bytes()
    assert hashlib.sha256(data.replace(written.encode(), b"0" * 64)).hexdigest() == written
    assert loaded.facts == head.facts and loaded.score_kind == "log-odds"
    assert loaded.facts.settings["kind"] == "weak"
    np.testing.assert_array_equal(loaded.patch_scores(rows), head.patch_scores(rows))
    assert head.patch_scores(rows).shape == (len(rows), 3)
    assert head.patch_scores(rows).min() < 0


def test_what_a_weak_head_says_of_itself(scene):
    table, store, _ = scene
    facts = fit(store, table).facts

    assert [e["rate"] for e in facts.epochs] == [0.01] * 2 + [0.001]
    counts = (table.picture_labels == 1).sum(0).tolist()
    assert facts.patches["pictures_per_class"] == dict(zip(table.classes, counts, strict=True))
    assert facts.patches["looked_at"] == table.n_rows
    assert facts.of_kind["precision"] in ("bf16", "fp32")


def test_the_callers_random_state_is_left_alone(scene):
    table, store, _ = scene
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    fit(store, table)

    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_stops_the_fit(scene):
    table, store, _ = scene

    with pytest.raises(HeadError, match=r"weak: the loss is not finite at learning rate 1e\+30; lower the rates"):
        fit(store, table, QUICK.model_copy(update={"rates": (1e30,), "max_epochs": (3,)}))
