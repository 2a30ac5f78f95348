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
from pipeline.patches.labels import FILL_COLUMNS, MOST_COUNTED, PATCH_COLUMNS, Overlap
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings, Source
from pipeline.patches.table import FORMAT, PatchTable

WINDOW_COLUMNS = ("picture", "box_xyxy", "scale")
PICTURE_COLUMNS = ("size_wh", "apply_exif", "picture_labels")
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
        if not table.has_boxes:  # written only then, so that tables of datasets with boxes have the same bytes as ever
            file.attrs["has_boxes"] = False
        if table.from_numbers:
            file.attrs["from_numbers"] = json.dumps(table.from_numbers)
        if table.exif is not None:
            file.attrs["exif"] = table.exif
    write_atomic(path, checksum_hdf5(buffer.getvalue()))


def _write_columns(table: PatchTable, file: h5py.File) -> None:
    text = h5py.string_dtype("utf-8")
    rows = file.create_group("rows")
    for name in WINDOW_COLUMNS:
        rows.create_dataset(name, data=getattr(table, name), **PACKED)
    for name in PATCH_COLUMNS:
        rows.create_dataset(name, data=getattr(table.overlap, name), **PACKED)
    if table.flip is not None:
        rows.create_dataset("flip", data=table.flip, **PACKED)
    fills = file.create_group("fills")
    for name in FILL_COLUMNS:
        values = getattr(table.overlap, name)
        # An array without elements has no chunk that could be packed or carry a checksum.
        fills.create_dataset(name, data=values, **(PACKED if values.size else {}))
    pictures = file.create_group("pictures")
    for name in PICTURE_COLUMNS:
        values = getattr(table, name)
        pictures.create_dataset(name, data=values, fletcher32=bool(values.size))
    pictures.create_dataset("id", data=np.array(table.ids, object), dtype=text)
    pictures.create_dataset("sha256", data=np.array(table.picture_sha256, object), dtype=text)
    skipped = file.create_group("skipped")
    skipped.create_dataset("id", data=np.array([i for i, _ in table.skipped], object), dtype=text)
    skipped.create_dataset("reason", data=np.array([reason for _, reason in table.skipped], object), dtype=text)
    skipped.create_dataset("sha256", data=np.array(table.skipped_sha256, object), dtype=text)


def read_table(path: Path) -> PatchTable:
    """Read a table and check its row digest.

    Raises
    ------
    StoreError
        No such table, not a table, or its content disagrees with its digest.
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
    if table.compute_rows_digest() != table.rows_digest:
        raise StoreError(f"{path}: rows disagree with their digest; {again}")
    if not _fills_agree(table):
        raise StoreError(f"{path}: the objects that fill rows disagree with their number in each row; {again}")
    return table


def _read_content(file: h5py.File) -> PatchTable:
    rows, fills, pictures, skipped = (file[name] for name in ("rows", "fills", "pictures", "skipped"))
    return PatchTable(
        dataset=str(file.attrs["dataset"]),
        split=str(file.attrs["split"]),
        classes=tuple(str(name) for name in file.attrs["classes"]),
        source=cast(Source, str(file.attrs["source"])),
        grid=GridSettings.model_validate_json(file.attrs["grid"]),
        crops=CropSettings.model_validate_json(file.attrs["crops"]),
        boxes=BoxSettings.model_validate_json(file.attrs["boxes"]),
        unscored=tuple(json.loads(file.attrs["unscored"])),
        flip=rows["flip"][:] if "flip" in rows else None,
        **{name: rows[name][:] for name in WINDOW_COLUMNS},
        overlap=Overlap(
            **{name: rows[name][:] for name in PATCH_COLUMNS}, **{name: fills[name][:] for name in FILL_COLUMNS}
        ),
        **{name: pictures[name][:] for name in PICTURE_COLUMNS},
        ids=tuple(pictures["id"].asstr()[:]),
        picture_sha256=tuple(pictures["sha256"].asstr()[:]),
        skipped=tuple(
            (str(i), str(reason))
            for i, reason in zip(skipped["id"].asstr()[:], skipped["reason"].asstr()[:], strict=True)
        ),
        annotation_digest=str(file.attrs["annotation_digest"]),
        skipped_sha256=tuple(skipped["sha256"].asstr()[:]),
        rows_digest=str(file.attrs["rows_digest"]),
        has_boxes=bool(file.attrs.get("has_boxes", True)),
        from_numbers=tuple(json.loads(file.attrs.get("from_numbers", "[]"))),
        exif=str(file.attrs["exif"]) if "exif" in file.attrs else None,
    )


def _fills_agree(table: PatchTable) -> bool:
    """Whether the entries of filling objects are in order, of known classes, and as many per patch as are counted."""
    overlap = table.overlap
    row, of_class = overlap.fill_row, overlap.fill_class
    if not len(row) == len(of_class) == len(overlap.fill_difficult):
        return False
    in_order = not len(row) or (row[0] >= 0 and row[-1] < table.n_rows and (np.diff(row) >= 0).all())
    if not in_order or not ((of_class >= 0) & (of_class < len(table.classes))).all():
        return False
    counted = np.minimum(np.bincount(row, minlength=table.n_rows), MOST_COUNTED)
    return np.array_equal(counted, overlap.n_filling)


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
    if split.manifest.exif != table.exif:
        return "exif in the manifest changed"
    # Skipped pictures too: a fixed one belongs into the rows again.
    recorded = dict(zip(table.ids, table.picture_sha256, strict=True))
    recorded.update(zip((i for i, _ in table.skipped), table.skipped_sha256, strict=True))
    files = tuple(dict.fromkeys(split.paths))  # several samples may share a file
    digests = dict(zip(files, memory.digests(files), strict=True))
    changed = [i for i, path in zip(split.ids, split.paths, strict=True) if recorded[i] != digests[path]]
    return f"pictures changed: {', '.join(changed[:5])}" if changed else None
