"""Describe a user's own pictures in the VOC layout by a manifest."""

from __future__ import annotations

import os
from pathlib import Path

import defusedxml.ElementTree
import numpy as np

from pipeline.dataset.describe.write import (
    PAIRS,
    VAL_SHARE,
    IdList,
    NewDataset,
    check_new,
    say_to_stderr,
    write_manifest,
)
from pipeline.dataset.manifest import CLASS_NAME, SPLIT_NAME
from pipeline.dataset.split import LABELS, PICTURE_ID, PICTURE_SUFFIXES, read_ids
from pipeline.dataset.voc_xml import parse_annotation
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.progress import Say

MOVES_PER_CLASS = 100


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

    Classes come from the annotations, splits from the id lists in ``ImageSets/Main``. Without a
    usable pair of lists, a train and a val list are made and written next to the manifest.

    Parameters
    ----------
    root : folder with ``JPEGImages`` and ``Annotations``
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
        Annotations or pictures' names that cannot be used (all are listed), or too few of them.
    """
    path = check_new(name, manifests, metric, overwrite)
    root = Path(root).resolve()
    ids = _annotated_ids(root, say)
    names_of = _read_annotations(root, ids)
    classes = tuple(sorted(set().union(*names_of.values())))
    if not classes:
        raise DatasetError(f"{root / 'Annotations'}: no <object> in any of {len(ids)} annotations")
    lists = _found_lists(root, set(ids), say)
    pair = next(((f, e) for f, e in PAIRS if all(s in lists and lists[s].labelled for s in (f, e))), None)
    if pair is None:
        say("no pair of id lists (train and val, or trainval and test): made from all annotated pictures, 60 to 40")
        pair = ("train", "val")
        for split, part in zip(pair, split_pictures(names_of, seed), strict=True):
            lists[split] = IdList(tuple(part), True, True)
    elif shared := set(lists[pair[0]].ids) & set(lists[pair[1]].ids):
        say(f"{len(shared)} pictures are both in {pair[0]} and in {pair[1]}: the score will flatter")
    about = {"title": f"own pictures in {root.name}"}
    return write_manifest(path, NewDataset(root, about, classes, metric, pair, lists), say)


def _annotated_ids(root: Path, say: Say) -> list[str]:
    """List the ids with a picture and an annotation, sorted."""
    folders = [root / "JPEGImages", root / "Annotations"]
    if absent := [folder.name for folder in folders if not folder.is_dir()]:
        got = ", ".join(sorted(p.name for p in root.iterdir())[:10]) if root.is_dir() else "no such folder"
        raise MissingDataError(
            f"{root}: no {' and no '.join(absent)}; expected JPEGImages/ID.jpg and Annotations/ID.xml, "
            f"or pictures in class folders (CLASS/*.jpg), got {got or 'an empty folder'}"
        )
    pictures: dict[str, list[str]] = {}
    for file in sorted(os.listdir(folders[0])):
        stem, suffix = os.path.splitext(file)
        if suffix.lower() in PICTURE_SUFFIXES:
            pictures.setdefault(stem, []).append(file)
    xmls = {os.path.splitext(file)[0] for file in os.listdir(folders[1]) if file.endswith(".xml")}
    for what, left_out in (
        ("pictures without an annotation", set(pictures) - xmls),
        ("annotations without a picture", xmls - set(pictures)),
    ):
        if left_out:
            say(f"left out, {len(left_out)} {what}:\n{enumerate_problems(sorted(left_out))}")
    ids = sorted(set(pictures) & xmls)
    problems = [f"{', '.join(pictures[i])}: one name, several pictures" for i in ids if len(pictures[i]) > 1]
    problems += [
        f"{i!r}: rename the picture and its annotation (letters, digits and _ . + @ = - only)"
        for i in ids
        if not PICTURE_ID.fullmatch(i) or ".." in i
    ]
    if problems:
        raise DatasetError(f"{folders[0]}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    if len(ids) < 2:
        raise DatasetError(
            f"{root}: {len(ids)} annotated picture(s), at least 2 are needed (got {len(pictures)} pictures, "
            f"{len(xmls)} annotations; JPEGImages/a.jpg belongs to Annotations/a.xml)"
        )
    return ids


def _read_annotations(root: Path, ids: list[str]) -> dict[str, set[str]]:
    """Read the class names of each picture's objects; all problems of all files are raised at once."""
    names_of, problems = {}, []
    for i in ids:
        try:
            data = (root / "Annotations" / f"{i}.xml").read_bytes()
        except OSError as error:
            problems.append(f"Annotations/{i}.xml: {error.strerror}")
            continue
        try:
            tree = defusedxml.ElementTree.fromstring(data)
            names = {(entry.findtext("name") or "").strip() for entry in tree.findall("object")} - {""}
        except (ValueError, LookupError, defusedxml.ElementTree.ParseError):
            names = set()  # the line below says what is wrong
        try:
            parse_annotation(data, tuple(sorted(names)))
        except ValueError as error:
            problems.append(f"Annotations/{i}.xml: {error}")
        problems += [
            f"Annotations/{i}.xml: class {brief(name)}: part of file names, so no '/', at most 100 characters"
            for name in sorted(names)
            if not CLASS_NAME.fullmatch(name)
        ]
        names_of[i] = names
    if problems:
        raise DatasetError(f"{root}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    return names_of


def _found_lists(root: Path, annotated: set[str], say: Say) -> dict[str, IdList]:
    """Read the id lists in ``ImageSets/Main``; unusable ids are left out and reported."""
    files = [os.path.splitext(file) for file in os.listdir(root / "JPEGImages")]
    pictures = {stem for stem, suffix in files if suffix.lower() in PICTURE_SUFFIXES}
    lists = {}
    for path in sorted((root / "ImageSets" / "Main").glob("*.txt")):
        if not path.is_file() or not SPLIT_NAME.fullmatch(path.stem) or ".." in path.stem:
            say(f"not used: {path}: not a file whose name has only letters, digits and _ . + -")
            continue
        rows = [line.split() for line in path.read_text("utf-8-sig", "replace").splitlines() if line.strip()]
        if rows and all(len(row) == 2 and row[1] in LABELS for row in rows):
            continue  # labels of one class
        try:
            ids = read_ids(path)
        except DatasetError as error:
            if rows and any(path.stem in pair for pair in PAIRS):
                raise
            say(f"not used: {error}")
            continue
        labelled = not annotated.isdisjoint(ids)
        usable = tuple(i for i in ids if i in (annotated if labelled else pictures))
        if left_out := sorted(set(ids) - set(usable)):
            say(f"left out of {path.name}, {len(left_out)} of {len(ids)} ids:\n{enumerate_problems(left_out)}")
        if usable:
            lists[path.stem] = IdList(usable, labelled, own=bool(left_out))
    return lists


def split_pictures(names_of: dict[str, set[str]], seed: int) -> tuple[list[str], list[str]]:
    """Divide pictures 60 to 40 so that, if possible, each class with two pictures is on both sides.

    >>> split_pictures({"a": {"cat"}, "b": {"dog"}, "c": {"cat"}, "d": {"dog"}, "e": {"cat"}}, seed=0)
    (['a', 'b', 'c'], ['d', 'e'])

    Parameters
    ----------
    names_of : class names of each picture, at least two pictures

    Returns
    -------
    train, val : sorted ids
    """
    rng = np.random.default_rng(seed)
    ids = [sorted(names_of)[k] for k in rng.permutation(len(names_of))]
    classes = sorted(set().union(*names_of.values()))
    holds = np.array([[c in names_of[i] for c in classes] for i in ids], bool).reshape(len(ids), len(classes))
    total = holds.sum(0)
    in_val = np.zeros(len(ids), bool)
    in_val[: min(max(round(VAL_SHARE * len(ids)), 1), len(ids) - 1)] = True

    def lacking(side: np.ndarray) -> np.ndarray:
        n_val = holds[side].sum(0)
        return np.flatnonzero((total >= 2) & ((n_val == 0) | (n_val == total)))

    # A picture of a class that lacks a side is exchanged for any picture of the other side, so sizes stay.
    # Exchanges without gain are accepted too, since they lead off plateaus. Bounded, as it may be impossible.
    for _ in range(MOVES_PER_CLASS * len(classes)):
        worst = lacking(in_val)
        if not len(worst):
            break
        mover = rng.choice(np.flatnonzero(holds[:, rng.choice(worst)]))
        partner = rng.choice(np.flatnonzero(in_val != in_val[mover]))
        swapped = in_val.copy()
        swapped[[mover, partner]] = in_val[[partner, mover]]
        if len(lacking(swapped)) <= len(worst):
            in_val = swapped
    return (
        sorted(i for i, val in zip(ids, in_val, strict=True) if not val),
        sorted(i for i, val in zip(ids, in_val, strict=True) if val),
    )
