"""Boxes against objects: overlap, and average precision by the detection rule of the PASCAL VOC devkit.

Source: Everingham et al., *The PASCAL Visual Object Classes Challenge* (IJCV 2010) section 4.2, and ``VOCevaldet`` of
the development kit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.metrics.average_precision import area_of_curve, rank_samples

MIN_OVERLAP = 0.5
"""Overlap from which a box is that of an object."""


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute intersection over union of boxes (n, 4) and others (m, 4), continuous: float64 ndarray (n, m).

    >>> overlap(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [2, 2, 3, 3]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    a, b = np.asarray(boxes, float)[:, None], np.asarray(others, float)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(0).prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, np.finfo(float).tiny)


def judge_boxes(
    boxes: np.ndarray, scores: np.ndarray, objects: np.ndarray, difficult: np.ndarray, min_overlap: float = MIN_OVERLAP
) -> np.ndarray:
    """Tell which boxes of one class in one picture are right, as the devkit does.

    A box belongs to the object that it overlaps most. It is right if the overlap reaches `min_overlap` and no box of a
    higher score is right for the same object. A box of a difficult object counts neither way.

    Parameters
    ----------
    boxes, scores : float ndarrays (n, 4) and (n,)
    objects, difficult : float ndarray (m, 4) and bool ndarray (m,), of the class in the picture

    Returns
    -------
    int8 ndarray (n,): 1 right, -1 wrong, 0 left out
    """
    found = np.full(len(boxes), -1, np.int8)
    if not len(boxes) or not len(objects):
        return found
    overlaps = overlap(boxes, objects)
    nearest = overlaps.argmax(1)
    taken = np.zeros(len(objects), bool)
    for index in np.argsort(-np.asarray(scores), kind="stable").tolist():
        of_object = nearest[index]
        if overlaps[index, of_object] < min_overlap:
            continue
        if difficult[of_object]:
            found[index] = 0
        elif not taken[of_object]:
            taken[of_object] = True
            found[index] = 1
    return found


def detection_ap(
    scores: np.ndarray, judged: np.ndarray, n_objects: int, metric: Literal["voc07", "voc12"] = "voc12"
) -> float:
    """Compute the average precision of the boxes of one class over all pictures, 0..1.

    Boxes of one score are one threshold, as in `average_precision`.

    Parameters
    ----------
    scores : float ndarray (n,), finite
    judged : int ndarray (n,), from `judge_boxes`, of all pictures
    n_objects : objects that are not difficult

    Returns
    -------
    float
        NaN where there is no object; 0 where no box is right.

    Examples
    --------
    >>> round(detection_ap(np.array([0.9, 0.8, 0.7]), np.array([1, -1, 1]), 4), 4)
    0.4167
    """
    if not n_objects:
        return float("nan")
    counted = np.asarray(judged) != 0
    order, ends = rank_samples(np.asarray(scores, float)[counted])
    n_right = np.cumsum(np.asarray(judged)[counted][order] == 1)[ends]
    return area_of_curve(n_right / (ends + 1), n_right / n_objects, metric)
