"""How much of each patch and of each object lies in the other, and the label that follows.

Source: Oquab et al. (CVPR 2014) section 3.2, conditions (i) to (iii), and figure 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.settings import LabelSettings

BACKGROUND = -1
UNUSED = -2

PATCH_SHARE = 0.2  # condition (i): the object covers at least this share of the patch
OBJECT_SHARE = 0.6  # condition (ii): the patch covers at least this share of the object


@dataclass(frozen=True)
class Overlap:
    """What the objects of a picture do in each patch; every reading of the label follows from it.

    Attributes
    ----------
    n_filling, n_touching : uint8 ndarray of shape (n_patches,), objects that do, at most 255
    filling_class : int16 ndarray of shape (n_patches,)
        Class of the object that fills the patch where exactly one does, else -1.
    filling_difficult : bool ndarray of shape (n_patches,), that object is difficult
    """

    n_filling: np.ndarray
    n_touching: np.ndarray
    filling_class: np.ndarray
    filling_difficult: np.ndarray


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
    return Overlap(
        np.minimum(n_filling, 255).astype(np.uint8),
        np.minimum(n_touching, 255).astype(np.uint8),
        filling_class.astype(np.int16),
        filling_difficult,
    )


def label_patches(overlap: Overlap, settings: LabelSettings) -> np.ndarray:
    """One label a patch: a class, ``BACKGROUND`` or ``UNUSED``.

    - one object fills the patch (and, under the reading ``touches``, no other touches it): its
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
