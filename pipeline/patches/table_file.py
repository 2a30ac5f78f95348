"""The file of a patch table: one HDF5 file per split, and whether it is up to date."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import cast

import h5py
import numpy as np

from pipeline.dataset.split import Split
from pipeline.io.atomic import write_atomic
from pipeline.io.checksummed import USER_BLOCK, check_hdf5, checksum_hdf5
from pipeline.io.digests import DigestMemory
from pipeline.io.errors import StoreError
from pipeline.patches.rows import Objects
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings, Source
from pipeline.patches.table import FORMAT, PatchTable

PICTURE_COLUMNS = ("size_wh", "apply_exif", "picture_labels", "first_row")
OBJECT_COLUMNS = ("first", "box_xyxy", "class_index", "difficult")
PACKED = {"compression": "gzip", "shuffle": True, "fletcher32": True}


def write_table(table: PatchTable, path: Path) -> None:
    """Write the table as HDF5, atomically; equal tables give equal bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        _write_columns(table, file)
        file.attrs["format"] = FORMAT
        file.attrs["dataset"] = table.dataset
        file.attrs["split"] = table.split
        file.attrs["source"] = table.source
        file.attrs["grid"] = table.grid.model_dump_json()
        file.attrs["crops"] = table.crops.model_dump_json()
        file.attrs["boxes"] = table.boxes.model_dump_json()
        file.attrs["classes"] = list(table.classes)
        file.attrs["unscored"] = json.dumps(table.unscored)
        file.attrs["annotation_digest"] = table.annotation_digest
        file.attrs["rows_digest"] = table.rows_digest
        file.attrs["label_hashes"] = json.dumps(dict(table.label_hashes))
        if not table.has_boxes:
            file.attrs["has_boxes"] = False
        if table.exif is not None:
            file.attrs["exif"] = table.exif
    write_atomic(path, checksum_hdf5(buffer.getvalue()))


def _write_columns(table: PatchTable, file: h5py.File) -> None:
    text = h5py.string_dtype("utf-8")
    pictures = file.create_group("pictures")
    columns = {f"pictures/{name}": getattr(table, name) for name in PICTURE_COLUMNS}
    from_numbers = frozenset(table.from_numbers)
    columns["pictures/from_numbers"] = np.array([i in from_numbers for i in table.ids], bool)
    columns |= {f"objects/{name}": getattr(table.objects, name) for name in OBJECT_COLUMNS}
    if table.sample_xyxy is not None:
        columns["pictures/sample_xyxy"] = table.sample_xyxy
    for name, values in columns.items():
        # An array without elements has no chunk that could be packed or carry a checksum.
        file.create_dataset(name, data=values, **(PACKED if values.size else {}))
    pictures.create_dataset("id", data=np.array(table.ids, object), dtype=text)
    pictures.create_dataset("sha256", data=np.array(table.picture_sha256, object), dtype=text)
    skipped = file.create_group("skipped")
    skipped.create_dataset("id", data=np.array([i for i, _ in table.skipped], object), dtype=text)
    skipped.create_dataset("reason", data=np.array([reason for _, reason in table.skipped], object), dtype=text)
    skipped.create_dataset("sha256", data=np.array(table.skipped_sha256, object), dtype=text)


def read_table(path: Path) -> PatchTable:
    """Read a table, and check its bytes against the checksum that the file carries.

    The digests of rows and labels are taken as they are written: `verify_table` computes them again.

    Raises
    ------
    StoreError
        No such table, not a table, or its bytes disagree with its checksum.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no patch table; make it with: pipeline patches --dataset NAME --split SPLIT")
    again = f"remove it and make it again: pipeline patches (file {path})"
    try:
        with h5py.File(io.BytesIO(check_hdf5(path.read_bytes())), "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise StoreError(f"{path}: format {file.attrs.get('format')!r}, expected {FORMAT!r}; {again}")
            table = _read_content(file)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: cannot be read as a patch table: {error}; {again}") from error
    if not _agrees(table):
        raise StoreError(f"{path}: its columns disagree with one another; {again}")
    return table


def verify_table(path: Path) -> PatchTable:
    """Read a table, compute all of its rows and labels, and compare their digests with the written ones.

    Raises
    ------
    StoreError
        As by `read_table`; this version plans other rows or labels than those of the digests.
    """
    table = read_table(path)
    again = f"remove it and make it again: pipeline patches (file {path})"
    if table.compute_rows_digest() != table.rows_digest:
        raise StoreError(f"{path}: rows disagree with their digest; {again}")
    if table.compute_label_hashes() != table.label_hashes:
        raise StoreError(f"{path}: labels of rows disagree with their hashes; {again}")
    return table


def _read_content(file: h5py.File) -> PatchTable:
    pictures, objects, skipped = (file[name] for name in ("pictures", "objects", "skipped"))
    ids = tuple(pictures["id"].asstr()[:])
    return PatchTable(
        dataset=str(file.attrs["dataset"]),
        split=str(file.attrs["split"]),
        classes=tuple(str(name) for name in file.attrs["classes"]),
        source=cast(Source, str(file.attrs["source"])),
        grid=GridSettings.model_validate_json(file.attrs["grid"]),
        crops=CropSettings.model_validate_json(file.attrs["crops"]),
        boxes=BoxSettings.model_validate_json(file.attrs["boxes"]),
        unscored=tuple(json.loads(file.attrs["unscored"])),
        objects=Objects(**{name: objects[name][:] for name in OBJECT_COLUMNS}),
        sample_xyxy=pictures["sample_xyxy"][:] if "sample_xyxy" in pictures else None,
        **{name: pictures[name][:] for name in PICTURE_COLUMNS},
        ids=ids,
        picture_sha256=tuple(pictures["sha256"].asstr()[:]),
        skipped=tuple(
            (str(i), str(reason))
            for i, reason in zip(skipped["id"].asstr()[:], skipped["reason"].asstr()[:], strict=True)
        ),
        annotation_digest=str(file.attrs["annotation_digest"]),
        skipped_sha256=tuple(skipped["sha256"].asstr()[:]),
        rows_digest=str(file.attrs["rows_digest"]),
        label_hashes=json.loads(file.attrs["label_hashes"]),
        has_boxes=bool(file.attrs.get("has_boxes", True)),
        from_numbers=tuple(ids[index] for index in np.flatnonzero(pictures["from_numbers"][:])),
        exif=str(file.attrs["exif"]) if "exif" in file.attrs else None,
    )


def _agrees(table: PatchTable) -> bool:
    """Whether all columns are of the same pictures and objects, and objects of known classes."""
    n_pictures, objects = len(table.ids), table.objects
    columns = (table.picture_sha256, table.size_wh, table.apply_exif, table.picture_labels)
    if any(len(column) != n_pictures for column in columns):
        return False
    if (table.sample_xyxy is None) == (table.source == "boxes"):
        return False
    for first in (table.first_row, objects.first):
        if len(first) != n_pictures + 1 or first[0] != 0 or (np.diff(first) < 0).any():
            return False
    if not objects.first[-1] == len(objects.box_xyxy) == len(objects.class_index) == len(objects.difficult):
        return False
    return bool(((objects.class_index >= 0) & (objects.class_index < len(table.classes))).all())


def why_stale(table: PatchTable, split: Split, memory: DigestMemory) -> str | None:
    """Name the change of the dataset since the table was made; None if there is none.

    Costs one stat per picture once the digests are remembered.
    """
    if table.annotation_digest != split.annotation_digest:
        return "annotations or lists changed"
    skipped = {i for i, _ in table.skipped}
    if tuple(i for i in split.ids if i not in skipped) != table.ids:
        return "the id list changed"
    if (split.manifest.classes, split.manifest.unscored) != (table.classes, table.unscored):
        return "the classes changed"
    if (split.labels is not None) != table.labelled:
        return "the manifest says otherwise whether the split has labels"
    if split.manifest.exif != table.exif:
        return "exif in the manifest changed"
    # Skipped pictures too: a fixed one belongs into the rows again.
    recorded = dict(zip(table.ids, table.picture_sha256, strict=True))
    recorded.update(zip((i for i, _ in table.skipped), table.skipped_sha256, strict=True))
    files = tuple(dict.fromkeys(split.paths))  # several samples may share a file
    digests = dict(zip(files, memory.digests(files), strict=True))
    changed = [i for i, path in zip(split.ids, split.paths, strict=True) if recorded[i] != digests[path]]
    return f"pictures changed: {', '.join(changed[:5])}" if changed else None
