"""Describe a user's own pictures in the VOC layout by a manifest."""

from __future__ import annotations

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
from pipeline.dataset.picture import orientation_of_file
from pipeline.dataset.split import ID_RULE, LABELS, Annotation, is_picture_id, read_ids
from pipeline.dataset.voc import read_xml
from pipeline.dataset.voc_folder import find_pictures, index_annotations, index_pictures
from pipeline.dataset.voc_xml import object_name, parse_annotation
from pipeline.io.errors import BadPictureError, DatasetError, MissingDataError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.names import normalise
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
    on_error: str = "fail",
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
    on_error : ``skip`` leaves out and names the pictures whose annotations cannot be used

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
    names_of, annotations = _read_annotations(root, ids, on_error, say)
    ids = sorted(names_of)
    if len(ids) < 2:
        raise DatasetError(f"{root}: {len(ids)} picture(s) whose annotation can be used, at least 2 are needed")
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
    about = {"title": f"own pictures in {root.name}", **_decide_exif(root, annotations, say)}
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
    pictures, xmls = index_pictures(root), index_annotations(root)
    found, annotated = set(pictures.by_id), {i for i in pictures.by_id if i in xmls}
    for what, left_out in (
        ("pictures without an annotation", found - annotated),
        ("annotations without a picture", {i for i in xmls.by_id if i not in pictures}),
    ):
        if left_out:
            say(f"left out, {len(left_out)} {what}:\n{enumerate_problems(sorted(left_out))}")
    ids = sorted(annotated)
    problems = [
        f"{', '.join(pictures.names_of(i))}: one name, several pictures" for i in ids if len(pictures.names_of(i)) > 1
    ]
    problems += [
        f"{', '.join(xmls.names_of(i))}: one name, several annotations" for i in ids if len(xmls.names_of(i)) > 1
    ]
    problems += [f"{i!r}: rename the picture and its annotation ({ID_RULE})" for i in ids if not is_picture_id(i)]
    if problems:
        raise DatasetError(f"{folders[0]}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    if len(ids) < 2:
        raise DatasetError(
            f"{root}: {len(ids)} annotated picture(s), at least 2 are needed (got {len(found)} pictures, "
            f"{len(xmls.by_id)} annotations; JPEGImages/a.jpg belongs to Annotations/a.xml)"
        )
    return ids


def _read_annotations(
    root: Path, ids: list[str], on_error: str, say: Say
) -> tuple[dict[str, set[str]], dict[str, Annotation]]:
    """Read the class names of each picture's objects, and its annotation.

    All problems of all files are raised at once; under ``skip`` the pictures with problems are left out and named.
    """
    names_of: dict[str, set[str]] = {}
    annotations: dict[str, Annotation] = {}
    unusable, problems = {}, []
    padded: set[str] = set()
    xmls = index_annotations(root)
    for i in ids:
        data, problem = read_xml(xmls, i)
        if data is None:
            unusable[i] = problem
            continue
        try:
            entries = defusedxml.ElementTree.fromstring(data).findall("object")
        except (ValueError, LookupError, defusedxml.ElementTree.ParseError):
            entries = []  # the line below says what is wrong
        names = {object_name(entry) for entry in entries} - {""}
        padded |= {text for entry in entries if (text := entry.findtext("name") or "") != text.strip()}
        try:
            annotations[i] = parse_annotation(data, tuple(sorted(names)))
        except ValueError as error:
            unusable[i] = f"Annotations/{i}.xml: {error}"
        problems += [
            f"Annotations/{i}.xml: class {brief(name)}: part of file names, so no '/', at most 100 characters"
            for name in sorted(names)
            if not CLASS_NAME.fullmatch(name)
        ]
        names_of[i] = names
    if on_error == "fail":
        problems += unusable.values()
    if problems:
        advice = (
            "\nfix them, or leave these pictures out with --on-error skip" if on_error == "fail" and unusable else ""
        )
        raise DatasetError(f"{root}: {len(problems)} problem(s)\n{enumerate_problems(problems)}{advice}")
    if unusable:
        say(
            f"left out, {len(unusable)} of {len(ids)} pictures whose annotations cannot be used:\n"
            f"{enumerate_problems(list(unusable.values()))}"
        )
    if padded:
        say(f"spaces around class names are dropped: {', '.join(map(brief, sorted(padded)[:10]))}")
    if reaching := {i: item.n_clipped for i, item in annotations.items() if item.n_clipped}:
        say(
            f"{sum(reaching.values())} box(es) reach a little out of the picture and are clipped, in "
            f"{len(reaching)} annotation(s):\n{enumerate_problems(list(reaching))}"
        )
    return {i: names for i, names in names_of.items() if i not in unusable}, annotations


def _decide_exif(root: Path, annotations: dict[str, Annotation], say: Say) -> dict[str, str]:
    """Return the manifest's ``exif`` if some annotations tell which way round and others do not; else nothing."""
    told, n_untold = [], 0
    paths, _ = find_pictures(index_pictures(root), list(annotations))
    for i, path in paths.items():
        try:
            orientation, turned = orientation_of_file(path, annotations[i].size_wh, annotations[i].box_xyxy)
        except (BadPictureError, OSError):  # named by the commands that decode it
            continue
        if orientation > 1 and turned is None:
            n_untold += 1
        elif orientation > 1:
            told.append(turned)
    if not n_untold or not told or len(set(told)) > 1:
        return {}
    exif = "apply" if told[0] else "ignore"
    say(
        f"EXIF orientation: the annotations of {len(told)} pictures tell that boxes are on "
        f"{'turned' if told[0] else 'stored'} pixels, those of {n_untold} others fit both ways and are taken alike: "
        f"'exif: {exif}' in the manifest"
    )
    return {"exif": exif}


def _found_lists(root: Path, annotated: set[str], say: Say) -> dict[str, IdList]:
    """Read the id lists in ``ImageSets/Main``; unusable ids are left out and reported."""
    pictures = index_pictures(root)
    normal = {normalise(i) for i in annotated}
    lists = {}
    for path in sorted((root / "ImageSets" / "Main").glob("*.txt")):
        if not path.is_file() or not SPLIT_NAME.fullmatch(path.stem) or ".." in path.stem:
            say(f"not used: {path}: not a file whose name has only letters, digits and _ . + -")
            continue
        lines = path.read_text("utf-8-sig", "replace").splitlines()
        rows = [line.strip().rsplit(maxsplit=1) for line in lines if line.strip()]
        if (
            rows
            and all(len(row) == 2 and row[1] in LABELS for row in rows)
            and not all(line.strip() in pictures for line in lines if line.strip())
        ):
            continue  # labels of one class
        try:
            ids = read_ids(path, pictures)
        except DatasetError as error:
            if rows and any(path.stem in pair for pair in PAIRS):
                raise
            say(f"not used: {error}")
            continue
        labelled = any(normalise(i) in normal for i in ids)
        usable = tuple(i for i in ids if (normalise(i) in normal if labelled else i in pictures))
        if not usable:
            say(f"not used: {path}: no line names a picture{' with an annotation' if labelled else ''}")
            continue
        if left_out := sorted(set(ids) - set(usable)):
            say(f"left out of {path.name}, {len(left_out)} of {len(ids)} ids:\n{enumerate_problems(left_out)}")
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
