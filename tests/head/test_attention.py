"""Gated attention over patches: against a loop in numpy, all gradients at once, and a head that attends to nothing."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bags import WIDTH, draw_rows, make_table
from support.heads import fit_head

from pipeline.head import attention
from pipeline.head.attention import AttendedPictures
from pipeline.head.file import load_head, save_head
from pipeline.head.fit_rows import MemoryBudget
from pipeline.head.fitting import Sgd, make_optimizer
from pipeline.head.rows import RowReader
from pipeline.head.settings import AttentionSettings
from pipeline.io.errors import HeadError
from pipeline.io.memory import resident_memory
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.score import SplitScoring, score_split
from pipeline.views.photos import Photo, look_at

QUICK = AttentionSettings(
    kind="attention", attention=6, attention_rate=3, batch=4, rates=(0.02, 0.002), max_epochs=(2, 1), settled=0
)
LEARNING = QUICK.model_copy(update={"attention_rate": 10.0, "max_epochs": (12, 3), "dropout": 0.2})
SIZES = [20] * 60


@pytest.fixture(scope="module")
def scene(make, tmp_path_factory):
    """Forty pictures of 1 to 40 patches, in parts of 50: most parts end within a picture."""
    sizes = np.random.default_rng(3).integers(1, 41, 40).tolist()
    rows, labels = draw_rows(0, sizes)
    table = make_table(sizes, labels)
    return table, make.store(tmp_path_factory.mktemp("attention") / "s.zarr", table, rows), rows


def fit(store, table, settings=QUICK, seed=0, **options):
    return fit_head(store, table, "mine", settings, LabelSettings(), seed, **options)


def scores_of(store, table, head) -> np.ndarray:
    (scores,) = score_split(store, table, [head], ["max"])
    assert [str(k) for k in scores.aggregations] == ["pooled"]
    return scores.by("pooled")


# ---- it learns what it should ----------------------------------------------------------------------


def test_it_attends_to_the_patches_that_carry_a_class(make, tmp_path):
    rows, labels = draw_rows(0, SIZES, n_showing=2)
    table = make_table(SIZES, labels)
    unseen, unseen_labels = draw_rows(100, SIZES, n_showing=2)
    other = make_table(SIZES, unseen_labels)
    store, other_store = make.store(tmp_path / "a.zarr", table, rows), make.store(tmp_path / "b.zarr", other, unseen)

    def ap(settings) -> float:
        head = fit(store, table, settings)
        return mean_average_precision(scores_of(other_store, other, head), unseen_labels, "voc12")[0]

    # At a rate of nothing all patches count equally.
    attending, equal = ap(LEARNING), ap(LEARNING.model_copy(update={"attention_rate": 1e-9}))
    assert attending > 0.9 and attending > equal + 0.1, (attending, equal)
    head = fit(store, table, LEARNING.model_copy(update={"maps": "attention"}))
    for c in range(3):
        showing = unseen[:, c].reshape(60, 20) > 2.5
        found = head.patch_scores(unseen)[:, c].reshape(60, 20)
        shown = unseen_labels[:, c] == 1
        assert found[shown][showing[shown]].mean() > found[shown][~showing[shown]].mean() + 1


def test_shuffled_labels_teach_nothing(make, tmp_path):
    rows, labels = draw_rows(0, SIZES)
    table = make_table(SIZES, labels)
    store = make.store(tmp_path / "a.zarr", table, rows)
    shuffled = replace(table, picture_labels=labels[np.random.default_rng(1).permutation(len(labels))])

    learnt, nothing = (scores_of(store, table, fit(store, t, LEARNING)) for t in (table, shuffled))

    ap = [mean_average_precision(found, labels, "voc12")[0] for found in (learnt, nothing)]
    assert ap[0] > ap[1] + 0.3


# ---- its arithmetic --------------------------------------------------------------------------------


def scores_in_loops(head, rows, first_row, with_hidden) -> np.ndarray:
    """Scores of pictures, patch by patch and class by class, in float64."""
    p = {name: v.double().numpy() for name, v in head.network.state_dict().items()}
    out = np.full((len(first_row) - 1, 3), np.nan)
    for i in range(len(out)):
        attention, logits = [], []
        for row in rows[first_row[i] : first_row[i + 1]].astype(np.float64):
            h = (row - p["mean"]) * p["inv_std"]
            if with_hidden:
                h = np.maximum(p["layers.1.weight"] @ h + p["layers.1.bias"], 0)
            last = "layers.4" if with_hidden else "layers.1"
            gate = 1 / (1 + np.exp(-(p["gate.weight"] @ h + p["gate.bias"])))
            attention.append(p["attention.weight"] @ (np.tanh(p["value.weight"] @ h + p["value.bias"]) * gate))
            logits.append(p[f"{last}.weight"] @ h + p[f"{last}.bias"])
        for c in range(3):
            weights = [np.exp(a[c]) for a in attention]
            out[i, c] = sum(w * s[c] for w, s in zip(weights, logits, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize("hidden", [(), (8,)], ids=["fcb", "fca"])
def test_scores_are_those_of_a_loop(scene, hidden):
    table, store, rows = scene
    head = fit(store, table, LEARNING.model_copy(update={"hidden": hidden, "precision": "fp32", "max_epochs": (4, 1)}))

    found = scores_of(store, table, head)

    assert np.allclose(found, scores_in_loops(head, rows, table.first_row, bool(hidden)), atol=1e-4)
    index = int(np.diff(table.first_row).argmax())
    of_one = head.own_picture_scores(rows[slice(*table.first_row[index : index + 2])])
    assert np.allclose(of_one, found[index], atol=1e-5)


def network_of(settings=QUICK, seed=0, attention_too=True):
    network = attention.make_network(WIDTH, 3, settings)
    generator = torch.Generator().manual_seed(seed)
    network.initialise(generator)
    if attention_too:
        with torch.no_grad():
            network.attention.weight.copy_(torch.randn(network.attention.weight.shape, generator=generator))
    return network.eval()


def test_at_first_every_patch_counts_equally():
    rows = torch.from_numpy(draw_rows(0, [30])[0])
    network = network_of(attention_too=False)
    assert torch.allclose(network.picture_logits(rows), network.attend(rows)[1].mean(0), atol=1e-6)


def test_the_gradient_is_that_of_all_pictures_at_once():
    sizes = [12, 1, 5, 30, 2]
    rows, labels = draw_rows(4, sizes)
    labels[0, 1] = labels[3, 0] = 0
    network = network_of(QUICK.model_copy(update={"dropout": 0.0}))
    network.standardise_to(torch.from_numpy(rows))
    slow = copy.deepcopy(network)
    total = torch.zeros(())
    for part, of_classes in zip(np.split(rows, np.cumsum(sizes)[:-1]), labels.tolist(), strict=True):
        e, s = slow.attend(torch.from_numpy(part))
        for c, label in enumerate(of_classes):
            if label:
                p = torch.sigmoid((e[:, c].exp() * s[:, c]).sum() / e[:, c].exp().sum())
                total = total - torch.log(p if label == 1 else 1 - p)
    expected = total / len(sizes)
    expected.backward()

    batch = list(enumerate(np.split(rows, np.cumsum(sizes)[:-1])))
    loss = attention.take_step(network, make_optimizer(network, QUICK), batch, torch.from_numpy(labels))

    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(network.parameters(), slow.parameters(), strict=True):
        assert theirs.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)
        assert not torch.equal(ours, theirs)


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(0, 5), st.floats(-80, 80))
@settings(max_examples=25, deadline=None)
def test_pieces_of_a_picture_give_what_the_whole_gives(cuts, seed, shift):
    rows = draw_rows(seed, [40])[0]
    network = network_of(seed=seed)
    with torch.no_grad():
        network.attention.weight.mul_(1 + abs(shift))  # far beyond what exp holds without a maximum
    found = []
    for edges in ([0, 40], [0, *sorted(cuts), 40]):
        accumulator = AttendedPictures(network, range(1))
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            accumulator.add(rows[start:stop], np.zeros(stop - start, np.int64))
        found.append(network.picture_scores(accumulator.columns()))
    assert np.isfinite(found[0]).all() and np.allclose(*found, atol=1e-3)


def test_ranges_of_pictures_give_the_same_bits(scene):
    table, store, _ = scene
    head = fit(store, table)
    scoring = SplitScoring(store, table, [head], [])
    ranges = [scoring.score(scoring.share(i, 3)) for i in (1, 2, 3)]
    assert np.array_equal(scoring.join(ranges)[0].by("pooled"), scores_of(store, table, head))


def test_a_picture_without_rows_has_no_score():
    network = network_of()
    accumulator = network.accumulator(range(1, 4))
    accumulator.add(draw_rows(0, [5])[0], np.array([0, 0, 2, 2, 9]))
    scores = network.picture_scores(accumulator.columns())
    assert np.isnan(scores).all(1).tolist() == [True, False, True]


# ---- which pictures and labels count ---------------------------------------------------------------


def poisoned(make, path, table, rows, bad):
    rows = rows.copy()
    rows[bad[table.picture]] = -999
    return make.store(path, table, rows)


def test_held_out_pictures_and_those_without_a_sure_label_are_not_looked_at(scene, make, tmp_path):
    table, _, rows = scene
    unsure = np.arange(40) % 5 == 0
    table = replace(table, picture_labels=np.where(unsure[:, None], 0, table.picture_labels).astype(np.int8))
    out = hold_out_pictures(table.picture_sha256, 0.4)
    stores = [
        make.store(tmp_path / "a.zarr", table, rows),
        poisoned(make, tmp_path / "b.zarr", table, rows, unsure | out),
    ]
    digests = {save_head(fit(store, table, held_out_share=0.4), tmp_path / "digest.safetensors") for store in stores}
    assert len(digests) == 1


def test_difficult_labels_teach_nothing():
    sizes = [6] * 8
    rows, labels = draw_rows(0, sizes)
    labels[:, 1] = 0
    network = network_of(QUICK.model_copy(update={"dropout": 0.0}))
    before = copy.deepcopy(network)
    optimizer = Sgd(network.parameter_groups(), 0.1, momentum=0, weight_decay=0)

    attention.take_step(network, optimizer, list(enumerate(np.split(rows, 8))), torch.from_numpy(labels))

    for ours, old in ((network.layers[-1], before.layers[-1]), (network.attention, before.attention)):
        assert (ours.weight != old.weight).any(1).tolist() == [True, False, True]


def test_a_class_without_a_positive_or_a_negative_picture_is_named(scene):
    table, store, _ = scene
    labels = table.picture_labels.copy()
    labels[:, 0], labels[:, 1] = -1, 1
    head = fit(store, replace(table, picture_labels=labels))
    assert head.facts.never_learnt == {"cat": "no positive picture", "dog": "no negative picture"}
    assert np.isfinite(scores_of(store, table, head)).all()


def test_without_labels_it_is_refused(scene):
    table, store, _ = scene
    with pytest.raises(HeadError, match="no picture to fit mine on has a label"):
        fit(store, replace(table, picture_labels=np.zeros_like(table.picture_labels)))


# ---- heads and files -------------------------------------------------------------------------------


def test_a_head_comes_back_from_its_file_and_a_seed_gives_its_bytes(scene, tmp_path):
    table, store, _ = scene
    heads = [fit(store, table, seed=seed) for seed in (0, 0, 1)]
    digests = [save_head(head, tmp_path / f"{i}.safetensors") for i, head in enumerate(heads)]
    back = load_head(tmp_path / "0.safetensors")

    assert digests[0] == digests[1] != digests[2] and back.facts == heads[0].facts
    assert np.array_equal(scores_of(store, table, heads[0]), scores_of(store, table, back))


def test_bytes_do_not_depend_on_where_rows_lie(scene, tmp_path):
    table, store, _ = scene
    plain = save_head(fit(store, table), tmp_path / "a.safetensors")
    small = RowReader(store, budget=MemoryBudget(0, scratch=tmp_path))
    with pytest.raises(HeadError, match="memory"):
        fit(store, table, reader=small)
    roomy = RowReader(store, budget=MemoryBudget(resident_memory() + 2**30, scratch=tmp_path))
    assert save_head(fit(store, table, reader=roomy), tmp_path / "b.safetensors") == plain


@pytest.mark.parametrize(
    "change", [{"attention": 5}, {"attention_rate": 1.0}, {"hidden": (4,)}, {"dropout": 0.1}, {"standardise": False}]
)
def test_every_setting_changes_scores(scene, change):
    table, store, _ = scene
    plain, changed = (fit(store, table, QUICK.model_copy(update=update)) for update in ({}, change))
    assert not np.allclose(scores_of(store, table, plain), scores_of(store, table, changed))


def test_maps_show_scores_or_attention_and_pictures_are_scored_alike(made, make, tmp_path):
    table = replace(made.table, source="grid")
    heads = [fit(made.store, table, QUICK.model_copy(update={"maps": maps})) for maps in ("score", "attention")]
    e, s = heads[0].network.attend(torch.from_numpy(made.rows))

    found = score_split(made.store, table, heads, [])

    assert np.array_equal(found[0].scores, found[1].scores)
    assert np.allclose(heads[0].patch_scores(made.rows), s.detach(), atol=1e-5)
    assert np.allclose(heads[1].patch_scores(made.rows), e.detach(), atol=1e-5)
    for scores, head in zip(found, heads, strict=True):
        (alone,) = score_split(made.store, table, [head], [])
        assert np.isfinite(scores.peak_xy[table.picture_labels == 1]).all()
        assert np.array_equal(alone.peak_xy, scores.peak_xy, equal_nan=True)
    assert not np.array_equal(found[0].peak_xy, found[1].peak_xy, equal_nan=True)


def test_a_look_at_a_photo_has_the_head_s_own_scores(scene):
    table, store, rows = scene
    head = fit(store, table, QUICK.model_copy(update={"maps": "attention"}))
    own = slice(*table.first_row[:2])
    boxes = np.tile([0.0, 0, 16, 16], (len(rows[own]), 1))
    look = look_at(head, Photo("a", np.zeros((16, 16, 3), np.uint8), (16, 16), boxes, rows[own]))

    assert np.allclose(look.picture_scores("pooled"), scores_of(store, table, head)[0], atol=1e-5)
    assert np.array_equal(look.patch_scores, head.patch_scores(rows[own]))
    assert look.maps(np.array([1])).shape == (1, 16, 16)
    with pytest.raises(HeadError, match="no aggregation k=max; expected pooled"):
        look.picture_scores("max")
