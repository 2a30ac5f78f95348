"""Describe class folders by a manifest: ``root/<class>/*.jpg``, or ``root/<split>/<class>/*.jpg``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.dataset.describe.divide import make_lists
from pipeline.dataset.describe.names import is_container, role_of, why_no_class
from pipeline.dataset.describe.peek import beside_pictures
from pipeline.dataset.describe.tree import Folder, LeftOut, read_tree
from pipeline.dataset.describe.write import PAIRS, IdList, NewDataset, check_new, refuse, say_to_stderr, write_manifest
from pipeline.dataset.listing import id_of, name_clashes
from pipeline.dataset.manifest import CLASS_NAME, SPLIT_NAME
from pipeline.dataset.split import is_picture_name
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.names import normalise
from pipeline.io.progress import Say

Folders = Literal["classes", "splits"]
BAD_CLASS = (
    "class names become part of file names: UTF-8, no backslash, no control characters, at most 100 characters; "
    "rename it"
)


@dataclass
class FoldersPlan:
    """Which folders are splits, and which are classes.

    Attributes
    ----------
    splits : folder with the class folders of each split; the only key is "" where there are no splits
    pair : splits to fit and to score on; None if both are to be made
    """

    splits: dict[str, Folder]
    pair: tuple[str, str] | None
    left_out: LeftOut = field(default_factory=LeftOut)


def plan_folders(tree: Folder, name: str, folders: Folders | None = None) -> FoldersPlan:
    """Decide which folders are splits and which are classes.

    Parameters
    ----------
    folders : what the folders directly below the root are; None to tell it from their names

    Raises
    ------
    DatasetError
        No class folders, or names that could mean a split or a class.
    """
    if folders == "classes":
        return _plan_classes(tree, None)
    if folders == "splits":
        return _plan_splits(tree, name, [f for f in tree.folders if f.holds_classes], asked=True)
    # A split whose only folders are images/ and the like has no labels.
    splits = [f for f in tree.folders if role_of(f.name) is not None and _has_classes(f)]
    return _plan_splits(tree, name, splits, asked=False) if splits else _plan_classes(tree, name)


def _has_classes(folder: Folder) -> bool:
    """Whether a folder holds folders of pictures with names of classes."""
    return any(f.pictures and not is_container(f.name) for f in folder.folders)


def _plan_classes(tree: Folder, name: str | None) -> FoldersPlan:
    """Take each folder with pictures for a class; `name` is None if their names need no check."""
    classes = [f for f in tree.folders if f.pictures]
    if name is not None:
        refuse_names(tree, classes, name)
    plan = FoldersPlan({"": tree}, None)
    plan.left_out.add("pictures that lie in no class folder", *tree.pictures)
    plan.left_out.add_others(tree)
    _check_classes(tree, plan.left_out)
    if not classes:
        raise DatasetError(no_classes(tree))
    if len(classes) == 1:
        where = f"; to use the folders in it: --root {classes[0].path}" if classes[0].holds_classes else ""
        raise DatasetError(
            f"{tree.path}: a single class, {classes[0].name}: there is nothing to tell apart{where}; labels that lie "
            "elsewhere can be given as a table (--table), with the columns picture,label; for features without labels, "
            "add --no-labels"
        )
    return plan


def no_classes(tree: Folder) -> str:
    """Return the message for a folder without any class folder, with the folder to give in place of it, if any."""
    inner = next((f for f in tree.walk(3) if f is not tree and _is_root(f)), None)
    hint = f"; class folders lie in {inner.inside}/: give --root {inner.path}" if inner is not None else ""
    deep = [f"{f.inside}/: {f.n_pictures} pictures" for f in tree.folders if f.n_pictures]
    found = f"\nfound deeper, where a table can name them (--table):\n{enumerate_problems(deep)}" if deep else ""
    return f"{tree.path}: no class folders with pictures (CLASS/PICTURE, or train/CLASS/PICTURE){hint}{found}"


def _is_root(folder: Folder) -> bool:
    roles = [f for f in folder.folders if f.holds_classes and role_of(f.name)]
    classes = [f for f in folder.folders if f.pictures]
    return bool(roles) or len(classes) > 1 and not any(why_no_class(f.name) for f in classes)


def refuse_names(root: Folder, classes: Sequence[Folder], name: str, option: Folders = "classes") -> None:
    """Raise an error for folders of pictures whose names are those of splits, shards or the like.

    Parameters
    ----------
    option : value of ``--folders`` that takes their names as they are

    Raises
    ------
    DatasetError
    """
    reasons = [(f, why) for f in classes if (why := why_no_class(f.name)) is not None]
    if not reasons:
        return
    lines = [f"{f.inside}/ ({len(f.pictures)} pictures): the name of {why}" for f, why in reasons]
    tables = [file for file in root.others if file.lower().endswith((".csv", ".tsv"))]
    table = str(root.path / tables[0]) if tables else "labels.csv"
    raise DatasetError(
        f"{root.path}: folders that hold pictures, and whose names are no names of classes:\n"
        f"{enumerate_problems(lines)}\nyou can:\n"
        f"  - give a table with the columns picture,label,split: pipeline data new --table {table} "
        f"--root {root.path} --name {name}\n"
        "  - put the pictures into class folders, each split in its own: train/CLASS/PICTURE, val/CLASS/PICTURE\n"
        "  - if there are no labels, and features alone are wanted: add --no-labels\n"
        f"  - if each of these folders is a class, whatever its name: add --folders {option}"
    )


def _plan_splits(tree: Folder, name: str, splits: list[Folder], asked: bool) -> FoldersPlan:
    """Take folders for splits; `asked` if the user said that they are."""
    named: dict[str, list[Folder]] = {}
    for folder in splits:
        split = role_of(folder.name) or folder.name
        if not SPLIT_NAME.fullmatch(split):
            raise DatasetError(f"{folder.inside}/: the name of a split has letters, digits and _ . + - only")
        named.setdefault(split, []).append(folder)
    if twice := {split: found for split, found in named.items() if len(found) > 1}:
        lines = [f"{split}: {', '.join(f'{f.inside}/' for f in found)}" for split, found in twice.items()]
        raise DatasetError(
            f"{tree.path}: several folders stand for one split:\n{enumerate_problems(lines)}\n"
            "move the others away, give a table with a column split, or, if they are classes, add --folders classes"
        )
    plan = FoldersPlan({split: found[0] for split, found in named.items()}, None)
    plan.pair = next((pair for pair in PAIRS if all(s in plan.splits for s in pair)), None)
    rest = [f for f in tree.folders if f not in splits]
    ordinary = [f for f in rest if f.pictures and role_of(f.name) is None]
    if plan.pair is None:
        only = next(iter(plan.splits))
        if len(plan.splits) > 1 or only not in ("train", "trainval") or (ordinary and not asked):
            raise DatasetError(_no_pair(tree, plan, ordinary))
    if not asked:
        for folder in plan.splits.values():
            refuse_names(tree, [f for f in folder.folders if f.pictures], name, "splits")
    for folder in rest:
        if folder.n_pictures:
            reason = "no class folders in it, so no labels" if role_of(folder.name) else "no folder of a split"
            plan.left_out.add_deeper(folder, reason)
    plan.left_out.add("pictures that lie in no class folder", *tree.pictures)
    plan.left_out.add_others(tree)
    for folder in plan.splits.values():
        plan.left_out.add("pictures that lie in no class folder", *(folder.below(p) for p in folder.pictures))
        plan.left_out.add_others(folder)
        _check_classes(folder, plan.left_out)
    return plan


def _no_pair(tree: Folder, plan: FoldersPlan, ordinary: list[Folder]) -> str:
    got = ", ".join(f"{f.inside}/ ({split})" for split, f in plan.splits.items())
    other = f"; next to it, folders of pictures: {', '.join(f.inside + '/' for f in ordinary)}" if ordinary else ""
    only = next(iter(plan.splits.values()))
    return (
        f"{tree.path}: splits to fit and to score on: expected folders for train and val, trainval and test, or train "
        f"and test, with class folders in each, got {got}{other}\nyou can:\n"
        f"  - divide the pictures of one folder: --root {only.path}\n"
        "  - if the folders directly below are classes, whatever their names: add --folders classes"
    )


def _check_classes(folder: Folder, left_out: LeftOut) -> None:
    """Note what is left out of the class folders in a folder; refuse classes whose pictures all cannot be read.

    Raises
    ------
    DatasetError
    """
    lost = []
    for child in folder.folders:
        if child.pictures:
            left_out.add_others(child)
            for deeper in child.folders:
                if deeper.n_pictures:
                    left_out.add_deeper(deeper, "folders in class folders: a table can name any path")
        elif child.n_pictures:
            left_out.add_deeper(child, "pictures in deeper folders: a table can name any path")
        elif child.strangers or child.broken:
            names = (child.strangers + child.broken)[:3]
            lost.append(f"{child.inside}/: {len(child.strangers + child.broken)} files, such as {', '.join(names)}")
        else:
            held = f"{len(child.others)} files" if child.others else "hidden files" if child.n_hidden else "nothing"
            left_out.add("folders without pictures", f"{child.inside}/: {held}")
    if lost:
        raise DatasetError(
            f"{folder.path}: {len(lost)} class(es) without a picture that can be read:\n{enumerate_problems(lost)}\n"
            "convert the files to .jpg or .png, or move the folder away"
        )


def _say_notes(plan: FoldersPlan, say: Say) -> None:
    """Report what was called what, what lies next to pictures unused, and what was left out."""
    for split, folder in plan.splits.items():
        if split and split != folder.name:
            say(f"{folder.name}/ is the split {split}")
        for suffix in (".xml", ".json", ".txt"):
            found = [p for child in folder.folders for p in beside_pictures(child, child, suffix)]
            if found:
                say(
                    f"not used: {len(found)} {suffix} files next to pictures of the same name, such as {found[0]}: "
                    "labels are the folders' names"
                )
    for line in plan.left_out.lines():
        say(line)


def _classes_in(folder: Folder) -> set[str]:
    """Name the classes of a folder with class folders, composed (NFC): macOS writes names decomposed."""
    return {normalise(child.name) for child in folder.folders if child.pictures}


def new_folders_manifest(
    root: Path,
    name: str,
    manifests: Path,
    seed: int = 0,
    metric: str = "voc12",
    overwrite: bool = False,
    folders: Folders | None = None,
    say: Say = say_to_stderr,
) -> Path:
    """Write ``<manifests>/<name>.yaml`` for class folders, ``root/<class>/*.jpg`` or ``root/train/<class>/*.jpg``.

    A folder with pictures is a class. Folders of splits are known by their names (`role_of`): valid, dev and the like
    are val. Without a pair of splits (train and val, trainval and test, train and test), id lists of both are made:
    within each class 60 to 40, by `seed`.

    Parameters
    ----------
    folders : what the folders directly below `root` are; None to tell it from their names

    Raises
    ------
    SettingsError
        A bad name or metric, or a name that is taken.
    DatasetError
        Names of classes or pictures that cannot be used (all are listed), too few of them, or names of folders that
        could be meant as splits or as classes.
    """
    path = check_new(name, manifests, metric, overwrite)
    root = Path(root).resolve()
    plan = plan_folders(read_tree(root), name, folders)
    classes = tuple(sorted({c for folder in plan.splits.values() for c in _classes_in(folder)}))
    problems = [f"{c if c.isprintable() else brief(c)}/: {BAD_CLASS}" for c in classes if not CLASS_NAME.fullmatch(c)]
    lists: dict[str, IdList] = {}
    made: tuple[list[str], np.ndarray, str | None] | None = None
    unreadable: list[str] = []  # of folders that are read as they are
    for split, folder in plan.splits.items():
        paths = [f"{c.name}/{file}" for c in folder.folders for file in c.pictures]
        ids = [id_of(p) for p in paths]
        problems += [f"{split}: {line}" if split else line for line in name_clashes(paths, ids)]
        if plan.pair is None:
            labels = np.array([[normalise(p.partition("/")[0]) == c for c in classes] for p in paths], bool)
            made = (ids, labels, folder.inside or None)
        else:
            unread = [
                c.below(file) for c in folder.folders for file in c.broken if c.pictures and is_picture_name(file)
            ]
            ids += [id_of(path.removeprefix(f"{folder.inside}/")) for path in unread]
            plan.left_out.remove(unread)
            unreadable += unread
            lists[split] = IdList(tuple(ids), True, own=False, folder=folder.inside)
    refuse(root, problems)
    if len(classes) < 2:
        raise DatasetError(f"{root}: a single class, {classes[0]}: there is nothing to tell apart")
    _say_notes(plan, say)
    if unreadable:
        say(
            f"NOTE: {len(unreadable)} pictures are links that lead nowhere, or no plain files; they are refused, or "
            f"left out with --on-error skip:\n{enumerate_problems(unreadable)}"
        )
    if made is not None:
        if made[2] is not None:
            say(f"{made[2]}/ is the only split with class folders: its pictures are divided into train and val")
        lists = make_lists(made[0], made[1], classes, seed, say, folder=made[2])
    pair = plan.pair or PAIRS[0]
    for c in classes:
        for split, purpose in zip(pair, ("learnt", "scored"), strict=True):
            folder_of = plan.splits.get(split)
            if folder_of is not None and c not in _classes_in(folder_of):
                say(f"class {c}: no picture in {split}, so it will not be {purpose}")
    content = {"layout": "folders", "title": f"class folders in {root.name}"}
    return write_manifest(path, NewDataset(root, content, classes, metric, pair, lists), say)
