"""Columns next to the activations, in frames and in files: which picture, where in it, and with which label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CORNERS = ("x0", "y0", "x1", "y1")
"""Columns of a patch's box: float32, pixels of its picture."""
LABEL_PREFIX = "label_"
"""Begins the names of the columns with the labels of pictures, one per class."""


def patch_columns(
    picture_ids: Sequence[str],
    classes: Sequence[str],
    picture: np.ndarray,
    box_xyxy: np.ndarray,
    scale: np.ndarray,
    flip: np.ndarray | None = None,
    label: np.ndarray | None = None,
    turn: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Name the columns of patches.

    Parameters
    ----------
    picture : int ndarray (n,), index into `picture_ids`
    box_xyxy : float32 ndarray (n, 4)
    scale : uint8 ndarray (n,)
    flip : bool ndarray (n,); None if no patch is mirrored
    label : int16 ndarray (n,): index into `classes`, -1 background, -2 not used; None without labels
    turn : float32 ndarray (n,), degrees by which the picture was turned; None if none was

    Returns
    -------
    ``picture`` (text), ``x0``, ``y0``, ``x1``, ``y1``, ``scale``, and where there are such ``flip``, ``turn``,
    ``label`` and ``class`` (text; empty for background and patches that are not used)

    >>> label = np.array([0], np.int16)
    >>> columns = patch_columns("ab", ["cat"], np.array([1]), np.zeros((1, 4)), np.zeros(1, np.uint8), label=label)
    >>> columns["picture"].tolist(), columns["class"].tolist()
    (['b'], ['cat'])
    """
    columns = {"picture": _texts(picture_ids)[picture]}
    columns |= {name: box_xyxy[:, column] for column, name in enumerate(CORNERS)}
    columns["scale"] = scale
    if flip is not None:
        columns["flip"] = flip
    if turn is not None:
        columns["turn"] = turn
    if label is not None:
        columns["label"] = label
        columns["class"] = _texts([*classes, ""])[np.where(label < 0, len(classes), label)]
    return columns


def picture_columns(
    picture_ids: Sequence[str], classes: Sequence[str], picture_labels: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Name the columns of pictures.

    Parameters
    ----------
    picture_labels : int8 ndarray (n, n_classes): 1 shown, -1 not shown, 0 only as a difficult object; None without

    Returns
    -------
    ``picture`` (text), and where there are labels ``class`` (text; the only class that is shown or difficult, else
    empty) and ``label_<class>``, a column per class

    >>> columns = picture_columns("ab", ["cat", "dog"], np.array([[1, -1], [1, 0]], np.int8))
    >>> columns["class"].tolist(), columns["label_dog"].tolist()
    (['cat', ''], [-1, 0])
    """
    columns = {"picture": _texts(picture_ids)}
    if picture_labels is not None:
        is_single = ((picture_labels == 1).sum(1) == 1) & ((picture_labels == 0).sum(1) == 0)
        columns["class"] = _texts([*classes, ""])[np.where(is_single, picture_labels.argmax(1), len(classes))]
        columns |= {LABEL_PREFIX + name: picture_labels[:, column] for column, name in enumerate(classes)}
    return columns


def _texts(values: Sequence[str]) -> np.ndarray:
    """Return texts as an ndarray of objects, whatever their lengths."""
    texts = np.empty(len(values), object)
    texts[:] = list(values)
    return texts
