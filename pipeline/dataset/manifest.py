"""Manifests: a YAML file names a dataset, its splits, and how to get it."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from pipeline.dataset.formats.names import ANNOTATED
from pipeline.dataset.manifest_entries import Archive, Drawn, Layout, SplitEntry, fill_in_roles, inside
from pipeline.dataset.manifest_places import known_datasets, manifest_folders
from pipeline.dataset.places import is_elsewhere
from pipeline.io.errors import MissingDataError, SettingsError
from pipeline.io.likeness import suggest
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.model import Settings, explain_validation, refuse_credentials
from pipeline.io.names import expand_home, explain_encoding, normalise
from pipeline.io.yaml import read_mapping

# Parts of file names must not be paths, nor longer than a file system allows.
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
SPLIT_NAME = re.compile(r"\w[\w.+-]{0,63}")
CLASS_NAME = re.compile(r"(?!\s)[^/\\\x00-\x1f\x7f\ud800-\udfff]{1,100}(?<!\s)")
ACTION_COMPETITIONS = ("comp9", "comp10")
INSIDE_DATA = {"comp2": "comp1", "comp10": "comp9"}


class Manifest(Settings):
    """A named dataset.

    `folder` is searched below the data root, as it is and inside ``VOCdevkit/``; an absolute `folder` is used as
    it is.
    """

    name: str
    title: str
    layout: Layout = Field(
        "voc",
        description="VOC's; that of its action task; without boxes: <class>/<picture>, or a CSV file of pictures "
        "and labels; pictures without labels, in whatever folders; tar archives of pictures and labels; or that of "
        "another format of annotations",
    )
    samples: Literal["persons", "pictures"] = Field(
        "pictures", description="what is scored in the layout voc-action: each listed person, or each picture"
    )
    table: str | None = Field(None, description="the CSV file of layout table, relative to the folder or absolute")
    zero: Literal["absent", "unknown"] = Field(
        "absent", description="what 0 in the column of a class means; nothing at all is always unknown"
    )
    minus_one: Literal["absent", "unknown"] = Field(
        "absent", description="what -1 in the column of a class means, of layout table"
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        max_length=10,
        description="between several labels in one field of layout table: '|', say, or 'list' for ['cat', 'dog']",
    )
    label: str | None = Field(
        None,
        pattern=r"^(cls|json:.+)$",
        max_length=100,
        description="of layout webdataset: where the label of KEY.jpg is: cls, in KEY.cls, or json:NAME, under NAME in "
        "KEY.json",
    )
    class_names: str | None = Field(
        None, description="file with the names of classes, of formats that have one, in the folder or absolute"
    )
    boxes: bool = Field(True, description="of formats that may have boxes or labels of pictures alone: which")
    pictures_folder: str = Field(
        "JPEGImages", description="of layouts with boxes: folder of the pictures, below the split's"
    )
    annotations_folder: str = Field("Annotations", description="of layouts with boxes: folder of the XML files")
    exif: Literal["apply", "ignore"] | None = Field(
        None,
        description="whether pictures are turned by their EXIF orientation if their annotation does not tell; None: as "
        "the others of the split whose annotations tell, else turned",
    )
    folder: str
    classes: tuple[str, ...] = Field(description="none of layout pictures")
    unscored: tuple[str, ...] = Field((), description="classes that heads learn and no result counts")
    metric: Literal["voc07", "voc12"]
    fit: str
    eval: str
    splits: dict[str, SplitEntry]
    official: bool = Field(False, description="counts are those of a published benchmark")
    competition: Literal["comp1", "comp2", "comp9", "comp10"] = "comp2"
    archives: tuple[Archive, ...] = ()
    drawn: Drawn | None = None
    where: str = Field("", description="how a person gets what cannot be downloaded")
    licence: str = "not stated"
    path: Path | None = Field(None, exclude=True, description="where this manifest was read from")

    @property
    def by_person(self) -> bool:
        """Whether a sample is a person, with an id ``<picture id>_<number of the object>``."""
        return self.samples == "persons"

    def competition_with(self, outside_data: bool) -> str:
        """The devkit's competition: those with even numbers allow training data from outside of the challenge."""
        return self.competition if outside_data else INSIDE_DATA.get(self.competition, self.competition)

    @property
    def has_boxes(self) -> bool:
        """Whether objects have boxes; without boxes, pictures have labels and patches have none."""
        return self.layout not in ("folders", "table", "pictures", "webdataset") and self.boxes

    @property
    def is_elsewhere(self) -> bool:
        """Whether `folder` is a URL, a list of URLs or tar archives, and no folder of this machine."""
        return self.layout in ("pictures", "webdataset") and is_elsewhere(self.folder)

    @property
    def has_labels(self) -> bool:
        """Whether there are classes: without, features are extracted and nothing is learnt or measured."""
        return self.layout != "pictures"

    @model_validator(mode="before")
    @classmethod
    def _pictures_have_no_roles(cls, content: object) -> object:
        return fill_in_roles(content) if isinstance(content, dict) and content.get("layout") == "pictures" else content

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("must be lower case letters, digits and _ (it becomes part of file names)")
        return name

    @field_validator("folder", "table", mode="before")
    @classmethod
    def _home_is_expanded(cls, path: object) -> object:
        return expand_home(path) if isinstance(path, str) else path

    @field_validator("folder")
    @classmethod
    def _folder_stays_inside(cls, folder: str) -> str:
        if ".." in PurePosixPath(folder).parts:
            raise ValueError("must not contain '..'")
        try:
            refuse_credentials(folder, "folder")
        except SettingsError as error:
            raise ValueError(str(error)) from None
        if not PurePosixPath(folder).name:
            raise ValueError(f"must name a folder, got {folder!r}")
        return folder

    @field_validator("pictures_folder", "annotations_folder")
    @classmethod
    def _places_stay_inside(cls, folder: str) -> str:
        return inside(folder)

    @field_validator("classes")
    @classmethod
    def _classes_are_plain(cls, classes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not classes and info.data.get("layout") != "pictures":
            raise ValueError("name at least one; pictures without labels are of layout pictures")
        if bad := [name for name in classes if not CLASS_NAME.fullmatch(name)]:
            got = ", ".join(map(brief, bad[:10]))
            raise ValueError(f"names become part of file names: no '/', no control characters, got {got}")
        return tuple(map(normalise, classes))  # one form, in which annotations and folders are read, too

    @field_validator("unscored")
    @classmethod
    def _unscored_are_normal(cls, unscored: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(normalise, unscored))

    @field_validator("splits")
    @classmethod
    def _splits_are_plain(cls, splits: dict[str, SplitEntry]) -> dict[str, SplitEntry]:
        if bad := [name for name in splits if not SPLIT_NAME.fullmatch(name) or ".." in name]:
            got = ", ".join(map(brief, bad[:10]))
            raise ValueError(f"names become part of file names: letters, digits and _ . + - only, got {got}")
        return splits

    @model_validator(mode="after")
    def _names_fit_together(self) -> Manifest:
        for role in ("fit", "eval"):
            if getattr(self, role) not in self.splits:
                raise ValueError(f"{role}: no split {brief(getattr(self, role))}, there are {', '.join(self.splits)}")
        if not self.has_labels and (self.classes or any(entry.labelled for entry in self.splits.values())):
            raise ValueError("classes and labelled: layout pictures has none; labels go with folders or table")
        if self.has_labels and not self.splits[self.fit].labelled:
            raise ValueError(f"fit: split {self.fit!r} has no labels")
        uncounted = [split for split in {self.fit, self.eval} if self.splits[split].pictures is None]
        if self.official and uncounted:
            raise ValueError(f"official: needs the count 'pictures' of {', '.join(sorted(uncounted))}")
        if unknown := sorted(set(self.unscored) - set(self.classes)):
            raise ValueError(f"unscored: no such class: {', '.join(map(brief, unknown))}")
        if self.classes and set(self.unscored) == set(self.classes):
            raise ValueError("unscored: no class is left to score")
        if self.samples == "persons" and self.layout != "voc-action":
            raise ValueError("samples: persons are listed in the layout voc-action only")
        if self.by_person != (self.competition in ACTION_COMPETITIONS):
            raise ValueError(f"competition: {self.competition} and samples: {self.samples} do not go together")
        if (self.layout == "table") != (self.table is not None):
            raise ValueError("table: names the CSV file of layout table, and goes with no other")
        if self.table is not None and ".." in PurePosixPath(self.table).parts:
            raise ValueError("table: must not contain '..'")
        if "://" in self.folder and self.layout not in ("pictures", "webdataset"):
            raise ValueError(
                "folder: a URL goes with layouts pictures and webdataset; others are read from this machine"
            )
        if self.layout == "webdataset" and not is_elsewhere(self.folder):
            raise ValueError("folder: layout webdataset needs archives (shard-{000..012}.tar, DIR/*.tar) or a URL")
        if (self.layout == "webdataset") != (self.label is not None):
            raise ValueError("label: says where the labels of layout webdataset are, and goes with no other")
        self._splits_fit_the_layout()
        if self.layout != "table" and (self.minus_one != "absent" or self.label_separator is not None):
            raise ValueError("minus_one and label_separator go with layout table alone")
        places = (self.pictures_folder, self.annotations_folder)
        if not self.has_boxes and places != ("JPEGImages", "Annotations"):
            raise ValueError("pictures_folder and annotations_folder go with layouts voc and voc-action alone")
        duplicates = sorted({c for c in self.classes if self.classes.count(c) > 1})
        if duplicates:
            raise ValueError(f"classes: named twice: {', '.join(duplicates)}")
        return self

    def _splits_fit_the_layout(self) -> None:
        entries = self.splits.values()
        is_annotated = self.layout in ANNOTATED
        if any(entry.folder for entry in entries) and not (
            is_annotated or self.layout in ("folders", "voc", "pictures")
        ):
            raise ValueError("splits: a folder of its own goes with layout folders, voc, pictures or annotations")
        if self.layout == "voc" and any(entry.folder and not entry.ids for entry in entries):
            raise ValueError("splits: in layout voc, a split with a folder of its own needs a list, 'ids'")
        if is_annotated and not all(entry.ids for entry in entries):
            raise ValueError(f"splits: in layout {self.layout}, each split needs a list, 'ids'")
        if not is_annotated and (self.class_names or not self.boxes or any(entry.annotations for entry in entries)):
            raise ValueError(f"annotations, class_names and boxes go with the layouts {', '.join(ANNOTATED)}")


def known_splits() -> list[str]:
    """List the names of the splits of all manifests that can be read, the longest first."""
    splits: set[str] = set()
    for name in known_datasets():
        try:
            splits.update(load_manifest(name).splits)
        except SettingsError:  # named by the command that uses it
            continue
    return sorted(splits, key=lambda split: (-len(split), split))


def load_manifest(name: str, folder: Path | None = None) -> Manifest:
    """Read and check the manifest of dataset `name`.

    Raises
    ------
    SettingsError
        No such manifest (all names are listed), or mistakes in it (all are listed).
    """
    if not NAME.fullmatch(name):
        raise SettingsError(f"dataset {brief(name)}: expected lower case letters, digits and _, at most 64")
    for candidate in manifest_folders(folder):
        path = candidate / f"{name}.yaml"
        if path.is_file():
            return _parse_manifest(path)
    raise SettingsError(
        f"dataset {name!r}: no manifest data_manifests/{name}.yaml{suggest(name, known_datasets())}\n"
        f"for your own pictures: pipeline data new --root DIR --name {name}"
    )


def _parse_manifest(path: Path) -> Manifest:
    content = read_mapping(path)
    if "path" in content:
        raise SettingsError(f"{path}: path: unknown key; the folder of the pictures is named by 'folder'")
    try:
        manifest = Manifest.model_validate({**content, "path": path})
    except ValidationError as error:
        raise SettingsError(f"{path}:\n{enumerate_problems(explain_validation(error))}") from error
    if manifest.name != path.stem:
        raise SettingsError(f"{path}: name: got {brief(manifest.name)}, expected {path.stem!r} as the file's name")
    if (problem := explain_encoding((manifest.folder, *manifest.classes))) is not None:
        raise SettingsError(f"{path}: {problem}")
    return manifest


def data_root(given: str | Path | None) -> Path:
    """Return the folder that holds datasets: as given, else ``$PIPELINE_DATA``, else ``data``.

    Raises
    ------
    SettingsError
        It begins with ``~``, and there is no such home folder.
    """
    try:
        return Path(expand_home(str(given or os.environ.get("PIPELINE_DATA") or "data")))
    except ValueError as error:
        raise SettingsError(f"data_root: {error}") from error


def _holds(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder is this dataset's, by the files of its layout."""
    inside = [folder / entry.folder for entry in manifest.splits.values() if entry.folder] or [folder]
    if manifest.layout in ("folders", "pictures", *ANNOTATED):
        return all(path.is_dir() for path in inside)
    if manifest.layout == "table":
        return folder.is_dir() and (folder / (manifest.table or "")).is_file()
    return all((path / manifest.pictures_folder).is_dir() for path in inside)


def dataset_folder(manifest: Manifest, root: str | Path | None = None) -> Path:
    """Find the folder of a dataset: with ``JPEGImages`` and ``Annotations``, or its layout's own files.

    A place elsewhere is returned as it is, and is looked up when it is listed.

    Raises
    ------
    MissingDataError
        It is in none of the places searched; the message says how to get it.
    """
    if manifest.is_elsewhere:
        return Path(manifest.folder)
    base = data_root(root)
    named = Path(manifest.folder)
    if named.is_absolute() and root is None:
        candidates = [named]
    else:
        candidates = [base / named, base / "VOCdevkit" / named, base / named.name, base / "VOCdevkit" / named.name]
        # A root that is the folder itself is taken only under its own name: another dataset's pictures
        # under the same root must not pass for this one's.
        if base.resolve().name == named.name:
            candidates.append(base)
    for candidate in candidates:
        if _holds(candidate, manifest):
            return candidate
    looked = ", ".join(dict.fromkeys(str(c) for c in candidates))
    ways = [
        f"--config data_root=DIR (or --data-root DIR): a folder that holds {named.name}/ or VOCdevkit/{named.name}/"
    ]
    if manifest.archives or manifest.drawn:
        ways.insert(0, f"pipeline data fetch {manifest.name}")
    elif manifest.where:
        ways.insert(0, manifest.where.strip())
    ways.append("make demo: the same job on drawn pictures, nothing to download")
    raise MissingDataError(
        f"{manifest.title}: pictures not found (looked in {looked})\nyou can:\n{enumerate_problems(ways)}"
    )
