"""A head: what it is fitted on, what it says of itself, its file, and which rows it refuses."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.heads import fit_head

from pipeline.activations.identity import which_rows
from pipeline.head.facts import HeadFacts, read_facts, read_fingerprint
from pipeline.head.file import load_head, save_head
from pipeline.head.fit import fit_heads
from pipeline.head.head import Head
from pipeline.head.rows import RowReader
from pipeline.head.settings import SvmSettings, WeakSettings
from pipeline.head.strong import rows_to_learn
from pipeline.io.errors import HeadError, StoreError
from pipeline.patches.settings import LabelSettings

LABELS = LabelSettings()


@pytest.fixture(scope="module")
def head(made, small) -> Head:
    return fit_head(made.store, made.table, "small", small, LABELS, seed=0)


def test_what_a_head_says_of_itself(head, made, small):
    facts = head.facts

    assert (facts.name, facts.dataset, facts.split, facts.seed) == ("small", "made", "train", 0)
    assert head.classes == made.table.classes
    # Of eight patches a picture three are positive and three background; half of those is used.
    assert facts.patches == {
        "positive": 72,
        "background": 36,
        "background_of": 72,
        "per_class": {"cat": 24, "dog": 24, "fish": 24},
    }
    assert facts.pictures == {"used": 24, "held_out": 0, "skipped": 0}
    assert facts.fingerprint == made.store.fingerprint
    assert facts.labels_digest == made.table.labels_digest(LABELS)
    assert facts.how == {k: v for k, v in made.store.identity.items() if k.startswith("how.")}
    assert facts.settings == small.model_dump(mode="json")
    json.dumps(facts.to_dict(), allow_nan=False)


def test_the_reading_decides_the_positives(made, small):
    head = fit_head(made.store, made.table, "small", small, LabelSettings(single_object="touches"), seed=0)

    assert head.facts.patches["positive"] == 48  # one of three is touched by a second box
    assert head.facts.reading["single_object"] == "touches"


def test_unseen_patches_are_told_apart(head, make):
    table = make.table(9, "val")
    scores = head.patch_scores(make.rows(table, seed=5))

    positive = table.labels(LABELS) >= 0
    assert scores.shape == (72, 3) and scores.dtype == np.float32
    assert (scores[positive].argmax(1) == table.overlap.filling_class[positive]).mean() > 0.95
    # The last output is background: it takes the probability of empty patches away from all classes.
    assert scores[table.overlap.n_touching == 0].sum(1).mean() < scores[positive].sum(1).mean() - 0.1


def test_probabilities_do_not_depend_on_the_batch(head, made):
    chunks = [head.patch_scores(made.rows[i : i + 7]) for i in range(0, len(made.rows), 7)]
    np.testing.assert_allclose(np.concatenate(chunks), head.patch_scores(made.rows), atol=1e-6)


def test_rows_are_read_from_their_places(made, small, make, tmp_path):
    # The same rows in parts of other sizes: the fit must not notice.
    heads = [fit_head(made.store, made.table, "h", small, LABELS, 0)]
    for part_rows in (17, 192):
        store = make.store(tmp_path / f"{part_rows}.zarr", made.table, made.rows, part_rows)
        heads.append(fit_head(store, made.table, "h", small, LABELS, 0))

    for other in heads[1:]:
        for name, tensor in heads[0].network.state_dict().items():
            assert torch.equal(tensor, other.network.state_dict()[name]), name


# ---- refused ---------------------------------------------------------------------------------------


def test_no_positive_patch(made, small):
    difficult = np.ones(made.table.n_rows, bool)
    table = replace(made.table, overlap=replace(made.table.overlap, filling_difficult=difficult))

    with pytest.raises(HeadError, match=r"made train: no positive patch among 192 .* pipeline data check made"):
        fit_head(made.store, table, "h", small, LABELS, 0)


def test_a_table_of_other_rows(made, make, small):
    with pytest.raises(StoreError, match=r"other rows than the patch table of made train[\s\S]*seen\.rows: got"):
        fit_head(made.store, make.table(23), "h", small, LABELS, 0)


def test_a_table_of_changed_pictures(made, small):
    changed = replace(made.table, picture_sha256=("f" * 64, *made.table.picture_sha256[1:]))

    with pytest.raises(StoreError, match=r"other pictures than[\s\S]*pipeline extract --dataset made --split train"):
        fit_head(made.store, changed, "h", small, LABELS, 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("how.precision", "cuda-fp16", "how.precision: got 'cuda-fp16', expected 'cpu-fp32'"),
        ("how.layer", "fc6", "how.layer: got 'fc6', expected 'fc7'"),
        ("how.mean", [0.4, 0.5, 0.5], r"how.mean: got \[0.4, 0.5, 0.5\], expected \[0.5, 0.5, 0.5\]"),
        ("how.resize", "nearest", "how.resize: got 'nearest', expected None"),
    ],
)
def test_rows_made_in_another_way_are_refused(head, make, tmp_path, field, value, message):
    table = make.table(3, "val")
    store = make.store(tmp_path / "val.zarr", table, make.rows(table), **{field: value})

    with pytest.raises(HeadError, match=message) as caught:
        head.check_rows(store)
    assert str(caught.value).count("\n  - ") == 1  # the one field that differs, and no other


def test_rows_of_other_pictures_made_in_the_same_way_are_taken(head, make, tmp_path):
    table = make.table(3, "val")

    head.check_rows(make.store(tmp_path / "val.zarr", table, make.rows(table)))


# ---- the file --------------------------------------------------------------------------------------


@pytest.fixture
def path(head, tmp_path):
    save_head(head, tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


def test_round_trip(head, made, path):
    loaded = load_head(path)

    assert loaded.facts == head.facts
    assert not loaded.network.training
    np.testing.assert_array_equal(loaded.patch_scores(made.rows), head.patch_scores(made.rows))
    assert save_head(loaded, path.with_name("again")) == save_head(head, path.with_name("once"))


def test_the_file_opens_with_safetensors_alone(path):
    with safe_open(path, "pt") as file:
        assert {"mean", "gain"} < set(file.keys())
        assert json.loads(file.metadata()["facts"])["name"] == "small"


def test_round_trip_of_the_facts(head, path):
    facts = head.facts
    assert HeadFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts
    assert read_facts(path) == facts and read_fingerprint(path) == facts.fingerprint
    with pytest.raises(KeyError):
        HeadFacts.from_dict({"name": "small"})


def test_no_file(tmp_path):
    with pytest.raises(HeadError, match="no such head; make it with: pipeline fit-head"):
        load_head(tmp_path / "none.safetensors")


def parts_of_file(data: bytes) -> tuple[int, int, int]:
    """Where the header, its padding and the tensors begin."""
    tensors = 8 + int.from_bytes(data[:8], "little")
    return 8, len(data[:tensors].rstrip(b" ")), tensors


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99, 1.0])
def test_a_truncated_file_is_refused(path, share):
    data = path.read_bytes()
    size = min(int(share * len(data)), len(data) - 1)
    os.truncate(path, size)

    whole_header = size >= parts_of_file(data)[2]
    message = "changed since it was written; " if whole_header else "cannot be read as a head: .*"
    with pytest.raises(HeadError, match=rf"{message}fit it again: pipeline fit-head$"):
        load_head(path)


def test_a_lengthened_file_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(HeadError, match="changed since it was written"):
        load_head(path)


def test_a_flipped_byte_is_refused_wherever_it_is(path):
    data = path.read_bytes()
    header, padding, tensors = parts_of_file(data)
    digest = data.index(b'sha256\\": \\"') + 12
    assert header < digest < padding < tensors < len(data)
    positions = {
        *range(header),
        *range(digest, digest + 64),
        *range(padding, tensors),
        *np.linspace(0, len(data) - 1, 300).astype(int).tolist(),
    }
    for position in sorted(positions):
        for bits in (1, 0x20, 0x80):
            path.write_bytes(data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :])
            with pytest.raises(HeadError, match="fit it again"):
                load_head(path)

    path.write_bytes(data)
    load_head(path)


def test_a_changed_fact_is_refused(head, path):
    with safe_open(path, "pt") as file:
        facts = {**json.loads(file.metadata()["facts"]), "seed": 7}
    save_file(head.network.state_dict(), path, metadata={"facts": json.dumps(facts)})

    with pytest.raises(HeadError, match="changed since it was written"):
        load_head(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        pytest.param({"format": "head-0"}, "format 'head-0', expected 'head-3'", id="format"),
        pytest.param({"settings": {"hidden": [3]}}, "cannot be read as a head", id="settings of another network"),
        pytest.param({"settings": {"depth": 3}}, "cannot be read as a head", id="unknown setting"),
        pytest.param({"classes": ("cat",)}, "cannot be read as a head", id="fewer classes"),
    ],
)
def test_facts_that_do_not_fit_the_weights(head, tmp_path, facts, message):
    save_head(Head(head.network, replace(head.facts, **facts)), tmp_path / "h")

    with pytest.raises(HeadError, match=message):
        load_head(tmp_path / "h")


def test_another_safetensors_file_is_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")

    with pytest.raises(HeadError, match="cannot be read as a head"):
        load_head(tmp_path / "other.safetensors")


# --- a store of chosen rows


@pytest.fixture(scope="module")
def some_rows(made, small, make, tmp_path_factory):
    """Rows that two seeds learn from, and a store of these alone."""
    rows = rows_to_learn(made.table, small, LABELS, (0, 1))
    part = replace(made.table, **{name: getattr(made.table, name)[rows] for name in ("picture", "box_xyxy", "scale")})
    changes = {"seen.which": which_rows(rows), "seen.n_rows": len(rows), "seen.rows": made.table.rows_digest}
    place = tmp_path_factory.mktemp("some") / "s.zarr"
    return rows, make.store(place, part, made.rows[rows], **changes)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_head_is_the_same_from_the_rows_that_it_learns_from(made, small, some_rows, seed):
    rows, store = some_rows
    assert len(rows) < made.table.n_rows / 1.2

    head = fit_head(store, made.table, "small", small, LABELS, seed, reader=RowReader(store, rows))

    every = fit_head(made.store, made.table, "small", small, LABELS, seed)
    for key, tensor in head.network.state_dict().items():
        assert torch.equal(tensor, every.network.state_dict()[key])
    assert head.facts.patches == every.facts.patches


@pytest.mark.parametrize(
    ("settings", "seed", "message"),
    [
        (None, 7, r"of its 108 rows are missing, and the store holds [0-9]+ rows.*\n.*--rows all"),
        (WeakSettings(kind="weak"), 0, "this kind of head needs all patches of a picture"),
        (SvmSettings(kind="svm"), 0, "this kind of head needs all patches of a picture"),
    ],
)
def test_what_needs_other_rows_says_so(made, small, some_rows, settings, seed, message):
    rows, store = some_rows
    with pytest.raises(HeadError, match=message):
        fit_head(store, made.table, "small", settings or small, LABELS, seed, reader=RowReader(store, rows))


def test_a_store_of_chosen_rows_is_not_taken_for_one_of_all(made, small, some_rows):
    rows, store = some_rows
    with pytest.raises(StoreError, match=r"holds [0-9]+ of the 192 rows of made train.*\n.*extract --dataset made"):
        fit_head(store, made.table, "small", small, LABELS, 0)
    with pytest.raises(StoreError, match="other rows are needed"):
        fit_head(store, made.table, "small", small, LABELS, 0, reader=RowReader(store, rows[:-1]))


# --- several heads on one store


def test_several_heads_read_the_store_once_and_are_each_as_alone(made, small, monkeypatch):
    settings = {
        "small": small,
        "slow": small.model_copy(update={"rates": (0.001, 0.0001, 0.00001)}),
        "decayed": small.model_copy(update={"weight_decay": 0.1, "dropout": 0.25, "momentum": 0.5}),
        "short": small.model_copy(update={"max_epochs": (1, 0, 1)}),
        "one layer": small.model_copy(update={"hidden": ()}),
        "one layer, slow": small.model_copy(update={"hidden": (), "rates": (0.001, 0.0001, 0.00001)}),
        "fewer": small.model_copy(update={"background_share": 0.25}),
        "weak": WeakSettings(kind="weak", hidden=(), max_epochs=(2, 1)),
        "weaker": WeakSettings(kind="weak", hidden=(), max_epochs=(1, 1), top=1),
    }
    alone = {name: fit_head(made.store, made.table, name, its, LABELS, seed=0) for name, its in settings.items()}
    read, parts = [], made.store.read_part
    monkeypatch.setattr(made.store, "read_part", lambda part: read.append(part.index) or parts(part))

    for name, head in fit_heads(made.store, made.table, settings, LABELS, seed=0):
        assert head.facts == alone[name].facts
        for key, tensor in head.network.state_dict().items():
            assert torch.equal(tensor, alone[name].network.state_dict()[key]), (name, key)

    # Once for all strong heads but one, once for the other rows of that one, and once for whole pictures.
    # Parts are read ahead in two threads, in nearly any order.
    assert sorted(read) == sorted(3 * [part.index for part in made.store.parts])
