"""Strong heads of several classes a patch, against those of one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.heads import fit_head
from torch.nn import functional

from pipeline.head.file import load_head, save_head
from pipeline.head.fitting import logistic_loss
from pipeline.head.settings import HeadSettings
from pipeline.io.errors import HeadError
from pipeline.metrics.average_precision import average_precision
from pipeline.patches.labels import Overlap
from pipeline.patches.settings import LabelSettings

LABELS = LabelSettings()
SINGLE = HeadSettings(hidden=(16,), batch=16, max_epochs=(12, 3, 2), background_share=0.5, dropout=0.2, settled=0)
SEVERAL = SINGLE.model_copy(update={"targets": "several"})
CAT, DOG, FISH = range(3)


def make_couples(make, n_pictures: int, split: str = "train", difficult_dogs: bool = False):
    """Patches 0 and 1 of a picture are filled by a cat and a dog together, patch 2 by a fish; 3 to 5 are empty."""
    table = make.table(n_pictures, split)
    couple = np.isin(np.arange(8), (0, 1))
    fish = np.arange(8) == 2
    n_filling = 2 * couple + fish
    first = 8 * np.arange(n_pictures)[:, None]
    fill_row = (first + [0, 0, 1, 1, 2]).ravel()
    fill_class = np.tile([CAT, DOG, CAT, DOG, FISH], n_pictures)
    table = replace(
        table,
        overlap=Overlap(
            n_filling=np.tile(n_filling, n_pictures).astype(np.uint8),
            n_touching=np.tile(n_filling + (np.arange(8) > 5), n_pictures).astype(np.uint8),
            filling_class=np.tile(np.where(fish, FISH, -1), n_pictures).astype(np.int16),
            filling_difficult=np.zeros(len(table.picture), bool),
            fill_row=fill_row,
            fill_class=fill_class.astype(np.int16),
            fill_difficult=(fill_class == DOG) & difficult_dogs,
        ),
    )
    rows = np.random.default_rng(len(split)).normal(0, 0.3, (table.n_rows, 8))
    rows[fill_row, fill_class] += 2
    return table, rows.astype(np.float16)


@pytest.fixture(scope="module")
def heads(make, tmp_path_factory):
    table, rows = make_couples(make, 24)
    store = make.store(tmp_path_factory.mktemp("couples") / "s.zarr", table, rows)
    return {name: fit_head(store, table, name, s, LABELS, 0) for name, s in (("one", SINGLE), ("more", SEVERAL))}


def ap_of_patches(head, make, of_class: int) -> float:
    """How well patches that show a class are ranked above all others, of pictures that were not seen."""
    table, rows = make_couples(make, 12, "val")
    shows = table.class_targets(LABELS, range(len(table.ids))).matrix(np.arange(table.n_rows), 3)[:, of_class]
    return average_precision(head.patch_scores(rows)[:, of_class], shows)


def test_classes_that_only_occur_together_are_found(heads, make):
    found = {name: [ap_of_patches(head, make, c) for c in (CAT, DOG, FISH)] for name, head in heads.items()}

    assert min(found["more"]) > 0.95
    # Their patches are deleted where one label a patch is allowed: nothing of them can be learnt.
    assert max(found["one"][:FISH]) < 0.7
    assert heads["one"].facts.patches["per_class"] == {"cat": 0, "dog": 0, "fish": 24}


def test_what_a_head_of_several_classes_says_of_itself(heads):
    facts = heads["more"].facts.patches

    assert facts == {
        "positive": 72,
        "background": 36,
        "background_of": 72,
        "per_class": {"cat": 48, "dog": 48, "fish": 24},
        "of_several_classes": 48,
    }
    assert heads["more"].score_kind == "logistic" and heads["one"].score_kind == "softmax"


def test_both_use_the_same_background(heads):
    for key in ("background", "background_of"):
        assert heads["one"].facts.patches[key] == heads["more"].facts.patches[key]


def test_scores_of_several_classes_lie_by_themselves(heads, make):
    table, rows = make_couples(make, 12, "val")
    scores = heads["more"].patch_scores(rows)

    couples = table.overlap.n_filling == 2
    assert scores.min() >= 0 and scores.max() <= 1
    assert scores[couples][:, [CAT, DOG]].mean() > 0.8 and scores[couples][:, FISH].mean() < 0.2
    assert scores[table.overlap.n_touching == 0].mean() < 0.2


def test_difficult_objects_teach_nothing_of_their_class(make, tmp_path):
    table, rows = make_couples(make, 24, difficult_dogs=True)
    head = fit_head(make.store(tmp_path / "s.zarr", table, rows), table, "h", SEVERAL, LABELS, 0)
    # The same, but for the dogs, which are not there at all.
    gone = table.overlap.fill_class != DOG
    alone = replace(
        table,
        overlap=replace(
            table.overlap,
            fill_row=table.overlap.fill_row[gone],
            fill_class=table.overlap.fill_class[gone],
            fill_difficult=table.overlap.fill_difficult[gone],
        ),
    )
    other = fit_head(make.store(tmp_path / "o.zarr", alone, rows), alone, "h", SEVERAL, LABELS, 0)

    couples = table.overlap.n_filling == 2
    assert head.facts.patches["per_class"] == other.facts.patches["per_class"] == {"cat": 48, "dog": 0, "fish": 24}
    # Patches with a dog are negatives of dogs only where no dog is known of.
    masked, negative = (h.patch_scores(rows)[couples][:, DOG].mean() for h in (head, other))
    assert masked > 2 * negative


def test_round_trip(heads, make, tmp_path):
    _, rows = make_couples(make, 3, "val")
    save_head(heads["more"], tmp_path / "h")

    loaded = load_head(tmp_path / "h")

    np.testing.assert_array_equal(loaded.patch_scores(rows), heads["more"].patch_scores(rows))
    assert loaded.facts == heads["more"].facts


def test_the_reading_decides_which_patches_are_used(make, tmp_path):
    table, rows = make_couples(make, 24)
    # Something else is in the second patch of every picture in part.
    n_touching = table.overlap.n_touching + np.tile(np.arange(8) == 1, 24).astype(np.uint8)
    table = replace(table, overlap=replace(table.overlap, n_touching=n_touching))
    store = make.store(tmp_path / "s.zarr", table, rows)

    heads = [fit_head(store, table, "h", SEVERAL, LabelSettings(single_object=r), 0) for r in ("fills", "touches")]

    assert [h.facts.patches["per_class"]["cat"] for h in heads] == [48, 24]


def test_no_positive_patch(make, tmp_path):
    table, rows = make_couples(make, 3)
    fill_difficult = np.ones(len(table.overlap.fill_row), bool)
    table = replace(table, overlap=replace(table.overlap, fill_difficult=fill_difficult))
    store = make.store(tmp_path / "s.zarr", table, rows)

    with pytest.raises(HeadError, match="made train: no positive patch among 24"):
        fit_head(store, table, "h", SEVERAL, LABELS, 0)


def test_logistic_loss_is_a_sum_over_classes_and_a_mean_over_rows():
    logits = torch.tensor([[0.5, -2.0, 3.0], [0.0, 100.0, -100.0]])
    targets = torch.tensor([[1, -1, 0], [-1, 1, 0]], dtype=torch.int8)

    loss = logistic_loss(logits, targets)

    known = targets != 0
    each = functional.binary_cross_entropy_with_logits(logits[known], (targets[known] > 0).float(), reduction="sum")
    assert loss.item() == pytest.approx(each.item() / 2)


def test_logistic_loss_has_no_gradient_where_nothing_is_said():
    logits = torch.randn(5, 3, requires_grad=True)
    targets = torch.tensor([[1, 0, -1]] * 5, dtype=torch.int8)

    logistic_loss(logits, targets).backward()

    assert (logits.grad[:, 1] == 0).all() and (logits.grad[:, [0, 2]] != 0).all()
