"""`pipeline localise`: boxes from maps are measured as maps and objects say, shown again and put into the report."""

import json

import numpy as np
import pytest
import yaml

from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.atomic import read_json
from pipeline.metrics.detection import overlap
from pipeline.stages import localise
from pipeline.stages.context import RunContext
from pipeline.stages.parse_settings import parse_run_settings
from pipeline.stages.workspace import Workspace
from pipeline.views.heat_maps import open_split_reader

LOCALISE = "localise --dataset tiny --head fca --config config.yaml"


@pytest.fixture
def context(work, monkeypatch) -> RunContext:
    monkeypatch.chdir(work)
    return RunContext(Workspace(parse_run_settings(yaml.safe_load((work / "config.yaml").read_text()))), "tiny")


def test_corloc_is_that_of_the_drawn_maps(context, run):
    """From the maps that `pipeline map` draws, pixel by pixel, with one class after the other."""
    from scipy import ndimage

    ended = run(f"{LOCALISE} --json --share 0.6")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    head = localise.fit_head.require(context, "fca")
    split = read_split(load_manifest("tiny"), "val", context.settings.data_root)
    hits: dict[str, list[bool]] = {name: [] for name in head.classes}
    for look, annotation in zip(open_split_reader(context, head).looks(split.ids), split.annotations, strict=True):
        assert look.pixels.shape[1::-1] == look.size_wh
        sure = set(annotation.class_index[~annotation.difficult].tolist())
        for column in sorted(sure):
            (values,) = look.maps(np.array([column]))
            lowest, highest = np.nanmin(values), np.nanmax(values)
            groups, _ = ndimage.label(values >= lowest + 0.6 * (highest - lowest))
            y, x = np.unravel_index(np.nanargmax(values), values.shape)
            rows, columns = ndimage.find_objects(groups)[groups[y, x] - 1]
            box = np.array([[columns.start, rows.start, columns.stop, rows.stop]])
            objects = annotation.box_xyxy[annotation.class_index == column]
            overlaps = overlap(box, objects)
            # Edges of cells lie within a pixel of those of the drawn map.
            hits[head.classes[column]].append(bool((overlaps >= 0.5).any()))

    expected = {name: np.mean(of_class) for name, of_class in hits.items() if of_class}
    got = {name: share for name, share in found["CorLoc"]["by_class"].items() if share is not None}
    assert got.keys() == expected.keys()
    for name, share in got.items():
        assert share == pytest.approx(expected[name], abs=1.01 / len(hits[name]))
    assert (
        found["by_share"]["0.6"]["CorLoc"]
        == found["CorLoc"]["mean"]
        == pytest.approx(np.mean(list(got.values())), abs=1e-6)
    )
    assert found["by_share"]["0.6"]["box_AP"] == found["box_AP"]["mean"]


def test_printed_shown_again_and_in_the_report(work, run):
    ended = run(LOCALISE)
    assert ended.code == 0, ended.err
    file = ended.out.splitlines()[-1].removeprefix("result: ")
    shown, table = run(f"show {file}"), run(f"show {file} --format csv")
    assert shown.code == table.code == 0, shown.err + table.err
    assert shown.out in ended.out and "CorLoc of the whole picture as the box" in shown.out
    assert len(table.out.splitlines()) == 2 + len(read_json(work / file)["objects"])

    report = run("report --dataset tiny --head fca --config config.yaml")
    assert report.code == 0, report.err
    page = (work / "results/tiny_report.html").read_text()
    assert 'id="boxes"' in page and page.count("with a right box of") + page.count("with a wrong box of") > 0


def test_a_result_of_another_head_or_share_is_not_shown(context, run, work):
    assert localise.why_due(context, "fca") == "its boxes have not been measured yet"
    assert run(LOCALISE).code == 0
    assert localise.why_due(context, "fca") is None
    shown = str(localise.path(context, "fca"))
    assert "stale" not in run(f"show {shown}").err
    (scores,) = (work / "results/heads").glob("tiny-fca-*.safetensors")
    of_head = scores.read_bytes()
    scores.unlink()
    assert f"NOTE: {shown}: stale: {scores.relative_to(work)}: no such head" in run(f"show {shown}").err
    scores.write_bytes(of_head)
    assert "another head, store, share" in (localise.why_due(context, "fca", share=0.7) or "")
    boxes = localise.path(context, "fca")
    found = json.loads(boxes.read_text())
    boxes.write_text(boxes.read_text().replace('"made_from": "', '"made_from": "0'))
    said = []
    assert localise.read(RunContext(context.ws, "tiny", said.append), "fca") is None
    again = "measure again: pipeline localise --dataset tiny --head fca"
    assert said[0].endswith(f"{again}, with the same settings")
    boxes.write_text(json.dumps({**found, "share": 0.6, "made_from": "other"}))
    assert localise.read(RunContext(context.ws, "tiny", said.append), "fca") is None
    assert said[1].endswith(f"{again} --share 0.6, with the same settings")


@pytest.mark.parametrize(
    ("options", "message"),
    [("--share 1", "between 0 and 1"), ("--head svm", "svm"), ("--split test", "has no labels")],
)
def test_what_cannot_be_measured_is_refused(run, options, message):
    ended = run(f"localise --dataset tiny --config config.yaml {options}")

    assert ended.code == 2 and message in ended.err
