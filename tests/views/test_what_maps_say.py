"""Words beside heat maps: the ends of a scale, and what is known of a picture."""

import numpy as np
import pytest

from pipeline.dataset.split import EMPTY_ANNOTATION, Annotation
from pipeline.views.figures.ranking import Ranked
from pipeline.views.heat_maps import tiles_of
from pipeline.views.photos import Look
from pipeline.views.report.content import _mapped

PIXELS = np.full((40, 60, 3), 128, np.uint8)
BOXES = np.array([[0, 0, 30, 40], [30, 0, 60, 40]], float)


def look(scores: list[float], objects: Annotation = EMPTY_ANNOTATION, label: int | None = None) -> Look:
    """A picture of two patches and one class."""
    labels = None if label is None else np.array([label], np.int8)
    patch_scores = np.array(scores, np.float32)[:, None]
    return Look("p", PIXELS, (60, 40), BOXES, ("cat",), patch_scores, "log-odds", objects, labels)


# Each half of the picture is halfway between its patch and the mean of both.
@pytest.mark.parametrize(
    ("scores", "ends"), [([0.0, 1.0], (0, 0.75)), ([-1.0, 0.5], (0, 0.125)), ([-3.0, -1.0], (-2.5, -1.5))]
)
def test_the_report_states_both_ends_of_a_scale(scores, ends):
    picture = Ranked(1, "p", 0.5, ("cat",), PIXELS, np.zeros((0, 4)))
    said = _mapped("cat", picture, look(scores)).map.note
    assert tuple(float(end) for end in said.split(" to ")) == pytest.approx(ends, abs=0.02)


DIFFICULT = Annotation((60, 40), np.array([[0, 0, 20, 20]], float), np.array([0]), np.array([True]))


@pytest.mark.parametrize(
    ("objects", "label", "said"),
    [
        (EMPTY_ANNOTATION, None, ""),
        (EMPTY_ANNOTATION, 1, ", in the picture"),
        (EMPTY_ANNOTATION, -1, ", not in it"),
        (EMPTY_ANNOTATION, 0, ", not known"),  # such as a class that a table leaves open
        (DIFFICULT, 0, ", difficult"),
    ],
)
def test_a_tile_says_what_is_known_of_a_class(objects, label, said):
    (tile,) = tiles_of(look([0.0, 1.0], objects, label), np.array([0]), np.array([0.25]))
    assert tile.note == f"0.25{said}"
