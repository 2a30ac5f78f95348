"""Describe pictures with annotations in another format than VOC's by a manifest; the files stay where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.dataset.describe.divide import explain_versions, make_lists, split_pictures
from pipeline.dataset.describe.finders import Finder, FoundFormat, FoundSource, find_coco, folder_of_pictures, path_of
from pipeline.dataset.describe.finders_more import (
    find_imagefolder,
    find_label_studio,
    find_labelme,
    find_open_images,
)
from pipeline.dataset.describe.finders_yolo import find_yolo
from pipeline.dataset.describe.names import role_of
from pipeline.dataset.describe.tree import Folder, read_tree
from pipeline.dataset.describe.voc_annotations import Annotations, decide_exif, settle
from pipeline.dataset.describe.write import (
    PAIRS,
    IdList,
    NewDataset,
    check_new,
    find_pair,
    refuse,
    say_to_stderr,
    write_manifest,
)
from pipeline.dataset.formats.records import Matched, Source, annotation_of, match
from pipeline.dataset.formats.registry import FORMATS
from pipeline.dataset.manifest import CLASS_NAME
from pipeline.dataset.split import ID_RULE, is_picture_id
from pipeline.dataset.voc_folder import FileIndex, find_pictures, index_pictures
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.progress import Say

FINDERS: dict[str, Finder] = {
    "coco": find_coco,
    "labelme": find_labelme,
    "label-studio": find_label_studio,
    "yolo": find_yolo,
    "open-images": find_open_images,
    "imagefolder": find_imagefolder,
}
"""In the order of trial."""


def find_format(tree: Folder, layout: str | None = None, annotations: Sequence[str] = ()) -> FoundFormat | None:
    """Find the format of a folder's annotations; None if it has none that is read.

    Parameters
    ----------
    layout : the only format to be tried
    annotations : files or folders that the user named
    """
    named = [path_of(tree.path, path) for path in annotations]
    finders = FINDERS.values() if layout is None else [FINDERS[layout]]
    return next((found for find in finders if (found := find(tree, named)) is not None), None)


@dataclass(frozen=True)
class Asked:
    """What a user says of annotations.

    Attributes
    ----------
    on_error : ``skip`` leaves out and names the pictures whose annotations cannot be used
    layout, annotations : as of `find_format`
    """

    on_error: str = "fail"
    layout: str | None = None
    annotations: Sequence[str] = ()


ASKED = Asked()


@dataclass
class _Part:
    """Pictures of one split, or of all, that can be used.

    Attributes
    ----------
    names_of : names of the classes of each picture
    n_objects : of all pictures
    """

    source: FoundSource
    folder: str
    index: FileIndex
    matched: Matched
    names_of: dict[str, set[str]]
    n_objects: int
    found: Annotations

    @property
    def labelled(self) -> bool:
        return any(self.names_of.values())


@dataclass
class _Whole:
    """All parts, and what is common to them."""

    tree: Folder
    found: FoundFormat
    say: Say
    on_error: str
    parts: list[_Part] = field(default_factory=list)

    @property
    def title(self) -> str:
        return FORMATS[self.found.layout].TITLE


def new_annotated_manifest(
    root: Path,
    name: str,
    manifests: Path,
    seed: int = 0,
    metric: str = "voc12",
    overwrite: bool = False,
    say: Say = say_to_stderr,
    asked: Asked = ASKED,
) -> Path:
    """Write ``<manifests>/<name>.yaml`` for the pictures in `root`; nothing is written into `root`.

    Classes are those that have an object or label. Splits are told by names of files and folders; without any, a train
    and a val list are made. All lists are written next to the manifest.

    Parameters
    ----------
    seed, metric, say : as of `pipeline.dataset.describe.voc.new_manifest`
    asked : what the user said of the annotations

    Raises
    ------
    SettingsError
        A bad name or metric, or a name that is taken; an existing manifest without `overwrite`.
    DatasetError
        Annotations or pictures' names that cannot be used (all are listed), or too few pictures.
    """
    path = check_new(name, manifests, metric, overwrite)
    root = Path(root).resolve()
    tree = read_tree(root)
    found = find_format(tree, asked.layout, asked.annotations)
    if found is None:
        form = f" in the form of {FORMATS[asked.layout].TITLE}" if asked.layout else ""
        raise DatasetError(f"{root}: no annotations{form}; name the file: --annotations FILE --layout NAME")
    whole = _Whole(tree, found, say, asked.on_error)
    for note in found.notes:
        say(note)
    for source in found.sources:
        whole.parts.append(_read_part(whole, source))
    _say_extra(whole)
    classes = tuple(sorted(set().union(*(names for part in whole.parts for names in part.names_of.values()))))
    if not classes:
        raise DatasetError(f"{root}: {whole.title}: no object or label in any file")
    _say_unused(whole, classes)
    if len(classes) == 1:
        say(f"a single class, {classes[0]}: AP needs pictures without it, to be ranked below the others")
    pair, lists = _lists(whole, classes, seed)
    about: dict[str, object] = {"title": f"own pictures in {root.name}", "layout": found.layout}
    about |= {} if found.class_names is None else {"class_names": found.class_names}
    about |= {} if found.boxes else {"boxes": False}
    if found.boxes:
        paths = [(part, *find_pictures(part.index, list(part.found.read))[:1]) for part in whole.parts]
        about |= decide_exif(((file, part.found.read[i]) for part, files in paths for i, file in files.items()), say)
    return write_manifest(path, NewDataset(root, about, classes, metric, pair, lists), say)


def _read_part(whole: _Whole, source: FoundSource) -> _Part:
    """Read the annotations of one split, and find their pictures."""
    tree, found = whole.tree, whole.found
    reader = FORMATS[found.layout]
    names = None if found.class_names is None else tree.path / found.class_names
    file = tree.path / source.annotations
    folder = source.folder
    if folder is None:
        nowhere = Source(tree.path, FileIndex(tree.path, {}), file, names, boxes=found.boxes)
        stated = [record.path for record in reader.read(nowhere) if source.has(record.where)]
        folder = folder_of_pictures(tree, source, stated)
        if folder is None:
            example = f", such as {brief(stated[0])}" if stated else ""
            raise DatasetError(
                f"{file}: none of its {len(stated)} pictures{example} is below {tree.path}; give --root the folder "
                f"that holds them, and --annotations {file} --layout {found.layout}"
            )
    index = index_pictures(tree.path / folder)
    if source.pictures is not None:
        prefix = f"{folder}/" if folder else ""
        wanted = {path.removeprefix(prefix) for path in source.pictures}
        kept = {i: tuple(n for n in names_ if n in wanted) for i, names_ in index.by_id.items()}
        index = FileIndex(index.folder, {i: names_ for i, names_ in kept.items() if names_})
    opened = Source(tree.path, index, file, names, boxes=found.boxes)
    matched = match((record for record in reader.read(opened) if source.has(record.where)), opened.finder)
    part = _Part(source, folder, index, matched, {}, 0, Annotations())
    _use_records(whole, part)
    split = "" if source.split is None else f" is the split {source.split}"
    place = ", ".join(source.folders or [source.annotations]) if source.folder is None else f"{folder or '.'}/"
    n_empty = sum(not names for names in part.names_of.values())
    empty = f", {n_empty} of them without any" if n_empty else ""
    what = f"{part.n_objects} objects" if found.boxes else "labels"
    n_classes = len(set().union(*part.names_of.values()))
    whole.say(f"{whole.title}: {place}{split}: {len(part.names_of)} pictures, {what} of {n_classes} classes{empty}")
    for note in reader.notes(opened):
        whole.say(note)
    if matched.absent:
        whole.say(
            f"left out, {len(matched.absent)} records whose picture is not below {folder or '.'}/:\n"
            f"{enumerate_problems(matched.absent)}"
        )
    return part


def _use_records(whole: _Whole, part: _Part) -> None:
    """Make an annotation of each record; refuse, or leave out and name, those that cannot be used."""
    found = part.found
    problems: list[str] = []
    for i, record in part.matched.records.items():
        names = sorted(record.names())
        if not is_picture_id(i):
            problems.append(f"{i!r}: rename the picture, also in {record.where} ({ID_RULE})")
        if len(files := part.index.names_of(i)) > 1:
            problems.append(f"{', '.join(files)}: one name, several pictures")
        try:
            found.read[i] = annotation_of(record, names)
        except ValueError as error:
            found.unusable[i] = f"{record.where}: {error}"
            continue
        found.problems += [
            f"{record.where}: class {brief(name)}: part of file names, so no '/', at most 100 characters"
            for name in names
            if not CLASS_NAME.fullmatch(name)
        ]
        labels = record.labels
        found.names_of[i] = set(names) if labels is None else {name for name, value in labels.items() if value > 0}
        part.n_objects += len(record.objects)
    refuse(part.index.folder, problems)
    settle(found, whole.tree.path, whole.on_error, whole.say)
    part.names_of = found.names_of


def _say_extra(whole: _Whole) -> None:
    """Name the pictures of the parts' folders that no file of annotations has."""
    used: dict[str, set[str]] = {}
    there: dict[str, set[str]] = {}
    for part in whole.parts:
        if part.source.pictures is None:
            used.setdefault(part.folder, set()).update(part.matched.records)
            there[part.folder] = set(part.index.by_id)
    for folder, ids in there.items():
        if extra := sorted(ids - used[folder]):
            whole.say(
                f"left out, {len(extra)} pictures in {folder or '.'}/ without a record:\n{enumerate_problems(extra)}"
            )


def _say_unused(whole: _Whole, classes: Sequence[str]) -> None:
    reader, found = FORMATS[whole.found.layout], whole.found
    names = None if found.class_names is None else whole.tree.path / found.class_names
    listed: list[str] = []
    for part in whole.parts:
        listed += reader.class_names(
            Source(whole.tree.path, part.index, whole.tree.path / part.source.annotations, names)
        )
        listed += {name for record in part.matched.records.values() for name in record.labels or ()}
    if unused := sorted(set(listed) - set(classes)):
        whole.say(f"classes without any object are no classes here: {', '.join(map(brief, unused[:20]))}")


def _lists(whole: _Whole, classes: Sequence[str], seed: int) -> tuple[tuple[str, str], dict[str, IdList]]:
    """Return the splits to fit and to score on, and all lists."""
    parts = {part.source.split: part for part in whole.parts}
    labelled = [split for split, part in parts.items() if part.labelled and split is not None]
    pair = find_pair(labelled)
    if pair is not None:
        lists = {split: _list_of(part, sorted(part.names_of)) for split, part in parts.items() if split is not None}
        return pair, lists
    usable = [part for part in whole.parts if part.labelled]
    if len(usable) > 1:
        raise DatasetError(
            f"{whole.tree.path}: splits to fit and to score on: expected {', or '.join(' and '.join(p) for p in PAIRS)}"
            f", got {', '.join(labelled)}"
        )
    (part,) = usable
    ids = sorted(part.names_of)
    if len(ids) < 2:
        raise DatasetError(f"{whole.tree.path}: {len(ids)} picture(s) that can be used, at least 2 are needed")
    by_role: dict[str | None, list[str]] = {}
    for i in ids:
        by_role.setdefault(role_of(i.partition("/")[0]) if "/" in i else None, []).append(i)
    pair = find_pair([role for role in by_role if role is not None])
    if pair is not None:
        whole.say(f"splits by the folders in {part.folder or '.'}/: {', '.join(filter(None, by_role))}")
        if without := by_role.pop(None, []):
            whole.say(f"left out, {len(without)} pictures in no folder of a split:\n{enumerate_problems(without)}")
        return pair, {role: _list_of(part, members) for role, members in by_role.items() if role is not None}
    if part.source.split is not None:
        whole.say(f"{part.source.split} is the only split, and is divided")
    others = {p.source.split: _list_of(p, sorted(p.names_of)) for p in whole.parts if p is not part}
    kept = {split: entry for split, entry in others.items() if split is not None and split not in PAIRS[0]}
    return PAIRS[0], {**_made_lists(whole, part, ids, classes, seed), **kept}


def _made_lists(whole: _Whole, part: _Part, ids: list[str], classes: Sequence[str], seed: int) -> Mapping[str, IdList]:
    """Divide the pictures 60 to 40: as those of VOC where there are boxes, as those of tables where there are none."""
    if not whole.found.boxes:
        positive = np.array([[name in part.names_of[i] for name in classes] for i in ids], bool)
        made = make_lists(ids, positive, classes, seed, whole.say)
        return {split: _list_of(part, entry.ids) for split, entry in made.items()}
    whole.say("no pair of splits (train and val, or trainval and test): made from all pictures, 60 to 40")
    if note := explain_versions(part.names_of):
        whole.say(note)
    divided = zip(PAIRS[0], split_pictures(part.names_of, seed), strict=True)
    return {split: _list_of(part, members) for split, members in divided}


def _list_of(part: _Part, ids: Sequence[str]) -> IdList:
    labelled = part.labelled
    return IdList(
        tuple(ids), labelled, own=True, folder=part.folder or None, annotations=part.source.annotations or None
    )
