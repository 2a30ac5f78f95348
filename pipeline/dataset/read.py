"""Read a split by its manifest's layout, and a cheap state of its files."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.dataset.manifest import Manifest, dataset_folder
from pipeline.dataset.split import (
    EMPTY_ANNOTATION,
    Annotation,
    Split,
    find_pictures,
    id_list_path,
    lists_folder,
    read_ids,
    refuse_split,
)
from pipeline.dataset.voc import labels_from_lists, labels_from_objects, parse_annotation
from pipeline.io.digests import digest_of, sha256_bytes


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
