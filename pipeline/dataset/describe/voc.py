"""Describe a user's own pictures with XML files of the VOC devkit's form by a manifest.

The files lie in ``JPEGImages`` and ``Annotations``, in folders such as ``images`` and ``annotations``, or next to each
other; each of these may lie in folders of splits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import defusedxml.ElementTree

from pipeline.dataset.describe.divide import split_pictures
from pipeline.dataset.describe.names import is_container, role_of
from pipeline.dataset.describe.peek import voc_files
from pipeline.dataset.describe.tree import Folder, LeftOut, read_tree
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
from pipeline.dataset.manifest import CLASS_NAME
from pipeline.dataset.split import PICTURE_ID
from pipeline.dataset.voc_xml import parse_annotation
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.messages import brief, enumerate_problems
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
    if tree.child("JPEGImages") is not None or tree.child("Annotations") is not None:
        return {"": DEVKIT}
    if (part := _part_of(tree)) is not None:
        return {"": part}
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


def new_manifest(
    root: Path,
    name: str,
    manifests: Path,
    seed: int = 0,
    metric: str = "voc12",
    overwrite: bool = False,
    say: Say = say_to_stderr,
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
        classes, pair, lists = _describe_whole(tree, parts[""], seed, say)
    else:
        classes, pair, lists = _describe_splits(tree, parts, say)
    if len(classes) == 1:
        say(f"a single class, {classes[0]}: AP needs pictures without it, to be ranked below the others")
    about: dict[str, object] = {"title": f"own pictures in {root.name}"}
    pictures, annotations = next(iter(parts.values())).form
    if (pictures, annotations) != DEVKIT.form:
        about |= {"pictures_folder": pictures, "annotations_folder": annotations}
        say(
            f"pictures and XML files of VOC: {pictures}/*, {annotations}/*.xml" + ("" if "" in parts else ", per split")
        )
    return write_manifest(path, NewDataset(root, about, classes, metric, pair, lists), say)


def _describe_whole(
    tree: Folder, part: VocPart, seed: int, say: Say
) -> tuple[tuple[str, ...], tuple[str, str], dict[str, IdList]]:
    """Describe pictures without folders of splits: classes, the pair to fit and to score on, and all lists."""
    ids, pictures = _annotated_ids(tree, part, say)
    if len(ids) < 2:
        n_xml = len(_xml_ids(part.xml_folder(tree.path)))
        raise DatasetError(
            f"{tree.path}: {len(ids)} annotated picture(s), at least 2 are needed (got {len(pictures)} pictures, "
            f"{n_xml} annotations; {part.pictures}/a.jpg belongs to {part.annotations}/a.xml)"
        )
    names_of = _read_annotations(part.xml_folder(tree.path), ids)
    classes = _classes_of(part.xml_folder(tree.path), set().union(*names_of.values()), len(ids))
    lists = found_lists(tree.path, pictures, set(ids), say)
    pair = find_pair([split for split, entry in lists.items() if entry.labelled])
    if pair is None:
        pair = PAIRS[0]
        if taken := [split for split in pair if split in lists]:
            raise DatasetError(
                f"{tree.path}/ImageSets/Main: {', '.join(f'{s}.txt' for s in taken)} without a partner: expected lists "
                f"of annotated pictures for {', or '.join(' and '.join(p) for p in PAIRS)}, got {', '.join(lists)}; "
                "add the other list, or move these away to have both made"
            )
        say("no pair of id lists (train and val, or trainval and test): made from all annotated pictures, 60 to 40")
        for split, members in zip(pair, split_pictures(names_of, seed), strict=True):
            lists[split] = IdList(tuple(members), True, True)
    elif shared := set(lists[pair[0]].ids) & set(lists[pair[1]].ids):
        say(f"{len(shared)} pictures are both in {pair[0]} and in {pair[1]}: the score will flatter")
    return classes, pair, lists


def _describe_splits(
    tree: Folder, parts: Mapping[str, VocPart], say: Say
) -> tuple[tuple[str, ...], tuple[str, str], dict[str, IdList]]:
    """Describe folders of splits, as `_describe_whole`."""
    lists: dict[str, IdList] = {}
    names: set[str] = set()
    for split, part in parts.items():
        if part.inside != split:
            say(f"{part.inside}/ is the split {split}")
        ids, pictures = _annotated_ids(tree, part, say)
        if ids:
            names |= set().union(*_read_annotations(part.xml_folder(tree.path), ids).values())
        if members := ids or sorted(pictures):
            lists[split] = IdList(tuple(members), bool(ids), own=True, folder=part.inside)
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
    return _classes_of(tree.path, names, sum(len(entry.ids) for entry in lists.values())), pair, lists


def _classes_of(root: Path, names: set[str], n_files: int) -> tuple[str, ...]:
    if not names:
        raise DatasetError(f"{root}: no <object> in any of {n_files} annotations")
    return tuple(sorted(names))


def _annotated_ids(tree: Folder, part: VocPart, say: Say) -> tuple[list[str], set[str]]:
    """List the ids with a picture and an annotation, sorted; return the ids of all pictures as well."""
    root, folders = tree.path, [part.picture_folder(tree.path), part.xml_folder(tree.path)]
    if absent := [name for folder, name in zip(folders, part.form, strict=True) if not folder.is_dir()]:
        got = ", ".join(sorted(os.listdir(root))[:10]) if root.is_dir() else "no such folder"
        raise MissingDataError(
            f"{root}: no {' and no '.join(absent)}; expected JPEGImages/ID.jpg and Annotations/ID.xml, "
            f"or pictures in class folders (CLASS/*.jpg), got {got or 'an empty folder'}"
        )
    listed = read_tree(folders[0], depth=1)
    pictures: dict[str, list[str]] = {}
    for file in listed.pictures:
        pictures.setdefault(os.path.splitext(file)[0], []).append(file)
    deeper = [f for f in listed.folders if f.pictures]
    if deeper and not pictures:
        raise DatasetError(
            f"{folders[0]}: pictures lie in sub-folders ({', '.join(f.name for f in deeper[:5])}), which is not read; "
            f"move them and their XML files up, each with a name of its own"
        )
    xmls = _xml_ids(folders[1])
    ids = sorted(set(pictures) & xmls)
    left_out = LeftOut()
    used = {f"{i}.xml" for i in xmls}
    left_out.add(
        "no pictures of a suffix that is read", *(n for n in (*listed.others, *listed.broken) if n not in used)
    )
    for folder in deeper:
        left_out.add_deeper(folder, f"sub-folders of {part.pictures}")
    for line in left_out.lines():
        say(f"{part.pictures}: {line}")
    for what, without in (
        ("pictures without an annotation", set(pictures) - xmls),
        ("annotations without a picture", xmls - set(pictures)),
    ):
        if without:
            say(f"left out, {len(without)} {what}:\n{enumerate_problems(sorted(without))}")
    problems = [f"{', '.join(pictures[i])}: one name, several pictures" for i in ids if len(pictures[i]) > 1]
    problems += [
        f"{i!r}: rename the picture and its annotation (letters, digits and _ . + @ = - only)"
        for i in ids
        if not PICTURE_ID.fullmatch(i) or ".." in i
    ]
    refuse(folders[0], problems)
    return ids, set(pictures)


def _xml_ids(folder: Path) -> set[str]:
    """List the ids that have an XML file; files that a Mac hides are none."""
    return {os.path.splitext(f)[0] for f in os.listdir(folder) if f.endswith(".xml") and not f.startswith(".")}


def _read_annotations(folder: Path, ids: list[str]) -> dict[str, set[str]]:
    """Read the class names of each picture's objects; all problems of all files are raised at once."""
    names_of, problems = {}, []
    for i in ids:
        file = f"{folder.name}/{i}.xml"
        try:
            data = (folder / f"{i}.xml").read_bytes()
        except OSError as error:
            problems.append(f"{file}: {error.strerror}")
            continue
        try:
            tree = defusedxml.ElementTree.fromstring(data)
            names = {(entry.findtext("name") or "").strip() for entry in tree.findall("object")} - {""}
        except (ValueError, LookupError, defusedxml.ElementTree.ParseError):
            names = set()  # the line below says what is wrong
        try:
            parse_annotation(data, tuple(sorted(names)))
        except ValueError as error:
            problems.append(f"{file}: {error}")
        problems += [
            f"{file}: class {brief(name)}: part of file names, so no '/', at most 100 characters"
            for name in sorted(names)
            if not CLASS_NAME.fullmatch(name)
        ]
        names_of[i] = names
    refuse(folder.parent, problems)
    return names_of
