"""The table of formats that are recognised and not read: what tells each, and what to do in place of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.dataset.describe.names import SHARD
from pipeline.dataset.describe.peek import (
    PEEKED,
    beside_pictures,
    csv_header,
    csv_kind,
    head_of,
    json_kind,
    xml_root,
)
from pipeline.dataset.describe.tree import Folder
from pipeline.dataset.formats.names import ANNOTATED
from pipeline.io.errors import DatasetError

DEPTH = 3
PACKED = {
    ".tfrecord": "TFRecord files",
    ".record": "TFRecord files",
    ".parquet": "Parquet files",
    ".arrow": "Arrow files",
    ".mdb": "an LMDB database",
    ".lmdb": "an LMDB database",
    ".zip": "ZIP archives",
    ".tgz": "tar archives",
    ".gz": "compressed files",
    ".7z": "7z archives",
    ".rar": "RAR archives",
    ".npz": "NumPy arrays",
    ".npy": "NumPy arrays",
    ".mat": "MATLAB files",
    ".h5": "HDF5 files",
    ".hdf5": "HDF5 files",
    ".pkl": "pickled Python objects",
    ".pickle": "pickled Python objects",
}


@dataclass(frozen=True)
class Evidence:
    """A format by its name, and the file that tells it.

    Attributes
    ----------
    boxes : whether boxes could be converted into XML files of VOC
    """

    format: str
    file: str
    boxes: bool = True


def find_foreign(tree: Folder) -> Evidence | None:
    """Return the first format in the table that a folder has, or None."""
    return next((found for rule in RULES if (found := rule(tree)) is not None), None)


def advice(tree: Folder, name: str, boxes: bool) -> str:
    """Return what can be done today with labels in a format that is not read."""
    lines = [
        "write a table with the columns picture,label,split (a row per picture and label), and run: "
        f"pipeline data new --table labels.csv --root {tree.path} --name {name}"
    ]
    if boxes:
        lines.append("to learn from boxes: export as 'Pascal VOC' (an XML file per picture), and give that folder")
    if sum(bool(folder.pictures) for folder in tree.folders) > 1:
        lines.append("if each folder directly below is a class, whatever its name: add --folders classes")
    elif any(folder.holds_classes for folder in tree.folders):
        lines.append("if the folders directly below are splits with class folders in them: add --folders splits")
    return "you can:\n" + "\n".join(f"  - {line}" for line in lines)


def _places(tree: Folder) -> Iterator[Folder]:
    return tree.walk(DEPTH)


def _named(folder: Folder, path: Path) -> str:
    return folder.below(path.name)


def _shards_of_tar(tree: Folder) -> Evidence | None:
    for folder in _places(tree):
        tars = [name for name in folder.others if name.lower().endswith(".tar")]
        if tars and not tree.n_pictures:
            return Evidence("webdataset (shards packed as .tar)", folder.below(tars[0]), boxes=False)
    return None


def _img2dataset(tree: Folder) -> Evidence | None:
    for folder in _places(tree):
        numbered = folder is tree or SHARD.fullmatch(folder.name)
        for path in (beside_pictures(folder, folder, ".json") if numbered else [])[:PEEKED]:
            if json_kind(head_of(path)) == "caption":
                return Evidence(
                    "img2dataset (shards of pictures, each with a JSON file)", _named(folder, path), boxes=False
                )
        stats = [name for name in folder.others if re.fullmatch(r"\d+_stats\.json", name)]
        if stats:
            return Evidence("img2dataset (shards of pictures)", folder.below(stats[0]), boxes=False)
    return None


def _tables_of_boxes(tree: Folder) -> Evidence | None:
    for folder in _places(tree):
        for file in [file for file in folder.others if file.lower().endswith((".csv", ".tsv"))][:20]:
            if csv_kind(csv_header(head_of(folder.path / file))) == "boxes":
                return Evidence("a CSV file of boxes", folder.below(file))
    return None


def _imagefolder(tree: Folder) -> Evidence | None:
    for folder in _places(tree):
        for file in folder.others:
            stem, suffix = os.path.splitext(file.lower())
            if stem == "metadata" and suffix in (".csv", ".jsonl", ".parquet"):
                return Evidence(
                    "Hugging Face imagefolder (metadata without label, labels or objects, or in Parquet)",
                    folder.below(file),
                    boxes=False,
                )
    return None


def _xml(tree: Folder) -> Evidence | None:
    """XML of another form than VOC's, or in another place."""
    for folder in _places(tree):
        files = [name for name in folder.others if name.lower().endswith(".xml")]
        for name in files[:PEEKED]:
            root = xml_root(head_of(folder.path / name))
            if root == "annotations":
                return Evidence("CVAT (one XML file for all pictures)", folder.below(name))
            if root == "annotation":
                where = "next to pictures in folders that may be classes" if folder.pictures else "apart from pictures"
                return Evidence(
                    f"Pascal VOC XML {where} (read are: JPEGImages/ and Annotations/, images/ and annotations/, or XML "
                    "next to the pictures, each in the folder itself or in its folders train/, val/, test/)",
                    folder.below(name),
                )
    return None


def _packed(tree: Folder) -> Evidence | None:
    if tree.n_pictures:
        return None
    for folder in _places(tree):
        for name in folder.others:
            kind = PACKED.get(os.path.splitext(name)[1].lower())
            if name.lower().endswith("-ubyte"):
                kind = "IDX files, as of MNIST"
            elif re.fullmatch(r"(data|test)_batch(_\d)?(\.bin)?", name):
                kind = "batches of CIFAR"
            if kind:
                return Evidence(f"{kind} to be unpacked", folder.below(name), boxes=False)
    return None


RULES: tuple[Callable[[Folder], Evidence | None], ...] = (
    _shards_of_tar,
    _img2dataset,
    _tables_of_boxes,
    _imagefolder,
    _xml,
    _packed,
)
"""In the order of trial; a new format is a function and its name here."""


def refuse_foreign_table(table: Path) -> None:
    """Raise an error for a file that is no table of pictures and labels, by the name of its format.

    Raises
    ------
    DatasetError
    """
    if not table.is_file():
        return
    text = head_of(table)
    kinds = {
        "coco": "a COCO file (JSON)",
        "labelme": "a LabelMe file (JSON)",
        "label-studio": "an export of Label Studio (JSON)",
        "json": "a JSON file",
        "caption": "a JSON file",
    }
    layout = json_kind(text) or ""
    kind = kinds.get(layout)
    if kind and table.suffix.lower() in (".jsonl", ".ndjson"):
        kind, layout = "JSON lines, as in a Hugging Face imagefolder's metadata.jsonl", "imagefolder"
    if text.startswith("\x1f\ufffd"):
        kind = "a compressed file"
    if text.startswith(("PAR1", "PK\x03\x04")):
        kind = "a Parquet file" if text.startswith("PAR1") else "a spreadsheet or ZIP archive"
    if kind is None and csv_kind(csv_header(text)) == "open images":
        kind, layout = "a table of Open Images (ImageID, LabelName)", "open-images"
    elif kind is None and csv_kind(csv_header(text)) == "boxes":
        kind = "a table of boxes"
    if kind is not None and layout in ANNOTATED:
        given = table.parent if layout == "labelme" else table
        raise DatasetError(
            f"{table}: {kind}, which is no table of pictures and labels; give the folder of the pictures: pipeline "
            f"data new --root DIR --annotations {given} --layout {layout}"
        )
    if kind is not None:
        raise DatasetError(
            f"{table}: {kind}, which is not read; expected CSV with the columns picture,label and perhaps split, "
            "a row per picture and label"
        )
