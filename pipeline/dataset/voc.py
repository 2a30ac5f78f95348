"""The VOC devkit's layout: ``JPEGImages``, ``Annotations``, ``ImageSets/Main``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.report import Depth, SplitCheck, picture_faults
from pipeline.dataset.split import EMPTY_ANNOTATION, LABELS, Annotation, Split, refuse_split
from pipeline.dataset.voc_folder import (
    FileIndex,
    class_list_paths,
    find_files,
    find_pictures,
    index_annotations,
    index_pictures,
    places_of,
    read_split_ids,
    state_of_voc_files,
)
from pipeline.dataset.voc_xml import drop_repeated, parse_annotation, parse_objects
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief
from pipeline.io.progress import track

NO_LABEL = -2


def read(manifest: Manifest, split: str, folder: Path, on_error: str = "fail") -> Split:
    """Read the id list, all annotations and all class lists of one split.

    Parameters
    ----------
    on_error : ``skip`` returns annotations that cannot be used as `Split.unusable` instead of raising

    Raises
    ------
    DatasetError
        Everything wrong with the split, in one message.
    """
    places = places_of(manifest, split, folder)
    pictures = index_pictures(places.pictures)
    ids = read_split_ids(manifest, split, folder, pictures)
    labelled = manifest.splits[split].labelled
    paths, problems = find_pictures(pictures, ids)
    xmls = index_annotations(places.annotations)
    digests = [("ids", digest_of(ids))]
    annotations: list[Annotation] = []
    unusable: dict[str, str] = {}
    for i in ids:
        annotations.append(EMPTY_ANNOTATION)
        data, problem = read_xml(xmls, i)
        if data is None:
            if problem or labelled:
                unusable[i] = problem or f"no annotation {xmls.folder.name}/{i}.xml"
            continue
        digests.append((i, sha256_bytes(data)))
        try:
            annotations[-1] = parse_annotation(data, manifest.classes)
            if annotations[-1].n_repeated:  # earlier versions counted each, so their tables are others
                digests.append(("repeated", digest_of(annotations[-1].n_repeated)))
        except ValueError as error:
            unusable[i] = f"{xmls.folder.name}/{i}.xml: {error}"
    labels = None
    if labelled:
        labels, contents, list_problems = labels_from_lists(manifest, split, folder, ids)
        problems += list_problems
        digests += [("list", sha256_bytes(content)) for content in contents]
        if labels is None:
            labels = labels_from_objects(annotations, len(manifest.classes))
    refuse_split(manifest, split, folder, problems, lines_of(unusable) if on_error == "fail" else ())
    files = tuple(paths[i] for i in ids)
    return Split(manifest, split, folder, ids, files, tuple(annotations), labels, digest_of(digests), unusable)


def read_xml(xmls: FileIndex, i: str) -> tuple[bytes | None, str]:
    """Read the annotation file of a picture: its bytes, None where there is none, and the problem, or ""."""
    if i not in xmls:
        return None, ""
    paths, problems = find_files(xmls, [i], "")
    if problems:
        return None, problems[0].removeprefix(f"{i}: ")
    try:
        return paths[i].read_bytes(), ""
    except OSError as error:
        return None, f"{xmls.folder.name}/{i}.xml: {error.strerror}"


def lines_of(problems: Mapping[str, str]) -> list[str]:
    """List the problems of pictures, one line each."""
    return [f"{i}: {problem}" for i, problem in problems.items()]


def state(manifest: Manifest, split: str, folder: Path) -> str:
    """Digest the states of all files that `read` reads."""
    ids = read_split_ids(manifest, split, folder, index_pictures(places_of(manifest, split, folder).pictures))
    return digest_of(sorted(state_of_voc_files(manifest, split, folder, ids)))


def check(manifest: Manifest, split: str, folder: Path, depth: Depth) -> SplitCheck:
    """Compare the files of a split with its lists."""

    def ids_of(pictures: FileIndex) -> Sequence[str]:
        return read_split_ids(manifest, split, folder, pictures)

    def lists_of(ids: Sequence[str]) -> tuple[list[bytes], list[str]]:
        return labels_from_lists(manifest, split, folder, ids)[1:]

    return check_voc_files(manifest, split, folder, depth, ids_of, lists_of, manifest.classes)


def check_voc_files(
    manifest: Manifest,
    split: str,
    folder: Path,
    depth: Depth,
    read_id_list: Callable[[FileIndex], Sequence[str]],
    read_class_lists: Callable[[Sequence[str]], tuple[list[bytes], list[str]]],
    object_names: tuple[str, ...] | None,
) -> SplitCheck:
    """Compare files in the devkit's folders with a split's lists.

    Parameters
    ----------
    read_id_list : reads the ids of the split, for the pictures that exist
    read_class_lists : returns the contents of the class lists and their problems, for the ids of the split
    object_names : names that objects may have; None for any
    """
    entry = manifest.splits[split]
    places = places_of(manifest, split, folder)
    pictures, xmls = index_pictures(places.pictures), index_annotations(places.annotations)
    try:
        ids = tuple(read_id_list(pictures))
    except (DatasetError, OSError) as error:
        return SplitCheck(split, entry.labelled, None, entry.pictures, faults=(str(error),))
    paths, _ = find_pictures(pictures, ids)
    # No file is missing where there are several; the fault names them.
    several = find_pictures(pictures, [i for i in ids if i in pictures])[1]
    xml_paths, xml_faults = find_files(xmls, [i for i in ids if i in xmls], "")
    # The folder is a part of the key: each split may have one, with the same ids.
    key_of = {i: f"{xmls.folder}/{i}" for i in ids}
    if depth.read_xml:
        for i in track(ids, f"check {split}", len(ids), "pictures"):
            if key_of[i] not in depth.faults:
                xml = (xml_paths[i], f"{xmls.folder.name}/{i}.xml") if i in xml_paths else None
                depth.faults[key_of[i]] = _read_files(xml, paths.get(i) if depth.decode else None, object_names)
    lists, list_problems = read_class_lists(ids) if entry.labelled else ([], [])
    return SplitCheck(
        split,
        entry.labelled,
        len(ids),
        None if manifest.by_person else entry.pictures,  # which then counts persons, not pictures
        tuple(i for i in ids if i not in pictures),
        tuple(i for i in ids if i not in xmls) if entry.labelled else (),
        len(lists),
        tuple(
            [f"{i}: {fault}" for i in ids for fault in depth.faults.get(key_of[i], ())]
            + several
            + (xml_faults if depth.read_xml else [])
            + list_problems
        ),
        places=(pictures.folder.name, xmls.folder.name),
    )


def _read_files(xml: tuple[Path, str] | None, picture: Path | None, object_names: tuple[str, ...] | None) -> list[str]:
    """Read one annotation, of a path and a name for messages, and one picture, if given; return their problems."""
    faults, size_wh, boxes = [], None, None
    if xml is not None:
        try:
            size_wh, objects = parse_objects(xml[0].read_bytes(), object_names)
            if object_names is not None:  # persons of actions are known by their number in the file
                objects = drop_repeated(objects)
            boxes = np.array([item.box_xyxy for item in objects], float).reshape(-1, 4)
        except (ValueError, OSError) as error:
            faults.append(f"{xml[1]}: {error}")
    return faults if picture is None else [*faults, *picture_faults(picture, size_wh, boxes)]


def labels_from_objects(annotations: Sequence[Annotation], n_classes: int) -> np.ndarray:
    """Derive per-picture labels: 1 an object, 0 only difficult objects, -1 none. int8, (n_pictures, n_classes)."""
    labels = np.full((len(annotations), n_classes), -1, np.int8)
    for row, annotation in zip(labels, annotations, strict=True):
        row[annotation.class_index[annotation.difficult]] = 0
        row[annotation.class_index[~annotation.difficult]] = 1
    return labels


def labels_from_lists(
    manifest: Manifest, split: str, folder: Path, ids: Sequence[str]
) -> tuple[np.ndarray | None, list[bytes], list[str]]:
    """Read labels from ``<class>_<split>.txt`` (id, then -1, 0 or 1).

    Returns
    -------
    labels : int8 ndarray of shape (n_pictures, n_classes); None where no class has a list
    contents : the files' bytes
    problems : one line each
    """
    lists = class_list_paths(manifest, split, folder)
    present = [path.is_file() for path in lists]
    if not any(present):
        return None, [], []
    absent = [path for path, has_list in zip(lists, present, strict=True) if not has_list]
    problems = [f"{path.name}: missing, other classes have theirs" for path in absent]
    labels = np.full((len(ids), len(lists)), NO_LABEL, np.int8)
    row_of = {i: row for row, i in enumerate(ids)}
    contents = []
    for column, path in enumerate(lists):
        if not present[column]:
            continue
        contents.append(path.read_bytes())
        for number, line in enumerate(contents[-1].decode("utf-8-sig", "replace").splitlines(), start=1):
            fields = line.strip().rsplit(maxsplit=1)  # an id may have spaces
            if not fields:
                continue
            if len(fields) != 2 or fields[1] not in LABELS:
                problems.append(f"{path.name} line {number}: expected 'id -1|0|1', got {brief(line.strip())}")
            elif (row := row_of.get(fields[0])) is not None:
                if labels[row, column] not in (NO_LABEL, int(fields[1])):
                    problems.append(f"{path.name} line {number}: {brief(line.strip())} contradicts a line above")
                labels[row, column] = int(fields[1])
        without = np.flatnonzero(labels[:, column] == NO_LABEL).tolist()
        problems += [f"{path.name}: no line for {ids[row]}" for row in without]
    return labels, contents, problems
