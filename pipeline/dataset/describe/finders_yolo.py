"""Find YOLO's text files in a folder: the names of classes, the splits, and their pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.dataset.describe.finders import DEPTH, FoundFormat, FoundSource, common_folder, role_of_path
from pipeline.dataset.describe.names import is_container
from pipeline.dataset.describe.peek import PEEKED, beside_pictures, head_of, is_yolo_text
from pipeline.dataset.describe.tree import Folder, LeftOut
from pipeline.dataset.formats.picture_paths import PictureFinder
from pipeline.dataset.formats.yolo import read_names
from pipeline.dataset.split import read_list
from pipeline.dataset.voc_folder import index_pictures
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief, shorten
from pipeline.io.yaml import read_mapping

NAMES = ("obj.names", "classes.txt", "classes.names", "_darknet.labels", "predefined_classes.txt")
"""Files with a class's name per line, of darknet, labelImg and Roboflow."""
SPLITS = ("train", "val", "test")


def find_yolo(tree: Folder, named: Sequence[str] = ()) -> FoundFormat | None:
    """Find ``data.yaml``, or text files of YOLO with a file of names.

    Raises
    ------
    DatasetError
        Text files of YOLO without names of classes, or a ``data.yaml`` whose pictures are not there.
    """
    yaml = next((f for f in named if f.lower().endswith((".yaml", ".yml"))), None) or (
        None if named else next(_yaml_files(tree), None)
    )
    if yaml is not None:
        return _found(tree, _stated_splits(tree, yaml), yaml, _other_names(tree, yaml))
    example = next(_text_files(tree), None)
    if example is None and not named:
        return None
    names = next((f for f in named if not (tree.path / f).is_dir()), None) or next(
        (folder.below(name) for folder in tree.walk(DEPTH) for name in folder.others if name.lower() in NAMES), None
    )
    if names is None:
        raise DatasetError(
            f"{tree.path}: YOLO's text files ({example}) hold numbers of classes, and no file tells their names; "
            f"write {tree.path}/data.yaml with a line such as 'names: [cat, dog]', names in the order of the numbers, "
            "and run the same command again"
        )
    return _found(tree, _found_splits(tree), names)


def _other_names(tree: Folder, yaml: str) -> list[str]:
    """Say which files name the classes otherwise than a ``data.yaml``, by which a number may be another class."""
    try:
        own = read_names(tree.path / yaml)[0]
        files = [folder.below(name) for folder in tree.walk(DEPTH) for name in folder.others if name.lower() in NAMES]
        others = {file: read_names(tree.path / file)[0] for file in files}
    except DatasetError:  # of the file that is used, this is said where it is read
        return []
    return [
        f"NOTE: {file} has other names of classes, {shorten(', '.join(names.values()), 60)}, than {yaml}, which "
        f"counts: {shorten(', '.join(own.values()), 60)}; if the text files were made with {file}, write its "
        f"order into {yaml}"
        for file, names in others.items()
        if names != own
    ]


def _found(tree: Folder, sources: Sequence[FoundSource], names: str, notes: Sequence[str] = ()) -> FoundFormat:
    """Return the format with notes on the pictures that are in no split."""
    used = {path for source in sources for path in source.pictures or ()}
    left_out = LeftOut()
    for folder in tree.walk():
        if n := len(set(map(folder.below, folder.pictures)) - used):
            left_out.add("folders with pictures in no split", f"{folder.inside or '.'}/: {n} pictures")
    return FoundFormat("yolo", tuple(sources), class_names=names, notes=(*left_out.lines(), *notes))


def _yaml_files(tree: Folder) -> Iterator[str]:
    for folder in tree.walk(DEPTH):
        for name in folder.others:
            if name.lower().endswith((".yaml", ".yml")):
                keys = set(re.findall(r"^(\w+)\s*:", head_of(folder.path / name), re.MULTILINE))
                if "names" in keys and (keys & {"train", "val", "nc", "path"} or any(True for _ in _text_files(tree))):
                    yield folder.below(name)


def _text_files(tree: Folder) -> Iterator[str]:
    """Yield text files that look like YOLO's."""
    for folder in tree.walk(DEPTH):
        texts = beside_pictures(folder, folder, ".txt")
        if not folder.pictures and any(map(is_container, folder.inside.split("/"))):
            texts += [folder.path / file for file in folder.others if file.endswith(".txt")]
        for path in texts[:PEEKED]:
            if is_yolo_text(head_of(path)):
                yield folder.below(path.name)
        if any(name.lower() in ("obj.data", "obj.names", "_darknet.labels") for name in folder.others):
            yield folder.below(next(name for name in folder.others if name.lower() in NAMES or name == "obj.data"))


def _stated_splits(tree: Folder, yaml: str) -> tuple[FoundSource, ...]:
    """Read the splits of a ``data.yaml``: folders of pictures, or lists of them."""
    file = tree.path / yaml
    content = read_mapping(file, DatasetError)
    stated = [(split, content[key]) for split, key in _keys(content)]
    if not stated:
        return _found_splits(tree, yaml)
    found = []
    for split, value in stated:
        pictures: list[str] = []
        values = value if isinstance(value, list) else [value]
        for text in values:
            place = _locate(tree, file.parent, content.get("path"), text) if isinstance(text, str) else None
            if place is None:
                if split == "test":  # often named and not shipped
                    break
                raise DatasetError(
                    f"{file}: {split}: {brief(text)} is not there: expected a folder of pictures, or a text file that "
                    f"lists them, below {tree.path}; correct the path, or give --root the folder that holds it"
                )
            pictures += _listed(tree, place) if place.is_file() else _below(tree, place)
        if pictures:
            found.append(FoundSource(yaml, split, common_folder(pictures), tuple(pictures)))
    return tuple(found)


def _keys(content: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    for split in SPLITS:
        key = next((key for key in (split, "valid" if split == "val" else split) if content.get(key)), None)
        if key is not None:
            yield split, key


def _locate(tree: Folder, beside: Path, base: object, text: str) -> Path | None:
    """Find a stated folder or list: below ``path`` or beside the file, else its longest end that is below the root."""
    root, beside = (Path(os.path.abspath(path)) for path in (tree.path, beside))
    bases = [beside, root]
    if isinstance(base, str):
        bases = [beside / base, *bases]
    parts = [part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    # Roboflow writes ../train/images into a file beside train/.
    candidates = [base / text for base in bases]
    candidates += [folder / Path(*parts[k:]) for k in range(len(parts)) for folder in (beside, root)]
    for path in map(Path, map(os.path.normpath, candidates)):
        if path.exists() and path.is_relative_to(root) and (path != root or text in (".", "./")):
            return path
    return None


def _below(tree: Folder, folder: Path) -> list[str]:
    inside = folder.relative_to(os.path.abspath(tree.path)).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    return [f"{prefix}{name}" for names in index_pictures(folder).by_id.values() for name in names]


def _listed(tree: Folder, file: Path) -> list[str]:
    """Read a list of pictures; paths may be those of another machine, whose end counts."""
    index = index_pictures(tree.path)
    finder = PictureFinder(index)
    lines = [line.strip() for line in read_list(file) if line.strip()]
    ids = [finder.find(line) for line in lines]
    absent = [line for line, i in zip(lines, ids, strict=True) if i is None]
    if absent:
        raise DatasetError(
            f"{file}: {len(absent)} of {len(lines)} listed pictures are not below {tree.path}, such as "
            f"{brief(absent[0])}; correct the list, or give --root the folder that holds them"
        )
    return [name for i in dict.fromkeys(ids) if i is not None for name in index.names_of(i)]


def _found_splits(tree: Folder, names: str = "") -> tuple[FoundSource, ...]:
    """Tell splits by lists ``train.txt`` and the like, else by the names of folders; else there are none.

    A list ``val.txt`` or ``test.txt`` without one to fit on counts only where no folder names a split.
    """
    by_role: dict[str | None, list[str]] = {}
    for folder in tree.walk():
        if folder.pictures:
            by_role.setdefault(role_of_path(folder.inside), []).extend(map(folder.below, folder.pictures))
    roles = [role for role in by_role if role is not None]
    lists = {split: tree.path / f"{split}.txt" for split in SPLITS if (tree.path / f"{split}.txt").is_file()}
    if "train" in lists or (lists and not roles):
        by_role = {split: _listed(tree, path) for split, path in lists.items()}
    elif len(roles) > 1 or None not in by_role:
        by_role.pop(None, None)
    else:
        by_role = {None: [path for paths in by_role.values() for path in paths]}
    return tuple(
        FoundSource(names or common_folder(paths), role, common_folder(paths), tuple(paths))
        for role, paths in sorted(by_role.items(), key=lambda item: item[0] or "")
    )
