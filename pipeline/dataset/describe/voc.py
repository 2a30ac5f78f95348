"""Describe a user's own pictures with XML files of the VOC devkit's form by a manifest.

The files lie in ``JPEGImages`` and ``Annotations``, in folders such as ``images`` and ``annotations``, or next to each
other; each of these may lie in folders of splits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.dataset.describe.divide import explain_versions, split_pictures
from pipeline.dataset.describe.names import is_container, role_of
from pipeline.dataset.describe.peek import voc_files
from pipeline.dataset.describe.tree import MAX_DEPTH, Folder, LeftOut, read_tree
from pipeline.dataset.describe.voc_annotations import decide_exif, read_annotations
from pipeline.dataset.describe.voc_lists import found_lists
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
from pipeline.dataset.split import ID_RULE, Annotation, is_picture_id
from pipeline.dataset.voc_folder import FileIndex, find_pictures, index_annotations, index_pictures
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Say


@dataclass(frozen=True)
class VocPart:
    """Folders of pictures and of XML files, both of one split or of all.

    Attributes
    ----------
    inside : the split's folder below the root; empty without splits
    pictures, annotations : names of the two folders below it; ``.`` for the folder itself
    """

    inside: str
    pictures: str
    annotations: str

    @property
    def form(self) -> tuple[str, str]:
        """How files lie in the folder of a split."""
        return self.pictures, self.annotations

    def picture_folder(self, root: Path) -> Path:
        return root / self.inside / self.pictures

    def xml_folder(self, root: Path) -> Path:
        return root / self.inside / self.annotations


DEVKIT = VocPart("", "JPEGImages", "Annotations")


def find_parts(tree: Folder) -> dict[str, VocPart]:
    """Find the folders with pictures and XML files of VOC, by split; the only key is "" where there are no splits."""
    if tree.child("JPEGImages") is not None:
        return {"": DEVKIT}
    if (part := _part_of(tree)) is not None:
        return {"": part}
    if tree.child("Annotations") is not None:
        return {"": DEVKIT}
    splits = {f: role for f in tree.folders if (role := role_of(f.name)) is not None}
    parts = {f: _part_of(f) for f in splits}
    forms = {part.form for part in parts.values() if part is not None}
    if not forms:
        return {}
    (form, *others) = sorted(forms)
    if others or len(set(splits.values())) < len(splits):
        raise DatasetError(
            f"{tree.path}: folders of splits with XML files: expected one folder per split, and the same form in each, "
            f"got {', '.join(f'{f.inside}/ ({role})' for f, role in splits.items())}"
        )
    found = {}
    for folder, split in splits.items():
        part = parts[folder] or VocPart(folder.inside, *form)  # pictures without XML files: no labels
        if part.picture_folder(tree.path).is_dir():
            found[split] = part
    return found


def _part_of(folder: Folder) -> VocPart | None:
    """Find pictures and their XML files in a folder, next to each other or in folders such as images, annotations."""
    if voc_files(folder, folder):
        return VocPart(folder.inside, ".", ".")
    holders = [f for f in folder.folders if is_container(f.name) or f.name == "JPEGImages"]
    for pictures in holders:
        for notes in holders:
            if pictures.pictures and voc_files(pictures, notes):
                return VocPart(folder.inside, pictures.name, notes.name)
    return None


@dataclass
class _Described:
    """Content of a folder: classes, the splits to fit and to score on, all lists, and the annotated pictures."""

    classes: tuple[str, ...]
    pair: tuple[str, str]
    lists: dict[str, IdList]
    annotated: list[tuple[Path, Annotation]] = field(default_factory=list)


def new_manifest(
    root: Path,
    name: str,
    manifests: Path,
    seed: int = 0,
    metric: str = "voc12",
    overwrite: bool = False,
    say: Say = say_to_stderr,
    on_error: str = "fail",
) -> Path:
    """Write ``<manifests>/<name>.yaml`` for the pictures in `root`; nothing is written into `root`.

    Classes come from the annotations, splits from folders of splits or from the id lists in ``ImageSets/Main``.
    Without either, a train and a val list are made and written next to the manifest.

    Parameters
    ----------
    root : folder with pictures and XML files, as `find_parts` finds them
    seed : decides which pictures go to train and which to val, where there are no lists
    metric : ``voc12`` or ``voc07``
    say : called with one message at a time: splits, classes and left-out files
    on_error : ``skip`` leaves out and names the pictures whose annotations cannot be used

    Raises
    ------
    SettingsError
        A bad name or metric, or a name that is taken; an existing manifest without `overwrite`.
    MissingDataError
        `root` is not in the VOC layout.
    DatasetError
        Annotations, pictures' names or id lists that cannot be used (all are listed), or too few pictures.
    """
    path = check_new(name, manifests, metric, overwrite)
    root = Path(root).resolve()
    tree = read_tree(root) if root.is_dir() else Folder(root)
    parts = find_parts(tree) or {"": DEVKIT}
    if "" in parts:
        found = _describe_whole(tree, parts[""], seed, say, on_error)
    else:
        found = _describe_splits(tree, parts, say, on_error)
    if len(found.classes) == 1:
        say(f"a single class, {found.classes[0]}: AP needs pictures without it, to be ranked below the others")
    about: dict[str, object] = {"title": f"own pictures in {root.name}"}
    pictures, annotations = next(iter(parts.values())).form
    if (pictures, annotations) != DEVKIT.form:
        about |= {"pictures_folder": pictures, "annotations_folder": annotations}
        say(
            f"pictures and XML files of VOC: {pictures}/*, {annotations}/*.xml" + ("" if "" in parts else ", per split")
        )
    about |= decide_exif(found.annotated, say)
    return write_manifest(path, NewDataset(root, about, found.classes, metric, found.pair, found.lists), say)


def _describe_whole(tree: Folder, part: VocPart, seed: int, say: Say, on_error: str) -> _Described:
    """Describe pictures without folders of splits."""
    ids, pictures, xmls = _annotated_ids(tree, part, say)
    if len(ids) < 2:
        raise DatasetError(
            f"{tree.path}: {len(ids)} annotated picture(s), at least 2 are needed (got {len(pictures.by_id)} pictures, "
            f"{len(xmls.by_id)} annotations; {part.pictures}/a.jpg belongs to {part.annotations}/a.xml)"
        )
    found = read_annotations(xmls, ids, on_error, say)
    ids = sorted(found.names_of)
    if len(ids) < 2:
        raise DatasetError(f"{tree.path}: {len(ids)} picture(s) whose annotation can be used, at least 2 are needed")
    classes = _classes_of(xmls.folder, set().union(*found.names_of.values()), len(ids))
    lists = found_lists(tree.path, pictures, set(ids), say)
    pair = find_pair([split for split, entry in lists.items() if entry.labelled])
    if pair is None:
        pair = PAIRS[0]
        if taken := [split for split in pair if split in lists]:
            raise DatasetError(
                f"{tree.path}: lists {', '.join(f'{s}.txt' for s in taken)} without a partner: expected lists "
                f"of annotated pictures for {', or '.join(' and '.join(p) for p in PAIRS)}, got {', '.join(lists)}; "
                "add the other list, or move these away to have both made"
            )
        say("no pair of id lists (train and val, or trainval and test): made from all annotated pictures, 60 to 40")
        if note := explain_versions(found.names_of):
            say(note)
        for split, members in zip(pair, split_pictures(found.names_of, seed), strict=True):
            lists[split] = IdList(tuple(members), True, True)
    return _Described(classes, pair, lists, _with_paths(pictures, found.read))


def _with_paths(pictures: FileIndex, annotations: Mapping[str, Annotation]) -> list[tuple[Path, Annotation]]:
    paths, _ = find_pictures(pictures, list(annotations))
    return [(path, annotations[i]) for i, path in paths.items()]


def _describe_splits(tree: Folder, parts: Mapping[str, VocPart], say: Say, on_error: str) -> _Described:
    """Describe folders of splits."""
    lists: dict[str, IdList] = {}
    names: set[str] = set()
    annotated: list[tuple[Path, Annotation]] = []
    for split, part in parts.items():
        if part.inside != split:
            say(f"{part.inside}/ is the split {split}")
        ids, pictures, xmls = _annotated_ids(tree, part, say)
        is_labelled = bool(ids)
        if ids:
            found = read_annotations(xmls, ids, on_error, say)
            ids = sorted(found.names_of)
            names |= set().union(*found.names_of.values())
            annotated += _with_paths(pictures, found.read)
        if members := ids if is_labelled else sorted(pictures.by_id):
            lists[split] = IdList(tuple(members), is_labelled, own=True, folder=part.inside)
    pair = find_pair([split for split, entry in lists.items() if entry.labelled])
    if pair is None:
        raise DatasetError(
            f"{tree.path}: splits to fit and to score on: expected folders with annotated pictures for train and val, "
            f"trainval and test, or train and test, got {', '.join(f'{p.inside}/' for p in parts.values())}; "
            f"to divide the pictures of one folder: --root {tree.path / next(iter(parts.values())).inside}"
        )
    left_out = LeftOut()
    inside = {part.inside for part in parts.values()}
    for folder in tree.folders:
        if folder.name not in inside and folder.n_pictures:
            left_out.add_deeper(folder, "no folder of a split")
    left_out.add("pictures that lie in no folder of a split", *tree.pictures)
    for line in left_out.lines():
        say(line)
    classes = _classes_of(tree.path, names, sum(len(entry.ids) for entry in lists.values()))
    return _Described(classes, pair, lists, annotated)


def _classes_of(root: Path, names: set[str], n_files: int) -> tuple[str, ...]:
    if not names:
        raise DatasetError(f"{root}: no <object> in any of {n_files} annotations")
    return tuple(sorted(names))


def _annotated_ids(tree: Folder, part: VocPart, say: Say) -> tuple[list[str], FileIndex, FileIndex]:
    """List the ids with a picture and an annotation, sorted; return all pictures and all annotations as well."""
    root, folders = tree.path, [part.picture_folder(tree.path), part.xml_folder(tree.path)]
    if absent := [name for folder, name in zip(folders, part.form, strict=True) if not folder.is_dir()]:
        got = ", ".join(sorted(os.listdir(root))[:10]) if root.is_dir() else "no such folder"
        raise MissingDataError(
            f"{root}: no {' and no '.join(absent)}; expected JPEGImages/ID.jpg and Annotations/ID.xml, "
            f"or pictures in class folders (CLASS/*.jpg), got {got or 'an empty folder'}"
        )
    pictures, xmls = index_pictures(folders[0]), index_annotations(folders[1])
    # In a folder of a user's own, other folders may hold anything: splits, thumbnails, masks.
    is_flat = part.pictures == "."
    if is_flat:
        pictures, xmls = _without_folders(pictures), _without_folders(xmls)
    ids = sorted(i for i in pictures.by_id if i in xmls)
    _say_left_out(folders[0], part, is_flat, xmls, say)
    for what, without in (
        ("pictures without an annotation", [i for i in pictures.by_id if i not in xmls]),
        ("annotations without a picture", [i for i in xmls.by_id if i not in pictures]),
    ):
        if without:
            say(f"left out, {len(without)} {what}:\n{enumerate_problems(sorted(without))}")
    problems = [f"{', '.join(names)}: one name, several pictures" for i in ids if (names := pictures.names_of(i))[1:]]
    problems += [f"{', '.join(names)}: one name, several annotations" for i in ids if (names := xmls.names_of(i))[1:]]
    problems += [f"{i!r}: rename the picture and its annotation ({ID_RULE})" for i in ids if not is_picture_id(i)]
    refuse(folders[0], problems)
    return ids, pictures, xmls


def _without_folders(index: FileIndex) -> FileIndex:
    return FileIndex(index.folder, {i: names for i, names in index.by_id.items() if "/" not in i})


def _say_left_out(folder: Path, part: VocPart, is_flat: bool, xmls: FileIndex, say: Say) -> None:
    """Report the files in the folder of the pictures that are neither pictures nor their annotations."""
    listed, left_out = read_tree(folder, depth=1 if is_flat else MAX_DEPTH), LeftOut()
    used = {name for names in xmls.by_id.values() for name in names}
    for inner in [listed] if is_flat else listed.walk():
        files = [inner.below(name) for name in (*inner.others, *inner.broken)]
        left_out.add("no pictures of a suffix that is read", *(name for name in files if name not in used))
    if is_flat:
        for inner in listed.folders:
            if inner.pictures:
                left_out.add_deeper(inner, f"sub-folders of {part.pictures}")
    for line in left_out.lines():
        say(f"{part.pictures}: {line}")
