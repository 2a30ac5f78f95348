"""Heat maps, where in a picture a class appears: the smoothed mean score of the patches that cover each point.

Source of the mean: Oquab et al. (CVPR 2014) section 3.4 and figures 1 and 5. Few patches cover a point near an edge, so
means are noisy there, and the plain map is often highest at an edge and not on the object. Each point's mean is
therefore shrunk toward the picture's mean: as if it were covered by ``median(n_patches)`` extra patches with the mean
score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.dataset.split import Annotation
from pipeline.patches.table import PatchTable
from pipeline.scoring.picture_scores import WholePictures


class CoverageGrid:
    """A picture cut along all edges of its patches, so that the same patches cover every point of a cell.

    Means are exact. Their cost depends on the number of patches, not on the size of the picture.

    Parameters
    ----------
    box_xyxy : float ndarray of shape (n, 4), patches in pixels, clipped to the picture
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
        """Sum the values (n, k) of the patches over each cell: (k, n_rows, n_columns)."""
        # A patch adds its value at its first row and column, and subtracts it after its last.
        change = np.zeros((len(self.y_edges), len(self.x_edges), values.shape[1]))
        for of_row, of_column, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
            np.add.at(change, (self._row[:, of_row], self._column[:, of_column]), sign * values)
        return change.cumsum(0).cumsum(1)[:-1, :-1].transpose(2, 0, 1)

    def mean(self, scores: np.ndarray) -> np.ndarray:
        """Compute the mean score of the patches over each cell.

        Parameters
        ----------
        scores : float ndarray of shape (n, k)

        Returns
        -------
        float64 ndarray of shape (k, n_rows, n_columns); NaN where there is no patch
        """
        scores = np.asarray(scores, float)
        total = self._sum(scores)
        mean = np.divide(total, self.n_patches, out=np.full(total.shape, np.nan), where=self.n_patches > 0)
        return self._level_where_equal(mean, scores)

    def _level_where_equal(self, cells: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return maps (k, n_rows, n_columns), of classes for which all patches have one score exactly level."""
        equal = (scores == scores[:1]).all(0)[:, None, None] & (self.n_patches > 0)
        return np.where(equal, scores[0][:, None, None], cells)

    def smoothed_mean(self, scores: np.ndarray) -> np.ndarray:
        """Compute `mean`, shrunk toward the mean score of the picture where few patches are."""
        scores = np.asarray(scores, float)
        covered = self.n_patches > 0
        weight = float(np.median(self.n_patches[covered]))
        total = self._sum(scores) + weight * scores.mean(0)[:, None, None]
        return self._level_where_equal(np.where(covered, total / (self.n_patches + weight), np.nan), scores)

    def pixels(self, cells: np.ndarray, map_wh: Sequence[int] | None = None) -> np.ndarray:
        """Draw cells (k, n_rows, n_columns) as float32 pixels (k, height, width), by the centre of each pixel.

        Parameters
        ----------
        map_wh : (width, height) of the map; None for the size of the picture
        """
        width, height = (self.width, self.height) if map_wh is None else map_wh
        x, y = ((np.arange(n) + 0.5) * (size / n) for n, size in ((width, self.width), (height, self.height)))
        column = np.searchsorted(self.x_edges, x, side="right") - 1
        row = np.searchsorted(self.y_edges, y, side="right") - 1
        # Few cells stand for many pixels: they are converted first.
        return cells.astype(np.float32)[:, row[:, None], column]

    def peak(self, cells: np.ndarray) -> np.ndarray:
        """Return the centre (x, y), in pixels, of the highest cell of each map: float64 ndarray of shape (k, 2).

        A map that is level says nothing of the place: its highest point is the centre of the picture, which is what
        the pointing game compares maps with, as far as patches cover it.
        """
        values = cells.reshape(len(cells), -1)
        row, column = np.unravel_index(np.nanargmax(values, axis=1), cells.shape[1:])
        x, y = (edges[:-1] + np.diff(edges) / 2 for edges in (self.x_edges, self.y_edges))
        highest = np.stack([x[column], y[row]], axis=1)
        centre = np.array([self.width / 2, self.height / 2])
        at = [
            int(np.searchsorted(edges, place, side="right")) - 1
            for edges, place in ((self.y_edges, centre[1]), (self.x_edges, centre[0]))
        ]
        is_level = (np.nanmax(values, axis=1) == np.nanmin(values, axis=1)) & (self.n_patches[at[0], at[1]] > 0)
        return np.where(is_level[:, None], centre, highest)


def heat_maps(
    box_xyxy: np.ndarray,
    scores: np.ndarray,
    size_wh: Sequence[int],
    smoothed: bool = True,
    map_wh: Sequence[int] | None = None,
) -> np.ndarray:
    """Compute the mean score of the patches over each pixel.

    Parameters
    ----------
    box_xyxy : float ndarray of shape (n, 4), in pixels
    scores : float ndarray of shape (n, n_classes)
    size_wh : (width, height) of the picture
    smoothed : shrunk toward the picture's mean where few patches are; False for the plain mean
    map_wh : (width, height) of the maps; None for the size of the picture. A smaller map has the values of the full
        one at the centres of its own pixels.

    Returns
    -------
    float32 ndarray of shape (n_classes, height, width) of the maps; NaN where there is no patch

    Examples
    --------
    >>> boxes, scores = np.array([[0, 0, 2, 1], [1, 0, 3, 1]]), np.array([[0.25], [0.75]])
    >>> heat_maps(boxes, scores, (4, 1), smoothed=False).tolist()
    [[[0.25, 0.5, 0.75, nan]]]
    >>> heat_maps(boxes, scores, (4, 1)).tolist()
    [[[0.375, 0.5, 0.625, nan]]]
    """
    grid = CoverageGrid(box_xyxy, size_wh)
    return grid.pixels(grid.smoothed_mean(scores) if smoothed else grid.mean(scores), map_wh)


class PictureGrids:
    """The grids of a table's pictures; pictures of one size have the same patches, and a dataset has few sizes.

    Parameters
    ----------
    table : of a grid of patches
    """

    def __init__(self, table: PatchTable) -> None:
        self._table = table
        self._grids: dict[bytes, CoverageGrid] = {}

    def of(self, index: int) -> CoverageGrid:
        """Return the grid of a picture."""
        boxes = self._table.windows_of_picture(index).box_xyxy
        key = boxes.tobytes()
        if key not in self._grids:
            if len(self._grids) >= 100:
                self._grids.clear()
            self._grids[key] = CoverageGrid(boxes, self._table.size_wh[index])
        return self._grids[key]


class Peaks:
    """Find the highest points of the maps of a range of pictures, of the classes that each picture shows.

    Parameters
    ----------
    table : labelled, of a grid of patches
    pictures : the range
    """

    def __init__(self, table: PatchTable, pictures: range) -> None:
        self._table, self._start = table, pictures.start
        self._peak_xy = np.full((len(pictures), len(table.classes), 2), np.nan, np.float32)
        self._pictures = WholePictures(len(table.classes))
        self._grids = PictureGrids(table)

    def add(self, patch_scores: np.ndarray, picture: np.ndarray) -> None:
        """Add patches (n, n_classes) of pictures (n,) of the range, rising, also from call to call."""
        self._find(*self._pictures.add(patch_scores, picture))

    def result(self) -> np.ndarray:
        """Return (x, y) in pixels: float32 ndarray of shape (n_pictures, n_classes, 2), NaN for classes not shown."""
        self._find(*self._pictures.rest)
        return self._peak_xy

    def _find(self, scores: np.ndarray, picture: np.ndarray) -> None:
        for index in np.unique(picture).tolist():
            shown = np.flatnonzero(self._table.picture_labels[index] == 1)
            if len(shown):
                rows = slice(*np.searchsorted(picture, [index, index + 1]))
                grid = self._grids.of(index)
                self._peak_xy[index - self._start, shown] = grid.peak(grid.smoothed_mean(scores[rows][:, shown]))


def lack_peaks(peak_xy: np.ndarray, table: PatchTable) -> bool:
    """Return whether a class that a picture shows now has no peak, as after its annotation was changed.

    Parameters
    ----------
    peak_xy : float ndarray of shape (n_pictures, n_classes, 2), from `Peaks`
    table : the current one, of the same rows
    """
    has_rows = np.diff(table.first_row) > 0
    return bool((np.isnan(peak_xy).any(2) & (table.picture_labels == 1) & has_rows[:, None]).any())


def point_at(peak_xy: np.ndarray, labels: np.ndarray, annotations: Sequence[Annotation]) -> np.ndarray:
    """Play the pointing game: of the pictures that show a class, the share whose highest point lies in a box of it.

    Source: Zhang et al., *Top-down neural attention by excitation backprop* (ECCV 2016) section 4.1, without its
    tolerance of 15 pixels.

    Parameters
    ----------
    peak_xy : float ndarray of shape (n_pictures, n_classes, 2), from `Peaks`
    labels : int8 ndarray of shape (n_pictures, n_classes), 1 where the class is shown
    annotations : one per picture; boxes of difficult objects count as boxes

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
