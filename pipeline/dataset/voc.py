"""The VOC devkit's layout: ``JPEGImages``, ``Annotations``, ``ImageSets/Main``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.report import Depth, SplitCheck, picture_faults
from pipeline.dataset.split import EMPTY_ANNOTATION, LABELS, Annotation, Split, read_ids, refuse_split
from pipeline.dataset.voc_folder import class_list_paths, find_pictures, id_list_path, places_of, state_of_voc_files
from pipeline.dataset.voc_xml import parse_annotation, parse_objects
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief
from pipeline.io.progress import track

NO_LABEL = -2


def read(manifest: Manifest, split: str, folder: Path) -> Split:
    """Read the id list, all annotations and all class lists of one split.

    Raises
    ------
    DatasetError
        Everything wrong with the split, in one message.
    """
    ids = read_ids(id_list_path(manifest, split, folder))
    labelled = manifest.splits[split].labelled
    places = places_of(manifest, split, folder)
    paths, problems = find_pictures(places.pictures, ids)
    digests = [("ids", digest_of(ids))]
    annotations: list[Annotation] = []
    for i in ids:
        annotations.append(EMPTY_ANNOTATION)
        try:
            data = (places.annotations / f"{i}.xml").read_bytes()
        except FileNotFoundError:
            if labelled:
                problems.append(f"{i}: no annotation Annotations/{i}.xml")
            continue
        except OSError as error:
            problems.append(f"{i}: Annotations/{i}.xml: {error.strerror}")
            continue
        digests.append((i, sha256_bytes(data)))
        try:
            annotations[-1] = parse_annotation(data, manifest.classes)
        except ValueError as error:
            problems.append(f"{i}: Annotations/{i}.xml: {error}")
    labels = None
    if labelled:
        labels, contents, list_problems = labels_from_lists(manifest, split, folder, ids)
        problems += list_problems
        digests += [("list", sha256_bytes(content)) for content in contents]
        if labels is None:
            labels = labels_from_objects(annotations, len(manifest.classes))
    refuse_split(manifest, split, folder, problems)
    return Split(manifest, split, folder, ids, tuple(paths), tuple(annotations), labels, digest_of(digests))


def state(manifest: Manifest, split: str, folder: Path) -> str:
    """Digest the states of all files that `read` reads."""
    ids = read_ids(id_list_path(manifest, split, folder))
    return digest_of(sorted(state_of_voc_files(manifest, split, folder, ids)))


def check(manifest: Manifest, split: str, folder: Path, depth: Depth) -> SplitCheck:
    """Compare the files of a split with its lists."""

    def lists_of(ids: Sequence[str]) -> tuple[list[bytes], list[str]]:
        return labels_from_lists(manifest, split, folder, ids)[1:]

    return check_voc_files(manifest, split, folder, depth, read_ids, lists_of, manifest.classes)


def check_voc_files(
    manifest: Manifest,
    split: str,
    folder: Path,
    depth: Depth,
    read_id_list: Callable[[Path], Sequence[str]],
    read_class_lists: Callable[[Sequence[str]], tuple[list[bytes], list[str]]],
    object_names: tuple[str, ...] | None,
) -> SplitCheck:
    """Compare files in the devkit's folders with a split's lists.

    Parameters
    ----------
    read_class_lists : returns the contents of the class lists and their problems, for the ids of the split
    object_names : names that objects may have; None for any
    """
    entry = manifest.splits[split]
    try:
        ids = tuple(read_id_list(id_list_path(manifest, split, folder)))
    except (DatasetError, OSError) as error:
        return SplitCheck(split, entry.labelled, None, entry.pictures, faults=(str(error),))
    places = places_of(manifest, split, folder)
    paths, absent = find_pictures(places.pictures, ids)
    missing = {line.split(":")[0] for line in absent}
    path_of = dict(zip([i for i in ids if i not in missing], paths, strict=True))
    annotations = places.annotations
    annotated = {p.stem for p in annotations.glob("*.xml")} if annotations.is_dir() else set()
    if depth.read_xml:
        for i in track(ids, f"check {split}", len(ids), "pictures"):
            if (key := f"{annotations}/{i}") not in depth.faults:
                xml = annotations / f"{i}.xml" if i in annotated else None
                depth.faults[key] = _read_files(xml, path_of.get(i) if depth.decode else None, object_names)
    lists, list_problems = read_class_lists(ids) if entry.labelled else ([], [])
    return SplitCheck(
        split,
        entry.labelled,
        len(ids),
        None if manifest.by_person else entry.pictures,  # which then counts persons, not pictures
        tuple(i for i in ids if i in missing),
        tuple(i for i in ids if i not in annotated) if entry.labelled else (),
        len(lists),
        tuple([f"{i}: {fault}" for i in ids for fault in depth.faults.get(f"{annotations}/{i}", ())] + list_problems),
    )


def _read_files(xml: Path | None, picture: Path | None, object_names: tuple[str, ...] | None) -> list[str]:
    """Read one annotation and one picture, as far as they are given; return their problems."""
    faults, size_wh = [], None
    if xml is not None:
        try:
            size_wh, _ = parse_objects(xml.read_bytes(), object_names)
        except (ValueError, OSError) as error:
            faults.append(f"Annotations/{xml.name}: {error}")
    return faults if picture is None else [*faults, *picture_faults(picture, size_wh)]


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
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 2 or fields[1] not in LABELS:
                problems.append(f"{path.name} line {number}: expected 'id -1|0|1', got {brief(line.strip())}")
            elif fields[0] in row_of:
                labels[row_of[fields[0]], column] = int(fields[1])
        for row in np.flatnonzero(labels[:, column] == NO_LABEL).tolist():
            problems.append(f"{path.name}: no line for {ids[row]}")
    return labels, contents, problems
