"""Boxes drawn from heat maps, on a page: CorLoc and AP by class, and the boxes of the highest scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.io.progress import track
from pipeline.stages import localise
from pipeline.stages.context import RunContext
from pipeline.views.report.sections.data_page import render_section
from pipeline.views.report.sections.pictures import Thumbnail, Thumbnails

MOST_CLASSES = 40
"""Classes whose boxes are shown as pictures; the table has all."""
MOST_EACH = 2
"""Right boxes, and wrong ones, that are shown of each class."""


@dataclass(frozen=True)
class ShownBox:
    """A picture with the box from its map and the objects of the class."""

    picture: Thumbnail
    right: bool
    note: str


def boxes_section(run: RunContext, head: str, split: str) -> str:
    """Return the section as HTML; empty where a head's boxes were not measured, or are of something else."""
    found = localise.read(run, head, split)
    if found is None:
        return ""
    names = list(found["CorLoc"]["by_class"])
    thumbnails = Thumbnails(run)
    shown = {
        name: _shown(found, name, thumbnails)
        for name in track(names[:MOST_CLASSES], "boxes of the report", len(names[:MOST_CLASSES]), "classes")
    }
    rows = [
        (name, share, found["box_AP"]["by_class"][name], found["objects"][name])
        for name, share in found["CorLoc"]["by_class"].items()
    ]
    return render_section("boxes.html", r=found, rows=rows, shown={n: boxes for n, boxes in shown.items() if boxes})


def _shown(found: Mapping[str, Any], name: str, thumbnails: Thumbnails) -> list[ShownBox]:
    shown = []
    for word, boxes in found["examples"][name].items():
        for box in boxes[:MOST_EACH]:
            picture = thumbnails.with_box(found["split"], box["id"], name, np.array(box["box_xyxy"]), word == "right")
            shown.append(ShownBox(picture, word == "right", f"{box['score']:.2g}, {box['id']}"))
    return shown
