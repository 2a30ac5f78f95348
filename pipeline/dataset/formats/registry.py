"""The registry of formats of annotations other than VOC's, and what a module that reads one offers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.dataset.formats import coco, imagefolder, label_studio, labelme, open_images, yolo
from pipeline.dataset.formats.records import PictureRecord, Source


class AnnotationFormat(Protocol):
    """A module that reads one format of annotations."""

    TITLE: str

    def read(self, source: Source, ids: Sequence[str] | None = None) -> Iterator[PictureRecord]:
        """Yield a record per picture, of `ids` at least; raises DatasetError for what is wrong with a file as a whole.

        What is wrong with one picture is part of its record.
        """
        ...

    def class_names(self, source: Source) -> Collection[str]:
        """Return the names of classes that the files list, also those without any object; none if they list none."""
        ...

    def notes(self, source: Source) -> Collection[str]:
        """Say what is in the files, or not, that no record tells; for ``pipeline data new``."""
        ...

    def files(self, source: Source, ids: Sequence[str]) -> list[Path]:
        """List the files of annotations that `read` reads for the pictures of a split."""
        ...


FORMATS: dict[str, AnnotationFormat] = {
    "coco": coco,
    "yolo": yolo,
    "labelme": labelme,
    "open-images": open_images,
    "imagefolder": imagefolder,
    "label-studio": label_studio,
}
"""By the manifest's ``layout``. A new format is a module here, an entry, its name in `Annotated` of ``names.py``, and
how a folder of it is recognised: an entry of `FINDERS` in `pipeline.dataset.describe.annotated`."""
