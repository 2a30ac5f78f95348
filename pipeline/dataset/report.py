"""Results of a check of a dataset's files, per split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.dataset.picture import decode_annotated
from pipeline.io.errors import BadPictureError
from pipeline.io.picture_file import PictureFile


@dataclass(frozen=True)
class SplitCheck:
    """State of one split's files.

    Attributes
    ----------
    listed : count of ids, None where the list is missing or unreadable
    official : the manifest's count, None where it states none
    missing_pictures, missing_annotations : ids without a file (annotations: labelled splits only)
    class_lists : count of the files ``<class>_<split>.txt``
    faults : everything else that is wrong, one line each: lists, XML files, pictures
    boxes : whether there should be annotations at all
    places : folders of the pictures and of the annotations, for messages
    """

    split: str
    labelled: bool
    listed: int | None
    official: int | None
    missing_pictures: tuple[str, ...] = ()
    missing_annotations: tuple[str, ...] = ()
    class_lists: int = 0
    faults: tuple[str, ...] = ()
    boxes: bool = True
    places: tuple[str, str] = ("JPEGImages", "Annotations")

    @property
    def complete(self) -> bool:
        """Whether everything that the id list names is present and sound; a part of the official list is complete."""
        return self.listed is not None and not (self.missing_pictures or self.missing_annotations or self.faults)

    @property
    def problems(self) -> list[str]:
        """All problems, one line each, a count that differs from the manifest's included."""
        lines = [f"no picture {self.places[0]}/{i}.jpg" for i in self.missing_pictures]
        lines += [f"no annotation {self.places[1]}/{i}.xml" for i in self.missing_annotations]
        lines += self.faults
        if self.listed is not None and self.official not in (None, self.listed):
            lines.append(f"{self.listed} pictures listed, the manifest states {self.official}")
        return [f"{self.split}: {line}" for line in lines]

    def __str__(self) -> str:
        if self.listed is None:
            return f"{self.split}: no usable id list"
        pictures = self.listed - len(self.missing_pictures)
        of = "" if self.official is None else f" (manifest: {self.official})"
        text = f"{self.split}: {self.listed} listed{of}, {pictures} pictures"
        if self.labelled and self.boxes:
            text += f", {self.listed - len(self.missing_annotations)} annotations, {self.class_lists} class lists"
        return text


@dataclass(frozen=True)
class CheckReport:
    """State of a dataset.

    Attributes
    ----------
    folder : None where it was not found; `missing` then names the places searched
    elsewhere : URL or archives in place of the folder; empty for a folder
    advice : what lets the pictures with problems pass, one line each
    """

    name: str
    folder: Path | None
    splits: tuple[SplitCheck, ...] = ()
    missing: str = ""
    advice: tuple[str, ...] = ()
    elsewhere: str = ""

    @property
    def problems(self) -> list[str]:
        """All problems, one line each, counts that differ from the manifest's included."""
        return [self.missing] if self.folder is None else [p for split in self.splits for p in split.problems]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


@dataclass(frozen=True)
class Depth:
    """How thoroughly files are checked.

    Attributes
    ----------
    read_xml : whether annotations are parsed
    decode : whether pictures are decoded, and compared with the sizes that their annotations state
    faults : of files that another split has read already, by folder and id: splits overlap, each file is read once
    """

    read_xml: bool
    decode: bool
    faults: dict[str, list[str]] = field(default_factory=dict)


def picture_faults(
    path: PictureFile, size_wh: tuple[int, int] | None = None, box_xyxy: np.ndarray | None = None
) -> Sequence[str]:
    """Decode a picture; return its problems, one line each."""
    name = f"{path.parent.name}/{path.name}" if isinstance(path, Path) else str(path)
    try:
        decode_annotated(path.read_bytes(), size_wh, name, box_xyxy=box_xyxy)
    except (BadPictureError, OSError) as error:
        return [str(error)]
    return []
