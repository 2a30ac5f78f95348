"""The table of folder shapes that ``pipeline data new`` recognises, and what writes their manifests.

A new shape is a module with a writer, and one entry in `SHAPES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.dataset.describe.labelled import has_class_folders, new_folders_manifest
from pipeline.dataset.describe.voc import new_manifest


class ManifestWriter(Protocol):
    """Writes the manifest of the pictures in a folder and returns its path."""

    def __call__(
        self,
        root: Path,
        name: str,
        manifests: Path,
        seed: int = 0,
        metric: str = "voc12",
        overwrite: bool = False,
        *,
        on_error: str = "fail",
    ) -> Path: ...


@dataclass(frozen=True)
class FolderShape:
    """A way in which pictures lie in a folder.

    Attributes
    ----------
    fits : whether a folder has this shape
    write : writes the manifest
    has_boxes : whether the pictures have boxes
    """

    fits: Callable[[Path], bool]
    write: ManifestWriter
    has_boxes: bool


# The last one fits every folder; its writer names the missing files of a folder without any shape.
SHAPES = (
    FolderShape(has_class_folders, new_folders_manifest, has_boxes=False),
    FolderShape(lambda root: True, new_manifest, has_boxes=True),
)


def recognise_folder(root: Path) -> FolderShape:
    """Find the shape of a folder; of several that fit, the first in the table."""
    return next(shape for shape in SHAPES if shape.fits(root))
