"""Boxes against objects: overlap in closed form and by counted pixels, AP against the devkit's loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics.detection import detection_ap, judge_boxes, overlap


def slow_overlap(a, b, side=12) -> float:
    """By counting pixels of whole boxes."""
    masks = []
    for x0, y0, x1, y1 in (a, b):
        mask = np.zeros((side, side), bool)
        mask[y0:y1, x0:x1] = True
        masks.append(mask)
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def draw_boxes(rng, n, side=12):
    corner = rng.integers(0, side - 1, (n, 2))
    return np.concatenate([corner, corner + 1 + rng.integers(0, side - 1 - corner)], axis=1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_overlap_as_by_counting_pixels(seed):
    rng = np.random.default_rng(seed)
    a, b = draw_boxes(rng, 3), draw_boxes(rng, 4)

    np.testing.assert_allclose(overlap(a, b), [[slow_overlap(x, y) for y in b] for x in a], atol=1e-12)


def devkit_ap(pictures, metric) -> float:
    """``VOCevaldet`` line by line; all scores differ.

    `pictures`: of each, boxes, scores, objects, difficult.
    """
    ranked = sorted(
        ((s, p, b) for p, (boxes, scores, _, _) in enumerate(pictures) for b, s in zip(boxes, scores, strict=True)),
        key=lambda item: -item[0],
    )
    found = [np.zeros(len(objects), bool) for _, _, objects, _ in pictures]
    tp, fp = np.zeros(len(ranked)), np.zeros(len(ranked))
    for d, (_, p, box) in enumerate(ranked):
        _, _, objects, difficult = pictures[p]
        highest, best = -np.inf, None
        for j, obj in enumerate(objects):
            width, height = min(box[2], obj[2]) - max(box[0], obj[0]), min(box[3], obj[3]) - max(box[1], obj[1])
            if width > 0 and height > 0:
                area = (box[2] - box[0]) * (box[3] - box[1]) + (obj[2] - obj[0]) * (obj[3] - obj[1]) - width * height
                if width * height / area > highest:
                    highest, best = width * height / area, j
        if highest >= 0.5:
            if not difficult[best]:
                if not found[p][best]:
                    tp[d], found[p][best] = 1, True
                else:
                    fp[d] = 1
        else:
            fp[d] = 1
    n_positive = sum(int((~difficult).sum()) for *_, difficult in pictures)
    if not n_positive:
        return np.nan
    tp, fp = tp.cumsum(), fp.cumsum()
    recall, precision = tp / n_positive, tp / np.maximum(tp + fp, 1e-300)
    if metric == "voc07":
        return sum(max(precision[recall >= t / 10 - 1e-12], default=0) for t in range(11)) / 11
    recall, precision = np.concatenate([[0], recall, [1]]), np.concatenate([[0], precision, [0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(["voc07", "voc12"]))
def test_ap_as_the_devkit_computes_it(seed, metric):
    rng = np.random.default_rng(seed)
    scores = iter(rng.permutation(1000) / 1000)
    pictures = []
    for _ in range(rng.integers(1, 5)):
        objects = draw_boxes(rng, rng.integers(0, 4))
        # Near an object, or anywhere.
        near = np.clip(objects + rng.integers(-1, 2, objects.shape), 0, 12)
        boxes = np.concatenate([near[(near[:, 2:] > near[:, :2]).all(1)], draw_boxes(rng, rng.integers(0, 4))])
        pictures.append((boxes, np.array([next(scores) for _ in boxes]), objects, rng.random(len(objects)) < 0.3))

    judged = np.concatenate([judge_boxes(*picture) for picture in pictures])
    all_scores = np.concatenate([scores for _, scores, _, _ in pictures])
    n_objects = sum(int((~difficult).sum()) for *_, difficult in pictures)

    np.testing.assert_allclose(
        detection_ap(all_scores, judged, n_objects, metric), devkit_ap(pictures, metric), atol=1e-12
    )


def test_a_second_box_of_one_object_is_wrong_and_one_of_a_difficult_object_counts_neither_way():
    objects = np.array([[0, 0, 10, 10], [20, 0, 30, 10]])
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])

    judged = judge_boxes(boxes, np.array([0.5, 0.9, 0.8, 0.7]), objects, np.array([False, True]))

    assert judged.tolist() == [-1, 1, 0, -1]


def test_half_an_overlap_is_enough():
    assert judge_boxes(np.array([[0, 0, 10, 5]]), np.ones(1), np.array([[0, 0, 10, 10]]), np.zeros(1, bool)) == [1]
    assert judge_boxes(np.array([[0, 0, 10, 4.9]]), np.ones(1), np.array([[0, 0, 10, 10]]), np.zeros(1, bool)) == [-1]


def test_boxes_of_one_score_are_one_threshold_whatever_their_order():
    judged = np.array([1, -1, -1, 1])

    orders = [np.random.default_rng(seed).permutation(4) for seed in range(6)]
    found = {detection_ap(np.full(4, 0.5), judged[order], 4) for order in orders}

    assert found == {0.5 * 0.5}


@pytest.mark.parametrize("metric", ["voc07", "voc12"])
def test_without_objects_there_is_no_ap_and_without_boxes_it_is_0(metric):
    assert np.isnan(detection_ap(np.zeros(0), np.zeros(0, int), 0, metric))
    assert detection_ap(np.zeros(0), np.zeros(0, int), 3, metric) == 0
    assert detection_ap(np.array([0.4]), np.array([0]), 3, metric) == 0
