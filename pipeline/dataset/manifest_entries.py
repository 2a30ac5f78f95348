"""Parts of a manifest: its splits, its archives, and what is drawn."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.dataset.formats.names import Annotated
from pipeline.io.messages import brief
from pipeline.io.model import MAX_SEED, Settings

MAX_PICTURES = 1_000_000_000
Layout = Literal["voc", "voc-action", "folders", "table", "pictures", "webdataset", Annotated]
EVERY = "all"
"""Split of all pictures, of a dataset without labels."""


def inside(path: str) -> str:
    """Check that a path is relative and stays below the folder that it is joined to."""
    if ".." in PurePosixPath(path).parts:
        raise ValueError("must not contain '..'")
    if PurePosixPath(path).is_absolute():
        raise ValueError(f"must not be absolute, got {brief(path)}")
    return path


class SplitEntry(Settings):
    """One split; without `ids` its list is ``ImageSets/Main/<split>.txt`` (or ``Action/``) in the dataset's folder."""

    ids: str | None = Field(None, description="id list, relative to the manifest")
    pictures: int | None = Field(None, ge=1, le=MAX_PICTURES, description="official count of pictures (or persons)")
    folder: str | None = Field(
        None, description="of this split's class folders, or of its pictures and XML files, in the dataset's folder"
    )
    annotations: str | None = Field(
        None,
        description="of layouts with files of annotations: the split's file or folder, in the dataset's or absolute",
    )
    labelled: bool = True

    @field_validator("ids", "folder")
    @classmethod
    def _stays_inside(cls, path: str | None) -> str | None:
        return path if path is None else inside(path)


class Archive(Settings):
    """One file to download, and the MD5 that its publisher (or torchvision's table) states."""

    url: str
    md5: str = Field(pattern="^[0-9a-f]{32}$")
    filename: str = Field(pattern=r"^\w[\w.-]*$", max_length=100)
    strip: str = Field("", description="leading folder inside the archive that is dropped")

    @field_validator("strip")
    @classmethod
    def _strip_stays_inside(cls, strip: str) -> str:
        return inside(strip)


class Drawn(Settings):
    """A dataset that this package draws: counts of scenes per split, and the seed."""

    train: int = Field(ge=2, le=MAX_PICTURES)
    val: int = Field(ge=2, le=MAX_PICTURES)
    seed: int = Field(ge=0, le=MAX_SEED)


def fill_in_roles(content: dict[str, Any]) -> dict[str, Any]:
    """Fill in what layout pictures has no choice of: one split of all pictures, no labels, no classes."""
    splits = content.get("splits", {EVERY: {}})
    if isinstance(splits, dict) and splits:
        splits = {
            name: {"labelled": False, **entry} if isinstance(entry, dict) else entry for name, entry in splits.items()
        }
        first = next(iter(splits))
        content = {"fit": first, "eval": first, **content, "splits": splits}
    return {"metric": "voc12", "classes": (), **content}
