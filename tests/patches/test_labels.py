"""Labels: by hand on a tiny grid, on the boundaries, and against a slow exact reading of the rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.patches.labels import BACKGROUND, UNUSED, label_classes, label_patches, measure_overlap
from pipeline.patches.settings import LabelSettings

CAT, DOG = 0, 1
FILLS = LabelSettings()
TOUCHES = LabelSettings(single_object="touches")
UNFILLED = LabelSettings(background="unfilled")


def overlap_of(patches, objects):
    """Objects are (box, class) or (box, class, difficult)."""
    boxes = np.array([o[0] for o in objects], float).reshape(-1, 4)
    classes = np.array([o[1] for o in objects], int)
    difficult = np.array([len(o) > 2 and o[2] for o in objects], bool)
    return measure_overlap(np.array(patches, float), boxes, classes, difficult)


def labels_of(patches, objects, settings=FILLS):
    return label_patches(overlap_of(patches, objects), settings).tolist()


# A picture of 20 x 20 and four patches of 10 x 10:
#
#      0    10    20
#    0 +-----+-----+        cat: (1, 1)..(9, 7), all of it in patch A, 48 % of A
#      |[cat]|  B  |
#   10 |--A--+-----+        dog: (4, 12)..(14, 18), 6/10 of it in C (36 % of C), 4/10 in D
#      |   [do|g]  |
#      |  C  |  D  |
#   20 +-----+-----+
A, B, C, D = [0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20], [10, 10, 20, 20]
CAT_BOX, DOG_BOX = (1, 1, 9, 7), (4, 12, 14, 18)


@pytest.mark.parametrize(
    ("objects", "settings", "expect"),
    [
        pytest.param([], FILLS, [BACKGROUND] * 4, id="no object"),
        pytest.param([(CAT_BOX, CAT), (DOG_BOX, DOG)], FILLS, [CAT, BACKGROUND, DOG, UNUSED], id="the drawing, fills"),
        pytest.param(
            [(CAT_BOX, CAT), (DOG_BOX, DOG)], TOUCHES, [CAT, BACKGROUND, DOG, UNUSED], id="the drawing, touches"
        ),
        pytest.param(
            [(CAT_BOX, CAT), (DOG_BOX, DOG)],
            UNFILLED,
            [CAT, BACKGROUND, DOG, BACKGROUND],
            id="a patch that is only touched is background under unfilled",
        ),
        pytest.param(
            [(CAT_BOX, CAT, True), (DOG_BOX, DOG)],
            FILLS,
            [UNUSED, BACKGROUND, DOG, UNUSED],
            id="filled by a difficult object: unused",
        ),
        pytest.param(
            [(CAT_BOX, CAT, True), (DOG_BOX, DOG)],
            UNFILLED,
            [UNUSED, BACKGROUND, DOG, BACKGROUND],
            id="filled by a difficult object: no background under unfilled either",
        ),
        pytest.param(
            [(CAT_BOX, CAT), ((0, 5, 10, 10), DOG)],
            FILLS,
            [UNUSED, BACKGROUND, BACKGROUND, BACKGROUND],
            id="two fill A: deleted, as in figure 4",
        ),
        pytest.param(
            [(CAT_BOX, CAT), ((0, 5, 10, 10), CAT)],
            FILLS,
            [UNUSED, BACKGROUND, BACKGROUND, BACKGROUND],
            id="two of one class fill A: deleted all the same",
        ),
        pytest.param(
            [(CAT_BOX, CAT), ((0, 5, 10, 10), DOG, True)],
            FILLS,
            [UNUSED, BACKGROUND, BACKGROUND, BACKGROUND],
            id="a difficult second filler counts",
        ),
        pytest.param(
            [(CAT_BOX, CAT), ((9, 9, 11, 11), DOG)],
            FILLS,
            [CAT, UNUSED, UNUSED, UNUSED],
            id="a second object only touches A: positive under fills",
        ),
        pytest.param(
            [(CAT_BOX, CAT), ((9, 9, 11, 11), DOG)],
            TOUCHES,
            [UNUSED, UNUSED, UNUSED, UNUSED],
            id="a second object only touches A: unused under touches",
        ),
        pytest.param(
            [(CAT_BOX, CAT), ((9, 9, 11, 11), DOG, True)],
            TOUCHES,
            [UNUSED, UNUSED, UNUSED, UNUSED],
            id="a difficult second object touches A: unused under touches",
        ),
        pytest.param(
            [((9, 9, 11, 11), DOG, True)], FILLS, [UNUSED] * 4, id="a difficult box that touches is no background"
        ),
        pytest.param(
            [((10, 0, 20, 20), CAT)],
            FILLS,
            [BACKGROUND, UNUSED, BACKGROUND, UNUSED],
            id="boxes that share an edge do not touch; half of an object is not enough",
        ),
    ],
)
def test_by_hand(objects, settings, expect):
    assert labels_of([A, B, C, D], objects, settings) == expect


@pytest.mark.parametrize(
    ("box", "expect"),
    [
        pytest.param((0, 0, 10, 2), CAT, id="exactly 20 % of the patch"),
        pytest.param((0, 0, 10, 1.99), UNUSED, id="a little under 20 % of the patch"),
        pytest.param((4, 0, 14, 10), CAT, id="exactly 60 % of the object"),
        pytest.param((4.01, 0, 14.01, 10), UNUSED, id="a little under 60 % of the object"),
        pytest.param((6, 5, 10, 10), CAT, id="20 % of the patch, the whole object"),
        pytest.param((-90, 0, 10, 10), UNUSED, id="the whole patch, but 10 % of the object"),
    ],
)
def test_boundaries_belong_to_filled(box, expect):
    assert labels_of([A], [(box, CAT)]) == [expect]


@given(st.integers(1, 400), st.integers(1, 400))
def test_boundaries_hold_for_any_whole_sizes(unit, length):
    # A patch of 5 units by `length`, an object over one fifth of it: whole numbers, so exactly 20 %.
    patch = [0, 0, 5 * unit, length]
    assert labels_of([patch], [((0, 0, unit, length), CAT)]) == [CAT]
    # An object 5 units wide of which 3 lie in the patch: exactly 60 %.
    assert labels_of([patch], [((2 * unit, 0, 7 * unit, length), CAT)]) == [CAT]


def test_more_than_255_objects_stay_more_than_one():
    overlap = measure_overlap(
        np.array([A], float), np.array([[0, 0, 10, 10.0]] * 256), np.zeros(256, int), np.zeros(256, bool)
    )

    assert overlap.n_filling.tolist() == overlap.n_touching.tolist() == [255]
    assert label_patches(overlap, FILLS).tolist() == [UNUSED]


def test_types_are_those_of_the_table():
    overlap = measure_overlap(np.array([A], float), np.array([CAT_BOX]), np.array([CAT]), np.array([False]))

    assert overlap.n_filling.dtype == overlap.n_touching.dtype == np.uint8
    assert overlap.filling_class.dtype == overlap.fill_class.dtype == np.int16
    assert overlap.filling_difficult.dtype == overlap.fill_difficult.dtype == bool
    assert overlap.fill_row.dtype == np.int64
    assert label_patches(overlap, FILLS).dtype == np.int16


def compare_in_loops(patch, objects):
    """Filling and touching objects, in whole numbers: 20 % is ``5 shared >= patch``, 60 % ``5 shared >= 3 object``."""
    filling, touching = [], []
    for box, index, difficult in objects:
        wide = min(patch[2], box[2]) - max(patch[0], box[0])
        high = min(patch[3], box[3]) - max(patch[1], box[1])
        if wide <= 0 or high <= 0:
            continue
        touching.append(index)
        patch_area = (patch[2] - patch[0]) * (patch[3] - patch[1])
        object_area = (box[2] - box[0]) * (box[3] - box[1])
        if 5 * wide * high >= patch_area and 5 * wide * high >= 3 * object_area:
            filling.append((index, difficult))
    return filling, touching


def label_in_loops(patch, objects, settings):
    """The rules one by one."""
    filling, touching = compare_in_loops(patch, objects)
    if len(filling) == 1:
        index, difficult = filling[0]
        alone = settings.single_object == "fills" or len(touching) == 1
        return index if alone and not difficult else UNUSED
    if not touching or (settings.background == "unfilled" and not filling):
        return BACKGROUND
    return UNUSED


@st.composite
def whole_boxes(draw):
    x0, y0 = draw(st.integers(0, 18)), draw(st.integers(0, 18))
    return (x0, y0, x0 + draw(st.integers(1, 12)), y0 + draw(st.integers(1, 12)))


SCENES = st.lists(st.tuples(whole_boxes(), st.integers(0, 3), st.booleans()), max_size=4)
PATCHES = st.lists(whole_boxes(), min_size=1, max_size=12)
READINGS = st.builds(
    LabelSettings,
    single_object=st.sampled_from(["fills", "touches"]),
    background=st.sampled_from(["untouched", "unfilled"]),
)


@given(PATCHES, SCENES, READINGS)
def test_same_as_loops(patches, objects, settings):
    assert labels_of(patches, objects, settings) == [label_in_loops(p, objects, settings) for p in patches]


@given(PATCHES, SCENES)
def test_positives_of_touches_are_positives_of_fills(patches, objects):
    fills, touches = labels_of(patches, objects), labels_of(patches, objects, TOUCHES)

    assert all(b == a for a, b in zip(fills, touches, strict=True) if b >= 0)


# ---- several classes a patch -----------------------------------------------------------------------


def targets_of(patches, objects, settings=FILLS, n_classes=4):
    """Targets of each patch, None where it is not used."""
    targets = label_classes(overlap_of(patches, objects), settings)
    matrix = targets.matrix(np.arange(len(patches)), n_classes).tolist()
    return [row if used else None for row, used in zip(matrix, targets.used, strict=True)]


FILLING_DOG = (0, 5, 10, 10)  # fills A, as CAT_BOX does


@pytest.mark.parametrize(
    ("objects", "settings", "expect"),
    [
        pytest.param([], FILLS, [[-1, -1]] * 4, id="no object: background, negative for all"),
        pytest.param([(CAT_BOX, CAT)], FILLS, [[1, -1]] + [[-1, -1]] * 3, id="one object, as the single label has it"),
        pytest.param(
            [(CAT_BOX, CAT), (FILLING_DOG, DOG)], FILLS, [[1, 1]] + [[-1, -1]] * 3, id="two fill A: positive for both"
        ),
        pytest.param(
            [(CAT_BOX, CAT), (FILLING_DOG, CAT)], FILLS, [[1, -1]] + [[-1, -1]] * 3, id="two of one class fill A"
        ),
        pytest.param(
            [(CAT_BOX, CAT), (FILLING_DOG, DOG, True)],
            FILLS,
            [[1, 0]] + [[-1, -1]] * 3,
            id="a difficult object: A says nothing of its class",
        ),
        pytest.param(
            [(CAT_BOX, CAT), (FILLING_DOG, CAT, True)],
            FILLS,
            [[1, -1]] + [[-1, -1]] * 3,
            id="one difficult and one sure object of a class: positive",
        ),
        pytest.param(
            [(CAT_BOX, CAT, True), (FILLING_DOG, DOG, True)],
            FILLS,
            [None] + [[-1, -1]] * 3,
            id="difficult objects alone: not used",
        ),
        pytest.param(
            [(CAT_BOX, CAT), (FILLING_DOG, DOG)],
            TOUCHES,
            [[1, 1]] + [[-1, -1]] * 3,
            id="touches: all that touch A fill it",
        ),
        pytest.param(
            [(CAT_BOX, CAT), (FILLING_DOG, DOG), ((9, 9, 11, 11), DOG)],
            TOUCHES,
            [None] * 4,
            id="touches: a third is in A in part: not used",
        ),
        pytest.param(
            [(CAT_BOX, CAT), ((9, 9, 11, 11), DOG)],
            FILLS,
            [[1, -1], None, None, None],
            id="fills: one in A in part does not matter",
        ),
        pytest.param(
            [((9, 9, 11, 11), DOG)], UNFILLED, [[-1, -1]] * 4, id="unfilled: touched in part is background too"
        ),
    ],
)
def test_several_classes_by_hand(objects, settings, expect):
    assert targets_of([A, B, C, D], objects, settings, n_classes=2) == expect


def test_the_fills_are_listed_patch_by_patch():
    overlap = overlap_of([B, A, A], [(CAT_BOX, CAT), (FILLING_DOG, DOG, True), (CAT_BOX, 3)])

    assert overlap.fill_row.tolist() == [1, 1, 1, 2, 2, 2]
    assert overlap.fill_class.tolist() == [CAT, DOG, 3] * 2
    assert overlap.fill_difficult.tolist() == [False, True, False] * 2


def test_targets_of_chosen_patches():
    targets = label_classes(overlap_of([A, B, A, C], [(CAT_BOX, CAT), (FILLING_DOG, DOG)]), FILLS)

    assert targets.used.all() and targets.background.tolist() == [False, True, False, True]
    assert targets.matrix(np.array([1, 2]), 3).tolist() == [[-1, -1, -1], [1, 1, -1]]
    assert targets.matrix(np.array([], int), 3).shape == (0, 3)
    assert targets.matrix(np.arange(4), 3).dtype == np.int8


def targets_in_loops(patch, objects, settings):
    filling, touching = compare_in_loops(patch, objects)
    sure = {index for index, difficult in filling if not difficult}
    unsure = {index for index, difficult in filling if difficult} - sure
    in_part = settings.single_object == "touches" and len(touching) > len(filling)
    background = label_in_loops(patch, objects, settings) == BACKGROUND
    if not background and (not sure or in_part):
        return None
    return [1 if c in sure else 0 if c in unsure else -1 for c in range(4)]


@given(PATCHES, SCENES, READINGS)
def test_several_classes_same_as_loops(patches, objects, settings):
    assert targets_of(patches, objects, settings) == [targets_in_loops(p, objects, settings) for p in patches]


@given(PATCHES, SCENES)
def test_the_list_of_fills_same_as_loops(patches, objects):
    overlap = overlap_of(patches, objects)

    expect = [(i, *filler) for i, p in enumerate(patches) for filler in compare_in_loops(p, objects)[0]]
    got = zip(overlap.fill_row.tolist(), overlap.fill_class.tolist(), overlap.fill_difficult.tolist(), strict=True)
    assert list(got) == expect


@given(PATCHES, SCENES, READINGS)
def test_single_labels_are_among_several(patches, objects, settings):
    for label, targets in zip(
        labels_of(patches, objects, settings), targets_of(patches, objects, settings), strict=True
    ):
        if label >= 0:
            assert targets == [1 if c == label else -1 for c in range(4)]
        if label == BACKGROUND:
            assert targets == [-1] * 4
