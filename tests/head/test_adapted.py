"""Adapted heads: they begin as the trunk's own FC6 and FC7, train what they are told to, and stay repeatable."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.heads import fit_head
from support.pictures import split_of

from pipeline.activations.extraction import Extraction
from pipeline.activations.folder import LocalFolder
from pipeline.activations.verify import TOLERANCES
from pipeline.head import adapted
from pipeline.head.file import load_head, save_head
from pipeline.head.head import Head
from pipeline.head.rows import RowReader
from pipeline.head.settings import AdaptedSettings, HeadSettings
from pipeline.head.strong import choose_training_patches
from pipeline.head.task import FitTask
from pipeline.io.errors import HeadError
from pipeline.patches.build import make_table
from pipeline.patches.settings import GridSettings, LabelSettings, SourceSettings
from pipeline.trunk.alexnet import AlexNet, AlexNetConfig, Conv
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.load import load_trunk
from pipeline.trunk.runner import TrunkRunner
from pipeline.trunk.trunk import LayeredNetwork, Trunk

LABELS = LabelSettings()
FORM = AlexNetConfig(
    64,
    (Conv(4, 5, 2, 2, pool=True), Conv(4, 3, 1, 1, pool=True), *[Conv(4, 3, 1, 1)] * 2, Conv(6, 3, pool=True)),
    (24, 16),
)
WIDTH = FORM.widths["pool5"]
SIGNAL = slice(0, 6)
"""Columns of pool5 in which the classes differ, and to which FC6 of the trunk is blind."""
QUICK = AdaptedSettings(
    kind="adapted",
    hidden=(16,),
    batch=16,
    max_epochs=(30, 3, 2),
    settled=0,
    trunk_rate=1.0,
    dropout=0.0,
    fc7_dropout=0.0,
)


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    """A small member of the family whose FC6 looks at noise alone."""
    generator = torch.Generator().manual_seed(4)
    network = AlexNet(FORM).eval()
    with torch.no_grad():
        for layer in (network.fc6, network.fc7):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (2 / layer.in_features) ** 0.5)
            layer.bias.fill_(0.1)
        network.fc6.weight[:, SIGNAL] = 0
    card = TrunkCard(name="blind", architecture="alexnet64", input_px=64, layers=FORM.widths)
    return Trunk(card, "pool5", WIDTH, "d" * 64, LayeredNetwork(network, "pool5"))


def make_pool5(table, seed: int) -> np.ndarray:
    """Noise, and in the first columns the class of the object that fills a patch."""
    rows = np.abs(np.random.default_rng(seed).normal(0, 0.5, (table.n_rows, WIDTH)))
    filled = np.flatnonzero(table.overlap.filling_class >= 0)
    rows[:, SIGNAL] = 0
    rows[filled, table.overlap.filling_class[filled]] = 2
    rows[filled, table.overlap.filling_class[filled] + 3] = 1
    return rows.astype(np.float16)


@pytest.fixture(scope="module")
def drawn(make, trunk, tmp_path_factory):
    """Table, store and rows of pool5; of fc7 beside it, from the same trunk; and rows that no fit has seen."""
    folder, how = tmp_path_factory.mktemp("pool5"), {"how.weights": trunk.weights_sha256}
    table, unseen = make.table(24), make.table(9, "val")
    rows = make_pool5(table, 0)

    unseen_rows = make_pool5(unseen, 1)
    fc7 = [fc7_of(trunk, values) for values in (rows, unseen_rows)]
    return SimpleNamespace(
        table=table,
        store=make.store(folder / "pool5.zarr", table, rows, **how, **{"how.layer": "pool5"}),
        fc7=fc7,
        fc7_store=make.store(folder / "fc7.zarr", table, fc7[0], **how),
        unseen=unseen,
        unseen_rows=unseen_rows,
    )


def fc7_of(trunk: Trunk, pool5: np.ndarray) -> np.ndarray:
    network, x = trunk.network.network, torch.from_numpy(pool5).float()
    with torch.inference_mode():
        return torch.relu(network.fc7(torch.relu(network.fc6(x)))).half().numpy()


def fit(drawn, trunk, settings=QUICK, seed=0) -> Head:
    return fit_head(drawn.store, drawn.table, "u", settings, LABELS, seed, load_trunk=lambda: trunk)


def share_right(head: Head, table, rows: np.ndarray) -> float:
    positive = table.labels(LABELS) >= 0
    return float((head.patch_scores(rows)[positive].argmax(1) == table.overlap.filling_class[positive]).mean())


# ---- what it is ------------------------------------------------------------------------------------


def test_without_training_it_is_the_trunks_own_fc7(tmp_path):
    """Real rows: pool5 and fc7 of one pass over drawn pictures."""
    rng, paths = np.random.default_rng(0), []
    for name in "ab":
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((80, 64)).save(paths[-1])
    split = split_of(paths, "ab", "two")
    table = make_table(split, SourceSettings(grid=GridSettings(scales=(1.0, 2.0))))
    runner = TrunkRunner(load_trunk("random"), torch.device("cpu"), "fp32")
    where = LocalFolder(tmp_path / "cache")
    stores = Extraction(table, dict(zip("ab", paths, strict=True)), runner, where, layers=("pool5", "fc7")).run_layers()
    pool5, fc7 = (store.read_rows(np.arange(table.n_rows)) for store in stores)

    settings = AdaptedSettings(kind="adapted", standardise=False, hidden=())
    network = adapted.make_network(1152, 3, settings, (1024, 1024)).eval()
    for name, layer in (("fc6", runner.trunk.network.network.fc6), ("fc7", runner.trunk.network.network.fc7)):
        network.get_submodule(name).load_state_dict(layer.state_dict())
    with torch.inference_mode():
        own = network.fc7_rows(torch.from_numpy(pool5)).numpy()

    assert own.std() > 0.1
    difference = np.linalg.norm(own - fc7, axis=1) / np.linalg.norm(fc7, axis=1)
    assert difference.max() < TOLERANCES["fp32"]


def test_input_of_fca_is_standardised_under_the_copied_weights(drawn, trunk):
    head = fit(drawn, trunk)
    none_held_out = np.zeros(len(drawn.table.ids), bool)
    rows = choose_training_patches(
        FitTask(drawn.store, drawn.table, "u", LABELS, 0, none_held_out, None, RowReader(drawn.store)), QUICK
    ).row_index
    fc7 = drawn.fc7[0][rows].astype(np.float64)
    alive = fc7.std(0) > 1e-3

    np.testing.assert_allclose(head.network.mean, fc7.mean(0), atol=2e-3)
    np.testing.assert_allclose(1 / head.network.inv_std[alive], fc7.std(0)[alive], rtol=5e-3)


def test_columns_that_hardly_move_are_not_blown_up():
    """They may move much once FC6 does: the least deviation is a tenth of the root mean square of all."""
    settings = AdaptedSettings(kind="adapted", hidden=(), standardise=True)
    network = adapted.make_network(4, 3, settings, (4, 4))
    with torch.no_grad():
        for layer in (network.fc6, network.fc7):
            layer.weight.copy_(torch.eye(4))
            layer.bias.zero_()
    rows = torch.tensor([[0.0, 0.0, 0.0, 5.0], [2.0, 2.0, 0.002, 5.0]])

    network.standardise_to(rows)

    deviation = np.array([1, 1, 0.001])
    least = 0.1 * np.sqrt((deviation**2).mean())
    np.testing.assert_allclose(network.mean, [1, 1, 0.001, 5], rtol=1e-5)
    np.testing.assert_allclose(network.inv_std, [1, 1, 1 / least, 0], rtol=1e-5)


# ---- what is trained -------------------------------------------------------------------------------


def test_fc6_trained_again_finds_what_frozen_layers_do_not_show(drawn, trunk):
    strong = HeadSettings(**QUICK.model_dump(include=set(HeadSettings.model_fields) - {"kind"}))
    frozen = fit_head(drawn.fc7_store, drawn.table, "s", strong, LABELS, 0)
    fc7_only = fit(drawn, trunk, QUICK.model_copy(update={"retrain": ("fc7",)}))

    assert share_right(fit(drawn, trunk), drawn.unseen, drawn.unseen_rows) > 0.9
    # Neither sees more than noise, of three classes.
    assert share_right(frozen, drawn.unseen, drawn.fc7[1]) < 0.6
    assert share_right(fc7_only, drawn.unseen, drawn.unseen_rows) < 0.6


@pytest.mark.parametrize("retrain", [("fc6",), ("fc7",), ("fc6", "fc7")], ids=" ".join)
def test_frozen_layers_stay_as_they_are_and_the_others_change(drawn, trunk, retrain):
    head = fit(drawn, trunk, QUICK.model_copy(update={"retrain": retrain, "max_epochs": (2, 1, 1)}))

    for name in ("fc6", "fc7"):
        copied, own = trunk.network.network.get_submodule(name), head.network.get_submodule(name)
        for kind in ("weight", "bias"):
            same = torch.equal(copied.get_parameter(kind), own.get_parameter(kind))
            assert same == (name not in retrain), f"{name}.{kind}"


def test_the_trunk_itself_is_not_changed(drawn, trunk):
    before = {name: tensor.clone() for name, tensor in trunk.network.state_dict().items()}
    fit(drawn, trunk)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.network.state_dict().items())
    assert all(p.requires_grad for p in trunk.network.parameters())


def test_the_copied_layers_move_at_a_share_of_the_rate(drawn, trunk):
    """One step of plain SGD from the same place: a tenth of the rate is a tenth of the way."""
    steps = []
    for share in (1.0, 0.1):
        once = QUICK.model_copy(
            update={"trunk_rate": share, "rates": (0.01,), "max_epochs": (1,), "batch": 4096, "weight_decay": 0.0}
        )
        head = fit(drawn, trunk, once)
        steps.append((head.network.fc6.weight - trunk.network.network.fc6.weight).detach().numpy())
    assert np.abs(steps[0]).max() > 1e-5
    np.testing.assert_allclose(steps[1], 0.1 * steps[0], atol=1e-7)


def test_dropout_stands_before_fc7_and_not_before_fc6():
    network = adapted.make_network(6, 3, AdaptedSettings(kind="adapted", hidden=(), fc7_dropout=0.25), (2000, 2000))
    with torch.no_grad():
        network.fc6.weight.fill_(1)
        network.fc7.weight.copy_(torch.eye(2000))
        for layer in (network.fc6, network.fc7):
            layer.bias.zero_()
    rows = torch.ones(50, 6)

    assert torch.equal(network.eval().fc7_rows(rows), torch.full((50, 2000), 6.0))
    torch.manual_seed(0)
    dropped = network.train().fc7_rows(rows)
    assert set(dropped.unique().tolist()) == {0.0, 8.0}  # all of pool5, and what is kept of FC6 is scaled up
    assert abs((dropped == 0).float().mean() - 0.25) < 0.01


def test_several_classes_a_patch(drawn, trunk):
    head = fit(drawn, trunk, QUICK.model_copy(update={"targets": "several"}))

    assert head.score_kind == "logistic"
    assert share_right(head, drawn.unseen, drawn.unseen_rows) > 0.9


# ---- its file --------------------------------------------------------------------------------------


def test_round_trip_needs_no_trunk(drawn, trunk, tmp_path):
    head = fit(drawn, trunk)
    save_head(head, tmp_path / "u.safetensors")

    loaded = load_head(tmp_path / "u.safetensors")

    assert loaded.facts == head.facts
    assert loaded.facts.how["how.layer"] == "pool5"
    np.testing.assert_array_equal(loaded.patch_scores(drawn.unseen_rows), head.patch_scores(drawn.unseen_rows))


def test_same_seed_same_bytes(drawn, trunk, tmp_path):
    settings = QUICK.model_copy(update={"dropout": 0.5, "fc7_dropout": 0.5, "max_epochs": (2, 1, 1)})
    digests = []
    for index, seed in enumerate((0, 0, 1)):
        torch.manual_seed(index)  # of the caller; it must not show
        digests.append(save_head(fit(drawn, trunk, settings, seed), tmp_path / f"{index}"))
    assert digests[0] == digests[1] != digests[2]


def test_widths_that_do_not_fit_the_weights(drawn, trunk, tmp_path):
    head = fit(drawn, trunk)
    save_head(Head(head.network, replace(head.facts, of_kind={"network": {"fc_widths": [24, 17]}})), tmp_path / "h")

    with pytest.raises(HeadError, match="cannot be read as a head"):
        load_head(tmp_path / "h")


# ---- refused ---------------------------------------------------------------------------------------


def test_rows_of_another_layer(drawn, trunk):
    def load_trunk():
        raise AssertionError("not before the rows are known to be right")

    with pytest.raises(HeadError, match=r"from rows of pool5, and .*fc7\.zarr holds fc7; set layer: pool5, .*--layer"):
        fit_head(drawn.fc7_store, drawn.table, "u", QUICK, LABELS, 0, load_trunk=load_trunk)


def test_other_weights_than_those_that_made_the_rows(drawn, trunk):
    other = replace(trunk, weights_sha256="e" * 64)

    with pytest.raises(HeadError, match=r"trunk 'blind' has weights eeee.*, .* was made with dddd"):
        fit(drawn, other)


def test_a_trunk_of_another_family(drawn, trunk):
    other = replace(trunk, network=torch.nn.Identity())

    with pytest.raises(HeadError, match=r"trunk 'blind' has no such layers; use a trunk of the AlexNet family"):
        fit(drawn, other)


def test_layers_from_random_weights_learn_where_the_trunk_has_none(drawn, trunk):
    headless = AlexNet(FORM).eval()
    headless.fc6 = headless.fc7 = None
    other = replace(trunk, network=LayeredNetwork(headless, "pool5", ("pool5",)))
    settings = QUICK.model_copy(update={"start": "random", "retrain": ("fc6", "fc7")})

    with pytest.raises(HeadError, match=r"trunk 'blind' have no fc6, fc7; .* start: random.* recipe fc6-fc7-new"):
        fit(drawn, other)
    head = fit(drawn, other, settings)
    begun = adapted.draw_layers(FORM, 0)
    for name in ("fc6", "fc7"):
        assert not torch.equal(head.network.get_submodule(name).weight, begun[name].weight)
    assert share_right(head, drawn.table, drawn.store.read_rows(np.arange(drawn.table.n_rows))) > 0.9
    again = fit(drawn, other, settings)
    assert all(torch.equal(a, b) for a, b in zip(head.network.parameters(), again.network.parameters(), strict=True))


def test_drawn_layers_keep_the_size_of_what_goes_through_them():
    config = AlexNetConfig(FORM.input_px, FORM.convs, (2048, 2048))
    fc6, fc7 = adapted.draw_layers(config, 3).values()
    rows = torch.randn(64, WIDTH)
    with torch.no_grad():
        out = torch.relu(fc7(torch.relu(fc6(rows))))
    assert 0.8 < float(out.square().mean() / rows.square().mean()) < 1.25
    assert not torch.equal(fc6.weight, adapted.draw_layers(config, 4)["fc6"].weight)


def test_random_layers_are_all_trained():
    with pytest.raises(ValueError, match=r"start random: retrain must be \[fc6, fc7\], got \['fc6'\]"):
        AdaptedSettings(kind="adapted", start="random")
    assert "start" not in AdaptedSettings(kind="adapted").model_dump()


def test_no_trunk_at_all(drawn):
    with pytest.raises(HeadError, match="begins with the trunk's weights, and none were given"):
        fit_head(drawn.store, drawn.table, "u", QUICK, LABELS, 0)
