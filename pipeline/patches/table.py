"""The patch table: the pictures of a split with their objects, the rows that follow from them, and two digests.

A table fixes the row plan before the trunk runs: every picture has been decoded in full when it exists. It holds
pictures and objects, not rows: the windows of a picture are a function of its size and of the source, and the overlaps
one of windows and objects. Both are computed for the pictures at work, so that memory and file follow the number of
pictures. Labels follow from overlaps and a head's label rule, so that another rule needs no new table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError, StoreError
from pipeline.patches.labels import (
    FILL_COLUMNS,
    ClassTargets,
    Overlap,
    label_classes,
    label_patches,
    measure_overlap,
)
from pipeline.patches.rows import ColumnDigests, Objects, Rows, plan_picture, split_range
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings, LabelSettings, Source, SourceSettings
from pipeline.patches.sources import Windows

FORMAT = "patch-table-4"
LABELS_FORMAT = "patch-table-3"
"""Format of what a labels' digest is over: heads are joined on it, so it outlives changes of the file."""
ROWS_FORMAT = "patch-table-2"
"""Format of the row plan: stores are joined on its digest, so it outlives changes of the labels' columns."""
PICTURES_AT_WORK = 64
"""Pictures whose rows are computed together where all rows are needed: about 30,000 rows of the usual grid."""
LABEL_RULES = tuple(
    LabelSettings(single_object=single, background=background)
    for single, background in itertools.product(("fills", "touches"), ("untouched", "unfilled"))
)
"""All label rules: a table holds the hashes of its labels under each."""


@dataclass(frozen=True, kw_only=True)
class PatchTable:
    """All pictures of one split with their objects; rows are ordered by picture, then as the grid orders them.

    Rows and overlaps are computed when they are asked for. Per row nothing is held.

    Attributes
    ----------
    dataset, split : names
    classes : class names
    source : where the windows come from
    grid, crops, boxes : the settings of the sources of these names
    ids : tuple of str, one per sample: a picture, or a person (two persons of a picture share its file)
    size_wh : int32 ndarray (n_pictures, 2)
    first_row : int64 ndarray (n_pictures + 1,): rows of picture i are ``first_row[i]:first_row[i + 1]``
    objects : of all pictures
    sample_xyxy : float64 ndarray (n_pictures, 4), boxes of the persons that the samples are; None unless the source
        is ``boxes``
    apply_exif : bool ndarray (n_pictures,)
    picture_sha256 : tuple of str, digest of each file's bytes
    picture_labels : int8 ndarray (n_pictures, n_classes), 1, 0, -1; width 0 without labels
    skipped : tuple of (id, reason), pictures left out
    annotation_digest : digest of the lists and XML files
    skipped_sha256 : tuple of str, digest of each skipped file's bytes, empty if it could not be read
    rows_digest : digest of the row plan, see `compute_rows_digest`
    label_hashes : SHA-256 of the columns that a labels' digest is over, see `compute_label_hashes`; without, they are
        computed whenever they are needed
    unscored : classes that heads learn and no result counts
    has_boxes : whether the dataset has boxes; without, no patch has a label of its own
    from_numbers : ids of the pictures whose files hold floating-point or 32-bit values. They are part of the rows'
        digest, since earlier versions read such files as black.
    exif : the manifest's ``exif`` when the table was made
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    source: Source
    grid: GridSettings
    ids: tuple[str, ...]
    size_wh: np.ndarray
    first_row: np.ndarray
    objects: Objects
    apply_exif: np.ndarray
    picture_sha256: tuple[str, ...]
    picture_labels: np.ndarray
    skipped: tuple[tuple[str, str], ...]
    annotation_digest: str
    skipped_sha256: tuple[str, ...] = ()
    rows_digest: str = ""
    label_hashes: Mapping[str, str] = field(default_factory=dict)
    sample_xyxy: np.ndarray | None = None
    crops: CropSettings = CropSettings()
    boxes: BoxSettings = BoxSettings()
    unscored: tuple[str, ...] = ()
    has_boxes: bool = True
    from_numbers: tuple[str, ...] = ()
    exif: str | None = None

    @property
    def n_rows(self) -> int:
        """Number of patches."""
        return int(self.first_row[-1])

    @property
    def labelled(self) -> bool:
        """Whether pictures have labels."""
        return self.picture_labels.shape[1] > 0

    def need_boxes(self, who: str) -> None:
        """Raise an error if patches have no labels because the dataset has no boxes.

        Parameters
        ----------
        who : the head or recipe that learns from labelled patches

        Raises
        ------
        DatasetError
        """
        if not self.has_boxes:
            raise DatasetError(
                f"{who} needs boxes, and dataset {self.dataset} has none, only labels of pictures; "
                "use a head of kind weak or svm, such as the built-in --head svm or --head weak"
            )

    @cached_property
    def sources(self) -> SourceSettings:
        """Settings of where the windows come from."""
        return SourceSettings(source=self.source, grid=self.grid, crops=self.crops, boxes=self.boxes)

    @property
    def scored_labels(self) -> np.ndarray:
        """`picture_labels` for results: 0 (left out) in the columns of `unscored`, which so have no AP."""
        counted = np.array([name not in self.unscored for name in self.classes[: self.picture_labels.shape[1]]], bool)
        return np.where(counted, self.picture_labels, np.int8(0))

    @property
    def turns(self) -> dict[str, bool]:
        """Whether each picture is turned by EXIF, by the SHA-256 of its file's bytes."""
        return dict(zip(self.picture_sha256, self.apply_exif.tolist(), strict=True))

    # Rows and overlaps, for the pictures at work

    def windows_of_picture(self, index: int) -> Windows:
        """Plan the windows of a picture, boxes in float32.

        Raises
        ------
        StoreError
            They are not as many as the table says: another version of the package made it.
        """
        width, height = self.size_wh[index].tolist()
        sample = None if self.sample_xyxy is None else self.sample_xyxy[index]
        windows = plan_picture(width, height, self.sources, sample)
        n_rows = int(self.first_row[index + 1] - self.first_row[index])
        if len(windows.scale) != n_rows:
            raise StoreError(
                f"patch table of {self.dataset} {self.split}: picture {self.ids[index]} has {n_rows} rows, and "
                f"{len(windows.scale)} are planned by this version; make it again: pipeline patches --dataset "
                f"{self.dataset} --split {self.split}"
            )
        return windows

    def overlap_of_picture(self, index: int) -> Overlap:
        """Measure the overlap of a picture's patches with its objects."""
        area = self.windows_of_picture(index).box_xyxy
        if self.sample_xyxy is not None:
            # A person's square may be mostly surroundings; the patch has the label of the person's action all the same.
            area = np.repeat(self.sample_xyxy[index][None], len(area), axis=0)
        return measure_overlap(area, *self.objects.of_picture(index))

    def ranges(self) -> Iterable[range]:
        """Divide the pictures into ranges whose rows fit into memory together, in order."""
        return split_range(len(self.ids), PICTURES_AT_WORK)

    def slice_of(self, pictures: range) -> slice:
        """Return the rows of a range of pictures."""
        return slice(int(self.first_row[pictures.start]), int(self.first_row[pictures.stop]))

    def picture_of(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the picture of each of some rows: int32 ndarray, index into `ids`."""
        index = np.arange(*rows.indices(self.n_rows)) if isinstance(rows, slice) else rows
        return (np.searchsorted(self.first_row, index, "right") - 1).astype(np.int32)

    def rows_at(self, rows: slice | np.ndarray) -> Rows:
        """Compute a range of rows, or chosen rows: picture by picture, so that rising ones cost least."""
        index = np.arange(*rows.indices(self.n_rows)) if isinstance(rows, slice) else rows
        picture = self.picture_of(index)
        starts = np.flatnonzero(np.diff(picture, prepend=-1)).tolist()
        boxes, scales, flips, turns = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.uint8)], [], []
        for start, stop in itertools.pairwise([*starts, len(index)]):
            of_picture = int(picture[start])
            windows = self.windows_of_picture(of_picture)
            own = index[start:stop] - self.first_row[of_picture]
            boxes.append(windows.box_xyxy[own])
            scales.append(windows.scale[own])
            if windows.flip is not None:
                flips.append(windows.flip[own])
            if windows.turn is not None:
                turns.append(windows.turn[own])
        flip, turn = (np.concatenate(columns) if columns else None for columns in (flips, turns))
        return Rows(picture, np.concatenate(boxes), np.concatenate(scales), flip, turn)

    def rows_of(self, pictures: range) -> Rows:
        """Compute the rows of a range of pictures."""
        return self.rows_at(self.slice_of(pictures))

    def overlap_of(self, pictures: range) -> Overlap:
        """Measure the overlap of the rows of a range of pictures; rows are counted from the first of the range."""
        return Overlap.concatenate([self.overlap_of_picture(index) for index in pictures])

    def labels(self, settings: LabelSettings, pictures: range | None = None) -> np.ndarray:
        """Label each row under one label rule: class, background or unused; int16 ndarray (n_rows,).

        Parameters
        ----------
        pictures : whose rows are labelled; None for all, which holds two bytes per row of the table
        """
        if pictures is not None:
            return label_patches(self.overlap_of(pictures), settings)
        labels = np.empty(self.n_rows, np.int16)
        for some in self.ranges():
            labels[self.slice_of(some)] = self.labels(settings, some)
        return labels

    def class_targets(self, settings: LabelSettings, pictures: range) -> ClassTargets:
        """Derive targets for each class, several classes per row allowed, of the rows of a range of pictures.

        Rows are counted from the first of the range.
        """
        return label_classes(self.overlap_of(pictures), settings)

    # Digests, range by range: the values are those of whole columns

    def labels_digest(self, settings: LabelSettings) -> str:
        """Digest everything that a head is fitted to and a result is measured against."""
        rule = settings.model_dump_json()
        hashes = self.label_hashes if rule in self.label_hashes else self.compute_label_hashes((settings,))
        return digest_of(
            {
                "format": LABELS_FORMAT,
                "rows": self.rows_digest,
                "labels": hashes[rule],
                "fills": [hashes[name] for name in FILL_COLUMNS],
                "picture_labels": sha256_bytes(self.picture_labels.tobytes()),
                "classes": self.classes,
                "reading": settings.model_dump(),
            }
        )

    def compute_label_hashes(self, rules: Iterable[LabelSettings] = LABEL_RULES) -> dict[str, str]:
        """Hash the labels of all rows under some label rules, and which objects fill which rows.

        Returns
        -------
        SHA-256 of the labels (int16) by the rule as JSON, and of each of `FILL_COLUMNS` (int64) by its name
        """
        names = {rule.model_dump_json(): rule for rule in rules}
        digests = ColumnDigests()
        for pictures in self.ranges():
            overlap = self.overlap_of(pictures)
            fills = {name: getattr(overlap, name).astype("<i8") for name in FILL_COLUMNS}
            fills["fill_row"] += self.first_row[pictures.start]
            labels = {name: label_patches(overlap, rule).astype("<i2") for name, rule in names.items()}
            digests.update(**labels, **fills)
        return {name: digests[name] for name in (*names, *FILL_COLUMNS)}

    def pictures_digest(self) -> str:
        """Digest (id, SHA-256 of the file's bytes) of all samples, in the order of the list."""
        return digest_of(list(zip(self.ids, self.picture_sha256, strict=True)))

    def compute_rows_digest(self, rows: Iterable[Rows] | None = None) -> str:
        """Digest ids, source, scales, boxes, flips and turns, by which a store's rows are joined to a table.

        Parameters
        ----------
        rows : all rows of the pictures, range by range; None for those that are planned
        """
        digests, is_mirrored, is_turned = ColumnDigests(), False, False
        for some in map(self.rows_of, self.ranges()) if rows is None else rows:
            box_xyxy, picture = some.box_xyxy.astype("<f4"), some.picture.astype("<i4")
            digests.update(picture=picture, box_xyxy=box_xyxy, scale=some.scale)
            if some.flip is not None:
                is_mirrored = True
                digests.update(flip=some.flip.astype("u1"))
            if some.turn is not None:
                is_turned = True
                digests.update(turn=some.turn.astype("<f4"))
        scaled = {"from_numbers": self.from_numbers} if self.from_numbers else {}
        return digest_of(
            {
                "format": ROWS_FORMAT,
                "ids": self.ids,
                "source": self.source,
                "sizes": self.size_wh.tolist(),
                "apply_exif": [int(e) for e in self.apply_exif],
                **{name: digests[name] for name in ("picture", "box_xyxy", "scale")},
                "scales": list(self.grid.scales),
                **({"flip": digests["flip"]} if is_mirrored else {}),
                **({"turn": digests["turn"]} if is_turned else {}),
                **scaled,
            }
        )
