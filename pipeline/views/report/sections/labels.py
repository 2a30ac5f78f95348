"""Labels that held-out scores contradict, on a page: what the label denies, then what it claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.io.progress import track
from pipeline.stages import label_faults
from pipeline.stages.context import RunContext
from pipeline.views.report.sections.near import ShownList
from pipeline.views.report.sections.pictures import Thumbnail, Thumbnails


@dataclass(frozen=True)
class ShownFault:
    """A picture whose label of one class is contradicted."""

    picture: Thumbnail
    name: str
    label: str
    why: str


@dataclass(frozen=True)
class LabelsSection:
    """Contradicted labels for the page."""

    definition: str
    held_out_map: float | None
    pictures: int
    split: str
    lists: list[ShownList]
    left_out: dict[str, str]
    file: str


HEADINGS = {
    "absent": "The label says absent, the scores say present",
    "present": "The label says present, the scores say absent",
}


def labels_section(run: RunContext, found: Mapping[str, Any], thumbnails: Thumbnails, most: int) -> LabelsSection:
    """Return what the page shows of contradicted labels.

    Parameters
    ----------
    most : pictures that are shown of each list
    """
    lists = []
    for label, heading in HEADINGS.items():
        faults = [fault for fault in found["faults"] if fault["label"] == label]
        if faults:
            chosen = track(faults[:most], "pictures of the page", min(most, len(faults)), "pictures")
            shown = [_shown(found["split"], fault, thumbnails) for fault in chosen]
            lists.append(ShownList(heading, len(faults), shown))
    return LabelsSection(
        found["definition"],
        found["held_out_mAP"],
        found["pictures"],
        found["split"],
        lists,
        found["left_out"],
        label_faults.path(run).as_posix(),
    )


def _shown(split: str, fault: Mapping[str, Any], thumbnails: Thumbnails) -> ShownFault:
    picture = thumbnails.with_objects(split, fault["id"], fault["class"])
    why = f"P {fault['probability']:.2f}, margin {fault['margin']:.2f}, {fault['id']}"
    return ShownFault(picture, fault["class"], fault["label"], why)
