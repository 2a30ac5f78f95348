"""The interface for Python: arrays, labels, torch datasets, photos; what costs nothing and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from support.tables import all_rows

import pipeline
from pipeline.dataset.demo.scenes import draw_demo
from pipeline.io.errors import DatasetError, PipelineError, StoreError
from pipeline.stages import extract, fit_head, score
from pipeline.stages.context import RunContext

VALUES = {"trunk": "random", "precision": "fp32", "threads": 1, "grid": {"scales": [1.0, 2.0], "overlap": 0.5}}


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """Settings of a run over a few drawn pictures, all stages done."""
    folder = tmp_path_factory.mktemp("api")
    draw_demo(folder / "demo", 6, 4, seed=1)
    values = {**VALUES, "data_root": str(folder), "cache": str(folder / "cache"), "results": str(folder / "results")}
    values["heads"] = {"fca": {"hidden": [16], "max_epochs": [2, 1, 1]}}
    ws = pipeline.open_workspace(**values)
    for split in ("train", "val"):
        run = RunContext(ws, "demo")
        extract.make(run, extract.open_inputs(run, split))
    fit_head.ensure(RunContext(ws, "demo"), ["fca"])
    score.make(RunContext(ws, "demo"), ["fca"])
    return values


@pytest.fixture
def train(values):
    return pipeline.open_features("demo", "train", **values)


def test_importing_costs_nothing():
    code = "import sys, pipeline; dir(pipeline); assert not {'torch', 'numpy', 'zarr'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        pipeline.nosuch  # noqa: B018
    assert set(pipeline.__all__) <= set(dir(pipeline))


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        slice(2, 9),
        slice(None, None, -7),
        [5, 2, 5],
        [],
        (slice(3), slice(0, 4)),
        (7, 3),
        np.int64(4),
    ],
    ids=str,
)
def test_it_is_indexed_like_an_array(train, key):
    whole = np.asarray(train)
    assert whole.shape == train.shape and whole.dtype == train.dtype == np.float16
    got, expected = train[key], whole[np.array(key, int) if isinstance(key, list) else key]
    assert got.shape == expected.shape and np.array_equal(got, expected)


def test_masks_and_bad_keys(train):
    mask = train.labels >= 0
    assert np.array_equal(train[mask], np.asarray(train)[mask])
    with pytest.raises(IndexError, match=rf"mask of {len(train)} rows, got shape \(3,\)"):
        train[np.ones(3, bool)]
    for key in (len(train), [-len(train) - 1]):
        with pytest.raises(IndexError, match="row"):
            train[key]
    with pytest.raises(IndexError, match="expected an int, a slice"):
        train[[0.5]]


def test_geometry_and_labels_are_those_of_the_table(train):
    rows = all_rows(train.table)
    assert np.array_equal(train.box_xyxy, rows.box_xyxy) and np.array_equal(train.scale, rows.scale)
    assert len(train.labels) == len(train) and set(np.unique(train.labels)) <= set(range(-2, len(train.classes)))
    assert train.picture_labels.shape == (len(train.picture_ids), len(train.classes))
    assert train.identity["how.layer"] == "fc7" and "demo train" in repr(train)


def test_a_store_alone_has_no_labels(train):
    alone = pipeline.open_store(train.store.folder.path)
    assert np.array_equal(alone[:9], train[:9]) and len(alone.picture) == len(alone)
    with pytest.raises(DatasetError, match=r"holds no labels; .* pipeline.open_features"):
        alone.labels  # noqa: B018


def test_rows_that_are_never_used_are_not_there(values):
    fewer = {**values, "rows": "labelled"}
    run = RunContext(pipeline.open_workspace(**fewer), "demo")
    extract.make(run, extract.open_inputs(run, "train"))
    some = pipeline.open_features("demo", "train", **fewer)
    assert len(some) < some.table.n_rows and len(some.labels) == len(some)
    assert (some.labels >= 0).sum() == (some.table.labels(pipeline.open_workspace(**fewer).settings.labels) >= 0).sum()


def test_torch_gets_labelled_patches(train):
    patches = pipeline.PatchDataset(train)
    assert len(patches) == (train.labels > -2).sum()
    value, label = patches[3]
    row = patches.rows[3]
    assert torch.equal(value, torch.from_numpy(train[row].astype(np.float32))) and label == train.labels[row]
    batches = list(torch.utils.data.DataLoader(patches, batch_size=7))
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.stack([patches[i][0] for i in range(len(patches))]))
    assert torch.cat([y for _, y in batches]).tolist() == train.labels[patches.rows].tolist()


def test_scores_and_maps(values):
    scores = pipeline.load_scores("demo", **values)
    reader = pipeline.open_photo_reader("demo", **values)
    path = f"{values['data_root']}/demo/JPEGImages/{scores.ids[0]}.jpg"
    look = reader.look(path)
    np.testing.assert_allclose(look.picture_scores(5.0), scores.by(5.0)[0], rtol=2e-2, atol=1e-6)
    assert look.maps(np.array([0, 1])).shape == (2, *look.pixels.shape[:2])
    with pytest.raises(DatasetError, match=r"nosuch.jpg: No such file"):
        reader.look("nosuch.jpg")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda v: pipeline.open_features("demo", "train", **{**v, "layer": "fc6"}), StoreError, "pipeline extract"),
        (lambda v: pipeline.open_workspace(trunk=3), PipelineError, "trunk"),
        (lambda v: pipeline.open_photo_reader("demo", "fcb", **v), PipelineError, "pipeline fit-head"),
        (lambda v: pipeline.open_photo_reader("demo", **{**v, "trunk_seed": 7}), PipelineError, "fit"),
        (lambda v: pipeline.load_scores("demo", head="fcb", **v), StoreError, "pipeline score"),
    ],
)
def test_what_is_not_there_is_said_with_the_next_step(values, call, error, words):
    with pytest.raises(error, match=words):
        call(values)


# ---- what is printed, and the metrics


def test_every_public_object_prints_on_one_screen(values, train):
    reader = pipeline.open_photo_reader("demo", **values)
    photo = values["data_root"] + "/demo/JPEGImages/val_0001.jpg"
    scores = pipeline.load_scores("demo", **values)
    many = np.where(np.eye(1000) > 0, 1, -1)
    things = {
        "open_workspace": pipeline.open_workspace(**values),
        "Features": train,
        "PatchDataset": pipeline.PatchDataset(train),
        "HeadClassifier": pipeline.HeadClassifier(),
        "load_scores": scores,
        "open_photo_reader": reader,
        "look": reader.look(photo),
        "measure_confusion": pipeline.measure_confusion(many, many),
    }
    for name, thing in things.items():
        lines = repr(thing).splitlines()
        assert len(lines) <= 24 and sum(map(len, lines)) <= 1000, name
        assert " object at 0x" not in repr(thing), name
    assert repr(things["measure_confusion"]) == (
        "<Confusion of 1,000 pictures of 1,000 classes: accuracy 100.0 %, balanced 100.0 %, 0 undecided>"
    )
    assert "trunk='random'" in repr(things["open_workspace"])


def test_the_metrics_are_those_of_results_and_of_scikit_learn():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_recall_curve

    rng = np.random.default_rng(1)
    shown = rng.integers(0, 4, 60)
    truth = np.where(np.arange(4) == shown[:, None], 1, -1)
    scores = rng.normal(size=(60, 4)) + truth
    answers = scores.argmax(1)
    assert pipeline.accuracy(scores, truth) == pytest.approx(accuracy_score(shown, answers))
    assert pipeline.balanced_accuracy(scores, truth) == pytest.approx(balanced_accuracy_score(shown, answers))
    precision, recall = pipeline.precision_recall(scores[:, 0], truth[:, 0])
    p, r, _ = precision_recall_curve(truth[:, 0] == 1, scores[:, 0])
    assert np.allclose(precision[: len(p) - 1][::-1][-len(p) + 1 :], p[:-1][-len(precision) :])
    assert np.allclose(recall[::-1], r[:-1][-len(recall) :])
    mean, each = pipeline.mean_average_precision(scores, truth)
    assert mean == pytest.approx(
        np.mean([pipeline.average_precision(s, y) for s, y in zip(scores.T, truth.T, strict=True)])
    )
    low, high = pipeline.bootstrap_interval(scores, truth, n_resamples=200)
    assert low < mean < high and len(each) == 4


@pytest.mark.parametrize(
    "name", ["mean_average_precision", "accuracy", "balanced_accuracy", "measure_confusion", "bootstrap_interval"]
)
def test_metrics_refuse_other_shapes_by_name(name):
    with pytest.raises(ValueError, match=r"\(3, 2\),? (and )?\(2, 2\)"):
        getattr(pipeline, name)(np.zeros((3, 2)), np.array([[1, -1], [-1, 1]]))


def test_metrics_take_lists():
    assert pipeline.accuracy([[1, 0], [0, 1]], [[1, -1], [-1, 1]]) == 1.0
    assert pipeline.mean_average_precision([[1, 0], [0, 1]], [[1, -1], [-1, 1]])[0] == 1.0
