"""Grids of heads: which points there are, and what is refused."""

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.head.fit import fit_heads
from pipeline.head.points import in_words, points_of
from pipeline.head.settings import HEAD_KINDS, HEADS, AnyHead
from pipeline.io.errors import HeadError
from pipeline.patches.settings import LabelSettings

HEAD = TypeAdapter(AnyHead)
GRIDS = {
    "strong": {"rates": [[0.1, 0.01, 0.001], [0.01, 0.001, 0.0001]], "hidden": [[], [16]], "dropout": [0, 0.5]},
    "weak": {"top": [1, 5], "weight_decay": [0.0, 1e-3]},
    "svm": {"pooling": [["mean"], ["max"]], "costs": [[1.0], [10.0]]},
    "adapted": {"trunk_rate": [0.1, 1]},
    "code": {"parameters": [{"a": 1}, {"a": 2}]},
    "knn": {"k": [5, 20], "temperature": [0.07, 1]},
    "ncm": {"centre": [True, False]},
    "attention": {"attention": [8, 16]},
    "vlad": {"costs": [[1.0], [10.0]]},
    "logistic": {"weight_decay": [1e-3, "1e-4"], "pooling": [["mean"], ["mean", "max"]]},
}
"""A grid of each kind; nothing of `own` can be changed."""
NEEDED = {"code": {"code": "support.own_class:Zeros"}}


def gridded(kind, **changes):
    return HEAD.validate_python({"kind": kind, **NEEDED.get(kind, {}), "grid": GRIDS[kind], **changes})


@pytest.mark.parametrize("kind", sorted(GRIDS))
def test_the_points_of_every_kind_are_heads_that_differ_where_the_grid_says(kind):
    assert kind in HEAD_KINDS
    head = gridded(kind)
    plain = head.model_copy(update={"grid": {}}).model_dump(mode="json")
    points = points_of(head)
    assert len({settings.model_dump_json() for _, settings in points}) == len(points) > 1
    for point, settings in points:
        assert not settings.grid and "grid" not in settings.model_dump(mode="json")
        assert settings.model_dump(mode="json") == {**plain, **point}
        assert list(point) == list(GRIDS[kind])
    assert HEAD.validate_python(head.model_dump(mode="json")) == head


def test_the_last_setting_changes_first_and_texts_of_numbers_are_numbers():
    assert [in_words(point) for point, _ in points_of(gridded("logistic"))] == [
        "weight_decay=0.001 pooling=mean",
        "weight_decay=0.001 pooling=mean+max",
        "weight_decay=0.0001 pooling=mean",
        "weight_decay=0.0001 pooling=mean+max",
    ]


def test_points_that_differ_in_a_late_digit_have_names_of_their_own():
    head = gridded("logistic", grid={"weight_decay": [0.001, 0.0010000001]})
    assert [in_words(point) for point, _ in points_of(head)] == ["weight_decay=0.001", "weight_decay=0.0010000001"]


def test_a_usual_value_that_names_leave_out_is_a_value_of_a_point():
    head = gridded("adapted", retrain=["fc6", "fc7"], grid={"start": ["trunk", "random"]})
    assert [(point, settings.start) for point, settings in points_of(head)] == [
        ({"start": "trunk"}, "trunk"),
        ({"start": "random"}, "random"),
    ]


def test_a_head_without_a_grid_is_one_point_and_says_nothing_of_grids():
    for head in (head for name, head in HEADS.items() if name != "probe"):
        assert points_of(head) == [({}, head)]
        assert "grid" not in head.model_dump(mode="json")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"weight_decays": [1]}, "grid has 'weight_decays', which is no setting of this head.*weight_decay"),
        ({"kind": ["svm", "knn"]}, "kind is one for all points"),
        ({"grid": [{}]}, "grid is one for all points"),
        ({"weight_decay": []}, "grid has no value for weight_decay"),
        ({"weight_decay": 0.1}, "tuple"),
        ({"weight_decay": [0.1, -1]}, "at weight_decay=-1: weight_decay: Input should be greater than or equal to"),
        ({"weight_decay": [0.1, True]}, "at weight_decay=true: weight_decay: must be a number"),
        ({"pooling": ["mean", "max"]}, "at pooling=mean: pooling: Input should be a valid tuple"),
        ({"weight_decay": [1, 1.0]}, "grid has one head twice: weight_decay=1, and weight_decay=1"),
        ({"weight_decay": [i / 100 for i in range(1, 1002)]}, "grid has 1,001 points, at most 1,000"),
    ],
)
def test_a_grid_that_is_no_list_of_heads_is_refused(grid, message):
    with pytest.raises(ValidationError, match=message):
        gridded("logistic", grid=grid)


def test_points_that_contradict_another_setting_are_refused():
    with pytest.raises(ValidationError, match="at rates=0.1: .*rates and max_epochs must be equally long"):
        gridded("strong", grid={"rates": [[0.1]]})
    with pytest.raises(ValidationError, match="takes is one for all points"):
        gridded("knn", grid={"takes": ["pictures", "patches"]})


def test_a_head_with_a_grid_is_not_fitted_as_if_it_had_none(made):
    with pytest.raises(HeadError, match=r"head 'x' has a grid of 4 points.*pipeline sweep.*compare: \[x\]"):
        list(fit_heads(made.store, made.table, {"x": gridded("logistic")}, LabelSettings(), 0))
