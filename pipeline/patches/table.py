"""The patch table: all patches of a split, their overlap with objects, and two digests.

A table fixes the row plan before the trunk runs: every picture has been decoded in full when it exists. Labels are
not stored; they follow from the stored overlaps and a head's label rule, so that another rule needs no new table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.io.digests import digest_of, sha256_bytes
from pipeline.io.errors import DatasetError
from pipeline.patches.labels import FILL_COLUMNS, ClassTargets, Overlap, label_classes, label_patches
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings, LabelSettings, Source, SourceSettings

FORMAT = "patch-table-3"
ROWS_FORMAT = "patch-table-2"
"""Format of the row plan: stores are joined on its digest, so it outlives changes of the labels' columns."""


@dataclass(frozen=True)
class PatchTable:
    """All patches of one split, rows ordered by picture, then as the grid orders them.

    Attributes
    ----------
    dataset, split : names
    classes : class names
    source : where the windows come from
    grid, crops, boxes : the settings of the sources of these names
    picture : int32 ndarray (n_rows,), rising, index into `ids`
    box_xyxy : float32 ndarray (n_rows, 4), continuous, pixels of the picture; those of ``boxes`` may leave it
    scale : uint8 ndarray (n_rows,), index into the grid's scales, or the number of the crop
    flip : bool ndarray (n_rows,), patches that are mirrored left to right; None if no patch is
    overlap : `Overlap` of all rows with the objects of their pictures
    ids : tuple of str, one per sample: a picture, or a person (two persons of a picture share its file)
    size_wh : int32 ndarray (n_pictures, 2)
    apply_exif : bool ndarray (n_pictures,)
    picture_sha256 : tuple of str, digest of each file's bytes
    picture_labels : int8 ndarray (n_pictures, n_classes), 1, 0, -1; width 0 without labels
    skipped : tuple of (id, reason), pictures left out
    annotation_digest : digest of the lists and XML files
    skipped_sha256 : tuple of str, digest of each skipped file's bytes, empty if it could not be read
    rows_digest : digest of the row plan, see `compute_rows_digest`
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
    picture: np.ndarray
    box_xyxy: np.ndarray
    scale: np.ndarray
    overlap: Overlap
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
    from_numbers: tuple[str, ...] = ()
    exif: str | None = None

    @property
    def n_rows(self) -> int:
        """Number of patches."""
        return len(self.picture)

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

    @property
    def sources(self) -> SourceSettings:
        """Settings of where the windows come from."""
        return SourceSettings(source=self.source, grid=self.grid, crops=self.crops, boxes=self.boxes)

    @property
    def scored_labels(self) -> np.ndarray:
        """`picture_labels` for results: 0 (left out) in the columns of `unscored`, which so have no AP."""
        counted = np.array([name not in self.unscored for name in self.classes[: self.picture_labels.shape[1]]], bool)
        return np.where(counted, self.picture_labels, np.int8(0))

    @property
    def group_ids(self) -> tuple[str, ...]:
        """Groups of samples that are held out together: for each, the id of the first sample of the same file."""
        first: dict[str, str] = {}
        return tuple(first.setdefault(digest, i) for i, digest in zip(self.ids, self.picture_sha256, strict=True))

    @property
    def turns(self) -> dict[str, bool]:
        """Whether each picture is turned by EXIF, by the SHA-256 of its file's bytes."""
        return dict(zip(self.picture_sha256, self.apply_exif.tolist(), strict=True))

    @property
    def first_row(self) -> np.ndarray:
        """int64 ndarray (n_pictures + 1,): rows of picture i are ``first_row[i]:first_row[i + 1]``."""
        return np.searchsorted(self.picture, np.arange(len(self.ids) + 1)).astype(np.int64)

    def labels(self, settings: LabelSettings) -> np.ndarray:
        """Label each row under one label rule: class, background or unused; int16 ndarray (n_rows,)."""
        return label_patches(self.overlap, settings)

    def class_targets(self, settings: LabelSettings) -> ClassTargets:
        """Derive each row's target for each class under one label rule, several classes per row allowed."""
        return label_classes(self.overlap, settings)

    def labels_digest(self, settings: LabelSettings) -> str:
        """Digest everything that a head is fitted to and a result is measured against."""
        return digest_of(
            {
                "format": FORMAT,
                "rows": self.rows_digest,
                "labels": sha256_bytes(self.labels(settings).astype("<i2").tobytes()),
                "fills": [sha256_bytes(getattr(self.overlap, name).astype("<i8").tobytes()) for name in FILL_COLUMNS],
                "picture_labels": sha256_bytes(self.picture_labels.tobytes()),
                "classes": self.classes,
                "reading": settings.model_dump(),
            }
        )

    def pictures_digest(self) -> str:
        """Digest (id, SHA-256 of the file's bytes) of all samples, in the order of the list."""
        return digest_of(list(zip(self.ids, self.picture_sha256, strict=True)))

    def compute_rows_digest(self) -> str:
        """Digest ids, source, scales, boxes and flips, by which a store's rows are joined to a table."""
        scaled = {"from_numbers": self.from_numbers} if self.from_numbers else {}
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
                **scaled,
            }
        )
