"""The patch table: all patches of a split, what objects do in them, and two digests.

One HDF5 file a split. It fixes the row plan before the trunk runs: every picture has been decoded
in full when it exists. Labels are not stored; they follow from the stored overlaps and the reading
that a head asks for, so that another reading costs no new table.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import cast

import h5py
import numpy as np

from pipeline.dataset.picture import decode_annotated
from pipeline.dataset.split import Annotation, Split
from pipeline.io.atomic import write_whole
from pipeline.io.checksummed import USER_BLOCK, check_hdf5, sign_hdf5
from pipeline.io.digests import DigestMemory, digest_of, sha256_bytes
from pipeline.io.errors import BadPictureError, DatasetError, StoreError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import track
from pipeline.patches.labels import MOST_COUNTED, ClassTargets, Overlap, label_classes, label_patches, measure_overlap
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings, LabelSettings, Source, SourceSettings
from pipeline.patches.sources import plan_windows

FORMAT = "patch-table-3"
ROWS_FORMAT = "patch-table-2"
"""Form of the row plan: stores are joined on its digest, so it outlives changes of the labels' columns."""
MAX_FILE_BYTES = 1_000_000_000
"""More than any picture that is decoded has, and less than a machine's memory."""


@dataclass(frozen=True)
class PatchTable:
    """All patches of one split, rows ordered by picture, then as the grid orders them.

    Attributes
    ----------
    dataset, split : names
    classes : class names
    source : where the windows come from
    grid, crops, boxes : the settings of the sources of these names
    picture : int32 ndarray (n_rows,), index into `ids`
    box_xyxy : float32 ndarray (n_rows, 4), continuous, pixels of the picture; those of ``boxes`` may leave it
    scale : uint8 ndarray (n_rows,), index into the grid's scales, or the number of the crop
    flip : bool ndarray (n_rows,), patches that are mirrored left to right; None where none is
    n_filling, n_touching, filling_class, filling_difficult : as `Overlap`
    fill_row, fill_class, fill_difficult : as `Overlap`, one entry for each patch and object that fills it
    ids : tuple of str, one a sample: a picture, or a person (two persons of a picture share its file)
    size_wh : int32 ndarray (n_pictures, 2)
    apply_exif : bool ndarray (n_pictures,)
    picture_sha256 : tuple of str, digest of each file's bytes
    picture_labels : int8 ndarray (n_pictures, n_classes), 1, 0, -1; width 0 where there are none
    skipped : tuple of (id, reason), pictures left out
    annotation_digest : digest of lists and XML that were read
    skipped_sha256 : tuple of str, digest of each skipped file's bytes, empty where it could not be read
    unscored : classes that heads learn and no result counts
    has_boxes : whether the dataset has boxes; without, no patch has a label of its own
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    source: Source
    grid: GridSettings
    picture: np.ndarray
    box_xyxy: np.ndarray
    scale: np.ndarray
    n_filling: np.ndarray
    n_touching: np.ndarray
    filling_class: np.ndarray
    filling_difficult: np.ndarray
    fill_row: np.ndarray
    fill_class: np.ndarray
    fill_difficult: np.ndarray
    ids: tuple[str, ...]
    size_wh: np.ndarray
    apply_exif: np.ndarray
    picture_sha256: tuple[str, ...]
    picture_labels: np.ndarray
    skipped: tuple[tuple[str, str], ...]
    annotation_digest: str
    skipped_sha256: tuple[str, ...] = ()
    rows_digest: str = ""
    flip: np.ndarray | None = None
    crops: CropSettings = CropSettings()
    boxes: BoxSettings = BoxSettings()
    unscored: tuple[str, ...] = ()
    has_boxes: bool = True

    @property
    def n_rows(self) -> int:
        return len(self.picture)

    @property
    def labelled(self) -> bool:
        return self.picture_labels.shape[1] > 0

    def need_boxes(self, who: str) -> None:
        """Stop what learns from labelled patches, where there are none because there are no boxes.

        Raises
        ------
        DatasetError
        """
        if not self.has_boxes:
            raise DatasetError(
                f"{who} needs boxes, and dataset {self.dataset} has none, only labels of pictures; "
                "use a head of kind weak or svm, or a recipe that has one (weak, svm, svm-whole)"
            )

    @property
    def sources(self) -> SourceSettings:
        return SourceSettings(source=self.source, grid=self.grid, crops=self.crops, boxes=self.boxes)

    @property
    def scored_labels(self) -> np.ndarray:
        """`picture_labels` for measuring: 0, left out, in all of a class that no result counts: it has no AP then."""
        counted = np.array([name not in self.unscored for name in self.classes[: self.picture_labels.shape[1]]], bool)
        return np.where(counted, self.picture_labels, np.int8(0))

    @property
    def group_ids(self) -> tuple[str, ...]:
        """What is held out together: for each sample, the id of the first one of the same file."""
        first: dict[str, str] = {}
        return tuple(first.setdefault(digest, i) for i, digest in zip(self.ids, self.picture_sha256, strict=True))

    @property
    def first_row(self) -> np.ndarray:
        """int64 ndarray (n_pictures + 1,): rows of picture i are ``first_row[i]:first_row[i + 1]``."""
        return np.searchsorted(self.picture, np.arange(len(self.ids) + 1)).astype(np.int64)

    @property
    def overlap(self) -> Overlap:
        return Overlap(**{field.name: getattr(self, field.name) for field in fields(Overlap)})

    def labels(self, settings: LabelSettings) -> np.ndarray:
        """int16 ndarray (n_rows,): class, background or unused, under one reading."""
        return label_patches(self.overlap, settings)

    def class_targets(self, settings: LabelSettings) -> ClassTargets:
        """What each row says of each class, under one reading, several classes a row allowed."""
        return label_classes(self.overlap, settings)

    def labels_digest(self, settings: LabelSettings) -> str:
        """Digest of everything that a head is taught, and a result is measured, against."""
        return digest_of(
            {
                "format": FORMAT,
                "rows": self.rows_digest,
                "labels": sha256_bytes(self.labels(settings).astype("<i2").tobytes()),
                "fills": [sha256_bytes(getattr(self, name).astype("<i8").tobytes()) for name in FILL_COLUMNS],
                "picture_labels": sha256_bytes(self.picture_labels.tobytes()),
                "classes": self.classes,
                "reading": settings.model_dump(),
            }
        )

    def pictures_digest(self) -> str:
        """Digest over (id, SHA-256 of the file's bytes) in id order of the list."""
        return digest_of(list(zip(self.ids, self.picture_sha256, strict=True)))

    def compute_rows_digest(self) -> str:
        """Digest of ids, source, scales, boxes and flips: what a store's rows are joined on."""
        flips = {} if self.flip is None else {"flip": sha256_bytes(self.flip.astype("u1").tobytes())}
        return digest_of(
            {
                "format": ROWS_FORMAT,
                "ids": self.ids,
                "source": self.source,
                "sizes": self.size_wh.tolist(),
                "apply_exif": [int(e) for e in self.apply_exif],
                "picture": sha256_bytes(self.picture.astype("<i4").tobytes()),
                "box_xyxy": sha256_bytes(self.box_xyxy.astype("<f4").tobytes()),
                "scale": sha256_bytes(self.scale.tobytes()),
                "scales": list(self.grid.scales),
                **flips,
            }
        )


@dataclass(frozen=True)
class _Inspected:
    """One picture, decoded in full: what the table needs of it."""

    sha256: str
    size_wh: tuple[int, int]
    apply_exif: bool
    boxes: np.ndarray
    scale: np.ndarray
    flip: np.ndarray | None
    overlap: Overlap


@dataclass(frozen=True)
class _Bad:
    """A picture with a problem, and the digest of its bytes if they could be read."""

    problem: str
    sha256: str = ""


def _inspect(job: tuple[str, Path, Annotation], sources: SourceSettings) -> _Inspected | _Bad:
    name, path, annotation = job
    data = None
    try:
        if not path.is_file() and path.exists():  # a pipe would be waited for
            raise BadPictureError("no plain file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadPictureError(f"{path.stat().st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
        data = path.read_bytes()
        pixels, apply_exif = decode_annotated(data, annotation.size_wh, name)
        height, width = pixels.shape[:2]
        objects, sample = annotation.box_xyxy, annotation.sample_xyxy
        known = objects if sample is None else np.vstack([objects, sample])
        if annotation.size_wh is None and len(known) and (known > np.array([width, height] * 2) + 1).any():
            raise BadPictureError(f"a box lies outside of the picture of {width} x {height}")
        boxes, scale, flip = plan_windows(width, height, sources, sample)
    except OSError as error:
        return _Bad(f"{error.strerror or error}")
    except BadPictureError as error:
        # Without the path: the reason is kept in table and identity, which know no places.
        return _Bad(str(error).removeprefix(f"{name}: "), "" if data is None else sha256_bytes(data))
    # float32 is what the table keeps; labels are taken of what is kept.
    boxes = boxes.astype(np.float32)
    # The square of a person may be mostly surroundings; what the person does is the patch's label all the same.
    area = boxes
    if sources.source == "boxes":
        assert sample is not None  # see `_check_source`
        area = np.repeat(sample[None], len(boxes), axis=0)
    overlap = measure_overlap(area, objects, annotation.class_index, annotation.difficult)
    return _Inspected(sha256_bytes(data), (width, height), apply_exif, boxes, scale, flip, overlap)


def make_table(
    split: Split,
    grid: GridSettings,
    source: Source = "grid",
    on_error: str = "fail",
    max_skipped: float = 0.05,
    workers: int = 1,
    say: Callable[[str], None] = lambda text: None,
    crops: CropSettings | None = None,
    boxes: BoxSettings | None = None,
) -> PatchTable:
    """Decode every picture of a split and plan its rows.

    Parameters
    ----------
    on_error : {"fail", "skip"}
        What happens when pictures are bad: all are listed and nothing is made, or they are left out
        of rows and id list and recorded.
    max_skipped : largest share of pictures that may be skipped, 0..1
    workers : threads that decode
    crops, boxes : settings of the sources of these names; None for the defaults

    Raises
    ------
    DatasetError
        Bad pictures under ``fail``; under ``skip`` if all or more than `max_skipped` are bad. A source that does
        not go with the samples: ``boxes`` is for persons, and ``grid`` is not.
    """
    sources = SourceSettings(source=source, grid=grid, crops=crops or CropSettings(), boxes=boxes or BoxSettings())
    _check_source(split, source)
    jobs = list(zip(split.ids, split.paths, split.annotations, strict=True))
    inspect = partial(_inspect, sources=sources)
    what = f"patches {split.manifest.name} {split.name}"
    # Threads, not processes: hashing and Pillow's decoders release the interpreter lock.
    with ThreadPoolExecutor(workers) as pool:
        done = list(track(pool.map(inspect, jobs), what, len(jobs), "pictures"))

    problems = [
        f"{name}: {path}: {item.problem}"
        for (name, path, _), item in zip(jobs, done, strict=True)
        if isinstance(item, _Bad)
    ]
    if problems:
        count = f"{len(problems)} of {len(jobs)} pictures are bad"
        where = f"{split.manifest.name} {split.name}: {count}\n{enumerate_problems(problems)}"
        if on_error == "fail":
            raise DatasetError(f"{where}\nmend them, or leave them out with --on-error skip")
        if len(problems) == len(jobs) or len(problems) > max_skipped * len(jobs):
            raise DatasetError(
                f"{where}\nmore than may be skipped (setting max_skipped: {max_skipped:g} of all, and never all)"
            )
        say(f"{where}\nleft out of this run, and recorded in the patch table")
    good = [index for index, item in enumerate(done) if isinstance(item, _Inspected)]
    kept = [item for item in done if isinstance(item, _Inspected)]
    counts = [len(item.scale) for item in kept]
    if split.labels is None:
        labels = np.zeros((len(kept), 0), np.int8)
    else:
        labels = split.labels[good]
    table = PatchTable(
        dataset=split.manifest.name,
        split=split.name,
        classes=split.manifest.classes,
        source=source,
        grid=grid,
        picture=np.repeat(np.arange(len(kept)), counts).astype(np.int32),
        box_xyxy=np.concatenate([item.boxes for item in kept]),
        scale=np.concatenate([item.scale for item in kept]),
        n_filling=np.concatenate([item.overlap.n_filling for item in kept]),
        n_touching=np.concatenate([item.overlap.n_touching for item in kept]),
        filling_class=np.concatenate([item.overlap.filling_class for item in kept]),
        filling_difficult=np.concatenate([item.overlap.filling_difficult for item in kept]),
        fill_row=np.concatenate(
            [item.overlap.fill_row + first for item, first in zip(kept, np.cumsum([0, *counts]), strict=False)]
        ),
        fill_class=np.concatenate([item.overlap.fill_class for item in kept]),
        fill_difficult=np.concatenate([item.overlap.fill_difficult for item in kept]),
        ids=tuple(split.ids[index] for index in good),
        size_wh=np.array([item.size_wh for item in kept], np.int32),
        apply_exif=np.array([item.apply_exif for item in kept], bool),
        picture_sha256=tuple(item.sha256 for item in kept),
        picture_labels=labels,
        skipped=tuple((split.ids[index], item.problem) for index, item in enumerate(done) if isinstance(item, _Bad)),
        annotation_digest=split.annotation_digest,
        skipped_sha256=tuple(item.sha256 for item in done if isinstance(item, _Bad)),
        flip=None if kept[0].flip is None else np.concatenate([item.flip for item in kept]),
        crops=sources.crops,
        boxes=sources.boxes,
        unscored=split.manifest.unscored,
        has_boxes=split.manifest.has_boxes,
    )
    return _with_digest(table)


def _check_source(split: Split, source: Source) -> None:
    """Refuse sources that mean nothing for a split's samples."""
    name = split.manifest.name
    if split.manifest.by_person and source == "grid":
        raise DatasetError(
            f"{name} {split.name}: samples are persons, and a grid looks at pictures: all persons of one would score "
            "the same; use the setting source=boxes, or a manifest with 'samples: pictures'"
        )
    if source == "boxes" and not split.manifest.by_person:
        raise DatasetError(
            f"{name} {split.name}: source boxes is for samples that are persons, as in layout voc-action "
            "with 'samples: persons'; these are pictures: use source=grid, whole or crops"
        )


def _with_digest(table: PatchTable) -> PatchTable:
    values = {f.name: getattr(table, f.name) for f in fields(PatchTable)}
    return PatchTable(**{**values, "rows_digest": table.compute_rows_digest()})


ROW_COLUMNS = (
    "picture",
    "box_xyxy",
    "scale",
    "n_filling",
    "n_touching",
    "filling_class",
    "filling_difficult",
)
FILL_COLUMNS = ("fill_row", "fill_class", "fill_difficult")
PICTURE_COLUMNS = ("size_wh", "apply_exif", "picture_labels")


def write_table(table: PatchTable, path: Path) -> None:
    """Write the table as HDF5, whole or not at all; equal tables give equal bytes."""
    buffer = io.BytesIO()
    text = h5py.string_dtype("utf-8")
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        rows = file.create_group("rows")
        for name in ROW_COLUMNS:
            rows.create_dataset(name, data=getattr(table, name), compression="gzip", shuffle=True, fletcher32=True)
        if table.flip is not None:
            rows.create_dataset("flip", data=table.flip, compression="gzip", shuffle=True, fletcher32=True)
        fills = file.create_group("fills")
        for name in FILL_COLUMNS:
            values = getattr(table, name)
            # An array without elements has no chunk that could be packed or carry a checksum.
            packed = {"compression": "gzip", "shuffle": True, "fletcher32": True} if values.size else {}
            fills.create_dataset(name, data=values, **packed)
        pictures = file.create_group("pictures")
        for name in PICTURE_COLUMNS:
            values = getattr(table, name)
            # An array without elements (no labels) has no chunk that could carry a checksum.
            pictures.create_dataset(name, data=values, fletcher32=bool(values.size))
        pictures.create_dataset("id", data=np.array(table.ids, object), dtype=text)
        pictures.create_dataset("sha256", data=np.array(table.picture_sha256, object), dtype=text)
        skipped = file.create_group("skipped")
        skipped.create_dataset("id", data=np.array([s[0] for s in table.skipped], object), dtype=text)
        skipped.create_dataset("reason", data=np.array([s[1] for s in table.skipped], object), dtype=text)
        skipped.create_dataset("sha256", data=np.array(table.skipped_sha256, object), dtype=text)
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
        if not table.has_boxes:  # said only where it is news: tables of datasets with boxes keep their bytes
            file.attrs["has_boxes"] = False
    write_whole(path, sign_hdf5(buffer.getvalue()))


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
            skipped = zip(file["skipped/id"].asstr()[:], file["skipped/reason"].asstr()[:], strict=True)
            table = PatchTable(
                dataset=str(file.attrs["dataset"]),
                split=str(file.attrs["split"]),
                classes=tuple(str(name) for name in file.attrs["classes"]),
                source=cast(Source, str(file.attrs["source"])),
                grid=GridSettings.model_validate_json(file.attrs["grid"]),
                crops=CropSettings.model_validate_json(file.attrs["crops"]),
                boxes=BoxSettings.model_validate_json(file.attrs["boxes"]),
                unscored=tuple(json.loads(file.attrs["unscored"])),
                flip=file["rows/flip"][:] if "flip" in file["rows"] else None,
                **{name: file["rows"][name][:] for name in ROW_COLUMNS},
                **{name: file["fills"][name][:] for name in FILL_COLUMNS},
                **{name: file["pictures"][name][:] for name in PICTURE_COLUMNS},
                ids=tuple(file["pictures/id"].asstr()[:]),
                picture_sha256=tuple(file["pictures/sha256"].asstr()[:]),
                skipped=tuple((str(i), str(reason)) for i, reason in skipped),
                annotation_digest=str(file.attrs["annotation_digest"]),
                skipped_sha256=tuple(file["skipped/sha256"].asstr()[:]),
                rows_digest=str(file.attrs["rows_digest"]),
                has_boxes=bool(file.attrs.get("has_boxes", True)),
            )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: cannot be read as a patch table: {error}; {again}") from error
    if table.compute_rows_digest() != table.rows_digest:
        raise StoreError(f"{path}: rows disagree with their digest; {again}")
    if not _fills_agree(table):
        raise StoreError(f"{path}: the objects that fill rows disagree with their number in each row; {again}")
    return table


def _fills_agree(table: PatchTable) -> bool:
    """Whether the list of objects that fill rows is in order and says as many in each row as are counted there."""
    row, of_class = table.fill_row, table.fill_class
    if not len(row) == len(of_class) == len(table.fill_difficult):
        return False
    in_order = not len(row) or (row[0] >= 0 and row[-1] < table.n_rows and (np.diff(row) >= 0).all())
    known = ((of_class >= 0) & (of_class < len(table.classes))).all()
    if not in_order or not known:
        return False
    counted = np.minimum(np.bincount(row, minlength=table.n_rows), MOST_COUNTED)
    return np.array_equal(counted, table.n_filling)


def why_stale(table: PatchTable, split: Split, memory: DigestMemory) -> str | None:
    """What changed in the dataset since the table was made, or None.

    Costs one stat a picture once their digests are remembered.
    """
    if table.annotation_digest != split.annotation_digest:
        return "annotations or lists changed"
    skipped = {i for i, _ in table.skipped}
    if tuple(i for i in split.ids if i not in skipped) != table.ids:
        return "the id list changed"
    if (split.manifest.classes, split.manifest.unscored) != (table.classes, table.unscored):
        return "the classes changed"
    # Skipped pictures too: one that was mended belongs into the rows again.
    known = dict(zip(table.ids, table.picture_sha256, strict=True))
    known.update(zip((i for i, _ in table.skipped), table.skipped_sha256, strict=True))
    files = tuple(dict.fromkeys(split.paths))  # several samples may be of one
    digests = dict(zip(files, memory.digests(files), strict=True))
    changed = [i for i, path in zip(split.ids, split.paths, strict=True) if known[i] != digests[path]]
    return f"pictures changed: {', '.join(changed[:5])}" if changed else None
