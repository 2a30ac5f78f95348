"""Results: the JSON object, what makes it official, the files for the evaluation server, comparisons."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from pipeline.io.errors import StoreError
from pipeline.metrics.average_precision import average_precision
from pipeline.patches.settings import LabelSettings
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.devkit import write_devkit_files
from pipeline.scoring.evaluation import Evaluation
from pipeline.scoring.results import Result, number
from pipeline.scoring.score import score_split
from pipeline.scoring.scores import SplitScores

KS = (1.0, 5.0, "max")
# What reports, comparisons and people look for in a result.
KEYS = {
    *("dataset", "split", "metric", "mAP", "AP", "k", "recipe", "head", "trunk", "layer", "fingerprints"),
    *("pictures", "official", "seed", "seconds", "versions", "command"),
}


@pytest.fixture(scope="module")
def scores(val, heads) -> SplitScores:
    return score_split(val.store, val.table, [heads["fca"]], KS)[0]


def test_round_trip_of_a_result(scores, val, manifest):
    evaluation = Evaluation(scores, val.table, manifest, Aggregation("power", 5.0), "random", {"score": 1.5}, "x")

    for result in (evaluation.result(), evaluation.unlabelled(), replace(evaluation.result(), paths={"head": "h"})):
        entries = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert entries["k"] == 5.0 and ("paths" in entries) == (result.paths is not None)
        assert Result.from_dict(entries) == result
        assert list(Result.from_dict(entries).to_dict()) == list(entries)


@pytest.fixture
def evaluate(scores, val, manifest):
    def evaluate_with(**changes):
        given = {"scores": scores, "table": val.table, "manifest": manifest, "k": 5.0, **changes}
        given["k"] = Aggregation.parse(given["k"])
        evaluation = Evaluation(**given, trunk="alexnet64", seconds={"score": 1.5}, command="pipeline evaluate")
        return evaluation.result().to_dict()

    return evaluate_with


def test_all_keys_are_there(evaluate):
    result = evaluate()

    assert set(result) >= KEYS
    assert set(result["fingerprints"]) == {"fit", "eval", "labels_fit", "labels_eval"}
    assert result["pictures"] == {"fit": {"used": 36, "skipped": 0}, "eval": {"used": 21, "skipped": 0}}
    assert {"pipeline", "python", "torch", "zarr"} <= set(result["versions"])


def test_what_a_result_says(evaluate, scores, val, train, heads):
    result = evaluate()

    expected = {
        c: average_precision(scores.by(5.0)[:, i], val.table.picture_labels[:, i], "voc12")
        for i, c in enumerate(val.table.classes)
    }
    assert result["AP"] == pytest.approx(expected, abs=1e-6)
    assert result["mAP"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    assert list(result["k_sweep"]) == ["1", "5", "max"] and result["k_sweep"]["5"] == result["mAP"]
    assert (result["dataset"], result["split"], result["fit_split"]) == ("made", "val", "train")
    assert (result["head"], result["trunk"], result["layer"], result["k"]) == ("fca", "alexnet64", "fc7", 5.0)
    assert result["fingerprints"] == {
        "fit": train.store.fingerprint,
        "eval": val.store.fingerprint,
        "labels_fit": train.table.labels_digest(LabelSettings()),
        "labels_eval": val.table.labels_digest(LabelSettings()),
    }
    assert result["recipe"]["head"] == heads["fca"].facts.settings
    assert result["seconds"] == {"score": 1.5} and result["command"] == "pipeline evaluate"


@pytest.mark.parametrize("metric", ["voc07", "voc12"])
def test_the_metric_is_the_manifests(evaluate, scores, val, manifest, metric):
    # Ranks are spoilt, so that the two rules differ.
    spoilt = replace(scores, scores=scores.scores[:, ::-1])

    result = evaluate(scores=spoilt, manifest=manifest.model_copy(update={"metric": metric}))

    each = [average_precision(spoilt.by(5.0)[:, i], val.table.picture_labels[:, i], metric) for i in range(3)]
    assert result["metric"] == metric
    assert result["mAP"] == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize("k", KS)
def test_the_aggregation_is_the_one_asked_for(evaluate, k):
    result = evaluate(k=k)

    assert result["k"] == k
    assert result["mAP"] == result["k_sweep"]["max" if k == "max" else f"{k:g}"]


def test_a_class_without_a_positive_is_null_and_said_so(evaluate, val):
    labels = val.table.picture_labels.copy()
    labels[:, 1] = -1

    result = evaluate(table=replace(val.table, picture_labels=labels))

    assert result["AP"]["dog"] is None and result["undefined"] == ["dog"]
    assert result["mAP"] == pytest.approx((result["AP"]["cat"] + result["AP"]["fish"]) / 2, abs=1e-6)
    assert result["notes"] == ["no positive picture, left out of the mean: dog"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_pictures_that_the_head_was_fitted_on_are_said(scores, val, manifest):
    digests = val.table.picture_sha256

    def notes(fit_pictures):
        given = (scores, val.table, manifest, Aggregation("power", 5.0), "random", {}, "x", fit_pictures)
        return Evaluation(*given).result().notes

    assert notes(()) == notes(("other",)) == []
    first, other = val.table.ids[0], val.table.ids[3]
    note = f"2 of 21 pictures of val have the bytes of pictures of train, .*too good: {first}, {other}$"
    assert re.match(note, notes((digests[0], digests[3], "other"))[0])
    assert "and 16 more" in notes(digests)[0]


def test_no_positive_at_all_is_still_json(evaluate, val):
    result = evaluate(table=replace(val.table, picture_labels=-np.ones((21, 3), np.int8)))

    assert result["mAP"] is None and result["undefined"] == ["cat", "dog", "fish"]
    json.dumps(result, allow_nan=False)


def test_pictures_without_a_score_are_still_json(evaluate, scores):
    values = scores.scores.copy()
    values[:, :4] = np.nan

    result = evaluate(scores=replace(scores, scores=values))

    assert 0 < result["mAP"] < 1
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    ("official", "pictures", "expect", "noted"),
    [
        pytest.param(True, (36, 21), True, None, id="official counts"),
        pytest.param(False, (36, 21), False, None, id="no benchmark"),
        pytest.param(
            True,
            (36, 22),
            False,
            "train has 36 of 36 pictures, val 21 of 22; this mAP compares with no published one",
            id="evaluated on a subset",
        ),
        pytest.param(True, (5717, 21), False, "train has 36 of 5,717 pictures, val 21 of 21", id="fitted on a subset"),
    ],
)
def test_official(evaluate, manifest, official, pictures, expect, noted):
    splits = dict(zip(("train", "val"), pictures, strict=True))
    changed = manifest.model_validate(
        {**manifest.model_dump(), "official": official, "splits": {k: {"pictures": n} for k, n in splits.items()}}
    )

    result = evaluate(manifest=changed)

    assert result["official"] is expect
    assert len(result["notes"]) == (noted is not None)
    assert noted is None or noted in result["notes"][0]


def test_skipped_pictures_are_counted_and_noted(evaluate, val):
    skipped = (("val900", "the file is empty"),)

    result = evaluate(table=replace(val.table, skipped=skipped, skipped_sha256=("",)))

    assert result["pictures"]["eval"] == {"used": 21, "skipped": 1}
    assert result["notes"] == ["bad pictures left out: 0 of train, 1 of val"]


def test_scores_of_other_pictures_are_refused(evaluate, make):
    with pytest.raises(StoreError, match="scores are of other pictures, rows, .*than the patch table of made val"):
        evaluate(table=make.table("val", 20))


def test_scores_in_another_order_of_classes_are_refused(evaluate, make):
    with pytest.raises(StoreError, match="scores are of other classes than the patch table of made val"):
        evaluate(table=make.table("val", 21, classes=("dog", "cat", "fish")))


@pytest.mark.parametrize(("value", "expect"), [(math.nan, None), (0.12345678, 0.123457), (np.float64(1), 1.0)])
def test_number(value, expect):
    assert number(value) == expect
    assert type(number(value)) in (float, type(None))


# ---- files for the evaluation server ---------------------------------------------------------------


def test_devkit_files(scores, tmp_path):
    paths = write_devkit_files(scores, 5.0, tmp_path / "VOC2012/Main", "comp2")

    assert [p.name for p in paths] == [f"comp2_cls_val_{c}.txt" for c in ("cat", "dog", "fish")]
    assert sorted(p.name for p in (tmp_path / "VOC2012/Main").iterdir()) == sorted(p.name for p in paths)
    for column, path in enumerate(paths):
        lines = [line.split(" ") for line in path.read_text().splitlines()]
        assert [i for i, _ in lines] == list(scores.ids)
        np.testing.assert_allclose([float(v) for _, v in lines], scores.by(5.0)[:, column], rtol=1e-12)


@pytest.mark.parametrize("factor", [1.0, 1e-12])
def test_devkit_files_keep_the_ranking(scores, tmp_path, factor):
    # Fifth powers of small probabilities are tiny; decimals cut off would make them all equal.
    tiny = replace(scores, scores=scores.scores * factor)

    paths = write_devkit_files(tiny, 5.0, tmp_path, "comp1")

    for column, path in enumerate(paths):
        values = [float(line.split()[1]) for line in path.read_text().splitlines()]
        assert np.argsort(values).tolist() == np.argsort(tiny.by(5.0)[:, column]).tolist()


# ---- classes that are not scored, and persons ------------------------------------------------------


def test_classes_that_are_not_scored_are_in_no_result(evaluate, scores, val):
    result = evaluate(table=replace(val.table, unscored=("dog",)))

    assert list(result["AP"]) == ["cat", "fish"] and result["undefined"] == [] and result["notes"] == []
    assert result["mAP"] == pytest.approx((result["AP"]["cat"] + result["AP"]["fish"]) / 2, abs=1e-6)
    assert result["k_sweep"]["5"] == result["mAP"]
    everything = evaluate()
    assert result["AP"] == {c: everything["AP"][c] for c in ("cat", "fish")}
    assert everything["mAP"] != result["mAP"]


def test_files_for_the_server_of_persons(scores, tmp_path):
    ids = ("2011_000001_1", "2011_000001_3", "x_7_2")
    values = np.array([[[0.1, 0.2, 0.3], [1e-9, 0.5, 0.0], [0.7, 0.8, 0.9]]])
    facts = replace(scores.facts, split="test")
    tiny = SplitScores(values, (Aggregation("power", 5.0),), ids, ("running", "walking", "other"), facts)

    paths = write_devkit_files(tiny, 5.0, tmp_path, "comp10", unscored=("other",))

    assert [p.name for p in paths] == ["comp10_action_test_running.txt", "comp10_action_test_walking.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [p.name for p in paths]
    assert paths[0].read_text() == "2011_000001 1 0.1\n2011_000001 3 1e-09\nx_7 2 0.7\n"


# ---- classes of which an AP would say nothing, and accuracy


def with_facts(scores, **of_kind):
    head = replace(scores.facts.head, of_kind={**scores.facts.head.of_kind, **of_kind})
    return replace(scores, facts=replace(scores.facts, head=head))


@pytest.mark.parametrize(
    ("of_kind", "why"),
    [
        pytest.param({"patches": {"per_class": {"cat": 3, "dog": 0, "fish": 9}}}, "positive patch", id="strong or own"),
        pytest.param(
            {"patches": {"pictures_per_class": {"cat": 3, "dog": 0, "fish": 9}}}, "positive picture", id="weak"
        ),
        pytest.param(
            {"patches": {"pictures_per_class": {"dog": 3}, "never_negative": ["dog"]}},
            "negative picture",
            id="weak, all",
        ),
        pytest.param(
            {"svm": {"positive_pictures": {"dog": 0}, "never_both": ["dog"]}}, "positive picture", id="svm, none"
        ),
        pytest.param(
            {"svm": {"positive_pictures": {"dog": 9}, "never_both": ["dog"]}}, "negative picture", id="svm, all"
        ),
    ],
)
def test_a_class_that_was_never_learnt_has_no_ap(evaluate, scores, of_kind, why):
    result = evaluate(scores=with_facts(scores, **of_kind))

    assert result["AP"]["dog"] is None and result["undefined"] == ["dog"]
    assert result["why_undefined"] == {"dog": f"never learnt, train has no {why} to fit on"}
    assert result["notes"] == [f"never learnt, train has no {why} to fit on, left out of the mean: dog"]
    assert result["mAP"] == pytest.approx((result["AP"]["cat"] + result["AP"]["fish"]) / 2, abs=1e-6)
    assert result["mAP"] == result["k_sweep"]["5"]
    assert result["confusion"]["counts"][0][1] == result["confusion"]["counts"][2][1] == 0
    assert Result.from_dict(result).to_dict() == result


def test_a_class_that_every_picture_shows_has_no_ap(evaluate, val):
    labels = val.table.picture_labels.copy()
    labels[:, 1] = 1

    result = evaluate(table=replace(val.table, picture_labels=labels))

    assert result["AP"]["dog"] is None and "confusion" not in result and "accuracy" not in result
    assert result["notes"] == ["no negative picture, AP would be 100 % whatever the scores, left out of the mean: dog"]


def test_one_score_for_all_pictures_is_chance_and_said_so(evaluate, scores):
    values = scores.scores.copy()
    values[:, :, 2] = 0.25

    result = evaluate(scores=replace(scores, scores=values))

    assert result["AP"]["fish"] == pytest.approx(1 / 3, abs=1e-6)
    assert result["notes"] == ["one score for all pictures, so that AP is chance: fish"]


def test_accuracy_where_every_picture_shows_one_class(evaluate, scores, val):
    result = evaluate()

    right = scores.by(5.0).argmax(1) == val.table.picture_labels.argmax(1)
    assert result["accuracy"] == result["balanced_accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert result["confusion"]["classes"] == ["cat", "dog", "fish"] and result["confusion"]["undecided"] == {}
    assert np.sum(result["confusion"]["counts"]) == 21
