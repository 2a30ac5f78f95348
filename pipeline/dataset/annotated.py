"""Datasets whose annotations have another form than VOC's: COCO, YOLO and others, a module each in ``formats``.

Pictures, ids and lists are those of VOC's layout: an id is the path of the picture below the split's folder, without
suffix. Only where objects are read from differs; splits, labels and tables are the same after.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.file_state import state_of_file
from pipeline.dataset.formats.records import PictureRecord, Source, annotation_of, label_row, match
from pipeline.dataset.formats.registry import FORMATS
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.report import Depth, SplitCheck, picture_faults
from pipeline.dataset.split import EMPTY_ANNOTATION, Annotation, Split, refuse_split
from pipeline.dataset.voc import labels_from_objects, lines_of
from pipeline.dataset.voc_folder import (
    find_pictures,
    id_list_path,
    index_pictures,
    places_of,
    read_split_ids,
    states_of_ids,
)
from pipeline.io.digests import digest_of
from pipeline.io.errors import DatasetError
from pipeline.io.progress import track


@dataclass(frozen=True)
class _Content:
    """What a split's files hold: ids, paths, an annotation, a row of labels and a digest per picture."""

    ids: tuple[str, ...]
    paths: dict[str, Path]
    annotations: list[Annotation]
    rows: list[np.ndarray]
    digests: list[tuple[str, str]]
    problems: list[str]
    unusable: dict[str, str]


def source_of(manifest: Manifest, split: str, folder: Path) -> Source:
    """Return where the annotations of a split lie; `folder` is the dataset's."""
    pictures = index_pictures(places_of(manifest, split, folder).pictures)
    names = None if manifest.class_names is None else folder / manifest.class_names
    return Source(
        folder, pictures, folder / (manifest.splits[split].annotations or ""), names, manifest.exif, manifest.boxes
    )


def read(manifest: Manifest, split: str, folder: Path, on_error: str = "fail") -> Split:
    """Read the id list and all annotations of one split; arguments and errors as `pipeline.dataset.voc.read`."""
    source = source_of(manifest, split, folder)
    content = _load(manifest, split, folder, source)
    unusable = lines_of(content.unusable)
    refuse_split(manifest, split, folder, content.problems, unusable if on_error == "fail" else ())
    labels = None
    if manifest.splits[split].labelled:
        n_classes = len(manifest.classes)
        labels = (
            labels_from_objects(content.annotations, n_classes)
            if manifest.has_boxes
            else np.array(content.rows, np.int8).reshape(-1, n_classes)
        )
    paths = tuple(content.paths[i] for i in content.ids)
    digest = digest_of([manifest.layout, ["ids", digest_of(content.ids)], content.digests])
    return Split(
        manifest, split, folder, content.ids, paths, tuple(content.annotations), labels, digest, content.unusable
    )


def _load(manifest: Manifest, split: str, folder: Path, source: Source) -> _Content:
    ids = read_split_ids(manifest, split, folder, source.pictures)
    paths, problems = find_pictures(source.pictures, ids)
    content = _Content(ids, paths, [], [], [], problems, {})
    labelled = manifest.splits[split].labelled
    records: dict[str, PictureRecord] = {}
    if labelled:
        found = FORMATS[manifest.layout].read(source, ids)
        records = match(found, source.finder, set(ids)).records
    for i in ids:
        annotation, row = EMPTY_ANNOTATION, np.zeros(len(manifest.classes), np.int8)
        record = records.pop(i, None)
        if record is not None:
            content.digests.append((i, record.digest()))
            try:
                annotation = annotation_of(record, manifest.classes)
                row = label_row(record, manifest.classes)
            except ValueError as error:
                content.unusable[i] = f"{record.where}: {error}"
        elif labelled and i in paths:
            content.unusable[i] = f"no record of this picture in {source.shown(source.annotations)}"
        content.annotations.append(annotation)
        content.rows.append(row)
    return content


def state(manifest: Manifest, split: str, folder: Path) -> str:
    """Digest the states of all files that `read` reads; no annotation is read."""
    source = source_of(manifest, split, folder)
    ids = read_split_ids(manifest, split, folder, source.pictures)
    labelled = manifest.splits[split].labelled
    about = digest_of([manifest.layout, manifest.classes, labelled, manifest.exif, manifest.boxes])
    states = [(about, 0, 0), ("list", *state_of_file(id_list_path(manifest, split, folder))[1:])]
    for path in FORMATS[manifest.layout].files(source, ids) if labelled else ():
        name = source.shown(path)
        states.append((name, *state_of_file(path)[1:]) if path.is_file() else (name, -1, 0))
    return digest_of(sorted([*states, *states_of_ids(source.pictures, ids)]))


def check(manifest: Manifest, split: str, folder: Path, depth: Depth) -> SplitCheck:
    """Compare the files of a split with its lists."""
    entry = manifest.splits[split]
    try:
        source = source_of(manifest, split, folder)
        content = _load(manifest, split, folder, source)
    except (DatasetError, OSError) as error:
        return SplitCheck(split, entry.labelled, None, entry.pictures, faults=(str(error),), boxes=False)
    faults = [*content.problems, *(lines_of(content.unusable) if depth.read_xml else ())]
    if depth.decode:
        for i, annotation in zip(
            track(content.ids, f"check {split}", len(content.ids), "pictures"), content.annotations, strict=True
        ):
            if i in content.paths and i not in content.unusable:
                found = picture_faults(content.paths[i], annotation.size_wh, annotation.box_xyxy)
                faults += [f"{i}: {fault}" for fault in found]
    return SplitCheck(split, entry.labelled, len(content.ids), entry.pictures, faults=tuple(faults), boxes=False)
