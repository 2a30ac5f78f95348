"""The layout of the VOC devkit's action task: ``ImageSets/Action``, labelled persons.

A sample is a listed person (or, for localising actions without boxes, a picture with listed persons). A line of
``<split>.txt`` is a picture's id, alone or with the number of an object of its XML file, counted from 1; a line
of ``<class>_<split>.txt`` is id, object number and label.

Source: VOC2012 development kit, section on the action classification task.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.report import Depth, SplitCheck
from pipeline.dataset.split import (
    EMPTY_ANNOTATION,
    ID_RULE,
    LABELS,
    Annotation,
    Split,
    is_picture_id,
    read_list,
    refuse_split,
)
from pipeline.dataset.voc import check_voc_files, lines_of, read_xml
from pipeline.dataset.voc_folder import (
    FileIndex,
    class_list_paths,
    find_pictures,
    id_list_path,
    index_annotations,
    index_pictures,
    places_of,
    state_of_voc_files,
)
from pipeline.dataset.voc_xml import XmlObject, parse_objects
from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief, enumerate_problems

PERSON = "person"
UNLISTED = -2
Labels = dict[tuple[str, int], np.ndarray]


@dataclass(frozen=True)
class ActionLists:
    """Content of the class lists of a split.

    Attributes
    ----------
    labels : int8 ndarray (n_classes,) of each (picture id, object number): 1, -1, 0, or `UNLISTED`
    contents : the files' bytes, for their digest
    has_list : bool ndarray (n_classes,), classes that have a file
    problems : one line each
    """

    labels: Labels
    contents: list[bytes]
    has_list: np.ndarray
    problems: list[str]


def sample_id(picture: str, number: int) -> str:
    """Make the id of a person.

    >>> sample_id("2011_003285", 2)
    '2011_003285_2'
    """
    return f"{picture}_{number}"


def split_sample_id(sample: str) -> tuple[str, int]:
    """Split the id of a person into picture id and object number.

    >>> split_sample_id("2011_003285_2")
    ('2011_003285', 2)
    """
    picture, _, number = sample.rpartition("_")
    return picture, int(number)


def read_action_list(path: Path, known: Container[str] = ()) -> dict[str, list[int]]:
    """Read the pictures of a list file, in its order, with the object numbers after their ids, if any.

    Ids may have spaces: ``photo 1`` is an id with a number, unless only the whole line is in `known`, ids that exist.

    Raises
    ------
    DatasetError
        No such file, an empty one, or lines that are neither ``id`` nor ``id number``, or that occur twice.
    """
    numbers: dict[str, list[int]] = {}
    seen, problems = set(), []
    for line in map(str.strip, read_list(path)):
        if not line:
            continue
        i, *number = line.rsplit(maxsplit=1)
        if line in known and not (_are_numbers(number) and i in known):
            i, number = line, []
        if not is_picture_id(i) or not _are_numbers(number):
            problems.append(f"{brief(line)}: expected 'id' or 'id number'; an id has {ID_RULE}")
        elif (i, *number) in seen:
            problems.append(f"{brief(line)}: listed twice")
        else:
            seen.add((i, *number))
            numbers.setdefault(i, []).extend(map(int, number))
    if not numbers and not problems:
        problems.append("the list is empty")
    if problems:
        raise DatasetError(f"{path}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    return numbers


def _are_numbers(fields: list[str]) -> bool:
    """Whether all fields are object numbers, counted from 1."""
    return all(field.isascii() and field.isdecimal() and 0 < int(field) < 100_000 for field in fields)


def read_class_lists(manifest: Manifest, split: str, folder: Path) -> ActionLists:
    """Read ``<class>_<split>.txt`` of all classes; classes that are not scored may have none."""
    paths = class_list_paths(manifest, split, folder)
    has_list = np.array([path.is_file() for path in paths])
    lists = ActionLists({}, [], has_list, [])
    if not has_list.any():
        return lists
    for column, (name, path) in enumerate(zip(manifest.classes, paths, strict=True)):
        if not has_list[column]:
            if name not in manifest.unscored:
                lists.problems.append(f"{path.name}: missing, other classes have theirs")
            continue
        lists.contents.append(path.read_bytes())
        for number, line in enumerate(lists.contents[-1].decode("utf-8-sig", "replace").splitlines(), start=1):
            fields = line.strip().rsplit(maxsplit=2)
            if not fields:
                continue
            if len(fields) != 3 or not _are_numbers(fields[1:2]) or fields[2] not in LABELS:
                expected = "expected 'id object -1|0|1'"
                lists.problems.append(f"{path.name} line {number}: {expected}, got {brief(line.strip())}")
                continue
            key = (fields[0], int(fields[1]))
            labels = lists.labels.setdefault(key, np.full(len(manifest.classes), UNLISTED, np.int8))
            if labels[column] not in (UNLISTED, int(fields[2])):
                lists.problems.append(f"{path.name} line {number}: {brief(line.strip())} contradicts a line above")
            labels[column] = int(fields[2])
    return lists


def settle_labels(listed: np.ndarray, person: XmlObject, manifest: Manifest, has_list: np.ndarray) -> np.ndarray:
    """Derive the labels of one person, 1, 0 (unknown, left out) or -1, from class lists and XML.

    If a class's list does not name a person, the label is unknown: some pictures were collected before the class
    was introduced. Classes without any list take the flags of the XML's ``<actions>``. If the XML has no flag for
    ``other`` either, a person has this label if no other action applies.

    Parameters
    ----------
    listed : int8 ndarray (n_classes,), with `UNLISTED`
    """
    labels = np.where(listed == UNLISTED, 0, listed).astype(np.int8)
    flags = person.actions or {}
    for column, name in enumerate(manifest.classes):
        if not has_list[column] and name in flags:
            labels[column] = 1 if flags[name] else -1
    for column, name in enumerate(manifest.classes):
        if not has_list[column] and name not in flags and name in manifest.unscored:
            others = np.delete(labels, column)
            labels[column] = -1 if (others == 1).any() else 0 if (others == 0).any() else 1
    return labels


def actions_of(labels: np.ndarray) -> list[tuple[int, bool]]:
    """List the actions of a person, as (class, difficult); without any, the first unknown one as difficult."""
    done = np.flatnonzero(labels == 1)
    unknown = np.flatnonzero(labels == 0)
    return [(int(c), False) for c in done] or [(int(c), True) for c in unknown[:1]]


@dataclass(frozen=True)
class _Picture:
    """A picture of a split: its listed persons, by number, with their labels, and all others."""

    id: str
    path: Path
    size_wh: tuple[int, int] | None
    listed: dict[int, tuple[XmlObject, np.ndarray | None]]
    others: list[XmlObject]


def read(manifest: Manifest, split: str, folder: Path, on_error: str = "fail") -> Split:
    """Read one split of the action task; a sample is a person or a picture, as the manifest says.

    Pictures without a listed person give no sample. Where there are no class lists, the persons with
    ``<actions>`` in the XML are listed; in a split without labels, all persons.

    Parameters
    ----------
    on_error : ``skip`` returns each picture whose annotation cannot be used as one sample in `Split.unusable`, under
        the picture's id, instead of raising

    Raises
    ------
    DatasetError
        Everything wrong with the split, in one message.
    """
    places = places_of(manifest, split, folder)
    existing, xmls = index_pictures(places.pictures), index_annotations(places.annotations)
    numbers_of = read_action_list(id_list_path(manifest, split, folder), existing)
    labelled = manifest.splits[split].labelled
    lists = read_class_lists(manifest, split, folder) if labelled else None
    path_of, problems = find_pictures(existing, tuple(numbers_of))
    unusable: dict[str, str] = {}
    problems += lists.problems if lists else []
    digests: list[tuple[str, str]] = [
        ("ids", digest_of([[i, n] for i, n in numbers_of.items()])),
        ("samples", digest_of([manifest.samples, manifest.unscored])),
    ]
    named: dict[str, list[int]] = {}
    for i, number in lists.labels if lists else ():
        named.setdefault(i, []).append(number)
    pictures: list[_Picture] = []
    for i, numbers in numbers_of.items():
        data, size_wh, objects, problem = _read_annotation(xmls, i)
        digests.append((i, sha256_bytes(data)))
        if problem:
            unusable[i] = problem
            continue
        persons = {n: item for n, item in enumerate(objects, start=1) if item.name == PERSON}
        numbers = numbers or _default_numbers(named.get(i, []), persons, lists)
        strangers = [n for n in numbers if n not in persons]
        xml = f"{xmls.folder.name}/{i}.xml"
        problems += [f"{i}: object {n} is listed, {xml} has no person of this number" for n in strangers]
        listed = {n: (persons[n], _labels_of(i, n, persons[n], manifest, lists)) for n in numbers if n in persons}
        if listed and i in path_of:
            others = [item for n, item in persons.items() if n not in listed]
            pictures.append(_Picture(i, path_of[i], size_wh, listed, others))
    if not pictures and not problems and not unusable:
        problems.append("no person is listed")
    refuse_split(manifest, split, folder, problems, lines_of(unusable) if on_error == "fail" else ())
    digests += [("list", sha256_bytes(content)) for content in (lists.contents if lists else ())]
    samples = _persons(pictures) if manifest.by_person else _whole_pictures(pictures)
    samples += [(i, path_of[i], EMPTY_ANNOTATION, np.zeros(len(manifest.classes), np.int8)) for i in unusable]
    ids, files, annotations, rows = zip(*samples, strict=True)
    labels = np.stack(rows) if labelled else None
    return Split(manifest, split, folder, ids, files, annotations, labels, digest_of(digests), unusable)


def state(manifest: Manifest, split: str, folder: Path) -> str:
    """Digest the states of all files that `read` reads."""
    existing = index_pictures(places_of(manifest, split, folder).pictures)
    ids = read_action_list(id_list_path(manifest, split, folder), existing)
    how = digest_of([manifest.layout, manifest.samples, manifest.unscored])
    return digest_of(sorted([*state_of_voc_files(manifest, split, folder, tuple(ids)), (how, 0, 0)]))


def check(manifest: Manifest, split: str, folder: Path, depth: Depth) -> SplitCheck:
    """Compare the files of a split with its lists."""

    def ids_of(pictures: FileIndex) -> Sequence[str]:
        return tuple(read_action_list(id_list_path(manifest, split, folder), pictures))

    def lists_of(ids: Sequence[str]) -> tuple[list[bytes], list[str]]:
        lists = read_class_lists(manifest, split, folder)
        return lists.contents, lists.problems

    return check_voc_files(manifest, split, folder, depth, ids_of, lists_of, None)


def _read_annotation(xmls: FileIndex, i: str) -> tuple[bytes, tuple[int, int] | None, list[XmlObject], str]:
    """Read a picture's annotation: bytes, size, objects, and the problem if it cannot be used, or ""."""
    data, problem = read_xml(xmls, i)
    if data is None:  # without boxes there is no person, labelled or not
        return b"", None, [], problem or f"no annotation {xmls.folder.name}/{i}.xml"
    try:
        return data, *parse_objects(data), ""
    except ValueError as error:
        return data, None, [], f"{xmls.folder.name}/{i}.xml: {error}"


def _default_numbers(named: list[int], persons: dict[int, XmlObject], lists: ActionLists | None) -> list[int]:
    """Number the listed persons of a picture whose line in the id list has no number.

    Parameters
    ----------
    named : persons of this picture in the class lists
    lists : None in a split without labels
    """
    if lists is not None and lists.labels:
        return sorted(named)
    return [n for n, item in persons.items() if item.actions is not None or lists is None]


def _labels_of(i: str, n: int, person: XmlObject, manifest: Manifest, lists: ActionLists | None) -> np.ndarray | None:
    if lists is None:
        return None
    stated = lists.labels.get((i, n), np.full(len(manifest.classes), UNLISTED, np.int8))
    return settle_labels(stated, person, manifest, lists.has_list)


_Sample = tuple[str, Path, Annotation, np.ndarray | None]


def _persons(pictures: list[_Picture]) -> list[_Sample]:
    """Make one sample per listed person: its actions, all with its own box."""
    samples: list[_Sample] = []
    for picture in pictures:
        for number, (person, labels) in picture.listed.items():
            done = [] if labels is None else actions_of(labels)
            annotation = _annotate(picture.size_wh, [(person, *item) for item in done], person.box_xyxy)
            samples.append((sample_id(picture.id, number), picture.path, annotation, labels))
    return samples


def _whole_pictures(pictures: list[_Picture]) -> list[_Sample]:
    """Make one sample per picture; it has the label of an action if one of its persons has.

    A person without a known action is a difficult object, so that no patch with it is background.
    """
    samples: list[_Sample] = []
    for picture in pictures:
        objects = [(person, 0, True) for person in picture.others]
        rows = []
        for person, labels in picture.listed.values():
            if labels is not None:
                objects += [(person, *item) for item in actions_of(labels) or [(0, True)]]
                rows.append(labels)
        union = None
        if rows:
            stacked = np.stack(rows)
            union = np.where((stacked == 1).any(0), 1, np.where((stacked == 0).any(0), 0, -1)).astype(np.int8)
        samples.append((picture.id, picture.path, _annotate(picture.size_wh, objects, None), union))
    return samples


def _annotate(
    size_wh: tuple[int, int] | None, objects: list[tuple[XmlObject, int, bool]], sample_xyxy: np.ndarray | None
) -> Annotation:
    return Annotation(
        size_wh,
        np.array([person.box_xyxy for person, _, _ in objects], float).reshape(-1, 4),
        np.array([index for _, index, _ in objects], np.int64),
        np.array([difficult for _, _, difficult in objects], bool),
        sample_xyxy,
        sum(person.is_clipped for person, _, _ in objects),
    )
