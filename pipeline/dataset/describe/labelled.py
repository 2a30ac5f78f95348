"""Describe a user's own pictures without boxes by a manifest: class folders, or a table of pictures and labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pipeline.dataset.class_folders import is_picture, list_class_folders
from pipeline.dataset.csv_table import LABEL, SPLIT, CsvTable, column_values, picture_paths, read_table_file
from pipeline.dataset.describe.write import (
    PAIRS,
    VAL_SHARE,
    IdList,
    NewDataset,
    check_new,
    say_to_stderr,
    write_manifest,
)
from pipeline.dataset.listing import Listing, absent_pictures, id_of, name_clashes
from pipeline.dataset.manifest import CLASS_NAME, SPLIT_NAME
from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.names import normalise
from pipeline.io.progress import Say

SPLIT_FOLDERS = ("train", "val", "trainval", "test")


def has_class_folders(root: Path) -> bool:
    """Whether a folder holds folders of pictures, possibly below ``train`` and ``val``."""
    return root.is_dir() and not (root / "JPEGImages").is_dir() and bool(_split_folders(root) or _listed(root))


def _listed(folder: Path) -> dict[str, list[str]]:
    return list_class_folders(folder) if folder.is_dir() else {}


def _split_folders(root: Path) -> tuple[str, str] | None:
    """Find the folders to fit on and to score on, if there are such; a class may be called train as well."""
    there = {name for name in SPLIT_FOLDERS if _listed(root / name)}
    return next((pair for pair in PAIRS if there.issuperset(pair)), None)


def new_folders_manifest(
    root: Path,
    name: str,
    manifests: Path,
    seed: int = 0,
    metric: str = "voc12",
    overwrite: bool = False,
    say: Say = say_to_stderr,
    on_error: str = "fail",
) -> Path:
    """Write ``<manifests>/<name>.yaml`` for class folders, ``root/<class>/*.jpg`` or ``root/train/<class>/*.jpg``.

    A folder with pictures is a class. Where there is no pair of folders for splits (train and val,
    trainval and test, train and test), id lists of both are made: within each class 60 to 40, by `seed`.

    Parameters
    ----------
    on_error : without effect, as there is no annotation that could be left out

    Raises
    ------
    SettingsError
        A bad name or metric, or a name that is taken.
    DatasetError
        Names of classes or pictures that cannot be used (all are listed), or too few of them.
    """
    path = check_new(name, manifests, metric, overwrite)
    root = Path(root).resolve()
    pair = _split_folders(root)
    named = {s: root / s for s in SPLIT_FOLDERS if _listed(root / s)} if pair else {"": root}
    listed = {split: list_class_folders(folder) for split, folder in named.items()}
    classes = tuple(sorted({normalise(c) for found in listed.values() for c in found}))
    problems = [f"{c}/: {_BAD_CLASS}" for c in classes if not CLASS_NAME.fullmatch(c)]
    lists: dict[str, IdList] = {}
    for split, found in listed.items():
        say_left_out(named[split], found, say)
        paths = [f"{c}/{file}" for c, files in found.items() for file in files]
        ids = [id_of(p) for p in paths]
        problems += [f"{split}: {line}" if split else line for line in name_clashes(paths, ids)]
        if split:
            lists[split] = IdList(tuple(ids), True, own=False, folder=split)
            continue
        labels = np.array([[normalise(p.partition("/")[0]) == c for c in classes] for p in paths], bool)
        lists |= _divided(ids, labels, seed, say)
    _refuse(root, problems)
    if len(classes) < 2:
        raise DatasetError(f"{root}: a single class, {classes[0]}: there is nothing to tell apart")
    pair = pair or PAIRS[0]
    for c in classes:
        if pair[0] in listed and c not in map(normalise, listed[pair[0]]):
            say(f"class {c}: no picture in {pair[0]}, so it will not be learnt")
    content = {"layout": "folders", "title": f"class folders in {root.name}"}
    return write_manifest(path, NewDataset(root, content, classes, metric, pair, lists), say)


_BAD_CLASS = (
    "class names become part of file names: UTF-8, no backslash, no control characters, at most 100 characters; "
    "rename it"
)


def say_left_out(folder: Path, found: dict[str, list[str]], say: Say) -> None:
    """Report pictures next to class folders, or deeper in them: they belong to no class."""
    beside = [name for name in sorted(os.listdir(folder)) if is_picture(name)]
    deeper = [f"{name}/{inner}/" for name in sorted(found) for inner in sorted(_listed(folder / name))]
    if left_out := beside + deeper:
        say(
            f"left out, {len(left_out)} in {folder} that are no CLASS/PICTURE (a table can name any path):\n"
            f"{enumerate_problems(left_out)}"
        )


def new_table_manifest(
    table: Path,
    root: Path | None,
    name: str,
    manifests: Path,
    seed: int = 0,
    metric: str = "voc12",
    overwrite: bool = False,
    say: Say = say_to_stderr,
) -> Path:
    """Write ``<manifests>/<name>.yaml`` for a CSV file of pictures and labels.

    Columns: ``picture`` (a path below `root`), then ``label``, or one column per class with 1, 0, -1 or
    nothing; ``split`` if there are splits. Without it, both lists are made: within each class 60 to 40, as
    far as several labels per picture allow, by `seed`. If the table has any -1, 0 means unknown, else absent; the
    manifest says which.

    Parameters
    ----------
    root : folder of the pictures; None for the table's

    Raises
    ------
    SettingsError, DatasetError
        As `new_folders_manifest`.
    """
    path = check_new(name, manifests, metric, overwrite)
    table = Path(table).resolve()
    root = Path(root).resolve() if root is not None else table.parent
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder; --root names the one to which the table's paths are relative")
    content = read_table_file(table)
    paths, problems = picture_paths(content, root)
    problems += name_clashes(paths, map(id_of, paths))
    classes, labels, zero, wrong = _labels_of(content, say)
    problems += wrong
    problems += [f"column {brief(c)}: {_BAD_CLASS}" for c in classes if not CLASS_NAME.fullmatch(c)]
    _refuse(table, problems)
    _refuse(table, [f"{p}: no such picture in {root}" for p in absent_pictures(root, paths)])
    is_known = labels != 0
    listing = Listing(tuple(paths), tuple(map(id_of, paths)), labels, None)
    if SPLIT in content.header:
        pair, lists = _stated_splits(table, content, listing, is_known)
    else:
        pair, lists = PAIRS[0], _divided(list(listing.ids), labels == 1, seed, say)
    about: dict[str, object] = {
        "layout": "table",
        "title": f"pictures and labels of {table.name}",
        "table": table.relative_to(root).as_posix() if table.is_relative_to(root) else str(table),
    }
    if zero is not None:
        about["zero"] = zero
        say(
            f"0 in the column of a class: {zero} ({'some' if zero == 'unknown' else 'no'} -1 in the table); "
            "'zero' in the manifest can be changed"
        )
    return write_manifest(path, NewDataset(root, about, classes, metric, pair, lists), say)


def _labels_of(table: CsvTable, say: Say) -> tuple[tuple[str, ...], np.ndarray, str | None, list[str]]:
    """Read classes, labels (n_rows, n_classes) as 1, 0 (unknown), -1, the meaning of 0, and problems."""
    if table.one_label:
        others = [name for name in table.class_columns if name != LABEL]
        if others:
            say(f"columns that are not used, other than {LABEL!r}: {', '.join(map(brief, others[:20]))}")
        texts = table.column(LABEL)
        classes = tuple(sorted(set(texts) - {""}))
        column = {c: index for index, c in enumerate(classes)}
        labels = np.full((len(texts), len(classes)), -1, np.int8)
        for row, text in enumerate(texts):
            labels[row, column[text] if text else slice(None)] = 1 if text else 0
        problems = [] if len(classes) > 1 else [f"column {LABEL}: fewer than two labels"]
        return classes, labels, None, problems
    classes = table.class_columns
    if not classes:
        return (), np.zeros((len(table.rows), 0), np.int8), None, [f"no column {LABEL!r}, and none of a class"]
    labels, empty, problems = column_values(table, classes)
    zero = "unknown" if (labels == -1).any() else "absent"
    if zero == "absent":
        labels[(labels == 0) & ~empty] = -1
    if problems:
        problems.append(f"a column that is no class: take it out, or give one column {LABEL!r}")
    return classes, labels, zero, problems


def _stated_splits(
    table: Path, content: CsvTable, listing: Listing, is_known: np.ndarray
) -> tuple[tuple[str, str], dict[str, IdList]]:
    """Read the splits of the column ``split``: the pair to fit and to score on, and all of them."""
    names = content.column(SPLIT)
    problems = [
        f"line {line}: split {brief(text)}: letters, digits and _ . + - only"
        for text, line in zip(names, content.lines, strict=True)
        if text and (not SPLIT_NAME.fullmatch(text) or ".." in text)
    ]
    lists = {}
    rows_of: dict[str, list[int]] = {}
    for row, split in enumerate(names):
        if split:
            rows_of.setdefault(split, []).append(row)
    for split, rows in sorted(rows_of.items()):
        labelled = np.asarray(is_known[rows].any(1))
        if labelled.any():
            problems += [
                f"line {content.lines[row]}: no label, others of split {split} have some"
                for row, has in zip(rows, labelled, strict=True)
                if not has
            ]
        lists[split] = IdList(tuple(listing.ids[row] for row in rows), bool(labelled.any()), own=False)
    _refuse(table, problems)
    pair = next((p for p in PAIRS if all(s in lists and lists[s].labelled for s in p)), None)
    if pair is None:
        expected = ", or ".join(" and ".join(p) for p in PAIRS)
        got = ", ".join(lists) or "none"
        raise DatasetError(f"{table}: column {SPLIT}: expected {expected} with labels, got {got}")
    return pair, lists


def _divided(ids: list[str], positive: np.ndarray, seed: int, say: Say) -> dict[str, IdList]:
    say("no splits are given: made, 60 to 40 in each class as far as possible")
    in_val = divide_by_class(positive, seed)
    parts = {"train": ~in_val, "val": in_val}
    return {s: IdList(tuple(sorted(ids[k] for k in np.flatnonzero(part))), True, own=True) for s, part in parts.items()}


def divide_by_class(positive: np.ndarray, seed: int, share: float = VAL_SHARE) -> np.ndarray:
    """Divide pictures by class; return which of them go to the second side.

    Classes are processed from the rarest to the most frequent. The pictures of a class without a side are divided so
    that the whole class comes nearest to `share`. With two pictures or more, both sides get one if possible. With one
    label per picture the shares are met exactly.
    Source: Sechidis, Tsoumakas and Vlahavas (ECML 2011), one class at a time instead of one picture.

    Parameters
    ----------
    positive : bool ndarray of shape (n_pictures, n_classes)

    Returns
    -------
    bool ndarray of shape (n_pictures,)

    Examples
    --------
    >>> in_val = divide_by_class(np.repeat(np.eye(2, dtype=bool), [5, 10], axis=0), seed=0)
    >>> int(in_val[:5].sum()), int(in_val[5:].sum())
    (2, 4)
    """
    rng = np.random.default_rng(seed)
    side = np.full(len(positive), -1)
    total = positive.sum(0)
    groups = [positive[:, c] for c in np.argsort(total, kind="stable") if total[c]]
    for members in [*groups, np.ones(len(positive), bool)]:
        free = rng.permutation(np.flatnonzero(members & (side < 0)))
        n, taken = int(members.sum()), int((members & (side == 1)).sum())
        wanted = round(share * n)
        if n > 1:
            wanted = min(max(wanted, 1), n - 1)
        side[free] = np.arange(len(free)) < min(max(wanted - taken, 0), len(free))
    if len(set(side)) == 1 and len(side) > 1:  # a few pictures with many labels may all go one way
        side[rng.integers(len(side))] ^= 1
    return side == 1


def _refuse(where: Path, problems: list[str]) -> None:
    if problems:
        raise DatasetError(f"{where}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
