"""Boxes from heat maps, and how well they localise: CorLoc, and average precision by VOC's detection rule.

The rule is simple on purpose, one threshold per map, so that what is measured is the map: cells that lie at least a
`share` of the way from the map's lowest value to its highest are kept, and each connected group of them gives a box,
whose score is the group's highest value. Source of thresholding a map by a share of its peak: Zhou et al., *Learning
deep features for discriminative localization* (CVPR 2016) section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pipeline.dataset.split import Annotation
from pipeline.metrics.detection import MIN_OVERLAP, detection_ap, judge_boxes, overlap
from pipeline.patches.table import PatchTable
from pipeline.scoring.heat_maps import CoverageGrid, PictureGrids
from pipeline.scoring.picture_scores import WholePictures

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Shares that are measured."""
EVEN = 1e-6
"""A map whose values differ by no more, relative to their size, is even: it has no peak, and gives no box."""


class Boxes(NamedTuple):
    """Boxes from the maps of some pictures, one row each, by picture.

    Attributes
    ----------
    picture : int64 ndarray (n,), index into the table
    class_index : int64 ndarray (n,)
    box_xyxy : float64 ndarray (n, 4), continuous, pixels of the picture
    score : float64 ndarray (n,), the highest value of the map in the box's group
    """

    picture: np.ndarray
    class_index: np.ndarray
    box_xyxy: np.ndarray
    score: np.ndarray

    @classmethod
    def join(cls, some: Sequence[Boxes]) -> Boxes:
        """Join boxes in their order."""
        empty = cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
        return cls(*(np.concatenate(columns) for columns in zip(empty, *some, strict=True)))

    def chosen(self, which: np.ndarray) -> Boxes:
        """Return some of the boxes, by a mask or by indices."""
        return Boxes(*(column[which] for column in self))


def boxes_of_maps(grid: CoverageGrid, maps: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw boxes from the maps of a picture.

    Parameters
    ----------
    grid : of the picture
    maps : float64 ndarray (n_maps, n_rows, n_columns) of its cells; NaN where there is no patch
    share : 0..1, of the way from a map's lowest value to its highest, from which cells are kept

    Returns
    -------
    which : int64 ndarray (n,), the map of each box, rising
    box_xyxy : float64 ndarray (n, 4), pixels of the picture
    score : float64 ndarray (n,)

    Examples
    --------
    >>> grid = CoverageGrid(np.array([[0, 0, 2, 1], [1, 0, 3, 1]]), (4, 1))
    >>> boxes_of_maps(grid, np.array([[[0.1, 0.2, 0.9, np.nan]]]), 0.5)[1].tolist()
    [[2.0, 0.0, 3.0, 1.0]]
    """
    from scipy import ndimage  # the import takes time, and most commands do without

    lowest, highest = np.nanmin(maps, axis=(1, 2)), np.nanmax(maps, axis=(1, 2))
    is_even = highest - lowest <= EVEN * np.maximum(np.abs(highest), np.abs(lowest))
    threshold = np.where(is_even, np.inf, lowest + share * (highest - lowest))
    with np.errstate(invalid="ignore"):
        kept = maps >= threshold[:, None, None]
    # Groups are connected within a map, along rows and columns, and never from map to map.
    connected = np.zeros((3, 3, 3), bool)
    connected[1] = ndimage.generate_binary_structure(2, 1)
    groups, n_groups = ndimage.label(kept, connected)
    if not n_groups:
        return np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0)
    places = ndimage.find_objects(groups)
    score = np.asarray(ndimage.maximum(np.nan_to_num(maps, nan=-np.inf), groups, np.arange(1, n_groups + 1)), float)
    which = np.array([place[0].start for place in places], np.int64)
    box_xyxy = np.array(
        [
            [grid.x_edges[columns.start], grid.y_edges[rows.start], grid.x_edges[columns.stop], grid.y_edges[rows.stop]]
            for _, rows, columns in places
        ]
    )
    order = np.lexsort((-score, which))
    return which[order], box_xyxy[order], score[order]


class MapBoxes:
    """Draw boxes from the maps of all classes of pictures, whose patch scores arrive part by part.

    Parameters
    ----------
    table : of a grid of patches
    shares : boxes are drawn for each
    """

    def __init__(self, table: PatchTable, shares: Sequence[float]) -> None:
        self.shares = tuple(shares)
        self._pictures = WholePictures(len(table.classes))
        self._boxes: dict[float, list[Boxes]] = {share: [] for share in self.shares}
        self._grids = PictureGrids(table)

    def add(self, patch_scores: np.ndarray, picture: np.ndarray) -> None:
        """Add patches (n, n_classes) of pictures (n,), rising, also from call to call."""
        self._draw(*self._pictures.add(patch_scores, picture))

    def result(self) -> dict[float, Boxes]:
        """Return the boxes by share."""
        self._draw(*self._pictures.rest)
        return {share: Boxes.join(some) for share, some in self._boxes.items()}

    def _draw(self, scores: np.ndarray, picture: np.ndarray) -> None:
        for index in np.unique(picture).tolist():
            rows = slice(*np.searchsorted(picture, [index, index + 1]))
            grid = self._grids.of(index)
            maps = grid.smoothed_mean(scores[rows])
            for share in self.shares:
                which, box_xyxy, score = boxes_of_maps(grid, maps, share)
                self._boxes[share].append(Boxes(np.full(len(which), index), which, box_xyxy, score))


@dataclass(frozen=True)
class Localisation:
    """How well boxes localise the classes.

    Attributes
    ----------
    corloc : float64 ndarray (n_classes,), of the pictures that show a class, the share whose box of the highest score
        overlaps an object of it by half or more; NaN for a class that no picture shows
    ap : float64 ndarray (n_classes,), average precision of all boxes; NaN for a class without an object
    judged : int8 ndarray, of each box: 1 right, -1 wrong, 0 left out
    """

    corloc: np.ndarray
    ap: np.ndarray
    judged: np.ndarray


def measure_boxes(
    boxes: Boxes, annotations: Sequence[Annotation], labels: np.ndarray, metric: Literal["voc07", "voc12"]
) -> Localisation:
    """Measure boxes against the objects of pictures.

    Source of CorLoc: Deselaers et al., *Weakly supervised localization and learning with generic knowledge* (IJCV 2012)
    section 6.1; boxes of difficult objects count there, as in the pointing game.

    Parameters
    ----------
    annotations : one per picture
    labels : int8 ndarray (n_pictures, n_classes), 1 where the class is shown; a column of zeros leaves a class out
    """
    n_pictures, n_classes = labels.shape
    counted = (labels != 0).any(0)
    judged = np.zeros(len(boxes.score), np.int8)
    hit = np.zeros(labels.shape, bool)
    n_objects = np.zeros(n_classes, np.int64)
    bounds = np.searchsorted(boxes.picture, np.arange(n_pictures + 1))
    for index, annotation in enumerate(annotations):
        sure = annotation.class_index[~annotation.difficult]
        n_objects += np.bincount(sure, minlength=n_classes)
        of_picture = np.arange(bounds[index], bounds[index + 1])
        for column in np.unique(boxes.class_index[of_picture]).tolist():
            own = of_picture[boxes.class_index[of_picture] == column]
            some, of_class = boxes.chosen(own), annotation.class_index == column
            objects = annotation.box_xyxy[of_class]
            judged[own] = judge_boxes(some.box_xyxy, some.score, objects, annotation.difficult[of_class])
            hit[index, column] = _best_hits(some, objects)
    shown = labels == 1
    corloc = np.divide((hit & shown).sum(0), shown.sum(0), out=np.full(n_classes, np.nan), where=shown.any(0))
    ap = np.full(n_classes, np.nan)
    for column in np.flatnonzero(counted):
        own = boxes.class_index == column
        ap[column] = detection_ap(boxes.score[own], judged[own], int(n_objects[column]), metric)
    return Localisation(corloc, ap, judged)


def _best_hits(boxes: Boxes, objects: np.ndarray) -> bool:
    """Whether the box of the highest score overlaps an object enough; of equal scores, whether the largest does."""
    if not len(objects):
        return False
    area = (boxes.box_xyxy[:, 2:] - boxes.box_xyxy[:, :2]).prod(1)
    best = np.lexsort((-area, -boxes.score))[0]
    return bool((overlap(boxes.box_xyxy[best : best + 1], objects) >= MIN_OVERLAP).any())


def whole_pictures(size_wh: np.ndarray, labels: np.ndarray) -> Boxes:
    """Return the whole picture as the box of each class that it shows: what a CorLoc must exceed to say anything."""
    picture, column = np.nonzero(labels == 1)
    box_xyxy = np.concatenate([np.zeros((len(picture), 2)), size_wh[picture].astype(float)], axis=1)
    return Boxes(picture, column, box_xyxy, np.ones(len(picture)))


def mean_of(values: np.ndarray) -> float:
    """Return the mean of the values that are defined; NaN if none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def by_class(values: np.ndarray, classes: Sequence[str], left_out: Sequence[str]) -> Mapping[str, float]:
    """Return values by class."""
    return {name: float(value) for name, value in zip(classes, values, strict=True) if name not in left_out}
