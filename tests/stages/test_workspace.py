"""Names of files: each changes with exactly the settings that the file depends on."""

import json

import pytest

from pipeline.head.settings import HEADS, HeadSettings
from pipeline.io.errors import MissingDataError
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace

TABLE, STORE, HEAD, SCORES, RUN = "table", "store", "head", "scores", "run"
LEVELS = (TABLE, STORE, HEAD, SCORES, RUN)


def digests(**settings) -> dict[str, str]:
    ws = Workspace(RunSettings.model_validate(settings))
    head = ws.settings.head
    return {
        TABLE: ws.table_digest,
        STORE: ws.store_digest,
        HEAD: ws.head_digest(head),
        SCORES: ws.scores_digest(head),
        RUN: ws.run_digest(head),
    }


# One row a setting: another value, and the first file that changes with it; all later ones do, too.
CHANGES = {
    "data_root": ("elsewhere", TABLE),
    "source": ("whole", TABLE),
    "grid": ({"overlap": 0.5}, TABLE),
    "on_error": ("skip", TABLE),
    "max_skipped": (0.5, TABLE),
    "trunk": ("random", STORE),
    "layer": ("fc6", STORE),
    "weights": ("other.safetensors", STORE),
    "trunk_px": (320, STORE),
    "device": ("cuda:1", STORE),
    "precision": ("fp32", STORE),
    "compiled": (True, STORE),
    "backend": ("openvino", STORE),
    "method": ("dense", STORE),
    "dtype": ("8bit", STORE),
    "rows": ("labelled", STORE),
    "batch": (64, STORE),
    "stores": ("s3://bucket/prefix", STORE),
    "labels": ({"single_object": "touches"}, HEAD),
    "head": ("fcb", HEAD),
    "heads": ({"fca": {"dropout": 0.25}}, HEAD),
    "seed": (1, HEAD),
    "aggregations": ((1.0, 5.0), SCORES),
    "aggregation": (3.0, RUN),
    # Settings of a source that is not used.
    "crops": ({"flips": False}, None),
    "boxes": ({"margin": 1.5}, None),
    # Where files lie, how fast they are made, and what else is shown: no name depends on these.
    "cache": ("elsewhere", None),
    "results": ("elsewhere", None),
    "compare": (("fca",), None),
    "baselines": (("random",), None),
    "held_out": (0.5, None),
    "layers": (("pool5",), None),
    "recipes": ({"mine": {"head": {"hidden": []}}}, None),
    "comparison": (("strong",), None),
    "ladder": ({"other": {"trunk": "random"}}, None),
    "seeds": ((5,), None),
    "reference": ("weak", None),
    "no_pretrain": ({"batch": 32}, None),
    "fisher": ({"words": 8}, None),
    "trunk_seed": (1, None),
    "readings": (("touches",), None),
    "threads": (1, None),
    "codec": ("fast", None),
    "scatter": (3, None),
    "adopt": (False, None),
    "memory": (2.0, None),
    "head_device": ("cuda", HEAD),
    "adopt_from": (("elsewhere",), None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_which_file_changes_with_which_setting(name):
    value, first = CHANGES[name]
    before, after = digests(), digests(**{name: value})

    changed = [level for level in LEVELS if after[level] != before[level]]
    assert changed == ([] if first is None else list(LEVELS[LEVELS.index(first) :]))


@pytest.mark.parametrize(("source", "value"), [("crops", {"flips": False}), ("boxes", {"margin": 1.5})])
def test_settings_of_the_source_in_use_change_all_files(source, value):
    before, after = digests(source=source), digests(source=source, **{source: value})

    assert all(before[level] != after[level] for level in LEVELS)


def test_every_setting_is_in_the_table_above():
    assert set(CHANGES) == set(RunSettings.model_fields)


@pytest.mark.parametrize(
    ("grid", "same"),
    [
        pytest.param({}, True, id="defaults"),
        pytest.param({"scales": [1.0, 2.0]}, False, id="scales"),
        pytest.param({"max_patches": 1000}, False, id="max_patches"),
        pytest.param({"min_side_px": 4}, False, id="min_side_px"),
    ],
)
def test_every_part_of_the_grid_counts(grid, same):
    assert (digests(grid=grid) == digests()) == same


CHANGED_HEAD = {
    "targets": "several",
    "hidden": (1024,),
    "dropout": 0.1,
    "input_dropout": 0.1,
    "background_share": 0.2,
    "standardise": False,
    "rates": (0.02, 0.001, 0.0001),
    "max_epochs": (5, 2, 1),
    "settled": 0.02,
    "batch": 128,
    "momentum": 0.8,
    "weight_decay": 1e-3,
    "precision": "fp32",
    "grid": {"dropout": [0.1, 0.5]},
}


@pytest.mark.parametrize("field", sorted(set(HeadSettings.model_fields) - {"kind"}))
def test_every_setting_of_a_head_counts(field):
    before, after = digests(), digests(heads={"fca": {field: CHANGED_HEAD[field]}})

    assert [level for level in LEVELS if after[level] != before[level]] == [HEAD, SCORES, RUN]


def test_settings_of_another_head_do_not_count():
    assert digests(heads={"fcb": {"dropout": 0.1}, "mine": {"hidden": [7]}}) == digests()


def test_a_configured_head_equal_to_a_built_in_one_shares_its_files():
    assert digests(heads={"fca": HEADS["fca"].model_dump()}) == digests()


def test_an_aggregation_that_scores_lack_changes_the_scores():
    before, after = digests(), digests(aggregation=7.0)

    assert [level for level in LEVELS if after[level] != before[level]] == [SCORES, RUN]


def test_the_seed_decides_a_random_trunk():
    before, after = digests(trunk="random"), digests(trunk="random", trunk_seed=1)

    assert [level for level in LEVELS if after[level] != before[level]] == [STORE, HEAD, SCORES, RUN]


def test_another_layer_is_another_store_of_the_same_table():
    ws = Workspace(RunSettings(trunk="alexnet", weights="w.safetensors"))

    other = ws.with_layer("pool5")
    assert (other.settings.layer, other.settings.weights) == ("pool5", "w.safetensors")
    assert other.table_digest == ws.table_digest and other.store_digest != ws.store_digest


# ---- paths -----------------------------------------------------------------------------------------


def test_all_files_lie_in_cache_and_results():
    ws = Workspace(RunSettings(cache="C", results="R"))

    paths = [
        ws.table_path("demo", "train"),
        ws.receipt_path("demo", "train"),
        ws.share_path("demo", "train", 1, 2),
        ws.scores_share_path("demo", "fca", "val", 1, 2),
        ws.digest_memory,
    ]
    assert {p.parts[0] for p in paths} == {"C"}
    assert str(ws.stores) == "C"
    paths = [
        ws.head_path("demo", "fca"),
        ws.scores_path("demo", "fca", "val"),
        ws.run_dir("demo"),
        ws.heads_path("demo"),
        ws.sweep_path("demo"),
    ]
    assert {p.parts[0] for p in paths} == {"R"}
    assert len(set(paths)) == len(paths)
    assert ws.run_dir("demo") == ws.run_dir("demo", "fca") != ws.run_dir("demo", "fcb")


def test_stores_may_lie_elsewhere():
    assert str(Workspace(RunSettings(stores="elsewhere")).stores) == "elsewhere"
    assert str(Workspace(RunSettings(stores="memory://bucket/x")).stores) == "memory://bucket/x"


def test_datasets_splits_and_heads_do_not_share_files():
    ws = Workspace(RunSettings())

    assert len({ws.table_path(d, s) for d in ("a", "b") for s in ("train", "val")}) == 4
    assert len({ws.receipt_path(d, s) for d in ("a", "b") for s in ("train", "val")}) == 4
    assert (
        len({ws.share_path(d, s, i, n) for d in "ab" for s in ("train", "val") for n in (2, 3) for i in (1, 2)}) == 16
    )
    shares = {
        ws.scores_share_path("a", h, s, i, n, held_out)
        for h in HEADS
        for s in ("train", "val")
        for i, n in ((1, 2), (2, 2), (1, 3))
        for held_out in (False, True)
    }
    assert len(shares) == 12 * len(HEADS)
    assert len({ws.head_path(d, h) for d in ("a", "b") for h in HEADS}) == 2 * len(HEADS)
    assert len({ws.scores_path("a", h, s) for h in HEADS for s in ("train", "val")}) == 2 * len(HEADS)


# ---- what a workflow engine cannot see -------------------------------------------------------------


def test_weights_state_follows_size_and_time(tmp_path):
    path = tmp_path / "w.safetensors"
    ws = Workspace(RunSettings(weights=str(path)))
    states = [ws.weights_state()]
    for data in (b"one", b"longer"):
        path.write_bytes(data)
        states.append(ws.weights_state())

    assert len(set(states)) == 3
    assert ws.weights_state() == states[-1]


def test_weights_state_of_a_card_follows_the_file_beside_it(tmp_path):
    (tmp_path / "t.yaml").write_text("card")
    (tmp_path / "t.safetensors").write_bytes(b"one")
    ws = Workspace(RunSettings(trunk=str(tmp_path / "t.yaml")))
    before = ws.weights_state()

    (tmp_path / "t.safetensors").write_bytes(b"longer")

    assert ws.weights_state() != before


def test_store_making_rises_when_a_store_is_gone(tmp_path):
    ws = Workspace(RunSettings(cache=str(tmp_path)))
    assert ws.store_making("demo", "train") == 1  # nothing there yet
    receipt, seal = ws.receipt_path("demo", "train"), tmp_path / "s.zarr/integrity/seal.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text(json.dumps({"made": 1, "store": "s.zarr"}))
    seal.parent.mkdir(parents=True)
    seal.write_text("{}")
    assert ws.store_making("demo", "train") == 1

    seal.unlink()  # removed, or not complete
    assert ws.store_making("demo", "train") == 2
    receipt.write_text(json.dumps({"made": 2, "store": "s.zarr"}))
    seal.write_text("{}")
    assert ws.store_making("demo", "train") == 2  # made again: and no further rerun


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"made": "x", "store": "s"}', '{"made": 1}', "null"])
def test_a_receipt_that_says_nothing_counts_as_none(tmp_path, content):
    ws = Workspace(RunSettings(cache=str(tmp_path)))
    ws.receipt_path("demo", "train").parent.mkdir(parents=True)
    ws.receipt_path("demo", "train").write_text(content)

    assert ws.store_making("demo", "train") == 1


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        pytest.param(
            {"trunk": "torchvision/resnet18", "weights": "none.safetensors"}, "none.safetensors", id="weights"
        ),
        pytest.param({"trunk": "none.yaml"}, "no such file: none.yaml", id="card"),
        pytest.param({"trunk": "krizhevsky"}, "no weights are shipped for it", id="krizhevsky"),
    ],
)
def test_missing_weights_name_the_ways_on(values, problem):
    with pytest.raises(MissingDataError) as caught:
        Workspace(RunSettings(**values)).check_weights()
    text = str(caught.value)
    assert problem in text
    assert all(way in text for way in ("--weights FILE", "pipeline pretrain", "trunk=alexnet64"))


@pytest.mark.parametrize("trunk", ["alexnet64", "random", "torchvision/resnet18"])
def test_trunks_with_weights_of_their_own_pass(trunk):
    Workspace(RunSettings(trunk=trunk)).check_weights()
