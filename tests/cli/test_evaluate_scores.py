"""Scores that were made elsewhere, evaluated on a split: as ours where they are ours, refused where none fit."""

import csv
import io
import json
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.exchange.given_scores import GivenScores, join_scores, read_given_scores
from pipeline.io.errors import DatasetError
from pipeline.scoring.given import measure_given
from pipeline.views.tables.results import kind_of


@pytest.fixture
def ours(work, monkeypatch):
    """Our own scores of the split: ids, classes, values."""
    monkeypatch.chdir(work)
    scores = pipeline.load_scores("tiny", config="config.yaml")
    return scores.ids, scores.classes, scores.by(5.0)


def write(path, ids, classes, values):
    if path.suffix == ".npz":
        np.savez(path, picture=np.array(ids), classes=np.array(classes), scores=values)
    elif path.suffix == ".parquet":
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame({"picture": ids, **dict(zip(classes, values.T, strict=True))}).to_parquet(path)
    else:
        with open(path, "w", newline="") as stream:
            csv.writer(stream).writerows(
                [["picture", *classes], *([i, *map(repr, map(float, v))] for i, v in zip(ids, values, strict=True))]
            )
    return path


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz"])
def test_our_own_scores_have_our_own_average_precision(work, run, ours, ending):
    ids, classes, values = ours
    order = np.random.default_rng(0).permutation(len(ids))
    others = [*np.array(ids)[order], "elsewhere"]
    file = write(work / f"theirs{ending}", others, classes[::-1], np.vstack([values[order], values[:1]])[:, ::-1])

    ended = run(f"evaluate --dataset tiny --config config.yaml --scores {file} --output given.json --made-by them")

    assert ended.code == 0, ended.err
    expected = json.loads(run("evaluate --dataset tiny --config config.yaml --json").out)
    result = json.loads((work / "given.json").read_text())
    assert result["measured"]["AP"] == expected["AP"] and result["measured"]["mAP"] == expected["mAP"]
    assert result["kind"] == "scores made elsewhere" and kind_of(result) == "given"
    assert not {"mAP", "AP", "head", "trunk", "layer", "k", "recipe", "fingerprints"} & set(result)
    assert result["pictures"] == {"used": 4, "without_score": 0, "left_out": 1}
    (kept,) = (work / "results/given").glob("tiny-val-theirs-*.json")
    shown = run(f"show {kept}")
    assert shown.code == 0 and "scores made elsewhere by them" in shown.out and "95 % interval" in shown.out
    assert run(f"show {kept} --format csv").code == 0
    assert "theirs" not in run("results ls --format csv").out


def given(ids, classes, values):
    return GivenScores("theirs.csv", "0" * 64, tuple(ids), tuple(classes), np.asarray(values, float))


GOOD = (["a", "b"], ["cat", "dog"], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("ids", "classes", "values", "problem"),
    [
        (["a", "a"], ["cat", "dog"], GOOD[2], "'a': 2 rows"),
        (["a", "c"], ["cat", "dog"], GOOD[2], "1 of the 2 pictures of made val lack scores\n  - b: no row"),
        (["a", "b"], ["cat", "dog"], [[1, 2], [np.nan, 4]], "b: a score is missing or NaN"),
        (["a", "b"], ["cat", "dgo"], GOOD[2], "class 'dog': no column; did you mean dgo"),
        (["a", "b"], ["cat", "dog", "cow"], [[1, 2, 3], [3, 4, 5]], "column 'cow': no class of the dataset"),
        (["a.jpg", "b.jpg"], ["cat", "dog"], GOOD[2], "no picture of made val; ids in the file are like 'a.jpg'"),
    ],
)
def test_what_does_not_fit_the_split_is_refused(ids, classes, values, problem):
    with pytest.raises(DatasetError) as caught:
        join_scores(given(ids, classes, values), "made val", ["a", "b"], ["cat", "dog"])
    assert problem in str(caught.value)


def test_pictures_that_lack_scores_rank_last_if_that_is_said():
    joined = join_scores(
        given(["b"], ["dog", "cat"], [[1, 2]]), "made val", ["a", "b"], ["cat", "dog"], incomplete=True
    )

    assert joined.without == ("a",) and np.array_equal(joined.values, [[np.nan] * 2, [2, 1]], equal_nan=True)
    measured = measure_given(joined.values, np.array([[1, -1], [-1, 1]]), ["cat", "dog"], [], "voc12")
    assert measured["AP"] == {"cat": 0.5, "dog": 1.0} and measured["accuracy"] == 0.0  # dog has the lower score in b


def npz(**arrays):
    """Bytes of a file of scores."""
    stream = io.BytesIO()
    np.savez(stream, **{"picture": np.array(["a"]), "classes": np.array(["c"]), "scores": np.ones((1, 1)), **arrays})
    return stream.getvalue()


def no_arrays():
    """Bytes of an archive whose members have the names of arrays, and are none."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("picture", "classes", "scores"):
            archive.writestr(f"{name}.npy", b"text")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("x.csv", b"picture,cat\na,high\n", "line 2, column 'cat': 'high' is no number"),
        ("x.csv", b"picture,cat\na,inf\n", "a, cat: inf"),
        ("x.csv", b"picture,cat\n,1\n", "row 1: no id of a picture"),
        ("x.csv", b"image,cat\na,1\n", "no column 'picture'"),
        ("x.csv", b"picture,cat,cat\na,1,1\n", "columns named twice"),
        ("x.csv", b"picture,cat\na,1_0\n", "line 2, column 'cat': '1_0' is no number"),
        ("x.npz", b"no archive", "cannot be read as arrays"),
        ("x.npz", npz()[:300], "cannot be read as arrays: no .npz file"),
        ("x.npz", npz().replace(b"scores.npy", b"scores.nqy", 1), "cannot be read as arrays"),
        ("x.npz", no_arrays(), "expected texts, texts and numbers"),
        ("x.npz", npz(picture=np.array([], str), scores=np.zeros((0, 1))), "no row"),
        ("x.parquet", b"no table", "cannot be read as Parquet"),
        ("x.txt", b"", "got ending '.txt'"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, name, data, problem):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match="x") as caught:
        read_given_scores(tmp_path / name)
    assert problem in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"picture": np.array(["a"]), "scores": np.ones((1, 1))}, "no array classes"),
        ({"picture": np.array([1]), "classes": np.array(["c"]), "scores": np.ones((1, 1))}, "expected texts"),
        ({"picture": np.array(["a"]), "classes": np.array(["c"]), "scores": np.ones((2, 1))}, "expected shapes"),
        ({"picture": np.array(["a"], object), "classes": np.array(["c"]), "scores": np.ones((1, 1))}, "cannot be read"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, arrays, problem):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DatasetError, match=problem):
        read_given_scores(tmp_path / "x.npz")


def test_a_column_that_stands_there_twice_is_refused(tmp_path):
    columns = [pyarrow.array(["a"]), pyarrow.array([0.1]), pyarrow.array([0.2])]
    pq.write_table(pyarrow.Table.from_arrays(columns, names=["picture", "cat", "cat"]), tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match=r"x\.parquet: .*cat"):
        read_given_scores(tmp_path / "x.parquet")


def test_one_score_for_all_pictures_is_said(new_work, run_new, monkeypatch):
    monkeypatch.chdir(new_work)
    split = read_split(load_manifest("tiny"), "val")
    classes, values = split.manifest.classes, np.arange(4.0)[:, None] * [0, 1]
    file = write(new_work / "theirs.csv", split.ids, classes, values)

    ended = run_new(f"evaluate --dataset tiny --config config.yaml --scores {file}")

    assert ended.code == 0 and f"one score for all pictures, so that AP is chance: {classes[0]}\n" in ended.out


def test_a_table_of_many_columns_is_read(tmp_path):
    """Names are looked up: where each is searched among all, this takes minutes."""
    names, values = [f"c{i}" for i in range(100_000)], np.arange(100_000.0)[None]
    assert np.array_equal(read_given_scores(write(tmp_path / "x.csv", ["a"], names, values)).values, values)


def test_results_keep_their_names_and_options_their_place(work, run, ours):
    file = write(work / "theirs.csv", *ours)
    before = {path: path.read_bytes() for path in (file, work / "config.yaml", work / "results/tiny_heads.json")}
    for line, problem in (
        (f"--scores {file} --output {file}", "there already, and not such a result"),
        ("--output config.yaml", "there already, and not such a result"),
        ("--output results/tiny_heads.json", "there already, and not such a result"),
        ("--output /dev/null", "there already, and not such a result"),
        ("--head fca --head fcb --output both.json", "--output takes the result of one head, got fca, fcb"),
        (f"--scores {file} --output results/tiny_map.json", "choose another"),
        (f"--scores {file} --head fca", "give --scores or --head"),
        ("--incomplete", "are for --scores"),
    ):
        ended = run(f"evaluate --dataset tiny --config config.yaml {line}")
        assert ended.code == 2 and problem in ended.err
    assert {path: path.read_bytes() for path in before} == before and not (work / "both.json").exists()


def test_pictures_whose_annotations_cannot_be_used_are_not_measured(new_work, run_new, monkeypatch):
    monkeypatch.chdir(new_work)
    split = read_split(load_manifest("tiny"), "val")
    (new_work / f"data/tiny/Annotations/{split.ids[1]}.xml").write_text("<annotation><object>")
    usable = [0, 2, 3]
    values = np.random.default_rng(0).standard_normal((4, len(split.manifest.classes)))
    expected = measure_given(values[usable], split.labels[usable], split.manifest.classes, [], "voc12")
    whole = write(new_work / "whole.csv", split.ids, split.manifest.classes, values)
    fewer = write(new_work / "fewer.csv", np.array(split.ids)[usable].tolist(), split.manifest.classes, values[usable])
    line = "evaluate --dataset tiny --config config.yaml --on-error skip --output given.json --scores"

    ended = run_new(f"{line} {fewer}")
    assert ended.code != 0 and "annotations of 1 of 4 pictures cannot be used" in ended.err
    assert f"{split.ids[1]}: " in ended.err and "max_skipped: 0.05 of all" in ended.err

    with open(new_work / "config.yaml", "a") as stream:
        stream.write("max_skipped: 0.25\n")
    for file, left_out, note in ((fewer, 0, "left out"), (whole, 1, "left out, and the 1 rows of them")):
        ended = run_new(f"{line} {file}")
        assert ended.code == 0, ended.err
        result = json.loads((new_work / "given.json").read_text())
        assert result["measured"]["AP"] == expected["AP"] and result["measured"]["mAP"] == expected["mAP"]
        assert result["pictures"] == {"used": 3, "without_score": 0, "left_out": left_out}
        assert f"1 pictures with unusable annotations were {note}" in result["notes"]
