"""Results of checks of data and of boxes, compared with a manifest that was edited since; what is said to do."""

from __future__ import annotations

import pytest

from pipeline.dataset.manifest import load_manifest
from pipeline.stages import localise
from pipeline.stages.context import RunContext
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace
from pipeline.views.tables.stale import _contradicted

CLASSES = load_manifest("demo").classes
BOXES = {"dataset": "demo", "split": "val", "fit_split": "train", "metric": "voc12"}
LABELS = {"dataset": "demo", "split": "train", "metric": "voc12", "faults": []}


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({**BOXES, "box_AP": {"by_class": dict.fromkeys(CLASSES)}}, None),
        ({**BOXES, "box_AP": {"by_class": dict.fromkeys(CLASSES[:-1])}}, "other classes"),
        ({**BOXES, "box_AP": {"by_class": dict.fromkeys(CLASSES)}, "metric": "voc07"}, "metric: voc12"),
        ({**LABELS, "classes": dict.fromkeys(CLASSES[1:]), "left_out": {CLASSES[0]: "few"}}, None),
        ({**LABELS, "classes": dict.fromkeys(CLASSES[1:]), "left_out": {}}, "other classes"),
        ({**LABELS, "classes": dict.fromkeys([*CLASSES, "zebra"]), "left_out": {}}, "other classes"),
        ({**LABELS, "classes": dict.fromkeys(CLASSES), "left_out": {}, "split": "val"}, "labels of 'val' were judged"),
    ],
)
def test_boxes_and_judged_labels_are_of_the_manifest(result, reason):
    found = _contradicted(result)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(("split", "ending"), [(None, ""), ("val", ""), ("train", " --split train")])
def test_boxes_that_are_not_current_are_measured_again_on_the_same_split(tmp_path, monkeypatch, split, ending):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    run = RunContext(Workspace(RunSettings()), "demo", said.append)
    file = localise.path(run, "fca", split)
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert localise.read(run, "fca", split) is None
    assert said[0].endswith(f"pipeline localise --dataset demo --head fca{ending}, with the same settings")
