"""Heat maps, rankings, what is taught, the report: files drawn, said and refused."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.activations.extraction import Extraction
from pipeline.head.facts import HeadFacts
from pipeline.io.errors import SettingsError
from pipeline.io.yaml import read_mapping
from pipeline.metrics.bootstrap import bootstrap_interval
from pipeline.patches.table_file import read_table
from pipeline.scoring.calibration import calibrate
from pipeline.scoring.scores import SplitScores
from pipeline.stages import evaluate, score
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.patches import current_table
from pipeline.stages.workspace import Workspace
from pipeline.views.figures.heat_maps import heat_map_sheet
from pipeline.views.photos import Photo
from pipeline.views.ranking import read_ranking
from pipeline.views.report.intervals import Intervals, measure_intervals
from pipeline.views.report.since import since_previous
from pipeline.views.serve.app import Desk, calibrations_of, examples_of, fitted_heads, known_turns


@pytest.fixture
def no_trunk(monkeypatch):
    """Fail where the trunk would run."""
    monkeypatch.setattr("pipeline.trunk.runner.TrunkRunner.launch", lambda *args: pytest.fail("the trunk ran"))


def test_map_of_a_picture_of_a_split_reads_the_store(run, work, no_trunk):
    ended = run("map --dataset tiny q0 q2 --config config.yaml --out drawn --array --json")
    assert ended.code == 0, ended.err
    made = json.loads(ended.out)
    assert [item["picture"] for item in made] == ["q0", "q2"]
    for item in made:
        assert list(item["scores"].values()) == sorted(item["scores"].values(), reverse=True)
        with Image.open(work / item["sheet"]) as sheet:
            assert sheet.format == "PNG" and sheet.width > 300
    with np.load(work / "drawn/q0_map.npz") as arrays:
        assert arrays["maps"].shape == (2, 48, 64) and arrays["maps"].dtype == np.float32
        assert arrays["classes"].tolist() == ["ball", "crate"]
        assert not np.isnan(arrays["maps"]).any()


def test_map_of_a_photo_agrees_with_that_of_the_split(run, work, monkeypatch):
    # The same bytes, under another name, are a photo of no dataset.
    shutil.copy(work / "data/tiny/JPEGImages/q0.png", work / "holiday.png")
    monkeypatch.setattr(Extraction, "run_layers", lambda *args: pytest.fail("a store was made"))
    ended = run("map holiday.png --config config.yaml --out photo --array")
    assert ended.code == 0, ended.err
    assert re.fullmatch(r"photo/holiday_map\.png: (ball|crate) [\d.e-]+, (ball|crate) [\d.e-]+\n", ended.out)
    assert run("map --dataset tiny q0 --config config.yaml --out split --array").code == 0
    with np.load(work / "photo/holiday_map.npz") as photo, np.load(work / "split/q0_map.npz") as split:
        np.testing.assert_allclose(photo["maps"], split["maps"], atol=1e-3)
        np.testing.assert_allclose(photo["scores"], split["scores"], rtol=1e-2)


def test_maps_are_turned_as_exif_says(run, work):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    with Image.open(work / "data/tiny/JPEGImages/q0.png") as picture:
        picture.convert("RGB").save(work / "phone.jpg", exif=exif)
    assert run("map phone.jpg --config config.yaml --array").code == 0
    with np.load(work / "maps/phone_map.npz") as arrays:
        assert arrays["maps"].shape == (2, 64, 48)


def test_photos_of_one_name_get_files_of_their_own(run, work):
    for folder in ("one", "two"):
        (work / folder).mkdir()
        shutil.copy(work / "data/tiny/JPEGImages/q1.png", work / folder / "same.png")
    made = json.loads(run("map one/same.png two/same.png --config config.yaml --json").out)
    assert len({item["sheet"] for item in made}) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("map --dataset tiny nosuch", ["tiny val", "nosuch", "give the path of a photo, or an id"]),
        ("map nosuch.jpg", ["no such file: nosuch.jpg"]),
        ("map --dataset tiny q0 --classes ball,cube", ["no class 'cube'", "ball, crate"]),
        ("map --dataset tiny q0 --head fca2", ["fit-head"]),
        ("map data/tiny/ImageSets/Main/val.txt", ["cannot be decoded", "expected JPEG"]),
        ("map --dataset tiny q0 --head results/tiny_map.json", ["unknown head"]),
        ("ranking --dataset tiny --classes cube", ["no class 'cube'"]),
        ("ranking --dataset tiny --head fca2", ["make them with: pipeline score"]),
        ("taught --dataset tiny nosuch", ["tiny train: no such picture", "--annotation FILE.xml"]),
        ("taught --dataset tiny p0 p1 --annotation x.xml", ["--annotation: is of one photo, got 2"]),
        ("taught --dataset tiny data/tiny/JPEGImages/q0.png --annotation x.xml", ["x.xml", "No such file"]),
        ("report --dataset tiny --head fca2", ["no result of head 'fca2'", "pipeline evaluate"]),
    ],
)
def test_what_cannot_be_drawn_is_said(run, line, words):
    ended = run(f"{line} --config config.yaml")
    assert ended.code == 2 and ended.out == ""
    for word in words:
        assert word in ended.err, ended.err


def test_heads_that_score_whole_pictures_have_no_maps(run, work):
    config = (work / "config.yaml").read_text() + "\nhead: pooled\n"
    config = config.replace("heads:", "heads:\n  pooled: {kind: svm}")
    (work / "svm.yaml").write_text(config)
    assert run("fit-head --dataset tiny --config svm.yaml").code == 0
    ended = run("map --dataset tiny q0 --config svm.yaml")
    assert ended.code == 2 and "scores whole pictures, not patches" in ended.err
    assert run("score --dataset tiny --config svm.yaml").code == 0
    assert run("evaluate --dataset tiny --config svm.yaml").code == 0
    assert run("report --dataset tiny --config svm.yaml --output svm.html").code == 0
    assert 'id="maps"' not in (work / "svm.html").read_text()


KINDS = {
    "weak": "top: 3, hidden: [], max_epochs: [2, 1]",
    "attention": "hidden: [], max_epochs: [2, 1]",
    "vlad": "",
    "logistic": "",
    "knn": "",
    "ncm": "",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_each_kind_has_a_report(run, work, kind):
    settings = ", ".join(filter(None, (f"kind: {kind}", KINDS[kind])))
    config = (work / "config.yaml").read_text().replace("heads:", f"heads:\n  mine: {{{settings}}}")
    (work / "mine.yaml").write_text(config)
    for line in ("fit-head", "score", "evaluate", "report"):
        ended = run(
            f"{line} --dataset tiny --config mine.yaml --head mine" + " --output mine.html" * (line == "report")
        )
        assert ended.code == 0, f"{line}: {ended.err}"
    assert f"of kind {kind} was fitted on" in (work / "mine.html").read_text()


def test_ranking_sheets(run, work, no_trunk):
    ended = run("ranking --dataset tiny --top 2 --config config.yaml")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == ["ranking/tiny_val_fca_ball.png", "ranking/tiny_val_fca_crate.png"]
    for name in ended.out.splitlines():
        Image.open(work / name).verify()


def test_taught_counts_what_the_table_has(run, work, no_trunk):
    (made,) = json.loads(run("taught --dataset tiny p2 --config config.yaml --json").out)
    counts = made["patches"]
    assert sum(counts.values()) == 17 and set(counts) >= {"background", "not used"}  # the patches of 64 x 48 px
    for name in ("sheet", "positives"):
        Image.open(work / made[name]).verify()
    # The same photo and its objects, given by hand, are the same patches.
    photo, xml = "data/tiny/JPEGImages/p2.png", "data/tiny/Annotations/p2.xml"
    (by_hand,) = json.loads(run(f"taught --dataset tiny {photo} --annotation {xml} --config config.yaml --json").out)
    assert by_hand["patches"] == counts


class Page(HTMLParser):
    """Tags of a page, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_sheets_of_a_split_know_the_objects_of_its_pictures(run, work, monkeypatch):
    sheets = []

    def keep(pixels, title, tiles, highest):
        sheets.append({tile.name: tile for tile in tiles})
        return heat_map_sheet(pixels, title, tiles, highest)

    monkeypatch.setattr("pipeline.views.heat_maps.heat_map_sheet", keep)
    assert run("map --dataset tiny q0 q2 --config config.yaml").code == 0
    ball, both = sheets  # what they show
    assert ball["ball"].note.endswith("in the picture") and ball["crate"].note.endswith("not in it")
    assert ball["ball"].box_xyxy.tolist() == [[39, 9, 59, 29]] and len(ball["crate"].box_xyxy) == 0
    assert len(both["ball"].box_xyxy) == len(both["crate"].box_xyxy) == 1
    shutil.copy(work / "data/tiny/JPEGImages/q0.png", work / "holiday.png")
    assert run("map holiday.png --config config.yaml").code == 0
    assert all(re.fullmatch(r"[\d.e-]+", tile.note) and not len(tile.box_xyxy) for tile in sheets[2].values())


def test_report_is_one_file_with_everything_in_it(run, work, no_trunk):
    ended = run("report --dataset tiny --config config.yaml")
    assert ended.code == 0, ended.err
    assert ended.out == "results/tiny_report.html\n"
    page = Page((work / "results/tiny_report.html").read_text())
    path = re.findall(r"results/runs/[\w.-]+/map\.json", page.text)[-1]  # before it, that of the run before
    result = json.loads((work / path).read_text())

    fetched = [a.get(k) for tag, a in page.tags for k in ("src", "href") if a.get(k) and tag != "a"]
    assert fetched and all(url.startswith(("data:", "#")) for url in fetched)
    assert not any(tag == "link" for tag, _ in page.tags)
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for tag, attrs in page.tags if tag == "a" and attrs["href"].startswith("#")}
    assert targets <= set(ids) and {"classes", "curves", "recipes", "maps", "ranked", "protocol", "origin"} <= targets
    for words in ("mean average precision", "Protocol", "pipeline report --dataset tiny", result["command"]):
        assert words in page.text
    for fingerprint in (result["fingerprints"]["fit"], result["fingerprints"]["eval"]):
        assert fingerprint in page.text
    for name, ap in result["AP"].items():
        assert name in page.text and f"{100 * ap:.1f}" in page.text
    # Made again, it is the same but for what ran since.
    assert run("report --dataset tiny --config config.yaml --output again.html").code == 0
    first, again = ((work / name).read_text() for name in ("results/tiny_report.html", "again.html"))
    assert re.sub(r"pipeline report [^<]*", "", first) == re.sub(r"pipeline report [^<]*", "", again)


def test_a_comparison_of_other_settings_is_not_shown_in_the_report(run, work):
    settings = yaml.safe_load((work / "config.yaml").read_text())
    (work / "one.yaml").write_text(yaml.safe_dump({**settings, "seeds": [7]}))

    shown, ended = run("report --dataset tiny --config config.yaml"), run("report --dataset tiny --config one.yaml")

    assert shown.code == ended.code == 0 and "left out of the report" not in shown.err
    assert "results/tiny_compare.json: left out of the report: recipe 'strong'" in ended.err
    again = "pipeline compare --dataset tiny --recipe strong --recipe svm --recipe strong+svm, with the same settings"
    assert f"make it again: {again}" in ended.err
    assert "tiny_heads.json" not in ended.err  # of the main seed alone
    assert "strong+svm" not in (work / "results/tiny_report.html").read_text()


def test_a_head_that_is_not_current_is_not_on_the_page(work, monkeypatch):
    monkeypatch.chdir(work)
    ws = Workspace(parse_run_settings(read_mapping(Path("config.yaml"))))
    said: list[str] = []
    assert list(fitted_heads(RunContext(ws, "tiny"))) == ["fca", "fcb", "strong"]
    damaged = ws.head_path("tiny", "fcb")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")

    assert list(fitted_heads(RunContext(ws, "tiny", said.append))) == ["fca", "strong"]
    assert len(said) == 1 and said[0].startswith(f"left out: {damaged}: ") and "fit it again" in said[0]

    swap = work / "data/tiny/Annotations/p0.xml"  # the head was fitted on other labels
    swap.write_text(swap.read_text().replace("ball", "crate"))
    with pytest.raises(SettingsError, match="no fitted head .* that is current"):
        fitted_heads(RunContext(ws, "tiny", said.append))
    assert "annotations or lists changed" in said[1]


def test_a_ranking_has_no_ap_where_the_result_has_none(work, monkeypatch):
    monkeypatch.chdir(work)
    run = RunContext(Workspace(parse_run_settings(read_mapping(Path("config.yaml")))), "tiny")
    ranking = read_ranking(run, None, "fca")
    assert ranking.undefined == {} and re.fullmatch(r"AP \d+\.\d %", ranking.measured("ball"))

    monkeypatch.setattr(HeadFacts, "never_learnt", {"ball": "no positive patch"})
    assert (
        read_ranking(run, None, "fca").measured("ball") == "no AP: never learnt, train has no positive patch to fit on"
    )


def test_the_headline_has_the_interval_of_the_package(work, monkeypatch):
    monkeypatch.chdir(work)
    run = RunContext(Workspace(parse_run_settings(read_mapping(Path("config.yaml")))), "tiny")
    ranking, result = read_ranking(run, None, "fca"), evaluate.require(run, "fca")

    found = measure_intervals(ranking, result["AP"])

    low, high = bootstrap_interval(ranking.scores.by(ranking.k), ranking.labels, ranking.metric)
    assert found.mean == pytest.approx(np.clip((low, high), 0, 1), abs=1e-5)
    assert set(found.of_class) == {"ball", "crate"}
    # A class without an AP has no interval, and is not in the mean.
    without = measure_intervals(ranking, {**result["AP"], "crate": None})
    of_ball = bootstrap_interval(ranking.scores.by(ranking.k)[:, :1], ranking.labels[:, :1], ranking.metric)
    assert set(without.of_class) == {"ball"} and without.mean == pytest.approx(np.clip(of_ball, 0, 1), abs=1e-5)
    assert measure_intervals(ranking, {"ball": None}) == Intervals()


def test_a_report_says_what_changed_since_the_run_before(run, work, monkeypatch):
    for folder in (work / "results/runs").iterdir():
        shutil.rmtree(folder)
    assert run("evaluate --dataset tiny --config config.yaml").code == 0
    assert run("report --dataset tiny --config config.yaml").code == 0
    assert 'id="since"' not in (work / "results/tiny_report.html").read_text()
    (first,) = (work / "results/runs").glob("*/map.json")
    os.utime(first, ns=(10**18, 10**18))  # long ago

    longer = yaml.safe_load((work / "config.yaml").read_text())
    longer["heads"]["fca"]["max_epochs"] = [9, 3, 1]
    (work / "longer.yaml").write_text(yaml.safe_dump(longer))
    for step in ("fit-head", "score", "evaluate", "report"):
        assert run(f"{step} --dataset tiny --config longer.yaml").code == 0
    page = (work / "results/tiny_report.html").read_text()
    before = json.loads(first.read_text())
    assert 'id="since"' in page and first.relative_to(work).as_posix() in page
    assert "[2, 1, 1]" in page and "[9, 3, 1]" in page and "2001-09-09" in page

    # The difference is that of the package's own scores, paired over the pictures.
    monkeypatch.chdir(work)
    context = RunContext(Workspace(parse_run_settings(read_mapping(Path("longer.yaml")))), "tiny")
    result, ranking = evaluate.require(context, "fca"), read_ranking(context, None, "fca")
    found = since_previous(context, "fca", result, ranking)
    assert found.before == before["mAP"] and found.now == result["mAP"]
    assert found.difference["difference"] == pytest.approx(result["mAP"] - before["mAP"], abs=1e-5)
    assert found.changes == [("head max epochs", "[2, 1, 1]", "[9, 3, 1]")]

    # Scores that are no longer those of the result before are not compared.
    monkeypatch.setattr(SplitScores, "by", lambda self, k: np.random.default_rng(0).random(self.scores.shape[1:]))
    assert since_previous(context, "fca", result, ranking).difference is None


def test_names_in_a_report_are_text_and_no_markup(run, work):
    manifest = work / "data_manifests/tiny.yaml"
    manifest.write_text(re.sub(r"title:.*", "title: '<script>alert(1)</script>'", manifest.read_text()))
    assert run("report --dataset tiny --config config.yaml").code == 0
    text = (work / "results/tiny_report.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_pointing_is_in_result_and_table(stepped):
    folder, ended = stepped
    result = json.loads((folder / "results/tiny_map.json").read_text())
    assert set(result["pointing"]["share"]) == {"ball", "crate"}
    assert all(0 <= share <= 1 for share in result["pointing"]["share"].values())
    assert "pointing game %" in ended["evaluate"].out


def test_a_photo_of_a_split_is_turned_on_the_page_as_in_the_split(work, monkeypatch):
    monkeypatch.chdir(work)
    settings = parse_run_settings(read_mapping(Path("config.yaml")))
    tables = [read_table(file) for file in Path("cache/patches").glob("tiny-*.h5")]
    expected = {digest: turn for table in tables for digest, turn in table.turns.items()}

    class Recorder:
        def read(self, path, turns):
            self.seen = path.read_bytes(), turns
            return Photo(path.stem, np.zeros((1, 1, 3), np.uint8), (1, 1), np.zeros((0, 4)), np.zeros((0, 4)))

    turns = known_turns(RunContext(Workspace(settings), "tiny"))
    desk = Desk(Workspace(settings), {}, (), turns)
    desk.readers["fca"] = recorder = Recorder()
    keys = [desk.take(io.BytesIO(b"a photo"), name) for name in ("IMG.2024.01", "IMG.2024.02", "..")]

    assert expected and turns == expected and recorder.seen == (b"a photo", expected)
    assert [desk._photos[key].name for key in keys] == ["IMG.2024.01", "IMG.2024.02", ".."]


def test_the_page_has_probabilities_where_scores_are_there_and_enough(work, monkeypatch):
    monkeypatch.chdir(work)
    run = RunContext(Workspace(parse_run_settings(read_mapping(Path("config.yaml")))), "tiny")
    heads = fitted_heads(run)
    few = calibrations_of(run, heads)
    assert {name for name, _ in few} >= {"fca", "fcb"} and all(np.isnan(c.slope).all() for c in few.values())

    monkeypatch.setattr("pipeline.scoring.calibration.FEWEST", 1)
    # All pictures of val have the bytes of pictures that the heads were fitted on.
    assert calibrations_of(run, heads)["fca", "5"].n_pictures == 0
    table = replace(current_table(run, "val"), picture_sha256=tuple("abcd"))
    monkeypatch.setattr("pipeline.views.serve.app.current_table", lambda *args: table)
    monkeypatch.setattr("pipeline.views.serve.app.check_scores", lambda *args: None)
    found = calibrations_of(run, heads)["fca", "5"]
    assert found.n_pictures == 4
    scores = score.require(run, "fca", "val").by(5.0)
    expected = calibrate(scores, read_ranking(run, None, "fca").labels, "softmax")
    np.testing.assert_array_equal(found.slope, expected.slope)

    assert list(examples_of(run)) == ["q0", "q1", "q2", "q3"]
    shutil.rmtree(work / "data")
    assert examples_of(RunContext(run.ws, "tiny")) == {}
