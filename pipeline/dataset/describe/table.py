"""Describe a table of pictures and labels by a manifest."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.csv_file import LABEL, LIKE_LABEL, PICTURE, SPLIT, CsvTable, read_table_file
from pipeline.dataset.csv_table import (
    LIST,
    WORDS,
    LabelRule,
    TableRows,
    column_values,
    gather_pictures,
    labels_in,
)
from pipeline.dataset.describe.divide import make_lists
from pipeline.dataset.describe.folders import BAD_CLASS
from pipeline.dataset.describe.foreign import refuse_foreign_table
from pipeline.dataset.describe.pictures import describe_list
from pipeline.dataset.describe.separators import suspect_separator
from pipeline.dataset.describe.tree import read_tree
from pipeline.dataset.describe.write import (
    PAIRS,
    IdList,
    NewDataset,
    check_new,
    find_pair,
    refuse,
    say_to_stderr,
    write_manifest,
)
from pipeline.dataset.listing import absent_pictures, id_of, name_clashes
from pipeline.dataset.manifest import CLASS_NAME, SPLIT_NAME
from pipeline.io.errors import DatasetError, MissingDataError, SettingsError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.progress import Say

ONE_LABEL = "none"
"""For `label_separator`: each field is one label, whatever it holds."""
NO_LABELS = frozenset(WORDS) - {"", "none"}
"""Labels that may stand for none, in lower case: libraries write them into empty fields."""
SHOWN = 10


@dataclass(frozen=True)
class TableOptions:
    """What a user says of a table; of the values in it, None where the table is to tell it, or to be refused.

    Attributes
    ----------
    seed : decides which pictures go to train and which to val, where the table has no splits
    metric : ``voc12`` or ``voc07``
    overwrite : whether a manifest of this name is replaced
    label_separator : between labels in one field; ``list`` for ``['cat', 'dog']``, ``none`` if a field is one label
    zero, minus_one : ``absent`` or ``unknown``
    """

    seed: int = 0
    metric: str = "voc12"
    overwrite: bool = False
    label_separator: str | None = None
    zero: str | None = None
    minus_one: str | None = None


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
    """Write ``<manifests>/<name>.yaml`` for a CSV file, as `describe_table` with the values told by the table."""
    return describe_table(table, root, name, manifests, TableOptions(seed, metric, overwrite), say)


def describe_table(
    table: Path, root: Path | None, name: str, manifests: Path, options: TableOptions, say: Say = say_to_stderr
) -> Path:
    """Write ``<manifests>/<name>.yaml`` for a CSV file of pictures and labels.

    Columns: ``picture`` (a path below `root`), then ``label``, or one column per class with 1, 0, -1 or
    nothing; ``split`` if there are splits. Without it, both lists are made: within each class 60 to 40, as
    far as several labels per picture allow. Nothing means unknown; 0 means absent, and so does -1 in a
    table without 0 and empty fields. A table with -1 and either of them is refused until `options` say what is meant.

    Parameters
    ----------
    root : folder of the pictures; None for the table's

    Raises
    ------
    SettingsError, DatasetError
        As `new_folders_manifest`.
    """
    path = check_new(name, manifests, options.metric, options.overwrite)
    table = Path(table).resolve()
    root = Path(root).resolve() if root is not None else table.parent
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder; --root names the one to which the table's paths are relative")
    refuse_foreign_table(table)
    content = read_table_file(table)
    if content.header == (PICTURE,):
        return describe_list(content, root, path, say)
    if (like := content.like_split) is not None:
        raise DatasetError(
            f"{table}: no column {SPLIT!r}, but {like!r}, which seems to tell the split of each picture; name it "
            f"{SPLIT!r}, with the values train and val, or train and test; or take it out, and a split is made"
        )
    classes, rule = _rule_of(content, options, say)
    rows = gather_pictures(content, root, classes, rule)
    ids = tuple(map(id_of, rows.paths))
    problems = [*rows.problems, *name_clashes(rows.paths, ids)]
    problems += [f"column {brief(c)}: {BAD_CLASS}" for c in classes if not CLASS_NAME.fullmatch(c)]
    refuse(table, problems)
    absent = absent_pictures(root, rows.paths)
    refuse(
        table,
        [f"{p if p.isprintable() else brief(p)}: no such picture in {root}{_alike(root, p)}" for p in absent[:SHOWN]]
        + absent[SHOWN:],
    )
    _say_repeated(rows, say)
    if rows.split is not None:
        pair, lists = _stated_splits(table, rows, ids, say)
    else:
        pair, lists = PAIRS[0], make_lists(list(ids), rows.labels == 1, classes, options.seed, say)
    about: dict[str, object] = {
        "layout": "table",
        "title": f"pictures and labels of {table.name}",
        "table": table.relative_to(root).as_posix() if table.is_relative_to(root) else str(table),
    }
    if content.one_label:
        about |= {} if rule.separator is None else {"label_separator": rule.separator}
    else:
        about["zero"] = rule.zero
        about |= {} if rule.minus_one == "absent" else {"minus_one": rule.minus_one}
    return write_manifest(path, NewDataset(root, about, classes, options.metric, pair, lists), say)


def _alike(root: Path, path: str) -> str:
    """Return the end of a message on an absent picture: one of the same name elsewhere, or with a suffix."""
    name = path.rpartition("/")[2].casefold()
    found: list[str] = []
    for folder in read_tree(root).walk():
        found += [folder.below(p) for p in folder.pictures if name in (p.casefold(), os.path.splitext(p)[0].casefold())]
    return f"; there is {found[0]}" if len(found) == 1 else ""


def _rule_of(table: CsvTable, options: TableOptions, say: Say) -> tuple[tuple[str, ...], LabelRule]:
    """Read the classes, and settle what values mean.

    Raises
    ------
    DatasetError
        No labels, or values that could mean several things.
    """
    if table.one_label:
        if options.zero is not None or options.minus_one is not None:
            raise SettingsError(f"--zero and --minus-one go with a column per class; {table.path} has one, {LABEL!r}")
        return _classes_of_labels(table, options.label_separator, say)
    if options.label_separator is not None:
        raise SettingsError(f"--label-separator goes with a column {LABEL!r}; {table.path} has none")
    classes = table.class_columns
    if not classes:
        raise DatasetError(
            f"{table.path}: columns picture and split, and none with labels: add a column {LABEL!r} with a label per "
            "picture, or, for features of pictures without labels, take the column split out"
        )
    values, empty, problems = column_values(table, classes)
    if problems:
        like = next((name for name in classes if name.lower() in LIKE_LABEL), None)
        problems.append(
            f"a column that is no class: take it out, or give one column {LABEL!r}"
            + (f", such as {like!r} under this name" if like else "")
        )
    refuse(table.path, problems)
    has_minus_one, has_zero = bool((values == -1).any()), bool(((values == 0) & ~empty).any())
    if has_minus_one and options.minus_one is None and options.zero is None and (has_zero or empty.any()):
        other = "0" if has_zero else "nothing"
        raise DatasetError(
            f"{table.path}: columns of classes have 1, -1 and {other}: -1 may mean absent, or uncertain as in "
            "CheXpert\ngive one of:\n  --zero absent --minus-one unknown   (-1 is uncertain, and left out)\n"
            "  --zero unknown --minus-one absent   (0 is unknown, and left out)"
        )
    # Where only one of the two is said to be unknown, the other one means absent.
    rule = LabelRule(options.zero or "absent", options.minus_one or "absent")
    said = [
        f"{value}: {meaning}"
        for value, meaning, has in (("0", rule.zero, has_zero), ("-1", rule.minus_one, has_minus_one))
        if has
    ]
    said += ["nothing: unknown"] if empty.any() else []
    say(f"in the columns of classes, {', '.join(said) or '1 alone'}; 'zero' and 'minus_one' in the manifest say so")
    return classes, rule


def _classes_of_labels(table: CsvTable, separator: str | None, say: Say) -> tuple[tuple[str, ...], LabelRule]:
    """Read the classes of the column ``label``; ask for the separator where a label could be several."""
    if others := [name for name in table.class_columns if name != LABEL]:
        say(f"columns that are not used, other than {LABEL!r}: {', '.join(map(brief, others[:20]))}")
    texts = table.column(LABEL)
    if separator == "":
        raise SettingsError("--label-separator: expected a sign between labels, list or none, got nothing")
    if separator is None and (empty := sorted({text for text in texts if text and text.lower() in NO_LABELS})):
        raise DatasetError(
            f"{table.path}: label {', '.join(map(brief, empty))} ({sum(text in empty for text in texts)} rows): no "
            "label, or a class of this name?\nleave the field empty where there is no label, or, if it is a class, "
            "add: --label-separator none"
        )
    if separator is None and (found := suspect_separator(sorted(set(texts)))) is not None:
        sign, example = found
        what = "is written as a list" if sign == LIST else f"holds {sign!r}"
        one = "--label-separator none   (one label, with this name)"
        if not CLASS_NAME.fullmatch(example):
            one = "or another name in the table: class names become part of file names"
        raise DatasetError(
            f"{table.path}: label {brief(example)} {what}: several labels, or one?\ngive one of:\n"
            f"  --label-separator '{sign}'   (several labels)\n  {one}"
        )
    if separator not in (None, ONE_LABEL, LIST) and not any(separator in text for text in texts):
        say(f"NOTE: no label holds the separator {separator!r}")
    rule = LabelRule(separator=None if separator == ONE_LABEL else separator)
    classes = tuple(sorted({name for text in set(texts) for name in labels_in(text, rule.separator)}))
    if len(classes) < 2:
        raise DatasetError(f"{table.path}: column {LABEL}: fewer than two labels, there is nothing to tell apart")
    return classes, rule


def _say_repeated(rows: TableRows, say: Say) -> None:
    """Report rows that repeat another, and pictures with several labels by several rows."""
    if rows.repeated:
        say(f"{len(rows.repeated)} rows repeat another; each picture counts once:\n{enumerate_problems(rows.repeated)}")
    if rows.several:
        say(
            f"{len(rows.several)} pictures have several rows with different labels, and so several labels:\n"
            f"{enumerate_problems(rows.several)}"
        )


def _stated_splits(
    table: Path, rows: TableRows, ids: tuple[str, ...], say: Say
) -> tuple[tuple[str, str], dict[str, IdList]]:
    """Read the splits of the column ``split``: the pair to fit and to score on, and all of them."""
    names = rows.split or ()
    is_known = rows.labels != 0
    first = dict(reversed(list(zip(names, rows.lines, strict=True))))
    problems = [
        f"line {line}: split {brief(text)} ({names.count(text)} pictures): letters, digits and _ . + - only"
        for text, line in sorted(first.items(), key=lambda item: item[1])
        if text and (not SPLIT_NAME.fullmatch(text) or ".." in text)
    ]
    lists = {}
    rows_of: dict[str, list[int]] = {}
    for row, split in enumerate(names):
        if split:
            rows_of.setdefault(split, []).append(row)
    folded = Counter(split.casefold() for split in rows_of)
    if alike := sorted(split for split in rows_of if folded[split.casefold()] > 1):
        problems.append(f"column {SPLIT}: {', '.join(alike)} differ by capitals alone: name each split in one way")
    without = [path for path, split in zip(rows.paths, names, strict=True) if not split]
    for split, members in sorted(rows_of.items()):
        labelled = np.asarray(is_known[members].any(1))
        if labelled.any():
            problems += [
                f"line {rows.lines[row]}: no label, others of split {split} have some"
                for row, has in zip(members, labelled, strict=True)
                if not has
            ]
        lists[split] = IdList(tuple(ids[row] for row in members), bool(labelled.any()), own=False)
    refuse(table, problems)
    pair = find_pair({split: entry for split, entry in lists.items() if entry.labelled})
    if pair is None:
        expected = ", or ".join(" and ".join(p) for p in PAIRS)
        got = ", ".join(lists) or "none"
        raise DatasetError(f"{table}: column {SPLIT}: expected {expected} with labels, got {got}")
    if without:
        say(f"left out, {len(without)} pictures without a split:\n{enumerate_problems(without)}")
    return pair, lists
