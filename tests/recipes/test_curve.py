"""Learning curves: nested subsets, as plain fits on them, and what the file and the report say."""

import json
import shutil
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli import run_command

import pipeline
from pipeline.activations.part_reader import PartReader
from pipeline.head.fit import fit_heads
from pipeline.io.errors import SettingsError
from pipeline.metrics.average_precision import mean_average_precision
from pipeline.patches.subsets import ALL, choose_subset, order_of_draw
from pipeline.recipes import curve as curves
from pipeline.recipes import curve_fits
from pipeline.recipes.curve import parse_sizes
from pipeline.recipes.paths import curve_scores_path, recipe_workspace
from pipeline.scoring.score import score_split
from pipeline.scoring.scores_file import load_scores
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.stored import open_rows
from pipeline.stages.workspace import Workspace


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(0, 5), st.sampled_from(["pictures", "shots"]), st.integers(0, 2**32 - 1))
def test_subsets_are_nested_and_follow_files_not_places(n, seed, by, noise):
    rng = np.random.default_rng(noise)
    files = [f"{i:064d}" for i in range(n)]
    labels = np.where(rng.random((n, 3)) < 0.4, 1, -1).astype(np.int8)
    order = order_of_draw(files, seed)
    before = np.zeros(n, bool)
    for size in range(1, n + 1):
        chosen = choose_subset(order, labels, by, size)
        assert not (before & ~chosen).any()
        if by == "pictures":
            assert chosen.sum() == size
        else:
            shown = (labels == 1).sum(0)
            assert ((labels[chosen] == 1).sum(0) >= np.minimum(size, shown)).all()
        before = chosen
    moved = rng.permutation(n)
    again = choose_subset(order_of_draw([files[i] for i in moved], seed), labels[moved], by, 2)
    assert np.array_equal(again, choose_subset(order, labels, by, 2)[moved])
    assert choose_subset(order, labels, by, ALL).all()


def test_draws_differ():
    files = [f"{i:064d}" for i in range(50)]
    assert not np.array_equal(order_of_draw(files, 0), order_of_draw(files, 1))


@pytest.mark.parametrize("text", ["", "0", "ten", "3,-1", "1.5", "²", "9" * 5000])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(SettingsError, match="expected numbers above 0"):
        parse_sizes(text)


@pytest.fixture(scope="module")
def folder(stepped, tmp_path_factory):
    path = tmp_path_factory.mktemp("curve") / "work"
    shutil.copytree(stepped[0], path)
    return path


@pytest.fixture(scope="module")
def curve(folder):
    line = "curve --dataset tiny --recipe svm --recipe ncm --recipe strong --pictures 3,5,all,900 --config config.yaml"
    ended = run_command(folder, *line.split())
    assert ended.code == 0, ended.err
    assert "has 6 pictures; left out: 900" in ended.err and "mAP (voc12) % by fit pictures of train" in ended.out
    return json.loads((folder / "results/tiny_curve.json").read_text())


def test_a_point_is_a_plain_fit_on_its_subset(folder, curve, monkeypatch):
    monkeypatch.chdir(folder)
    train, val = (pipeline.open_features("tiny", split, "config.yaml") for split in ("train", "val"))
    pooled = [np.hstack([unit(split.pooled(pool)) for pool in ("mean", "max")]) for split in (train, val)]
    ncm = next(c for c in curve["curves"] if c["name"] == "ncm")
    assert [point["size"] for point in ncm["points"]] == [3, 5, "all"]
    for point in ncm["points"]:
        maps = []
        for seed in curve["seeds"]:
            order = order_of_draw(train.table.picture_sha256, seed)
            size = ALL if point["size"] == "all" else point["size"]
            chosen = choose_subset(order, train.picture_labels, "pictures", size)
            x, labels = pooled[0][chosen], train.picture_labels[chosen]
            centred, unseen = (unit(v - x.mean(0)) for v in (x, pooled[1]))
            scores = np.zeros(val.picture_labels.shape)
            for c, of_class in enumerate(labels.T):
                if set(of_class.tolist()) == {1, -1}:
                    scores[:, c] = -((unseen - centred[of_class == 1].mean(0)) ** 2).sum(1)
            maps.append(mean_average_precision(scores, val.picture_labels, "voc12")[0])
        assert point["mAP"] == pytest.approx(np.mean(maps), abs=1e-5)
        assert point["interval"]["low"] <= point["mAP"] <= point["interval"]["high"]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_all_pictures_give_what_the_head_gives(folder, curve):
    ended = run_command(folder, *["recipe", "run", "svm", "--dataset", "tiny", "--config", "config.yaml"])
    assert ended.code == 0, ended.err
    (outcome,) = (folder / "results/recipes").glob("tiny-svm-*.json")
    svm = next(c for c in curve["curves"] if c["name"] == "svm")
    assert [r["mAP"] for r in svm["points"][-1]["runs"]] == [r["mAP"] for r in json.loads(outcome.read_text())["runs"]]


def test_it_extracts_nothing_and_is_shown_and_reported_while_it_is_current(folder, curve):
    stores = sorted(p.name for p in (folder / "cache").glob("*.zarr"))
    assert run_command(folder, *["show", "results/tiny_curve.json", "--format", "csv"]).code == 0
    report = ["report", "--dataset", "tiny", "--config", "config.yaml"]
    assert run_command(folder, *report).code == 0
    assert "Fewer pictures" in (folder / "results/tiny_report.html").read_text()
    assert sorted(p.name for p in (folder / "cache").glob("*.zarr")) == stores
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "other.yaml").write_text(yaml.safe_dump({**config, "seeds": [5]}))
    ended = run_command(folder, *["report", "--dataset", "tiny", "--config", "other.yaml"])
    assert ended.code == 0 and "left out of the report" in ended.err, ended.err
    again = "--recipe svm --recipe ncm --recipe strong --pictures 3,5,900,all, with the same settings"
    assert f"make it again: pipeline curve --dataset tiny {again}" in ended.err


@pytest.fixture
def run(folder, curve, monkeypatch):
    """What a curve's command opens."""
    monkeypatch.chdir(folder)
    settings = parse_run_settings(yaml.safe_load(Path("config.yaml").read_text()), "config.yaml")
    return RunContext(Workspace(settings), "tiny")


def test_each_fit_has_the_bits_of_a_fit_and_a_pass_of_its_own(run):
    for name, seed, size in product(("svm", "ncm", "strong"), (0, 1), (3, ALL)):
        ws = recipe_workspace(run.ws, name, seed)
        (table, store), (other, of_eval) = (open_rows(run.on(ws), split) for split in ("train", "val"))
        order = order_of_draw(table.picture_sha256, seed)
        held_out = ~choose_subset(order, table.scored_labels, "pictures", size)
        heads = {name: ws.settings.head_settings(name)}
        fitted = dict(fit_heads(store, table, heads, ws.settings.labels, seed, held_out_share=held_out))
        (alone,) = score_split(of_eval, other, [fitted[name]], [ws.settings.main_aggregation])
        kept = load_scores(curve_scores_path(ws, "tiny", name, f"pictures-{size}" if size else "all"))
        k = kept.resolve(ws.settings.main_aggregation)
        assert np.array_equal(kept.by(k), alone.by(k)) and kept.facts.head == alone.facts.head
    fit = curve_fits.Fit("strong", 1, ALL, 6)
    made_from = kept.facts.joined["curve"]["made_from"]
    assert curve_fits._KeptScores(run, "pictures", made_from, other.ids).load(fit) is not None
    assert curve_fits._KeptScores(run, "pictures", "other labels", other.ids).load(fit) is None


def test_each_part_of_both_stores_is_read_once_for_all_fits(run, monkeypatch):
    reads, read = Counter(), PartReader.read_part
    count = lambda reader, part: reads.update([(str(reader.folder), part.index)]) or read(reader, part)  # noqa: E731
    monkeypatch.setattr(PartReader, "read_part", count)
    plan = curve_fits.CurvePlan(("svm", "ncm", "strong"), "pictures", (3, ALL))
    assert len(curve_fits.fit_all(run, plan, again=True)) == 12
    assert set(reads.values()) == {1} and len({folder for folder, _ in reads}) == 2


def test_a_curve_resumes_with_the_fits_it_has_and_a_current_one_is_not_made_again(folder, curve):
    line = "curve --dataset tiny --recipe svm --recipe ncm --recipe strong --pictures 3,5,all,900 --config config.yaml"
    ended = run_command(folder, *line.split())
    assert ended.code == 0 and "tiny_curve.json: is current" in ended.err, ended.err
    (folder / "results/tiny_curve.json").unlink()
    of_five = {path: load_scores(path).facts.head for path in folder.glob("results/curves/tiny-*-pictures-5-*.h5")}
    for path, head in of_five.items():
        if (head.name, head.seed) in (("svm", 1), ("strong", 0)):
            path.unlink()
    ended = run_command(folder, *line.split())
    assert ended.code == 0 and "16 of 18 fits of the curve are there already" in ended.err, ended.err
    assert json.loads((folder / "results/tiny_curve.json").read_text())["curves"] == curve["curves"]


def test_show_names_curves_and_sweeps_that_are_not_of_the_files_as_they_are(folder, curve):
    names = ("results/tiny_curve.json", "results/tiny_sweep.json")
    manifest = folder / "data_manifests/tiny.yaml"
    of_all = manifest.read_text()  # names the pictures of the folder that this one was copied from
    manifest.write_text(yaml.safe_dump({**yaml.safe_load(of_all), "folder": str(folder / "data/tiny")}))
    assert "stale" not in run_command(folder, "show", *names).err
    tables = {path: path.read_bytes() for path in (folder / "cache/patches").iterdir()}
    (picture, *_) = sorted((folder / "data/tiny/JPEGImages").glob("q*"))
    before = picture.read_bytes()
    picture.write_bytes(before + b"more")
    stale = run_command(folder, "show", *names).err
    picture.write_bytes(before)
    manifest.write_text(of_all)
    assert all(f"NOTE: {name}: stale: tiny val: " in stale for name in names), stale
    assert {path: path.read_bytes() for path in (folder / "cache/patches").iterdir()} == tables  # it makes nothing
    (folder / "old.json").write_text(json.dumps({**json.loads((folder / names[1]).read_text()), "seed": 9}))
    old = run_command(folder, "show", "old.json")
    assert f"old.json: stale: {names[1]} was made again since, and differs" in old.err


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--recipe strong+svm", "has no head that is fitted on rows"),
        ("--recipe svm --shots 1 --pictures 3", "give one of them"),
        ("--recipe random --layer fc6", "pipeline extract"),
        ("--recipe nothing", "unknown recipe"),
    ],
)
def test_what_has_no_curve_is_refused(folder, line, problem):
    ended = run_command(folder, *f"curve --dataset tiny --config config.yaml {line}".split())
    assert ended.code == 2 and problem in ended.err, ended.err


def test_shots_are_per_class(folder):
    line = "curve --dataset tiny --recipe knn --recipe ncm --shots 1,2 --config config.yaml --json"
    ended = run_command(folder, *line.split())
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["plan"] == {"recipes": ["knn", "ncm"], "by": "shots", "sizes": [1, 2]}
    for point in found["curves"][1]["points"]:
        assert all(1 <= n <= 2 * int(point["size"]) for n in point["pictures"])


def test_a_draw_that_failed_takes_no_other_draws_figure(monkeypatch):
    labels = np.array([[1, -1], [1, -1], [-1, 1], [-1, 1]], np.int8)
    table = SimpleNamespace(scored_labels=labels)
    right = np.where(labels == 1, 1.0, 0.0)
    monkeypatch.setattr(curves, "current_table", lambda run, split: table)
    monkeypatch.setattr(curves, "_values", lambda run, recipe, scores, table: scores.values)
    scores = [
        SimpleNamespace(values=values, facts=SimpleNamespace(head=SimpleNamespace(never_learnt=())))
        for values in (right, 1 - right)
    ]
    fits = [
        curves.Fit("fca", 1, 2, 2, why="nothing to learn"),
        curves.Fit("fca", 0, 2, 2, scores[0]),
        curves.Fit("fca", 2, 2, 3, scores[1]),
    ]
    run = SimpleNamespace(manifest=SimpleNamespace(eval="val", metric="voc12"))

    point = curves._point(run, fits, 2, np.array([True, True]))

    by_seed = {each["seed"]: each["mAP"] for each in point["runs"]}
    assert set(by_seed) == {0, 2} and by_seed[0] == 1.0 and by_seed[2] < 0.6
    assert point["pictures"] == [2, 3] and point["why"] == "nothing to learn"
    # A class that no fit picture shows has no AP by the recipe itself, and none here.
    half = np.stack([right[:, 0], np.zeros(4)], axis=1)
    of_both, of_first = (
        curves._point(run, [curves.Fit("fca", 0, 2, 2, SimpleNamespace(values=half, facts=scores[0].facts))], 2, each)
        for each in (np.array([True, True]), np.array([True, False]))
    )
    assert (of_both["mAP"], of_first["mAP"]) == (0.75, 1.0)


def test_a_network_from_nothing_is_trained_on_each_subset(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["no_pretrain"] = {"updates": 3, "batch": 8, "peak_rates": [], "peak_rate": 0.01, "held_out": 0.0}
    config["no_pretrain"]["part"] = "pictures:2"  # is of other runs: all pictures are all
    config["seeds"] = [0, 1]
    (folder / "scratch.yaml").write_text(yaml.safe_dump(config))
    line = "curve --dataset tiny --recipe no-pretrain --recipe ncm --pictures 3,all --config scratch.yaml --json"
    ended = run_command(folder, *line.split())
    assert ended.code == 0, ended.err
    points = json.loads(ended.out)["curves"][0]["points"]
    assert [(point["size"], point["pictures"]) for point in points] == [(3, [3, 3]), ("all", [6, 6])]
    cards = [yaml.safe_load(path.read_text()) for path in folder.rglob("*no-pretrain*.yaml")]
    sources = sorted(card["trained"]["source"].rpartition(" of ")[2] for card in cards)
    assert len(cards) == 4 and sources == ["3 pictures"] * 2 + ["6 pictures"] * 2
    again = run_command(folder, *line.split())
    assert again.code == 0 and "update" not in again.err
    assert json.loads(again.out)["curves"] == json.loads(ended.out)["curves"]
