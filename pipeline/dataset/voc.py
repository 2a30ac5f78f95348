"""The VOC devkit's layout: ``JPEGImages``, ``Annotations``, ``ImageSets/Main``.

Boxes leave this module continuous and 0-based, ``[x0, y0, x1, y1]`` in pixels of the stored
picture: ``[xmin - 1, ymin - 1, xmax, ymax]`` of the devkit's 1-based, inclusive corners.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException

from pipeline.dataset.manifest import Manifest, dataset_folder
from pipeline.errors import DatasetError, brief, enumerate_problems, shorten
from pipeline.files import digest_of, sha256_bytes

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABELS = ("-1", "0", "1")
PICTURE_ID = re.compile(r"\w[\w.+@=-]{0,199}")
MAX_SIDE_PX = 1_000_000
# Annotators' boxes end up to one pixel outside of the picture now and then; more is a mistake.
OUTSIDE_TOLERANCE_PX = 1.0


@dataclass(frozen=True)
class Annotation:
    """Objects of one picture.

    Attributes
    ----------
    size_wh : (width, height) as the XML states them, or None
    box_xyxy : float64 ndarray of shape (n, 4), continuous, 0-based
    class_index : int64 ndarray of shape (n,), index into the manifest's classes
    difficult : bool ndarray of shape (n,)
    sample_xyxy : float64 ndarray of shape (4,), box of the person, where the sample is a person of the picture; else
        None. The objects are then what this person does, each with the same box.
    """

    size_wh: tuple[int, int] | None
    box_xyxy: np.ndarray
    class_index: np.ndarray
    difficult: np.ndarray
    sample_xyxy: np.ndarray | None = None


EMPTY_ANNOTATION = Annotation(None, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))


@dataclass(frozen=True)
class Split:
    """One split of a dataset, annotations read, pictures not yet opened.

    Attributes
    ----------
    ids, paths : one entry a sample (a picture; in some datasets a person), in the order of the id list
    annotations : one `Annotation` a sample
    labels : int8 ndarray of shape (n_samples, n_classes), 1, 0 (only difficult objects), -1;
        None where the split has no labels
    annotation_digest : SHA-256 over all that was read: id list, XML files, class list files
    """

    manifest: Manifest
    name: str
    folder: Path
    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    annotations: tuple[Annotation, ...]
    labels: np.ndarray | None
    annotation_digest: str


def id_list_path(manifest: Manifest, split: str, folder: Path) -> Path:
    """The file with the ids of a split, one a line."""
    entry = manifest.splits.get(split)
    if entry is None:
        raise DatasetError(f"{manifest.name}: no split {split!r}; there are {', '.join(manifest.splits)}")
    if entry.ids is not None and manifest.path is not None:
        return manifest.path.parent / entry.ids
    return lists_folder(manifest, folder) / f"{split}.txt"


def lists_folder(manifest: Manifest, folder: Path) -> Path:
    """Where a dataset's id lists and class lists are."""
    return folder / "ImageSets" / ("Action" if manifest.layout == "voc-action" else "Main")


def read_list(path: Path) -> list[str]:
    """Lines of an id list.

    Raises
    ------
    DatasetError
        No such file, or not a text file.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: id list not found") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text file: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: the id list cannot be read: {error.strerror}") from error


def read_ids(path: Path) -> tuple[str, ...]:
    """Ids of a list file, in its order; a label (-1, 0 or 1) behind an id is passed over.

    Raises
    ------
    DatasetError
        No such file, no id, an id twice, or one that is no plain file name.
    """
    ids, problems = [], []
    for line in read_list(path):
        # Only a label may follow: the first word of "IMG 12" would be an id of some other picture.
        fields = line.split()
        i = fields[0] if len(fields) == 2 and fields[1] in LABELS else line.strip()
        if i:
            ids.append(i)
            if not PICTURE_ID.fullmatch(i) or ".." in i:
                problems.append(f"{brief(i)}: not a plain file name (letters, digits and _ . + @ = - without spaces)")
    seen: set[str] = set()
    for i in ids:
        if i in seen:
            problems.append(f"{brief(i)}: listed twice")
        seen.add(i)
    if not ids:
        problems.append("the list is empty")
    if problems:
        raise DatasetError(f"{path}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    return tuple(ids)


@dataclass(frozen=True)
class FoundObject:
    """One object of an XML file; `actions` are its flags by name, None where it has no ``<actions>``."""

    name: str
    box_xyxy: np.ndarray
    difficult: bool
    actions: dict[str, bool] | None


def parse_objects(
    data: bytes, classes: tuple[str, ...] | None = None
) -> tuple[tuple[int, int] | None, list[FoundObject]]:
    """Size of the picture, as far as stated, and all objects of one XML file of the devkit, in its order.

    Coordinates may have fractions, ``difficult`` may be absent, ``<part>`` boxes are no objects.

    Parameters
    ----------
    classes : names that objects may have; None for any

    Raises
    ------
    ValueError
        Malformed or hostile XML, an unknown class, a box outside of the picture or without area;
        the message joins all problems with "; ".
    """
    try:
        root = defusedxml.ElementTree.fromstring(data)
    except DefusedXmlException as error:
        raise ValueError(f"refused: {type(error).__name__} (entities are not allowed)") from error
    except (defusedxml.ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"not valid XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"no annotation: expected <annotation> at the top, got <{shorten(root.tag)}>")
    problems: list[str] = []
    size = root.find("size")
    size_wh = None
    if size is not None:
        try:
            size_wh = (int(float(size.findtext("width", ""))), int(float(size.findtext("height", ""))))
        except (ValueError, OverflowError):
            problems.append("size: width and height are not numbers")
        else:
            if min(size_wh) < 1:  # written by tools that did not know the size
                size_wh = None
            elif max(size_wh) > MAX_SIDE_PX:
                problems.append(f"size: at most {MAX_SIDE_PX:,} pixels, got {max(map(float, size_wh)):g}")
                size_wh = None
    found = []
    for number, entry in enumerate(root.findall("object"), start=1):
        name = (entry.findtext("name") or "").strip()
        where = f"object {number} ({shorten(name) or 'no name'})"
        if classes is not None and name not in classes:
            problems.append(f"{where}: unknown class, expected one of {shorten(', '.join(classes), 400)}")
            continue
        try:
            corners = [float(entry.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
            flag = float((entry.findtext("difficult") or "0").strip() or 0)
        except ValueError:
            problems.append(f"{where}: bndbox or difficult is missing or not a number")
            continue
        box = np.array([corners[0] - 1, corners[1] - 1, corners[2], corners[3]])
        if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            problems.append(f"{where}: box without area, got xmin, ymin, xmax, ymax = {corners}")
            continue
        # Without a size the right and lower edge are unknown; the left and upper one are 0 in any picture.
        limit = np.array([*size_wh, *size_wh], float) if size_wh else np.full(4, np.inf)
        clipped = np.clip(box, 0, limit)
        outside = (box < -OUTSIDE_TOLERANCE_PX).any() or (box > limit + OUTSIDE_TOLERANCE_PX).any()
        if outside or clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            of = f" of {size_wh[0]} x {size_wh[1]}" if size_wh else ""
            problems.append(f"{where}: box {corners} outside of the picture{of}")
            continue
        actions = entry.find("actions")
        try:
            flags = None if actions is None else {a.tag: float(a.text or 0) != 0 for a in actions}
        except ValueError:
            problems.append(f"{where}: actions are not all numbers")
            continue
        found.append(FoundObject(name, clipped, flag != 0, flags))
    if problems:
        more = [f"and {len(problems) - 10} more problems"] if len(problems) > 10 else []
        raise ValueError("; ".join([*problems[:10], *more]))
    return size_wh, found


def parse_annotation(data: bytes, classes: tuple[str, ...]) -> Annotation:
    """Objects of one XML file of the devkit, all of known classes; raises as `parse_objects`."""
    size_wh, found = parse_objects(data, classes)
    return Annotation(
        size_wh,
        np.array([item.box_xyxy for item in found], float).reshape(-1, 4),
        np.array([classes.index(item.name) for item in found], np.int64),
        np.array([item.difficult for item in found], bool),
    )


def find_pictures(folder: Path, ids: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Path of each id's picture, and what is missing; ids have no suffix. One listing, no stat a file."""
    by_stem: dict[str, str] = {}
    for name in sorted(os.listdir(folder / "JPEGImages"), reverse=True):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in PICTURE_SUFFIXES:
            by_stem[stem] = name
    paths, missing = [], []
    for i in ids:
        if i in by_stem:
            paths.append(folder / "JPEGImages" / by_stem[i])
        else:
            missing.append(f"{i}: no picture JPEGImages/{i}.jpg")
    return paths, missing


def labels_from_objects(annotations: list[Annotation], n_classes: int) -> np.ndarray:
    """Per-picture labels: 1 an object, 0 only difficult objects, -1 none. int8, (n_pictures, n_classes)."""
    labels = np.full((len(annotations), n_classes), -1, np.int8)
    for row, annotation in zip(labels, annotations, strict=True):
        row[annotation.class_index[annotation.difficult]] = 0
        row[annotation.class_index[~annotation.difficult]] = 1
    return labels


def labels_from_lists(
    manifest: Manifest, split: str, folder: Path, ids: tuple[str, ...]
) -> tuple[np.ndarray | None, list[bytes], list[str]]:
    """Labels from ``<class>_<split>.txt`` (id, then -1, 0 or 1), or None where no class has a list."""
    lists = [folder / "ImageSets" / "Main" / f"{name}_{split}.txt" for name in manifest.classes]
    present = [path.is_file() for path in lists]
    if not any(present):
        return None, [], []
    problems = [
        f"{p.name}: missing, other classes have theirs" for p, there in zip(lists, present, strict=True) if not there
    ]
    labels = np.full((len(ids), len(lists)), -2, np.int8)
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
        for row in np.flatnonzero(labels[:, column] == -2):
            problems.append(f"{path.name}: no line for {ids[row]}")
    return labels, contents, problems


def read_split(manifest: Manifest, split: str, data_root: str | Path | None = None) -> Split:
    """Read the id list, all annotations and all class lists of one split; of layouts without boxes, the labels.

    Raises
    ------
    MissingDataError
        The dataset's folder is not there.
    DatasetError
        Everything wrong with the split, in one message.
    """
    folder = dataset_folder(manifest, data_root)
    if manifest.layout == "voc-action":
        from pipeline.dataset.voc_action import read_action_split  # it reads XML with the functions above

        return read_action_split(manifest, split, folder)
    if not manifest.has_boxes:
        from pipeline.dataset.labelled import read_labelled_split  # it needs what stands above

        return read_labelled_split(manifest, split, folder)
    list_path = id_list_path(manifest, split, folder)
    ids = read_ids(list_path)
    labelled = manifest.splits[split].labelled
    paths, problems = find_pictures(folder, ids)
    digests = [("ids", digest_of(ids))]
    annotations: list[Annotation] = []
    for i in ids:
        path = folder / "Annotations" / f"{i}.xml"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if labelled:
                problems.append(f"{i}: no annotation Annotations/{i}.xml")
            annotations.append(EMPTY_ANNOTATION)
            continue
        except OSError as error:
            problems.append(f"{i}: Annotations/{i}.xml: {error.strerror}")
            annotations.append(EMPTY_ANNOTATION)
            continue
        digests.append((i, sha256_bytes(data)))
        try:
            annotations.append(parse_annotation(data, manifest.classes))
        except ValueError as error:
            problems.append(f"{i}: Annotations/{i}.xml: {error}")
            annotations.append(EMPTY_ANNOTATION)
    labels = None
    if labelled:
        labels, contents, list_problems = labels_from_lists(manifest, split, folder, ids)
        problems += list_problems
        digests += [("list", sha256_bytes(content)) for content in contents]
        if labels is None:
            labels = labels_from_objects(annotations, len(manifest.classes))
    refuse_split(manifest, split, folder, problems)
    return Split(manifest, split, folder, ids, tuple(paths), tuple(annotations), labels, digest_of(digests))


def refuse_split(manifest: Manifest, split: str, folder: Path, problems: list[str]) -> None:
    """Stop if there are problems, and name them.

    Raises
    ------
    DatasetError
    """
    if problems:
        raise DatasetError(
            f"{manifest.name} {split} in {folder}: {len(problems)} problem(s)\n{enumerate_problems(problems)}\n"
            f"mend them and check with: pipeline data check {manifest.name}"
        )


def state_of_split(manifest: Manifest, split: str, data_root: str | Path | None = None) -> str:
    """A cheap digest of names, sizes and times of all files that a split is read from, and of its classes.

    It sees every change that alters size or time, reads no content, and costs one stat a file.
    """
    if not manifest.has_boxes:
        from pipeline.dataset.labelled import state_of_labelled

        about = digest_of([manifest.layout, manifest.classes, manifest.zero, manifest.splits[split].labelled])
        return digest_of(sorted([(about, 0, 0), *state_of_labelled(manifest, split, data_root)]))
    folder = dataset_folder(manifest, data_root)
    list_path = id_list_path(manifest, split, folder)
    wanted = set(_listed_ids(manifest, list_path))
    entries = [("list", list_path.stat().st_size, list_path.stat().st_mtime_ns)]
    entries.append((digest_of([manifest.classes, manifest.splits[split].labelled]), 0, 0))
    for sub in ("JPEGImages", "Annotations"):
        if not (folder / sub).is_dir():
            continue
        with os.scandir(folder / sub) as listing:
            for entry in listing:
                if os.path.splitext(entry.name)[0] in wanted:
                    try:
                        stat = entry.stat()
                    except OSError:  # a dangling link, say: the patch table names it
                        entries.append((f"{sub}/{entry.name}", -1, 0))
                    else:
                        entries.append((f"{sub}/{entry.name}", stat.st_size, stat.st_mtime_ns))
    if manifest.layout != "voc":
        entries.append((digest_of([manifest.layout, manifest.samples, manifest.unscored]), 0, 0))
    for name in manifest.classes:
        path = lists_folder(manifest, folder) / f"{name}_{split}.txt"
        if path.is_file():
            entries.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
    return digest_of(sorted(entries))


def _listed_ids(manifest: Manifest, list_path: Path) -> tuple[str, ...]:
    if manifest.layout == "voc-action":
        from pipeline.dataset.voc_action import read_action_list

        return tuple(read_action_list(list_path))
    return read_ids(list_path)


def is_official(manifest: Manifest, split: str, n_pictures: int) -> bool:
    """Whether a split has the published benchmark's count of pictures; the ids are not compared."""
    return manifest.official and manifest.splits[split].pictures == n_pictures
