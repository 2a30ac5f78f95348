"""Where in a picture a class is seen: the mean score of the patches that cover each of its points, steadied.

Source of the mean: Oquab et al. (CVPR 2014) section 3.4 and figures 1 and 5. Few patches cover a point near an edge, so
means are noisy there, and the plain map is often highest at an edge and not on the object. So each point has, beside
its own patches, as many more as a middling point has, of the picture's mean score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.dataset.split import Annotation
from pipeline.patches.table import PatchTable
from pipeline.scoring.picture_scores import WholePictures


class CoverageGrid:
    """A picture cut along all edges of its patches: every point of a cell is covered by the same patches.

    So means are exact, and cost what the patches cost, however large the picture is.

    Parameters
    ----------
    box_xyxy : float ndarray of shape (n, 4), patches in pixels; what leaves the picture is cut off
    size_wh : (width, height) of the picture in pixels

    Attributes
    ----------
    x_edges, y_edges : float64 ndarrays of shapes (n_columns + 1,) and (n_rows + 1,), from 0 to width and height
    """

    def __init__(self, box_xyxy: np.ndarray, size_wh: Sequence[int]) -> None:
        self.width, self.height = map(int, size_wh)
        boxes = np.asarray(box_xyxy, float)
        x = boxes[:, [0, 2]].clip(0, self.width)
        y = boxes[:, [1, 3]].clip(0, self.height)
        self.x_edges, column = np.unique(np.concatenate([[0, self.width], x.ravel()]), return_inverse=True)
        self.y_edges, row = np.unique(np.concatenate([[0, self.height], y.ravel()]), return_inverse=True)
        self._column, self._row = column[2:].reshape(-1, 2), row[2:].reshape(-1, 2)
        self.n_patches = self._sum(np.ones((len(boxes), 1)))[0].round().astype(int)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Sum of the values (n, k) of the patches over each cell, (k, n_rows, n_columns)."""
        # A patch adds its value from its first row and column on, and takes it away behind its last.
        change = np.zeros((len(self.y_edges), len(self.x_edges), values.shape[1]))
        for of_row, of_column, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
            np.add.at(change, (self._row[:, of_row], self._column[:, of_column]), sign * values)
        return change.cumsum(0).cumsum(1)[:-1, :-1].transpose(2, 0, 1)

    def mean(self, scores: np.ndarray) -> np.ndarray:
        """Mean score of the patches over each cell.

        Parameters
        ----------
        scores : float ndarray of shape (n, k)

        Returns
        -------
        float64 ndarray of shape (k, n_rows, n_columns); NaN where no patch is
        """
        total = self._sum(np.asarray(scores, float))
        return np.divide(total, self.n_patches, out=np.full(total.shape, np.nan), where=self.n_patches > 0)

    def smoothed_mean(self, scores: np.ndarray) -> np.ndarray:
        """`mean` drawn to the picture's own where few patches are; else as `mean`."""
        scores = np.asarray(scores, float)
        covered = self.n_patches > 0
        weight = float(np.median(self.n_patches[covered]))
        total = self._sum(scores) + weight * scores.mean(0)[:, None, None]
        return np.where(covered, total / (self.n_patches + weight), np.nan)

    def pixels(self, cells: np.ndarray) -> np.ndarray:
        """Cells (k, n_rows, n_columns) as pixels: float32 ndarray (k, height, width), by the centre of each pixel."""
        column = np.searchsorted(self.x_edges, np.arange(self.width) + 0.5, side="right") - 1
        row = np.searchsorted(self.y_edges, np.arange(self.height) + 0.5, side="right") - 1
        return cells[:, row[:, None], column].astype(np.float32)

    def peak(self, cells: np.ndarray) -> np.ndarray:
        """Centre (x, y), in pixels, of the highest cell of each map: float64 ndarray of shape (k, 2)."""
        best = np.nanargmax(cells.reshape(len(cells), -1), axis=1)
        row, column = np.unravel_index(best, cells.shape[1:])
        x, y = (edges[:-1] + np.diff(edges) / 2 for edges in (self.x_edges, self.y_edges))
        return np.stack([x[column], y[row]], axis=1)


def score_maps(box_xyxy: np.ndarray, scores: np.ndarray, size_wh: Sequence[int], smoothed: bool = True) -> np.ndarray:
    """Mean score of the patches over each pixel.

    Parameters
    ----------
    box_xyxy : float ndarray of shape (n, 4), in pixels
    scores : float ndarray of shape (n, n_classes)
    size_wh : (width, height) of the picture
    smoothed : drawn to the picture's mean where few patches are; False for the plain mean

    Returns
    -------
    float32 ndarray of shape (n_classes, height, width); NaN where no patch is

    Examples
    --------
    >>> boxes, scores = np.array([[0, 0, 2, 1], [1, 0, 3, 1]]), np.array([[0.25], [0.75]])
    >>> score_maps(boxes, scores, (4, 1), smoothed=False).tolist()
    [[[0.25, 0.5, 0.75, nan]]]
    >>> score_maps(boxes, scores, (4, 1)).tolist()
    [[[0.375, 0.5, 0.625, nan]]]
    """
    cover = CoverageGrid(box_xyxy, size_wh)
    return cover.pixels(cover.smoothed_mean(scores) if smoothed else cover.mean(scores))


class Peaks:
    """The highest points of the maps of a split, of the classes that each picture shows.

    Parameters
    ----------
    table : labelled, of a grid of patches
    """

    def __init__(self, table: PatchTable) -> None:
        self._table, self._first_row = table, table.first_row
        self._peak_xy = np.full((len(table.ids), len(table.classes), 2), np.nan, np.float32)
        self._pictures = WholePictures(len(table.classes))
        self._covers: dict[bytes, CoverageGrid] = {}

    def add(self, patch_scores: np.ndarray, picture: np.ndarray) -> None:
        """Add patches (n, n_classes) of pictures (n,), rising, also from call to call."""
        self._find(*self._pictures.add(patch_scores, picture))

    def result(self) -> np.ndarray:
        """(x, y) in pixels: float32 ndarray of shape (n_pictures, n_classes, 2), NaN for classes not shown."""
        self._find(*self._pictures.rest)
        return self._peak_xy

    def _find(self, scores: np.ndarray, picture: np.ndarray) -> None:
        for index in np.unique(picture).tolist():
            shown = np.flatnonzero(self._table.picture_labels[index] == 1)
            if len(shown):
                rows = slice(*np.searchsorted(picture, [index, index + 1]))
                cover = self._cover(index)
                self._peak_xy[index, shown] = cover.peak(cover.smoothed_mean(scores[rows][:, shown]))

    def _cover(self, index: int) -> CoverageGrid:
        # Pictures of one size have the same patches, and a dataset has few sizes.
        boxes = self._table.box_xyxy[slice(*self._first_row[index : index + 2])]
        key = boxes.tobytes()
        if key not in self._covers:
            if len(self._covers) >= 100:
                self._covers.clear()
            self._covers[key] = CoverageGrid(boxes, self._table.size_wh[index])
        return self._covers[key]


def point_at(peak_xy: np.ndarray, labels: np.ndarray, annotations: Sequence[Annotation]) -> np.ndarray:
    """The pointing game: of the pictures that show a class, the share whose highest point lies in a box of it.

    Source: Zhang et al., *Top-down neural attention by excitation backprop* (ECCV 2016) section 4.1, without its
    tolerance of 15 pixels.

    Parameters
    ----------
    peak_xy : float ndarray of shape (n_pictures, n_classes, 2), from `Peaks`
    labels : int8 ndarray of shape (n_pictures, n_classes), 1 where the class is shown
    annotations : one a picture; boxes of difficult objects count as boxes

    Returns
    -------
    float64 ndarray of shape (n_classes,); NaN for a class that no picture shows
    """
    hit = np.zeros(labels.shape, bool)
    for index, annotation in enumerate(annotations):
        x, y = peak_xy[index, annotation.class_index].T
        box = annotation.box_xyxy
        inside = (box[:, 0] <= x) & (x < box[:, 2]) & (box[:, 1] <= y) & (y < box[:, 3])
        hit[index, annotation.class_index[inside]] = True
    shown = labels == 1
    n_shown = shown.sum(0)
    return np.divide((hit & shown).sum(0), n_shown, out=np.full(len(n_shown), np.nan), where=n_shown > 0)
