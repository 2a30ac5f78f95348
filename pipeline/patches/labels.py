"""Overlap of patches and objects, and the label of a patch that follows from it.

Source: Oquab et al. (CVPR 2014) section 3.2, conditions (i) to (iii), and figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from pipeline.patches.settings import LabelSettings

BACKGROUND = -1
UNUSED = -2

PATCH_SHARE = 0.2  # condition (i): the object covers at least this share of the patch
OBJECT_SHARE = 0.6  # condition (ii): the patch covers at least this share of the object
MOST_COUNTED = 255  # objects of a patch are counted in one byte


@dataclass(frozen=True)
class Overlap:
    """Overlap of patches with objects; the label under every rule follows from it.

    Attributes
    ----------
    n_filling, n_touching : uint8 ndarray of shape (n_patches,)
        Number of objects that fill or touch the patch, at most ``MOST_COUNTED``.
    filling_class : int16 ndarray of shape (n_patches,)
        Class of the object that fills the patch if exactly one does, else -1.
    filling_difficult : bool ndarray of shape (n_patches,), whether this object is difficult
    fill_row : int64 ndarray of shape (n_fills,), rising
        Index of the patch, one entry per patch and object that fills it; objects of a patch in the order of the
        annotation.
    fill_class, fill_difficult : int16 and bool ndarrays of shape (n_fills,), of this object
    """

    n_filling: np.ndarray
    n_touching: np.ndarray
    filling_class: np.ndarray
    filling_difficult: np.ndarray
    fill_row: np.ndarray
    fill_class: np.ndarray
    fill_difficult: np.ndarray

    @classmethod
    def concatenate(cls, overlaps: Sequence[Overlap]) -> Overlap:
        """Join the overlaps of several pictures, patches one after the other.

        >>> one = measure_overlap(np.array([[0, 0, 8, 8]]), np.array([[0, 0, 8, 8]]), np.array([4]), np.array([False]))
        >>> both = Overlap.concatenate([one, one])
        >>> both.filling_class.tolist(), both.fill_row.tolist()
        ([4, 4], [0, 1])
        """
        columns = {
            name: np.concatenate([getattr(overlap, name) for overlap in overlaps])
            for name in (*PATCH_COLUMNS, *FILL_COLUMNS)
        }
        # Rows are counted within a picture, and are shifted by the patches of the pictures before.
        n_before = np.cumsum([0, *(len(overlap.n_filling) for overlap in overlaps)])
        shifts = np.repeat(n_before[:-1], [len(overlap.fill_row) for overlap in overlaps])
        return cls(**{**columns, "fill_row": columns["fill_row"] + shifts})


FILL_COLUMNS = tuple(field.name for field in fields(Overlap) if field.name.startswith("fill_"))
"""Columns with one entry per patch and object that fills it."""
PATCH_COLUMNS = tuple(field.name for field in fields(Overlap) if field.name not in FILL_COLUMNS)
"""Columns with one entry per patch."""


def measure_overlap(
    patch_xyxy: np.ndarray, object_xyxy: np.ndarray, object_class: np.ndarray, object_difficult: np.ndarray
) -> Overlap:
    """Compare all patches of a picture with all of its objects, difficult ones included.

    An object *fills* a patch if it covers at least 20 % of the patch and at least 60 % of the object
    lies in the patch; it *touches* one with which it shares any area.

    Parameters
    ----------
    patch_xyxy : float ndarray of shape (n_patches, 4)
    object_xyxy : float ndarray of shape (n_objects, 4)
    object_class : int ndarray of shape (n_objects,)
    object_difficult : bool ndarray of shape (n_objects,)
    """
    patches = np.asarray(patch_xyxy, float)[:, None, :]
    objects = np.asarray(object_xyxy, float).reshape(1, -1, 4)
    width = np.minimum(patches[..., 2], objects[..., 2]) - np.maximum(patches[..., 0], objects[..., 0])
    height = np.minimum(patches[..., 3], objects[..., 3]) - np.maximum(patches[..., 1], objects[..., 1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    patch_area = (patches[..., 2] - patches[..., 0]) * (patches[..., 3] - patches[..., 1])
    object_area = (objects[..., 2] - objects[..., 0]) * (objects[..., 3] - objects[..., 1])
    fills = (shared >= PATCH_SHARE * patch_area) & (shared >= OBJECT_SHARE * object_area)
    n_filling = fills.sum(1)
    n_touching = (shared > 0).sum(1)
    if objects.shape[1]:
        filler = fills.argmax(1)
        filling_class = np.where(n_filling == 1, np.asarray(object_class)[filler], -1)
        filling_difficult = (n_filling == 1) & np.asarray(object_difficult, bool)[filler]
    else:
        filling_class = np.full(len(n_filling), -1)
        filling_difficult = np.zeros(len(n_filling), bool)
    fill_row, filling = np.nonzero(fills)
    return Overlap(
        np.minimum(n_filling, MOST_COUNTED).astype(np.uint8),
        np.minimum(n_touching, MOST_COUNTED).astype(np.uint8),
        filling_class.astype(np.int16),
        filling_difficult,
        fill_row.astype(np.int64),
        np.asarray(object_class, np.int16)[filling],
        np.asarray(object_difficult, bool)[filling],
    )


def label_patches(overlap: Overlap, settings: LabelSettings) -> np.ndarray:
    """Label each patch: a class, ``BACKGROUND`` or ``UNUSED``.

    - one object fills the patch (and, under the rule ``touches``, no other touches it): its
      class, or unused if it is difficult;
    - no box touches the patch (``background: untouched``) or none fills it (``unfilled``): background;
    - everything else is unused.

    Returns
    -------
    int16 ndarray of shape (n_patches,)
    """
    label = np.full(len(overlap.n_filling), UNUSED, np.int16)
    reference = overlap.n_touching if settings.background == "untouched" else overlap.n_filling
    label[reference == 0] = BACKGROUND
    positive = (overlap.n_filling == 1) & ~overlap.filling_difficult
    if settings.single_object == "touches":
        positive &= overlap.n_touching == 1
    label[positive] = overlap.filling_class[positive]
    return label


@dataclass(frozen=True)
class ClassTargets:
    """Targets of each patch for each class, where several classes per patch are allowed.

    Attributes
    ----------
    used : bool ndarray of shape (n_patches,), patches that a head may be fitted on
    background : bool ndarray of shape (n_patches,), used patches that show no object
    row, of_class : int64 and int16 ndarrays of shape (n_entries,), rising by row, then by class, each pair once
    sure : bool ndarray of shape (n_entries,)
        Whether patch `row` shows `of_class`; False if only difficult objects of the class fill it, which leave the
        target unknown. A used patch is a negative of all other classes.
    """

    used: np.ndarray
    background: np.ndarray
    row: np.ndarray
    of_class: np.ndarray
    sure: np.ndarray

    def matrix(self, rows: np.ndarray, n_classes: int) -> np.ndarray:
        """Make the targets of chosen patches: 1, -1, and 0 for classes with an unknown target.

        Parameters
        ----------
        rows : int ndarray of shape (n,), rising, each once

        Returns
        -------
        int8 ndarray of shape (n, n_classes)
        """
        targets = np.full((len(rows), n_classes), -1, np.int8)
        chosen = np.isin(self.row, rows)
        targets[np.searchsorted(rows, self.row[chosen]), self.of_class[chosen]] = self.sure[chosen]
        return targets


def label_classes(overlap: Overlap, settings: LabelSettings) -> ClassTargets:
    """Derive each patch's targets for all classes.

    The paper proposes this in section 4 ("Failure modes") for objects that occur together, such as a person on a
    chair:

    - a class with an object that fills the patch and is not difficult: positive;
    - a class with only difficult objects that fill it: unknown;
    - every other class: negative.

    Used are the patches with at least one positive class, and the background as in `label_patches`. Under the rule
    ``single_object: touches`` a patch is not used if an object touches it without filling it: a second object must
    not be in the patch in part. A second object that fills it is allowed, which is the purpose of these targets. So
    the positives of `label_patches` are positives here under both rules.
    """
    n_patches = len(overlap.n_filling)
    n_classes = int(overlap.fill_class.max(initial=-1)) + 1
    # A class may fill a patch with several objects; one that is not difficult is enough.
    entry, first = np.unique(overlap.fill_row * max(n_classes, 1) + overlap.fill_class, return_inverse=True)
    sure = np.zeros(len(entry), bool)
    sure[first[~overlap.fill_difficult]] = True
    row, of_class = np.divmod(entry, max(n_classes, 1))
    used = np.zeros(n_patches, bool)
    used[row[sure]] = True
    if settings.single_object == "touches":
        used &= overlap.n_touching == overlap.n_filling
    background = label_patches(overlap, settings) == BACKGROUND
    return ClassTargets(used | background, background, row, of_class.astype(np.int16), sure)
