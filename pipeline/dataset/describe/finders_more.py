"""Find LabelMe's files, Open Images' tables, metadata of an imagefolder, and exports of Label Studio in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath

from pipeline.dataset.describe.finders import (
    DEPTH,
    FoundFormat,
    FoundSource,
    common_folder,
    files_by_split,
    role_of_path,
)
from pipeline.dataset.describe.peek import PEEKED, csv_header, csv_kind, head_of, json_kind
from pipeline.dataset.describe.tree import MAX_DEPTH, Folder
from pipeline.dataset.formats.imagefolder import LABELS, read_rows
from pipeline.dataset.formats.label_studio import has_boxes


def find_labelme(tree: Folder, named: Sequence[str] = ()) -> FoundFormat | None:
    """Find folders with LabelMe's JSON files; folders of splits tell the splits."""
    folders = list(named) or [folder.inside or "." for folder in tree.walk(MAX_DEPTH) if _holds_labelme(folder)]
    if not folders:
        return None
    by_role: dict[str | None, list[str]] = {}
    for folder in folders:
        by_role.setdefault(role_of_path(folder), []).append(folder)
    if None in by_role or len(by_role) == 1:
        by_role = {next(iter(by_role)) if len(by_role) == 1 else None: folders}
    own = len(by_role) > 1  # the common folder of a/train and b/train is that of a/val and b/val, too
    sources = [
        FoundSource(_common(inside), role, folders=tuple(inside) if own else None) for role, inside in by_role.items()
    ]
    return FoundFormat("labelme", tuple(sources))


def _holds_labelme(folder: Folder) -> bool:
    names = [name for name in folder.others if name.lower().endswith(".json")]
    return any(json_kind(head_of(folder.path / name)) == "labelme" for name in names[:PEEKED])


def _common(folders: Sequence[str]) -> str:
    return folders[0] if len(folders) == 1 else common_folder(f"{folder}/x" for folder in folders) or "."


def find_open_images(tree: Folder, named: Sequence[str] = ()) -> FoundFormat | None:
    """Find Open Images' tables: those of boxes, else those of labels of pictures; and the names of classes."""
    tables = [(file, csv_header(head_of(tree.path / file))) for file in named or _files(tree, ".csv")]
    rows = [(file, header) for file, header in tables if named or csv_kind(header) == "open images"]
    if not rows:
        return None
    with_boxes = [file for file, header in rows if "xmin" in header]
    others = [file for file, header in rows if "xmin" not in header]
    names = next(
        (f for f in _files(tree, ".csv") if PurePosixPath(f).name.lower().find("class-descriptions") >= 0), None
    )
    notes = (f"not used together with boxes: {', '.join(others)}",) if with_boxes and others else ()
    sources = files_by_split(tree, with_boxes or others, "open-images")
    return FoundFormat("open-images", sources, bool(with_boxes), names, notes)


def find_imagefolder(tree: Folder, named: Sequence[str] = ()) -> FoundFormat | None:
    """Find metadata with labels or objects; None where it has neither."""
    files = list(named) or [
        file
        for suffix in (".jsonl", ".csv")
        for file in _files(tree, suffix)
        if PurePosixPath(file).stem.lower() == "metadata"
    ]
    firsts = {file: next(islice(read_rows(tree.path / file), 1), (0, {}))[1] for file in files}
    labelled = [file for file in files if {*LABELS, "objects"} & set(firsts[file])]
    if not labelled:
        return None
    by_folder: dict[str, str] = {}
    for file in labelled:
        by_folder.setdefault(PurePosixPath(file).parent.as_posix() if not named else file, file)
    unused = [file for file in labelled if file not in by_folder.values()]
    notes = (f"not used: {', '.join(unused)}: metadata.jsonl is there, too",) if unused else ()
    boxes = any("objects" in firsts[file] for file in labelled)
    return FoundFormat("imagefolder", files_by_split(tree, list(by_folder.values()), "imagefolder"), boxes, notes=notes)


def find_label_studio(tree: Folder, named: Sequence[str] = ()) -> FoundFormat | None:
    """Find Label Studio's JSON files of tasks."""
    files = list(named) or [
        file for file in _files(tree, ".json") if json_kind(head_of(tree.path / file)) == "label-studio"
    ]
    if not files:
        return None
    boxes = any(has_boxes(tree.path / file) for file in files)
    return FoundFormat("label-studio", files_by_split(tree, files, "label-studio"), boxes)


def _files(tree: Folder, suffix: str) -> Iterator[str]:
    for folder in tree.walk(DEPTH):
        yield from (folder.below(name) for name in folder.others if name.lower().endswith(suffix))
