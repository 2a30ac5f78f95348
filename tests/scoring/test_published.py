"""Published rows: what the file says, whether it agrees with itself, and mistakes in such a file."""

import json

import numpy as np
import pytest

from pipeline.dataset.manifest import load_manifest
from pipeline.io.errors import SettingsError
from pipeline.recipes.catalogue import builtin_recipes
from pipeline.scoring.published import WHY_APART, load_published, published_rows

# The VOC 2012 action task, as its development kit writes the classes.
ACTIONS = [
    "jumping",
    "phoning",
    "playinginstrument",
    "reading",
    "ridingbike",
    "ridinghorse",
    "running",
    "takingphoto",
    "usingcomputer",
    "walking",
]

MEANS = {
    "voc07": {"INRIA": 59.4, "NUS-PSL": 70.5, "PRE-1000C": 77.7},
    "voc12": {
        "NUS-PSL": 82.2,
        "NO PRETRAIN": 70.9,
        "PRE-1000C": 78.7,
        "PRE-1000R": 76.3,
        "PRE-1512": 82.8,
        "PRE-1512 with FCb alone": None,
        "PRE-1512 with three adaptation layers": None,
        "Zeiler and Fergus": 79.0,
        "Chatfield et al.": 83.2,
        "full images": 78.7,
        "strong + weak": 86.0,
        "weak supervision": 86.3,
    },
    "voc12_action": {"STANFORD": 69.1, "OXFORD": 69.6, "NO PRETRAIN": 49.7, "PRE-1512": 68.4, "PRE-1512U": 70.2},
}


OF_PAPER = {row.source for row in load_published() if row.source.startswith(("paper", "slides"))}
LATER = ("Razavian", "VGG", "VICReg", "OpenSelfSup", "mmselfsup", "DINOv2", "Florence", "CLIP_benchmark")


def test_rows_and_means():
    for benchmark, means in MEANS.items():
        found = {row.name: row.mAP for row in load_published() if row.dataset == benchmark and row.source in OF_PAPER}
        assert found == means
    assert {row.dataset for row in load_published()} == set(MEANS)


@pytest.mark.parametrize("row", load_published(), ids=lambda row: f"{row.dataset}-{row.name}")
def test_classes_are_the_benchmarks_and_their_mean_is_the_printed_one(row):
    classes = ACTIONS if row.dataset == "voc12_action" else load_manifest(row.dataset).classes
    in_order = [c for c in classes if c in row.AP]
    assert list(row.AP) == in_order
    # Where all classes could be read, their mean must be the printed one, to its rounding.
    if len(row.AP) == len(classes):
        assert np.mean(list(row.AP.values())) == pytest.approx(row.mAP, abs=0.0501)
    else:
        assert not row.AP or (len(row.AP) == 10 and row.note)
    assert row.source.startswith(("paper", "slides", *LATER))


def test_few_pictures_never_beat_all_of_them():
    rows = [row for row in load_published() if row.few]
    assert len(rows) == 5
    for row in rows:
        assert list(row.few) == sorted(row.few) and row.few[1] < 60
        values = [*row.few.values(), row.mAP]
        assert values == sorted(values)


def test_what_the_paper_says_of_its_tables():
    rows = {(row.dataset, row.name): row for row in load_published()}
    base, frozen, again = (rows["voc12_action", name] for name in ("NO PRETRAIN", "PRE-1512", "PRE-1512U"))
    assert all(again.AP[c] > frozen.AP[c] > base.AP[c] for c in ACTIONS)  # "increases ... on all action categories"
    c1000, r1000, all_ = (rows["voc12", name] for name in ("PRE-1000C", "PRE-1000R", "PRE-1512"))
    assert all(all_.AP[c] > c1000.AP[c] > r1000.AP[c] for c in all_.AP)  # "consistent improvement of all ... classes"
    best = [c for c in c1000.AP if c1000.AP[c] > rows["voc12", "NUS-PSL"].AP[c]]
    assert len(best) == 5  # "outperforms on five out of twenty classes"


@pytest.mark.parametrize(
    ("dataset", "benchmark"),
    [
        ("voc07", "voc07"),
        ("voc12", "voc12"),
        ("voc12_test", "voc12"),
        ("voc12_subset", "voc12"),
        ("voc12_action", "voc12_action"),
        ("voc12_action_drawn", "voc12_action"),
        ("voc12_actions", "voc12"),
        ("voc120", None),
        ("demo", None),
    ],
)
def test_a_dataset_has_the_rows_of_its_benchmark(dataset, benchmark):
    rows = published_rows(dataset)

    assert [row["name"] for row in rows if row["source"] in OF_PAPER] == list(MEANS.get(benchmark, {}))
    assert [row["name"] for row in rows] == [row.name for row in load_published() if row.dataset == benchmark]


def test_rows_beside_measured_ones_are_in_their_unit():
    row = next(row for row in published_rows("voc12_subset") if row["name"] == "PRE-1512")

    assert (row["mAP"], row["AP"]["cow"], row["split"], row["metric"]) == (0.828, 0.868, "test", "voc12")
    remark = next(row for row in published_rows("voc12") if row["mAP"] is None)
    assert remark["AP"] == {} and "about 1% drop" in remark["note"]
    assert json.loads(json.dumps(published_rows("voc12"))) == published_rows("voc12")
    assert "\n" not in WHY_APART


def test_every_recipe_that_names_a_published_row_names_one_that_is_there():
    names = {row.name for row in load_published()}

    assert {recipe.published for recipe in builtin_recipes().values()} - {""} <= names


# ---- a file of one's own ---------------------------------------------------------------------------

ROW = "{name: a, dataset: mine, split: test, metric: voc12, mAP: 50.0, source: a letter}"


def test_a_file_of_ones_own_comes_first(tmp_path):
    (tmp_path / "published.yaml").write_text(f"rows: [{ROW}]\n")

    assert [row["mAP"] for row in published_rows("mine_too", tmp_path)] == [0.5]
    assert published_rows("voc12", tmp_path) == []


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        pytest.param(f"rows: [{ROW.replace('50.0', '150')}]", r"rows\.0\.mAP: .*less than or equal to 100", id="150 %"),
        pytest.param(f"rows: [{ROW.replace('50.0', 'true')}]", r"rows\.0\.mAP: must be a number", id="true"),
        pytest.param(f"rows: [{ROW.replace('50.0', 'null')}]", "a: has neither mAP nor note", id="nothing"),
        pytest.param(f"rows: [{ROW}, {ROW}]", "named twice: mine a", id="twice"),
        pytest.param(f"rows: [{ROW.replace('source', 'sauce')}]", r"sauce[\s\S]*source|source[\s\S]*sauce", id="key"),
        pytest.param("- a", "expected a mapping", id="a list"),
    ],
)
def test_mistakes(tmp_path, text, expect):
    (tmp_path / "published.yaml").write_text(text)

    with pytest.raises(SettingsError, match=expect):
        load_published(tmp_path)


def test_no_file_is_no_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.scoring.published.manifest_folders", lambda extra: [tmp_path])

    assert published_rows("voc12") == []
