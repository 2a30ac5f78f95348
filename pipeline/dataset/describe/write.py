"""Write the manifest of a new dataset, and the id lists that it needs."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from pipeline.dataset.describe.names import role_of
from pipeline.dataset.manifest import NAME, Manifest
from pipeline.dataset.manifest_places import known_datasets
from pipeline.dataset.read import read_split
from pipeline.dataset.split import Split
from pipeline.dataset.voc import labels_from_objects
from pipeline.io.atomic import write_atomic
from pipeline.io.errors import DatasetError, PipelineError, SettingsError
from pipeline.io.messages import enumerate_problems
from pipeline.io.names import find_alike, is_readable
from pipeline.io.progress import Say

PAIRS = (("train", "val"), ("trainval", "test"), ("train", "test"))
"""Names of splits to fit on and to score on, in order of preference."""
VAL_SHARE = 0.4


def say_to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


def refuse(where: Path | str, problems: Sequence[str]) -> None:
    """Raise an error that lists problems, if there are any.

    Raises
    ------
    DatasetError
    """
    if problems:
        raise DatasetError(f"{where}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")


def find_pair(splits: Collection[str]) -> tuple[str, str] | None:
    """Return the splits to fit and to score on, by their names or by what these stand for; None without such a pair.

    >>> find_pair(["training", "validation"]), find_pair(["train", "valid", "test"]), find_pair(["train", "a"])
    (('training', 'validation'), ('train', 'valid'), None)
    """
    by_role: dict[str, list[str]] = {}
    for split in splits:
        by_role.setdefault(role_of(split) or split, []).append(split)
    for pair in PAIRS:
        chosen = [role if role in splits else by_role[role][0] for role in pair if role in by_role]
        if len(chosen) == 2 and all(role in splits or len(by_role[role]) == 1 for role in pair):
            return chosen[0], chosen[1]
    return None


def check_new(name: str, manifests: Path, metric: str, overwrite: bool) -> Path:
    """Return the path of a new manifest, if name and metric are allowed.

    Raises
    ------
    SettingsError
        A bad name or metric, or a name that is taken.
    """
    path = Path(manifests) / f"{name}.yaml"
    _check_name(name, path, overwrite)
    if metric not in ("voc07", "voc12"):
        raise SettingsError(f"metric: got {metric!r}, expected voc07 or voc12")
    return path


def _check_name(name: str, path: Path, overwrite: bool) -> None:
    if not NAME.fullmatch(name) or name == "published":
        raise SettingsError(f"name: got {name!r}, expected lower case letters, digits and _, not 'published'")
    if path.exists():
        if not overwrite:
            raise SettingsError(f"{path}: exists already; choose another --name, or give --overwrite")
    elif name in known_datasets():
        # Results are named by dataset: two that share a name would be taken for one.
        raise SettingsError(f"name: {name!r} is the name of another dataset; choose another")


@dataclass(frozen=True)
class IdList:
    """Ids of a split.

    Attributes
    ----------
    own : whether the list is written next to the manifest, because the dataset has none or one with unusable ids
    folder : folder with the split's own class folders, or its pictures and XML files, if it has one
    annotations : file or folder of the split's annotations, of formats that have one
    """

    ids: tuple[str, ...]
    labelled: bool
    own: bool
    folder: str | None = None
    annotations: str | None = None

    def as_manifest(self, name: str, split: str) -> dict[str, object]:
        """Make the split's entry in the manifest `name`."""
        entry: dict[str, object] = {"pictures": len(self.ids)}
        if self.own:
            entry["ids"] = f"{name}/{split}.txt"
        if self.folder is not None:
            entry["folder"] = self.folder
        if self.annotations is not None:
            entry["annotations"] = self.annotations
        return entry if self.labelled else {**entry, "labelled": False}


@dataclass(frozen=True)
class NewDataset:
    """Content of a new manifest.

    Attributes
    ----------
    root : folder of the pictures, or a place elsewhere
    about : title, layout and the layout's own keys
    pair : splits to fit and to score on
    lists : of all splits
    """

    root: Path | str
    about: Mapping[str, object]
    classes: tuple[str, ...]
    metric: str
    pair: tuple[str, str]
    lists: Mapping[str, IdList]

    def as_manifest(self, name: str) -> dict[str, object]:
        """Make the content of the YAML file, in the order of its keys."""
        if not self.classes:  # without labels there are no roles, and no count: all pictures that are there belong
            splits = {split: {"ids": f"{name}/{split}.txt"} if e.own else {} for split, e in self.lists.items()}
            return {"name": name, **self.about, "folder": str(self.root), "splits": splits}
        return {
            "name": name,
            **self.about,
            "folder": str(self.root),
            "metric": self.metric,
            "fit": self.pair[0],
            "eval": self.pair[1],
            "splits": {split: entry.as_manifest(name, split) for split, entry in self.lists.items()},
            "classes": list(self.classes),
        }


def write_manifest(path: Path, dataset: NewDataset, say: Say) -> Path:
    """Write a manifest and its id lists, if the splits to fit and to score on can be read; return its path.

    Raises
    ------
    DatasetError
        The splits to fit and to score on cannot be read.
    """
    if not is_readable(str(dataset.root)):
        raise DatasetError(f"{dataset.root}: the folder's name is not UTF-8, and a manifest cannot hold it; rename it")
    notes = _write(path, dataset.as_manifest(path.stem), dataset.lists) + _explain_shared(dataset)
    unlabelled = ", no annotations" if dataset.classes else ", no labels"
    for split, entry in dataset.lists.items():
        say(f"{split}: {len(entry.ids)} pictures" + ("" if entry.labelled else unlabelled))
    if dataset.classes:
        say(f"{len(dataset.classes)} classes: {', '.join(dataset.classes)}")
    for note in notes:
        say(note)
    for alike in find_alike(dataset.classes):
        say(f"NOTE: classes that look alike are told apart: {', '.join(map(repr, alike))}; if one is meant, rename")
    return path


def _explain_shared(dataset: NewDataset) -> list[str]:
    """Return a note on the pictures that are both fitted and scored."""
    if not dataset.classes:
        return []
    lists = [dataset.lists[split] for split in dataset.pair]
    fit, scored = ({str(PurePosixPath(entry.folder or "", i)) for i in entry.ids} for entry in lists)
    n = len(fit & scored)
    return [f"{n} pictures are both in {dataset.pair[0]} and in {dataset.pair[1]}: the score will flatter"] if n else []


def _write(path: Path, content: dict[str, object], lists: Mapping[str, IdList]) -> list[str]:
    """Write id lists first and the manifest last, so that a manifest never names missing lists; return notes."""
    written, notes = [], []
    for split, entry in lists.items():
        if entry.own:
            written.append(path.with_suffix("") / f"{split}.txt")
            write_atomic(written[-1], ("\n".join(entry.ids) + "\n").encode())
    manifest = Manifest.model_validate({**content, "path": path})
    try:
        for split in dict.fromkeys((manifest.fit, manifest.eval)):
            notes += _explain_lists(read_split(manifest, split))
    except PipelineError:
        if not path.exists():
            for file in written:
                file.unlink()
            if written and not any(path.with_suffix("").iterdir()):
                path.with_suffix("").rmdir()
        raise
    header = "# Made by 'pipeline data new'; title, metric and licence may be edited.\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    write_atomic(path, (header + text).encode())
    return notes


def _explain_lists(split: Split) -> list[str]:
    """Return a note on the labels of class lists that the objects of the annotations contradict."""
    if split.labels is None or not split.manifest.has_boxes or split.manifest.by_person:
        return []
    of_objects = labels_from_objects(split.annotations, len(split.manifest.classes))
    rows = np.flatnonzero((split.labels * of_objects == -1).any(1))
    if not len(rows):
        return []

    def shown(labels: np.ndarray) -> str:
        return ", ".join(c for c, label in zip(split.manifest.classes, labels, strict=True) if label > 0) or "none"

    lines = [
        f"{split.ids[row]}: {shown(split.labels[row])} in the lists, {shown(of_objects[row])} in the annotation"
        for row in rows.tolist()
    ]
    return [
        f"NOTE: of {len(rows)} pictures of {split.name} the class lists (ImageSets/Main/CLASS_{split.name}.txt) say "
        "other classes than the objects; patches are labelled by the objects, pictures by the lists:\n"
        f"{enumerate_problems(lines)}"
    ]
