"""Scores that were made elsewhere, as they lie in a file: CSV, Parquet or npz; and joined with a split's pictures."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.csv_file import PICTURE, read_table_file
from pipeline.io.digests import sha256_file
from pipeline.io.errors import DatasetError, SettingsError
from pipeline.io.extras import import_extra
from pipeline.io.likeness import suggest, suggest_nearest
from pipeline.io.messages import brief, enumerate_problems, shorten
from pipeline.io.names import normalise

READ = (".csv", ".parquet", ".npz")
NO_SCORE = ("", "nan", "na", "null", "none")
"""Fields of a CSV that hold no score, in lower case."""


@dataclass(frozen=True)
class GivenScores:
    """Scores of a file, in its order.

    Attributes
    ----------
    path, sha256 : of the file
    ids : of pictures, one per row
    classes : one per column
    values : float64 ndarray (n, n_classes), NaN where there is no score
    """

    path: Path
    sha256: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    values: np.ndarray


def read_given_scores(path: Path) -> GivenScores:
    """Read the scores of a file.

    Parameters
    ----------
    path : ``.csv`` or ``.parquet`` with a column ``picture`` and a column per class; ``.npz`` with the arrays
        ``picture`` (n,), ``classes`` (n_classes,) and ``scores`` (n, n_classes)

    Raises
    ------
    SettingsError
        Another ending.
    DatasetError
        The file cannot be read, lacks something, or holds what is no number; all bad fields are named.
    MissingDataError
        pyarrow is not installed.
    """
    if path.suffix not in READ:
        raise SettingsError(
            f"{path}: scores are read from {', '.join(READ)}, got ending {path.suffix!r}{suggest(path.suffix, READ)}"
        )
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    reader = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}[path.suffix]
    ids, classes, values = reader(path)
    if not ids:
        raise DatasetError(f"{path}: no row, so no scores")
    problems = [f"row {row + 1}: no id of a picture" for row, name in enumerate(ids) if not name]
    problems += [f"class {brief(name)}: {n} columns" for name, n in Counter(classes).items() if n > 1]
    problems += [
        f"{ids[row]}, {classes[column]}: {values[row, column]}"
        for row, column in zip(*np.nonzero(np.isinf(values)), strict=True)
    ]
    if problems:
        raise DatasetError(f"{path}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    names = tuple(map(normalise, ids)), tuple(map(normalise, classes))
    return GivenScores(path, sha256_file(path), *names, values)


def _read_csv(path: Path) -> tuple[list[str], tuple[str, ...], np.ndarray]:
    table = read_table_file(path)
    classes = tuple(name for name in table.header if name != PICTURE)
    values, problems = np.full((len(table.rows), len(classes)), np.nan), []
    for column, name in enumerate(classes):
        for row, (text, line) in enumerate(zip(table.column(name), table.lines, strict=True)):
            if text.lower() in NO_SCORE:
                continue
            try:
                if "_" in text:  # Python takes 1_0 for 10
                    raise ValueError
                values[row, column] = float(text)
            except ValueError:
                problems.append(f"line {line}, column {name!r}: {brief(text)} is no number")
    if problems:
        raise DatasetError(f"{path}: {len(problems)} problem(s)\n{enumerate_problems(problems)}")
    return table.column(PICTURE), classes, values


def _read_parquet(path: Path) -> tuple[list[str], tuple[str, ...], np.ndarray]:
    parquet, arrow = import_extra("pyarrow.parquet"), import_extra("pyarrow")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as Parquet: {error}") from error
    names = tuple(table.column_names)
    if PICTURE not in names:
        raise DatasetError(f"{path}: no column {PICTURE!r}{suggest(PICTURE, names)}; rename the one that is meant")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DatasetError(f"{path}: columns named twice: {', '.join(map(brief, twice))}")
    classes = tuple(name for name in names if name != PICTURE)
    columns = []
    for name in classes:
        kind = table[name].type
        if not (arrow.types.is_floating(kind) or arrow.types.is_integer(kind)):
            raise DatasetError(f"{path}: column {name!r}: expected numbers, got {kind}")
        columns.append(table[name].cast(arrow.float64(), safe=False).to_numpy())
    ids = [str(name) if name is not None else "" for name in table[PICTURE].to_pylist()]
    return ids, classes, np.stack(columns, axis=1) if columns else np.zeros((len(ids), 0))


def _read_npz(path: Path) -> tuple[list[str], tuple[str, ...], np.ndarray]:
    names = (PICTURE, "classes", "scores")
    try:
        if not zipfile.is_zipfile(path):  # numpy would take it for a single array, or for a pickle
            raise DatasetError(f"{path}: cannot be read as arrays: no .npz file (cut short, or another format)")
        with np.load(path, allow_pickle=False) as file:
            lacking = [name for name in names if name not in file]
            if lacking:
                raise DatasetError(
                    f"{path}: no array {', '.join(lacking)}; expected {', '.join(names)}, got {', '.join(file.files)}"
                )
            arrays: list[Any] = [np.asarray(file[name]) for name in names]  # a member that is no array comes as bytes
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: cannot be read as arrays: {error}") from error
    ids, classes, scores = arrays
    if ids.dtype.kind != "U" or classes.dtype.kind != "U" or scores.dtype.kind not in "fiu":
        kinds = f"{ids.dtype}, {classes.dtype} and {scores.dtype}"
        raise DatasetError(f"{path}: expected texts, texts and numbers in {', '.join(names)}, got {kinds}")
    if ids.ndim != 1 or classes.ndim != 1 or scores.shape != (len(ids), len(classes)):
        shapes = f"{ids.shape}, {classes.shape} and {scores.shape}"
        raise DatasetError(f"{path}: expected shapes (n,), (n_classes,) and (n, n_classes), got {shapes}")
    return ids.tolist(), tuple(classes.tolist()), scores.astype(np.float64)


@dataclass(frozen=True)
class JoinedScores:
    """Scores of a split's pictures and classes, in their order.

    Attributes
    ----------
    values : float64 ndarray (n_pictures, n_classes), NaN where there is no score
    without : ids of the pictures that lack a score of some class
    left_out : number of pictures of the file that are not of the split
    """

    values: np.ndarray
    without: tuple[str, ...]
    left_out: int


def join_scores(
    given: GivenScores, where: str, ids: Sequence[str], classes: Sequence[str], *, incomplete: bool = False
) -> JoinedScores:
    """Find the scores of each picture and class of a split; rows of other pictures are left out and counted.

    Parameters
    ----------
    where : name of the split, for messages
    incomplete : let pictures lack scores

    Raises
    ------
    DatasetError
        A picture that has several rows, or no score; a class without a column, or a column without a class.
    """
    problems = [f"picture {name!r}: {n} rows" for name, n in Counter(given.ids).items() if n > 1]
    if problems:
        raise DatasetError(f"{given.path}: {len(problems)} pictures have several rows\n{enumerate_problems(problems)}")
    problems = [
        f"class {name!r}: no column{suggest_nearest(name, given.classes)}"
        for name in classes
        if name not in given.classes
    ]
    problems += [f"column {name!r}: no class of the dataset" for name in given.classes if name not in classes]
    if problems:
        raise DatasetError(
            f"{given.path}: its classes are not those of {where}\n{enumerate_problems(problems)}\n"
            + shorten(f"expected the columns {PICTURE}, {', '.join(classes)}", 400)
        )
    row = {name: index for index, name in enumerate(given.ids)}
    known = [name in row for name in ids]
    if not any(known):
        raise DatasetError(
            f"{given.path}: no picture of {where}; ids in the file are like {given.ids[0]!r}, those of the split "
            f"like {ids[0]!r}"
        )
    values = np.full((len(ids), len(classes)), np.nan)
    column = [given.classes.index(name) for name in classes]
    values[known] = given.values[[row[name] for name in ids if name in row]][:, column]
    without = tuple(name for name, lacks in zip(ids, np.isnan(values).any(1), strict=True) if lacks)
    if without and not incomplete:
        lines = [f"{name}: {'a score is missing or NaN' if name in row else 'no row'}" for name in without]
        raise DatasetError(
            f"{given.path}: {len(without):,} of the {len(ids):,} pictures of {where} lack scores\n"
            f"{enumerate_problems(lines)}\ncomplete the file, or give --incomplete: such a picture ranks last"
        )
    return JoinedScores(values, without, len(set(given.ids) - set(ids)))
