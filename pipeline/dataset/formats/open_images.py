"""Open Images: a CSV file per split, with a row per box or per label of a picture.

Source: https://storage.googleapis.com/openimages/web/download_v7.html. Boxes have the columns ImageID, LabelName, XMin,
XMax, YMin, YMax in shares of the sides; ``IsGroupOf`` makes an object difficult. Labels of pictures have ImageID,
LabelName and Confidence: 1 is verified present, 0 verified absent, and between is what a machine guessed, which is
unknown here. A class that is not listed for a picture is unknown, too. ``class-descriptions`` tells the names of
classes such as ``/m/01yrx``; pictures are ``<ImageID>.jpg``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from pipeline.dataset.formats.records import (
    ObjectRecord,
    PictureRecord,
    Source,
    class_name,
    decimals_of,
    size_for_shares,
    to_pixels,
)
from pipeline.io.errors import DatasetError
from pipeline.io.messages import brief

TITLE = "Open Images (CSV files)"
CORNERS = ("XMin", "YMin", "XMax", "YMax")
MACHINE_ID = re.compile(r"/[mgt]/[\w-]+")
Row = tuple[int, dict[str, str]]
USED = ("LabelName", "Confidence", "IsGroupOf", *CORNERS)


def read(source: Source, ids: Sequence[str] | None = None) -> Iterator[PictureRecord]:
    """Read the record of each picture that has a row, in the order of their first rows."""
    names = read_descriptions(source.class_names) if source.class_names is not None else {}
    wanted = None if ids is None else set(ids)
    rows = _rows_by_picture(source, wanted)
    for image, of_picture in rows.items():
        i = source.finder.find(image)
        if wanted is not None and i not in wanted:
            continue
        where = f"{source.shown(source.annotations)}: ImageID {image}"
        if source.boxes:
            path = None if i is None else source.pictures.folder / source.pictures.names_of(i)[0]
            yield _record_of_boxes(source, image, where, of_picture, names, path)
        else:
            yield _record_of_labels(image, where, of_picture, names)


def files(source: Source, ids: Sequence[str]) -> list[Path]:
    """List the files that `read` reads."""
    return [source.annotations, *([] if source.class_names is None else [source.class_names])]


def class_names(source: Source) -> list[str]:
    """Return nothing: the descriptions are of all Open Images."""
    return []


def notes(source: Source) -> list[str]:
    """Say how labels that are not listed are taken."""
    if source.boxes:
        return ["a class without a box in a picture is taken as absent"]
    return [
        "a class that is not listed for a picture is unknown there, and so is one with a confidence between 0 and 1"
    ]


def _rows_by_picture(source: Source, wanted: Container[str | None] | None) -> dict[str, list[Row]]:
    """Read the rows of the pictures that are there and wanted; others have no rows here, as there may be millions."""
    path = source.annotations
    rows: dict[str, list[Row]] = {}
    needed = {"ImageID", "LabelName", *(CORNERS if source.boxes else ())}
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if not needed <= set(header):
                raise DatasetError(f"{path}: expected the columns {', '.join(sorted(needed))}, got {brief(header)}")
            columns = [(name, header.index(name)) for name in USED if name in header]
            image = header.index("ImageID")
            keeps: dict[str, bool] = {}
            for row in reader:
                if len(row) != len(header):
                    raise DatasetError(f"{path}: line {reader.line_num}: {len(row)} fields, expected {len(header)}")
                if row[image] not in keeps:
                    i = source.finder.find(row[image])
                    keeps[row[image]] = i is not None and (wanted is None or i in wanted)
                    rows[row[image]] = []
                if keeps[row[image]]:
                    rows[row[image]].append((reader.line_num, {name: row[k].strip() for name, k in columns}))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: no CSV file in UTF-8 that can be read: {error}") from error
    return rows


def _name_of(label: str, names: dict[str, str]) -> str:
    """Return the name of a class; raise DatasetError for one of Open Images that nothing names."""
    label = class_name(label)
    name = names.get(label, label)
    if MACHINE_ID.fullmatch(name):
        raise DatasetError(
            f"LabelName {label}: nothing tells the name of this class; put Open Images' class-descriptions CSV file "
            "(columns LabelName, DisplayName) into the dataset's folder, and run the same command again"
        )
    return name


def _record_of_boxes(
    source: Source, image: str, where: str, rows: list[Row], names: dict[str, str], path: Path | None
) -> PictureRecord:
    if path is None:  # reported as absent
        return PictureRecord(image, where)
    try:
        size_wh = size_for_shares(path, source.exif)
    except ValueError as error:
        return PictureRecord(image, where, problems=(str(error),))
    texts = [row[corner] for _, row in rows for corner in CORNERS]
    decimals = max((decimals_of(text) for text in texts if _is_number(text)), default=0)
    objects = []
    for line, row in rows:
        name, difficult = "", row.get("IsGroupOf") == "1"
        try:
            name = _name_of(row["LabelName"], names)
            if wrong := [row[corner] for corner in CORNERS if not _is_number(row[corner])]:
                raise ValueError(f"expected numbers in {', '.join(CORNERS)}, got {brief(wrong[0])}")
            shares = [float(row[corner]) for corner in CORNERS]
            if max(map(abs, shares)) > 2:
                raise ValueError(f"expected shares of the sides in 0..1, got {max(shares, key=abs):g} (pixels?)")
            objects.append(ObjectRecord(f"line {line}", name, to_pixels(shares, size_wh, decimals), difficult))
        except ValueError as error:
            objects.append(ObjectRecord(f"line {line}", name, None, difficult, str(error)))
    return PictureRecord(image, where, size_wh, objects)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", text) is not None


def _record_of_labels(image: str, where: str, rows: list[Row], names: dict[str, str]) -> PictureRecord:
    labels: dict[str, int] = {}
    problems = []
    for line, row in rows:
        try:
            name, text = _name_of(row["LabelName"], names), row.get("Confidence", "1")
            if not _is_number(text) or not 0 <= float(text) <= 1:
                raise ValueError(f"Confidence: expected 0 to 1, got {brief(text)}")
            value = {0.0: -1, 1.0: 1}.get(float(text), 0)
            if labels.get(name, 0) * value == -1:
                raise ValueError(f"{name}: present here, and absent on another line (or the other way round)")
            labels[name] = value or labels.get(name, 0)
        except ValueError as error:
            problems.append(f"line {line}: {error}")
    return PictureRecord(image, where, labels=labels, unstated=0, problems=tuple(problems))


def read_descriptions(path: Path) -> dict[str, str]:
    """Read the names of classes: ``/m/01yrx,Cat`` per line, perhaps below a line LabelName,DisplayName.

    Raises
    ------
    DatasetError
        It cannot be read, or has other columns.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: no CSV file in UTF-8 that can be read: {error}") from error
    if any(len(row) != 2 for row in rows):
        raise DatasetError(f"{path}: expected two columns, LabelName and DisplayName, got {brief(rows[0])}")
    return {label.strip(): class_name(name) for label, name in rows if label.strip() != "LabelName"}
